"""linux/rtnl/monitor.py: what is announced of a node's own objects, and what is not of others'."""

import time
from collections.abc import Iterator

import pytest

from linux.netlink.socket import Netlink
from linux.rtnl.links import find_link
from linux.rtnl.monitor import ADDRESS, FORWARDING, LINK, NEIGHBOUR, ROUTE, SETTING, Change, Lost, Monitor
from spec.addresses import pack
from tests.netns.node import Node, wait_until

CLUSTER = ("10.244.0.0/16", "fd00:244::/48")


@pytest.fixture(name="monitor")
def monitor_of_node(node: Node) -> Iterator[Monitor]:
    """A monitor of a node with a bridge br0, a VXLAN device vx0 and a link wan0."""
    node.outside()
    node.run(["ip", "link", "add", "br0", "address", "02:00:00:00:00:b0", "type", "bridge"])
    node.run(["ip", "link", "add", "vx0", "type", "vxlan", "id", "7", "dev", "wan0", "dstport", "4789"])
    for name in ("br0", "vx0"):
        node.run(["ip", "link", "set", name, "addrgenmode", "none"])  # such an address would be announced at some time
        node.run(["ip", "link", "set", name, "up"])
    assert wait_until(lambda: "fe80" in addresses(node))
    settle(node)
    with node.inside():
        monitor = Monitor(CLUSTER)
        with Netlink() as host:
            links = [find_link(host, name) for name in ("br0", "vx0", "wan0")]
    monitor.links = {link.name: link.index for link in links}
    monitor.watch(links, monitor.links, monitor.links["vx0"])
    list(monitor.changes())
    with monitor:
        yield monitor


def addresses(node: Node) -> str:
    """The addresses of wan0, as `ip` shows them."""
    return node.run(["ip", "addr", "show", "dev", "wan0"]).stdout


def settle(node: Node) -> None:
    """Wait until no address is tentative, and that was announced, too."""
    assert wait_until(lambda: "tentative" not in addresses(node))
    time.sleep(0.1)


def announced(monitor: Monitor) -> list[Change]:
    """The changes since the last call."""
    return list(dict.fromkeys(monitor.changes()))


def test_our_routes_are_announced(node: Node, monitor: Monitor) -> None:
    """Those of protocol 24, wherever they lead, with their next hops."""
    node.run(["ip", "route", "add", "10.99.2.0/24", "via", "192.0.2.2", "proto", "24"])
    node.run(["ip", "route", "del", "10.99.2.0/24", "proto", "24"])
    new = Change(ROUTE, monitor.links["wan0"], pack("10.99.2.0"), 24, pack("192.0.2.2"), 24)
    assert announced(monitor) == [new, Change(**{**fields(new), "is_gone": True})]


def fields(change: Change) -> dict:
    """The fields of a change."""
    return {name: getattr(change, name) for name in Change.__slots__}


@pytest.mark.parametrize(
    ("inside", "outside"), [("10.244.9.0/24", "10.245.9.0/24"), ("fd00:244:0:9::/64", "fd01::/64")]
)
def test_foreign_routes_are_announced_inside_the_cluster(
    node: Node, monitor: Monitor, inside: str, outside: str
) -> None:
    """They may be in the way of ours; a routing daemon's other routes are not announced, nor those of other tables."""
    via = "2001:db8:1::2" if ":" in inside else "192.0.2.2"
    node.run(["ip", "route", "add", outside, "via", via, "proto", "bird"])
    node.run(["ip", "route", "add", inside, "via", via, "table", "77"])
    assert announced(monitor) == []
    node.run(["ip", "route", "add", inside, "via", via, "proto", "bird"])
    (change,) = announced(monitor)
    assert (change.kind, change.key, change.value) == (ROUTE, pack(inside.partition("/")[0]), pack(via))


def test_default_routes_are_announced(node: Node, monitor: Monitor) -> None:
    """They determine the node's own address."""
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    assert [(change.kind, change.key, change.prefix) for change in announced(monitor)] == [(ROUTE, bytes(4), 0)]


def test_neighbours_and_fdb_entries_of_the_device_are_announced(node: Node, monitor: Monitor) -> None:
    """And of no other link."""
    mac, packed = "02:00:00:00:00:05", bytes.fromhex("020000000005")
    node.run(["ip", "neigh", "add", "10.244.5.0", "lladdr", mac, "dev", "br0"])
    node.run(["ip", "neigh", "add", "192.0.2.77", "lladdr", mac, "dev", "wan0"])
    assert announced(monitor) == []
    node.run(["ip", "neigh", "add", "10.244.5.0", "lladdr", mac, "dev", "vx0", "nud", "permanent"])
    node.run(["bridge", "fdb", "add", mac, "dev", "vx0", "dst", "192.0.2.5"])
    device = monitor.links["vx0"]
    assert announced(monitor) == [
        Change(NEIGHBOUR, device, pack("10.244.5.0"), value=packed),
        Change(FORWARDING, device, packed, value=pack("192.0.2.5")),
    ]
    node.run(["bridge", "fdb", "del", mac, "dev", "vx0"])
    assert Change(FORWARDING, device, packed, value=pack("192.0.2.5"), is_gone=True) in announced(monitor)


def test_pods_are_not_announced(node: Node, monitor: Monitor) -> None:
    """Neither their links nor addresses and neighbours of these."""
    node.run(["ip", "netns", "add", "pod"])
    node.run(["ip", "link", "add", "v0", "group", "24", "type", "veth", "peer", "name", "eth0", "netns", "pod"])
    node.run(["ip", "link", "set", "v0", "master", "br0"])
    node.run(["ip", "link", "set", "v0", "up"])
    list(monitor.changes())  # the bridge has carrier now
    node.run(["ip", "link", "add", "v1", "group", "24", "type", "veth", "peer", "name", "eth1", "netns", "pod"])
    node.run(["ip", "link", "set", "v1", "master", "br0"])
    node.run(["ip", "link", "set", "v1", "up"])
    node.run(["ip", "link", "del", "v1"])
    assert announced(monitor) == []


def test_links_are_announced_by_index_and_by_name(node: Node, monitor: Monitor) -> None:
    """A link that is deleted and made again has another index."""
    node.run(["ip", "link", "set", "wan0", "mtu", "1400"])
    assert {(change.kind, change.key) for change in announced(monitor)} == {(LINK, b"wan0")}
    node.run(["ip", "link", "del", "br0"])
    assert Change(LINK, monitor.links["br0"], b"br0", is_gone=True) in announced(monitor)
    node.run(["ip", "link", "add", "br0", "type", "bridge"])
    assert [change.key for change in announced(monitor) if change.kind == LINK and not change.is_gone]
    node.run(["ip", "link", "add", "br9", "type", "bridge"])
    assert announced(monitor) == []


def test_addresses_are_announced(node: Node, monitor: Monitor) -> None:
    """Those that are valid beyond their link."""
    node.run(["ip", "addr", "add", "198.51.100.1/24", "dev", "br0"])
    node.run(["ip", "addr", "add", "fe80::77/64", "dev", "br0", "nodad"])
    found = [change for change in announced(monitor) if change.kind == ADDRESS]
    assert found == [Change(ADDRESS, monitor.links["br0"], pack("198.51.100.1"), 24)]


def test_an_address_that_is_prolonged_is_announced_once(node: Node, monitor: Monitor) -> None:
    """Routers prolong addresses every few seconds; only another state is news, and the end."""
    for address in ("198.51.100.1/24", "2001:db8:7::1/64"):
        for seconds in ("1000", "2000", "3000"):
            lifetime = ["valid_lft", seconds, "preferred_lft", seconds]
            node.run(["ip", "addr", "replace", address, "dev", "wan0", *lifetime])
        settle(node)
        assert [change.kind for change in announced(monitor)].count(ADDRESS) <= 2  # tentative at first
        node.run(["ip", "addr", "replace", address, "dev", "wan0", "valid_lft", "900", "preferred_lft", "0"])
        assert ADDRESS in [change.kind for change in announced(monitor)]
        node.run(["ip", "addr", "del", address, "dev", "wan0"])
        assert [change.is_gone for change in announced(monitor) if change.kind == ADDRESS] == [True]


def test_settings_of_the_links_are_announced(node: Node, monitor: Monitor) -> None:
    """Also when all links' are changed."""
    node.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/lo/forwarding"])
    assert announced(monitor) == []
    node.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/br0/forwarding"])
    assert announced(monitor) == [Change(SETTING, monitor.links["br0"])]
    node.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])
    assert Change(SETTING, -1) in announced(monitor)


def test_losses_are_reported_once(node: Node) -> None:
    """The next call goes on with what is announced then."""
    node.outside()
    with node.inside():
        monitor = Monitor(CLUSTER, buffer_bytes=4096)
    with monitor:
        batch = [f"route add 10.244.2.0/24 via 192.0.2.2 proto 24 metric {n}\n" for n in range(100)]
        node.run(["ip", "-batch", "-"], stdin="".join(batch))
        with pytest.raises(Lost):
            list(monitor.changes())
        assert announced(monitor)
        node.run(["ip", "route", "del", "10.244.2.0/24", "proto", "24", "metric", "5"])
        assert [change.is_gone for change in announced(monitor)] == [True]

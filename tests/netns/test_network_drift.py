"""What somebody else changes of the node's network is put right by the next synchronisation."""

from collections.abc import Mapping

import pytest

from linux.rtnl.vxlan import vtep_mac
from nodes.network import Network, Outcome
from nodes.registry import Grant
from tests.netns.cluster_tools import OWN, own_routes
from tests.netns.node import Node
from tests.netns.overlay_tools import DEVICE, inside, shell
from tests.netns.test_network import folder, plugin, record, records, sync, wan  # noqa: F401  (fixtures)

LINKS = ("cbr0", DEVICE)
SETTINGS = (
    "ipv4/ip_forward",
    "ipv6/conf/all/forwarding",
    "ipv4/conf/cbr0/forwarding",
    f"ipv4/conf/{DEVICE}/forwarding",
)


def state(node: Node) -> dict[str, object]:
    """The node's network, without the numbers of links."""
    links = {name: link for name, link in node.links().items() if name in LINKS}
    entries = f"ip neigh show dev {DEVICE}; bridge fdb show dev {DEVICE} | grep dst || true"
    return {
        "links": {name: (link["address"], link["mtu"], "UP" in link["flags"]) for name, link in links.items()},
        "addresses": {name: node.addresses(name) for name in links},
        "routes": own_routes(node),
        "entries": sorted(node.run(["sh", "-c", entries]).stdout.splitlines()) if DEVICE in links else [],
        "rules": node.ruleset(),
        "settings": [node.run(["cat", f"/proc/sys/net/{name}"], check=False).stdout for name in SETTINGS],
    }


EVERYWHERE = {
    "bridge deleted": "ip link del cbr0",
    "bridge down": "ip link set cbr0 down",
    "bridge with another MAC": "ip link set cbr0 address 02:00:00:00:00:99",
    "bridge with another MTU": "ip link set cbr0 mtu 1280",
    "bridge without its addresses": "ip addr flush dev cbr0 scope global",
    "routes flushed": "ip route flush proto 24; ip -6 route flush proto 24",
    "a route elsewhere": "ip route replace 10.244.2.0/24 via 192.0.2.99 proto 24",
    "a route too many": "ip route add 10.244.77.0/24 via 192.0.2.99 proto 24",
    "rules flushed": "nft flush ruleset",
    "a rule deleted": "nft flush chain inet slash24_egress_net postrouting",
    "forwarding off": "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0",
    "forwarding of the bridge off": "sysctl -qw net.ipv4.conf.cbr0.forwarding=0",
    "uplink flaps": "ip link set wan0 down; ip link set wan0 up; ip addr add 2001:db8:1::1/64 dev wan0 nodad;"
    "ip route replace default via 192.0.2.2",
}
TUNNELLED = {
    "VTEP deleted": f"ip link del {DEVICE}",
    "VTEP down": f"ip link set {DEVICE} down",
    "VTEP with another MAC": f"ip link set {DEVICE} address 02:00:00:00:00:99",
    "VTEP with another MTU": f"ip link set {DEVICE} mtu 1280",
    "VTEP without its addresses": f"ip addr flush dev {DEVICE} scope global",
    "VTEP with an address too many": f"ip addr add 10.9.9.9/24 dev {DEVICE}",
    "VTEP of another VNI": f"ip link del {DEVICE}; ip link add {DEVICE} type vxlan id 9 dstport 4789 dev wan0",
    "entries flushed": f"ip neigh flush dev {DEVICE} nud permanent; bridge fdb del {vtep_mac(['10.244.2.0/24'])} "
    f"dev {DEVICE} dst 192.0.2.2",
    "an entry elsewhere": f"bridge fdb replace {vtep_mac(['10.244.2.0/24'])} dev {DEVICE} dst 192.0.2.99",
    "forwarding of the VTEP off": f"sysctl -qw net.ipv4.conf.{DEVICE.replace('.', '/')}.forwarding=0",
    "filter flushed": "nft flush set inet slash24_vtep_net peers4",
}
CASES = [
    *(
        pytest.param(kind, harm, id=f"{kind}: {name}")
        for kind in ("kubenet", "vxlan")
        for name, harm in EVERYWHERE.items()
    ),
    *(pytest.param("vxlan", harm, id=name) for name, harm in TUNNELLED.items()),
]


@pytest.mark.parametrize(("kind", "harm"), CASES)
def test_drift_is_repaired(wan: Node, kind: str, harm: str) -> None:  # noqa: F811
    """Exactly the state before; also by another daemon, which knows nothing of the one before."""
    made, nodes = Network("net", plugin(kind), node="n1"), records(1, 2, 3)
    sync(wan, made, nodes)
    before = state(wan)
    shell(wan, harm)
    assert state(wan) != before or "wan0 down" in harm
    found = sync(wan, made, nodes)
    assert (found.is_complete, found.problems, found.left_out) == (True, (), ())
    assert state(wan) == before
    shell(wan, harm)
    sync(wan, Network("net", plugin(kind), node="n1"), nodes)
    after = state(wan)
    if "cbr0" in harm:  # its MAC is random
        before["links"] = {name: link[1:] for name, link in before["links"].items()}
        after["links"] = {name: link[1:] for name, link in after["links"].items()}
    assert after == before


@pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
def test_an_uplink_that_is_replaced(wan: Node, kind: str) -> None:  # noqa: F811
    """Routes and tunnel follow to the new link; while there is none, the problem is told, and the bridge stays."""
    made, nodes = Network("net", plugin(kind), node="n1"), records(1, 2, 3)
    sync(wan, made, nodes)
    before = state(wan)
    shell(wan, "ip link del wan0")
    gone = sync(wan, made, nodes)
    assert gone.problems if kind == "vxlan" else gone.left_out
    assert wan.addresses("cbr0") == {"10.244.1.1/24", "fd00:244:0:1::1/64"}
    wan.run(["ip", "netns", "del", "outside"])
    wan.outside()
    shell(wan, "ip route add default via 192.0.2.2")
    assert sync(wan, made, nodes).is_complete
    assert state(wan) == before


@pytest.mark.parametrize(("kind", "overhead"), [("kubenet", 0), ("vxlan", 50)])
def test_the_uplink_s_mtu_changes(wan: Node, kind: str, overhead: int) -> None:  # noqa: F811
    """Tunnel and bridge follow, and the MTU for new pods."""
    made, nodes = Network("net", plugin(kind), node="n1"), records(1, 2, 3)
    for mtu in (1500, 1400, 1450):
        shell(wan, f"ip link set wan0 mtu {mtu}")
        found = sync(wan, made, nodes)
        expected = mtu - overhead
        assert (found.is_complete, found.mtu, found.problems) == (True, expected, ())
        mtus = {link["mtu"] for name, link in wan.links().items() if name in LINKS}
        assert mtus == {expected}


def test_this_node_s_address_changes(wan: Node) -> None:  # noqa: F811
    """While the old one is there, the tunnel keeps it; then it sends from the new one."""
    made, nodes = Network("net", plugin("vxlan"), node="n1"), records(1, 2, 3)
    assert sync(wan, made, nodes).address == "192.0.2.1"
    shell(wan, "ip addr add 192.0.2.77/24 dev wan0")
    assert sync(wan, made, nodes).address == "192.0.2.1"
    shell(wan, "sysctl -qw net.ipv4.conf.wan0.promote_secondaries=1; ip addr del 192.0.2.1/24 dev wan0")
    shell(wan, "ip route replace default via 192.0.2.2")
    found = sync(wan, made, nodes)
    assert (found.is_complete, found.address, found.problems) == (True, "192.0.2.77", ())
    assert wan.links()[DEVICE]["linkinfo"]["info_data"]["local"] == "192.0.2.77"
    assert set(own_routes(wan)) == {subnet for each in records(2, 3).values() for subnet in each.subnets}


def renumber(node: Node, made: Network, nodes: Mapping) -> Outcome:
    """Give this node another subnet."""
    with inside(node):
        return made.sync(Grant(("10.244.9.0/24", "fd00:244:0:9::/64")), nodes)


def test_this_node_s_subnet_changes_under_running_pods(wan: Node) -> None:  # noqa: F811
    """The bridge has the gateways of both, and the VTEP keeps its MAC, until the old ones are gone."""
    made, nodes = Network("net", plugin("vxlan"), node="n1"), records(1, 2, 3)
    first = sync(wan, made, nodes)
    found = renumber(wan, made, nodes)
    assert (found.is_complete, found.mac, found.problems) == (True, first.mac, ())
    assert wan.addresses("cbr0") == {"10.244.1.1/24", "fd00:244:0:1::1/64", "10.244.9.1/24", "fd00:244:0:9::1/64"}
    assert "10.244.1.0/24" in wan.ruleset() or "10.244.1.0-" in wan.ruleset()
    shell(wan, "ip addr del 10.244.1.1/24 dev cbr0; ip addr del fd00:244:0:1::1/64 dev cbr0")
    found = renumber(wan, made, nodes)
    assert found.mac == wan.links()[DEVICE]["address"] == vtep_mac(["10.244.9.0/24"])


def test_a_node_that_has_the_subnet_for_longer_is_named(wan: Node) -> None:  # noqa: F811
    """Everybody else is served; when this node has another subnet, so is the older one."""
    nodes = {**records(2, 3), "n7": record(7, subnets=OWN[:1], since=1)}
    made = Network("net", plugin("vxlan"), node="n1")
    with inside(wan):
        found = made.sync(Grant(OWN, since=2), nodes)
        assert 'conflicts with 10.244.1.0/24 of peer "n7", which is older' in found.own_conflict
        assert found.is_complete
        shell(wan, "ip addr flush dev cbr0 scope global")
        again = made.sync(Grant(("10.244.9.0/24",), since=3), nodes)
        assert (again.own_conflict, again.left_out) == ("", ())
    assert "10.244.1.0/24" in own_routes(wan)

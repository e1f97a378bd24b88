"""The address from which the tunnel sends if none is configured: one that peers know and that lasts."""

import pytest

from tests.netns.cluster_tools import network, refused
from tests.netns.cni import CNI
from tests.netns.node import Node

VIP = "ip addr flush dev wan0; ip addr add 192.0.2.77/32 dev wan0; ip addr add 192.0.2.1/24 dev wan0;"
TO_THE_WORLD = "ip route replace default via 192.0.2.2"
SIX = "ip addr flush dev wan0 scope global; ip addr add 2001:db8:1::1/64 dev wan0 nodad;"


def local_of(node: Node) -> str:
    """The device's local address."""
    data = node.links()["slash24.1"]["linkinfo"]["info_data"]
    return data.get("local") or data["local6"]


@pytest.fixture
def ready(node: Node) -> Node:
    """A node with the uplink wan0."""
    node.outside()
    return node


@pytest.mark.parametrize(
    ("setup", "wanted"),
    [
        (VIP + TO_THE_WORLD, "192.0.2.1"),
        ("ip addr add 192.0.2.9/24 dev wan0; ip route add default via 192.0.2.2 src 192.0.2.9", "192.0.2.9"),
        (SIX + "ip addr add 2001:db8:1::d/64 dev wan0 nodad preferred_lft 0", "2001:db8:1::1"),
        (SIX + "ip addr add 2001:db8:1::d/64 dev wan0 nodad preferred_lft 0 valid_lft 99", "2001:db8:1::1"),
        (SIX + "ip addr add 2001:db8:1::7/128 dev wan0 nodad", "2001:db8:1::1"),
        (
            SIX + "ip addr flush dev wan0 scope global; ip addr add 2001:db8:1::7/128 dev wan0 nodad;"
            "ip route add 2001:db8:1::/64 dev wan0",
            "2001:db8:1::7",
        ),
        (
            SIX + "echo 1 >/proc/sys/net/ipv6/conf/wan0/accept_dad; ip addr add 2001:db8:1::7/64 dev wan0",
            "2001:db8:1::1",
        ),
    ],
    ids=[
        "virtual first",
        "source of the route",
        "deprecated",
        "deprecated, with a lifetime",
        "virtual",
        "alone",
        "tentative",
    ],
)
def test_a_new_device_sends_from_an_address_that_lasts(cni: CNI, ready: Node, setup: str, wanted: str) -> None:
    """The address that the kernel would choose, unless it is deprecated, tentative or virtual."""
    ready.run(["sh", "-c", setup])
    if ":" in wanted:
        ready.run(["ip", "route", "add", "default", "via", "2001:db8:1::2"])
    conf, pod = network("vxlan"), ready.pod("pod")
    result = cni.add(conf, pod)
    assert local_of(ready) == wanted
    cni.check(conf, pod, result)


@pytest.mark.parametrize(
    "change",
    [
        "ip addr add 192.0.2.9/24 dev wan0; ip route replace default via 192.0.2.2 src 192.0.2.9",
        "ip addr del 192.0.2.1/24 dev wan0; ip addr add 192.0.2.9/24 dev wan0; ip addr add 192.0.2.1/24 dev wan0; "
        + TO_THE_WORLD,
    ],
)
def test_the_device_keeps_its_address_while_the_link_has_it(cni: CNI, ready: Node, change: str) -> None:
    """Peers know it: an address that the kernel would now prefer changes nothing, and CHECK passes."""
    ready.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    conf, pod = network("vxlan"), ready.pod("pod")
    result = cni.add(conf, pod)
    before = ready.links()["slash24.1"]["ifindex"]
    ready.run(["sh", "-c", change])
    cni.check(conf, pod, result)
    cni.add(conf, ready.pod("second"))
    assert (local_of(ready), ready.links()["slash24.1"]["ifindex"]) == ("192.0.2.1", before)
    ready.run(["sh", "-c", "ip addr flush dev wan0; ip addr add 192.0.2.9/24 dev wan0"])
    ready.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    cni.add(conf, ready.pod("third"))
    assert local_of(ready) == "192.0.2.9"


def test_an_ipv6_device_keeps_its_address(cni: CNI, ready: Node) -> None:
    """Even if that address is deprecated and the link has a newer one."""
    ready.run(["sh", "-c", SIX + "ip route add default via 2001:db8:1::2"])
    conf, pod = network("vxlan"), ready.pod("pod")
    result = cni.add(conf, pod)
    ready.run(["ip", "addr", "add", "2001:db8:1::9/64", "dev", "wan0", "nodad"])
    ready.run(["ip", "addr", "change", "2001:db8:1::1/64", "dev", "wan0", "preferred_lft", "0", "valid_lft", "999"])
    cni.check(conf, pod, result)
    cni.add(conf, ready.pod("second"))
    assert local_of(ready) == "2001:db8:1::1"


def test_without_an_address_that_lasts_add_and_status_fail(cni: CNI, ready: Node) -> None:
    """ADD with code 11 and STATUS with code 50; the message lists the addresses and why none can be used."""
    ready.run(["sh", "-c", "ip addr flush dev wan0 scope global; ip route add default dev wan0"])
    ready.run(["ip", "addr", "add", "2001:db8:1::d/64", "dev", "wan0", "nodad", "preferred_lft", "0"])
    for verb, code in (("ADD", 11), ("STATUS", 50)):
        error = refused(cni, verb, network("vxlan"), ready.pod(f"pod{code}"))
        assert (error.code, "2001:db8:1::d is deprecated" in error.msg) == (code, True), error


def test_the_default_route_may_be_in_another_table(cni: CNI, ready: Node) -> None:
    """A rule must refer to that table; a table without a rule is ignored."""
    ready.run(["ip", "route", "add", "default", "via", "192.0.2.2", "table", "77"])
    assert "no default route" in refused(cni, "STATUS", network("vxlan")).msg
    ready.run(["ip", "rule", "add", "lookup", "77", "prio", "40000"])
    cni.status(network("vxlan"))
    cni.add(network("vxlan"), ready.pod("pod"))
    assert local_of(ready) == "192.0.2.1"

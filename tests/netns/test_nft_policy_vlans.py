"""Network policies of pods whose gateway is a link of its own beside the bridge, as that of a VLAN."""

import pytest

from linux.ownership import GATEWAY_GROUP
from tests.netns.node import Node
from tests.netns.policy_world import GATEWAYS, World, add_pod, forward
from tests.netns.test_nft_policy_packets import PATIENCE, every, reach, ttl

LINK, VLAN_MAC = "cbr0.100", "0e:58:64:f4:01:01"


@pytest.fixture(
    params=[(filters, hands_over) for filters in (False, True) for hands_over in (False, True)],
    ids=["switched", "br_netfilter", "VLAN", "VLAN-br_netfilter"],
)
def world(node: Node, request: pytest.FixtureRequest) -> World:
    """Pods 2 and 3, also in VLAN 100 of a bridge, as the plugin `bridge` sets it up."""
    filters, hands_over = request.param
    if filters:
        request.getfixturevalue("vlan_filtering")
    forward(node, br_netfilter=hands_over)
    for words in (
        ["link", "add", "cbr0", "type", "bridge", "mcast_snooping", "0"],
        ["link", "set", "cbr0", "up"],
        ["link", "add", LINK, "address", VLAN_MAC, "type", "veth", "peer", "name", "inner"],
        ["link", "set", "inner", "group", str(GATEWAY_GROUP), "master", "cbr0", "up"],
    ):
        node.run(["ip", *words])
    node.run(["sysctl", "-w", f"net/ipv6/conf/{LINK}/accept_dad=0"])
    node.run(["ip", "link", "set", LINK, "up"])
    node.run(["ip", "addr", "add", f"{GATEWAYS[0]}/24", "dev", LINK])
    node.run(["ip", "addr", "add", f"{GATEWAYS[1]}/64", "dev", LINK, "nodad"])
    pods = tuple(add_pod(node, number) for number in (2, 3))
    if filters:
        node.run(["ip", "link", "set", "cbr0", "type", "bridge", "vlan_filtering", "1"])
    for port in ("inner", *(one.link for one in pods)) if filters else ():
        node.run(["bridge", "vlan", "del", "dev", port, "vid", "1"])
        node.run(["bridge", "vlan", "add", "dev", port, "vid", "100", "pvid", "untagged"])
    return World(node, pods, node, VLAN_MAC, LINK)


def test_pods_of_a_vlan(world: World) -> None:
    """They reach each other by the VLAN's gateway, as far as their policies allow; their node always reaches them."""
    a, b = world.pods
    world.free(a, b)
    assert [ttl(a.pod, address) for address in b.ips] == [63, 63]
    assert reach(a.pod, b.pod, b.ips, patience=PATIENCE) == every(b.ips)
    world.isolate(b, "ingress", "ip saddr 10.244.1.2 udp dport 8080")
    assert reach(a.pod, b.pod, b.ips) == {(b.ips[0], "udp")}
    assert reach(b.pod, a.pod, a.ips, patience=PATIENCE) == every(a.ips)
    assert reach(world.node, b.pod, b.ips, patience=PATIENCE) == every(b.ips)
    assert reach(b.pod, world.node, GATEWAYS, patience=PATIENCE) == every(GATEWAYS)


def test_held_pods_of_a_vlan(world: World) -> None:
    """They speak with their node only."""
    a, b = world.pods
    world.hold(a)
    assert reach(world.node, a.pod, a.ips, patience=PATIENCE) == every(a.ips)
    assert reach(a.pod, world.node, GATEWAYS, patience=PATIENCE) == every(GATEWAYS)
    assert reach(a.pod, b.pod, b.ips) == set()
    assert reach(b.pod, a.pod, a.ips) == set()

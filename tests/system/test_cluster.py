"""Five nodes that know nothing of each other but the registry: their daemons make a network of them."""

import json

import pytest

from tests.system.daemons import CONFLIST, Cluster
from tests.system.reachability import check_sources_strictly, parties, pass_own_addresses_alone, unreached

pytestmark = pytest.mark.cold(reason="its nodes have agents of their own")

KINDS = {
    "vxlan": (("left", "left", "left", "right", "right"), {"mode": "vxlan"}),
    "vxlan and direct routes": (
        ("left", "left", "left", "right", "right"),
        {"mode": "vxlan", "vxlan": {"directRouting": True}},
    ),
    "kubenet": (("left",) * 5, {"mode": "kubenet"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_everyone_reaches_everyone(cluster: Cluster, kind: str) -> None:
    """Pods and nodes, by TCP, UDP and ICMP of both families; pods see each other's own addresses.

    The nodes have rp_filter=1. Where all pods' packets are tunnelled, the underlay passes only nodes' addresses.
    """
    links, config = KINDS[kind]
    for link in links:
        cluster.underlay.join(link)
    check_sources_strictly(cluster.underlay)
    if kind == "vxlan":
        pass_own_addresses_alone(cluster.underlay)
    for member in cluster.underlay.members:
        cluster.serve(member, **config)
    cluster.settle()
    subnets = [subnet for one in cluster.nodes for subnet in one.subnets]
    assert len(set(subnets)) == 10
    everybody = parties(cluster.nodes)
    assert unreached(everybody, everybody) == []
    for one, party in zip(cluster.nodes, everybody[5:], strict=True):
        one.check(party.host)
        assert one.agent.log.count("verb=ADD") >= 1, "the launcher did not call the agent"


def test_a_new_node_is_reached_without_a_new_pod_anywhere(cluster: Cluster) -> None:
    """Pods that run already reach the pods of a node that joins, and lose nothing when it leaves for good."""
    one, two = cluster.join("left"), cluster.join("right")
    cluster.settle()
    old = parties([one, two])
    late = cluster.join("left")
    cluster.settle()
    new = parties([late])
    assert unreached([*old, *new], [*old, *new]) == []


def test_the_conflist_is_that_of_the_configuration(cluster: Cluster) -> None:
    """Version 1.0.0, which the oldest runtimes know; the main plugin, then those of the configuration."""
    chained = [{"type": "portmap", "capabilities": {"portMappings": True}}]
    one = cluster.join("left", conflist={"path": CONFLIST, "plugins": chained})
    one.wait_until_ready()
    conflist = json.loads(one.node.path(CONFLIST).read_text())
    assert conflist["cniVersion"] == "1.0.0"
    assert [plugin["type"] for plugin in conflist["plugins"]] == ["vxlan", "portmap"]
    assert conflist["plugins"][1:] == chained
    one.add("pod")

"""A pod is reached as soon as its ADD has answered, also the first of a node, over IPv6."""

import pytest

from tests.conformance.support import DUAL, network
from tests.netns import cluster_tools
from tests.netns.cni import CNI
from tests.netns.node import Node

CASES = {"bridge": ("br0", network(DUAL)), "kubenet": ("cbr0", cluster_tools.network("kubenet"))}


@pytest.mark.parametrize("plugin", CASES)
def test_the_nodes_end_of_a_new_bridge_can_speak_at_once(cni: CNI, node: Node, plugin: str) -> None:
    """No address of a bridge that an ADD made is tentative: the node asks for the pod's MAC from its link-local one."""
    link, conf = CASES[plugin]
    cni.add(conf, node.pod("pod"))
    addresses = [info for entry in node.ip("addr", "show", "dev", link) for info in entry["addr_info"]]
    assert [info for info in addresses if info["scope"] == "link"], "no link-local address"
    assert not [info for info in addresses if info.get("tentative")]


def test_a_bridge_of_others_goes_on_looking_for_duplicates(cni: CNI, node: Node) -> None:
    """Only of a bridge that we made do we know who is there."""
    node.run(["ip", "link", "add", "br0", "type", "bridge"])
    cni.add(network(DUAL), node.pod("pod"))
    assert node.sysctl("ipv6/conf/br0/accept_dad") == "1"

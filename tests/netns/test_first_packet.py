"""A pod is reachable over IPv6 as soon as its ADD returns, even the first pod on a node."""

import pytest

from tests.conformance.support import DUAL, network
from tests.netns import cluster_tools
from tests.netns.cni import CNI
from tests.netns.node import Node

CASES = {"bridge": ("br0", network(DUAL)), "kubenet": ("cbr0", cluster_tools.network("kubenet"))}


@pytest.mark.parametrize("plugin", CASES)
def test_addresses_of_a_new_bridge_are_usable_at_once(cni: CNI, node: Node, plugin: str) -> None:
    """A bridge that ADD creates has no tentative address: the node uses the link-local one to resolve the pod's MAC."""
    link, conf = CASES[plugin]
    cni.add(conf, node.pod("pod"))
    addresses = [info for entry in node.ip("addr", "show", "dev", link) for info in entry["addr_info"]]
    assert [info for info in addresses if info["scope"] == "link"], "no link-local address"
    assert not [info for info in addresses if info.get("tentative")]


def test_a_foreign_bridge_keeps_duplicate_address_detection(cni: CNI, node: Node) -> None:
    """Only on a bridge that ADD created is it certain that there are no duplicates."""
    node.run(["ip", "link", "add", "br0", "type", "bridge"])
    cni.add(network(DUAL), node.pod("pod"))
    assert node.sysctl("ipv6/conf/br0/accept_dad") == "1"

"""The bridge keeps its hardware address whoever comes and goes: neighbours remember it, and CHECK compares it."""

import pytest

from tests.conformance.support import layer2, network
from tests.netns.cni import CNI
from tests.netns.node import Node


@pytest.mark.parametrize(
    "conf", [network(), network(isDefaultGateway=None), layer2()], ids=["gateway", "no gateway", "layer 2"]
)
def test_bridge_keeps_its_mac(cni: CNI, node: Node, conf: dict) -> None:
    """A kernel bridge takes the lowest address of its ports, unless told; every CHECK passes after each change."""
    pods = [node.pod(f"pod{index}") for index in range(5)]
    results = [cni.add(conf, pod) for pod in pods]
    mac = node.links()["br0"]["address"]
    while pods:
        for pod, result in zip(pods, results, strict=True):
            cni.check(conf, pod, result)
        cni.delete(conf, pods.pop(0), results.pop(0))
        assert node.links()["br0"]["address"] == mac

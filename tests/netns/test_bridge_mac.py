"""The bridge's hardware address: neighbours remember it, whoever comes and goes; and no CHECK depends on it."""

import pytest

from tests.conformance.support import GATEWAY_V4, layer2, network
from tests.netns.cni import CNI
from tests.netns.node import Node

CONFS = {
    "gateway": network(),
    "no gateway": network(isDefaultGateway=None),
    "layer 2": layer2(),
}
every_conf = pytest.mark.parametrize("conf", CONFS.values(), ids=CONFS)


def mac_of(node: Node) -> str:
    """That of the bridge."""
    return node.links()["br0"]["address"]


def foreign_bridge(node: Node) -> None:
    """A bridge that an administrator has made: it has no MAC of its own."""
    node.run(["ip", "link", "add", "br0", "type", "bridge"])
    node.run(["ip", "link", "set", "br0", "up"])


@every_conf
def test_bridge_keeps_its_mac(cni: CNI, node: Node, conf: dict) -> None:
    """A kernel bridge takes the lowest address of its ports, unless told; every CHECK passes after each change."""
    pods = [node.pod(f"pod{index}") for index in range(5)]
    results = [cni.add(conf, pod) for pod in pods]
    mac = mac_of(node)
    while pods:
        for pod, result in zip(pods, results, strict=True):
            cni.check(conf, pod, result)
        cni.delete(conf, pods.pop(0), results.pop(0))
        assert mac_of(node) == mac


@every_conf
def test_check_passes_whatever_mac_a_foreign_bridge_takes(cni: CNI, node: Node, conf: dict) -> None:
    """On a bridge that is not ours the result has the MAC of that moment, and a later one is no fault of the pod's."""
    foreign_bridge(node)
    pods = [node.pod(f"pod{index}") for index in range(6)]
    results = []
    for pod in pods:
        results.append(cni.add(conf, pod))
        assert results[-1]["interfaces"][0]["mac"] == mac_of(node)
        cni.check(conf, pod, results[-1])
    while pods:
        for pod, result in zip(pods, results, strict=True):
            cni.check(conf, pod, result)
        cni.delete(conf, pods.pop(0), results.pop(0))


def test_check_passes_for_pods_with_a_mac_of_long_ago(cni: CNI, node: Node) -> None:
    """The runtime keeps results of earlier releases, which have the MAC from before the pod joined."""
    pod = node.pod("poda")
    result = cni.add(network(), pod)
    result["interfaces"][0]["mac"] = "22:33:44:55:66:77"
    cni.check(network(), pod, result)


@pytest.mark.parametrize("has_address", [False, True])
def test_a_foreign_bridge_with_a_gateway_keeps_the_mac_that_its_pods_know(
    cni: CNI, node: Node, has_address: bool
) -> None:
    """Whether the gateway's address is put on the bridge by the ADD, or was there before."""
    foreign_bridge(node)
    if has_address:
        node.run(["ip", "addr", "add", f"{GATEWAY_V4}/24", "dev", "br0"])
    macs, pods = set(), [node.pod(f"pod{index}") for index in range(6)]
    for pod in pods:
        cni.add(network(), pod)
        macs.add(mac_of(node))
    for pod in pods:
        cni.delete(network(), pod)
        macs.add(mac_of(node))
    assert len(macs) == 1


def test_a_foreign_bridge_that_lost_its_last_port_can_carry_a_gateway(cni: CNI, node: Node) -> None:
    """The kernel leaves such a bridge no MAC but 00:00:00:00:00:00, which no link can be given."""
    foreign_bridge(node)
    node.run(["ip", "link", "add", "port0", "type", "veth", "peer", "name", "port1"])
    node.run(["ip", "link", "set", "port0", "master", "br0"])
    node.run(["ip", "link", "del", "port0"])
    assert mac_of(node) == "00:00:00:00:00:00"
    pod = node.pod("poda")
    result = cni.add(network(), pod)
    assert result["interfaces"][0]["mac"] == mac_of(node) != "00:00:00:00:00:00"
    cni.check(network(), pod, result)
    assert pod.reaches(GATEWAY_V4)

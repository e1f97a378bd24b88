"""The bridge's MAC: it is stable as pods come and go, since neighbours cache it; CHECK does not depend on it."""

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
    """The bridge's MAC."""
    return node.links()["br0"]["address"]


def foreign_bridge(node: Node) -> None:
    """Create a bridge as an administrator does, without setting its MAC."""
    node.run(["ip", "link", "add", "br0", "type", "bridge"])
    node.run(["ip", "link", "set", "br0", "up"])


@every_conf
def test_bridge_keeps_its_mac(cni: CNI, node: Node, conf: dict) -> None:
    """It does not change as pods are deleted, although a bridge by default takes its ports' lowest; CHECK passes."""
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
    """On a foreign bridge the result has the MAC at the time of the ADD; CHECK passes after the MAC has changed."""
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


def test_check_accepts_an_old_bridge_mac_in_prevresult(cni: CNI, node: Node) -> None:
    """CHECK accepts cached results of earlier releases, which have the bridge's MAC from before the pod joined."""
    pod = node.pod("poda")
    result = cni.add(network(), pod)
    result["interfaces"][0]["mac"] = "22:33:44:55:66:77"
    cni.check(network(), pod, result)


@pytest.mark.parametrize("has_address", [False, True])
def test_a_foreign_bridge_with_a_gateway_keeps_its_mac(cni: CNI, node: Node, has_address: bool) -> None:
    """Its MAC is stable, whether the ADD assigns the gateway's address or the bridge had it before."""
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
    """The kernel resets such a bridge's MAC to 00:00:00:00:00:00, which cannot be set on a link."""
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

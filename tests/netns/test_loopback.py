"""`loopback` on a node: ADD sets lo up, DEL sets it down, and no other interface changes."""

import pytest

from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node

CONF = {"cniVersion": "1.1.0", "name": "lo", "type": "loopback"}


def test_lo_carries_traffic_until_del(cni: CNI, node: Node) -> None:
    """After ADD the pod reaches itself in both families; after DEL lo is down; a second ADD restores it."""
    pod = node.pod("pod")
    assert not pod.reaches("127.0.0.1", timeout=0)
    for _ in range(2):
        cni.add(CONF, pod)
        assert pod.reaches("127.0.0.1", timeout=0)
        assert pod.reaches("::1", timeout=0)
        cni.delete(CONF, pod)
        assert "UP" not in pod.links()["lo"]["flags"]


@pytest.mark.parametrize("before", ["up", "down"])
def test_failed_add_leaves_lo_as_it_was(cni: CNI, node: Node, before: str) -> None:
    """A foreign address on lo is an error, after which lo is up or down as before."""
    pod = node.pod("pod")
    pod.run(["ip", "addr", "add", "10.0.0.1/32", "dev", "lo"])
    pod.run(["ip", "link", "set", "lo", before])
    with pytest.raises(CNIFailure, match='loopback interface found with non-loopback address "10.0.0.1/32"'):
        cni.add(CONF, pod)
    assert ("UP" in pod.links()["lo"]["flags"]) == (before == "up")


def test_result_invalid_in_its_version_leaves_lo_as_it_was(cni: CNI, node: Node) -> None:
    """lo that was up without addresses has no valid result in 0.1.0: ADD fails, and lo stays up."""
    pod = node.pod("pod")
    pod.run(["sh", "-c", "ip link set lo up; ip addr flush dev lo"])
    with pytest.raises(CNIFailure, match="no valid IP addresses"):
        cni.add({**CONF, "cniVersion": "0.1.0"}, pod)
    assert "UP" in pod.links()["lo"]["flags"]


def test_own_namespace_is_left_alone(cni: CNI, node: Node) -> None:
    """A DEL with the node's own namespace does not set the node's loopback down."""
    pod = node.pod("pod")
    node.run(["sh", "-c", "touch /run/netns/own; mount --bind /proc/self/ns/net /run/netns/own"])
    cni.delete(CONF, pod, netns="/run/netns/own")
    assert "UP" in node.links()["lo"]["flags"]


def test_check_names_what_is_wrong(cni: CNI, node: Node) -> None:
    """A missing address, the result of another pod and an interface that is down each have their own message."""
    pod, other = node.pod("pod"), node.pod("other")
    result = cni.add(CONF, pod)
    cni.check(CONF, pod, result)
    cni.add(CONF, other)
    with pytest.raises(CNIFailure, match="Sandbox in prevResult /run/netns/pod doesn't match"):
        cni.check(CONF, other, result)
    pod.run(["ip", "addr", "del", "::1/128", "dev", "lo"])
    with pytest.raises(CNIFailure, match="Failed to match addr ::1/128 on interface lo"):
        cni.check(CONF, pod, result)
    pod.run(["ip", "link", "set", "lo", "down"])
    with pytest.raises(CNIFailure, match="loopback interface is down"):
        cni.check(CONF, pod, result)

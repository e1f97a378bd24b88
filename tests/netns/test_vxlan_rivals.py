"""Other users of the tunnel's VNI or UDP port are named in the error, and nothing incomplete is left."""

import subprocess
import sys

import pytest

from tests.netns.cluster_tools import NO_PODS, network, pods_left, refused
from tests.netns.cni import CNI
from tests.netns.node import Node

OTHERS = {
    "the same": ("id 1", 'VNI 1 on UDP port 4789 is taken by "other0"'),
    "a group": ("id 1 group 239.1.1.1 dev wan0", 'VNI 1 on UDP port 4789 is taken by "other0"'),
    "metadata": ("external", 'UDP port 4789 is taken by "other0"'),
    "a policy extension": ("id 7 gbp", 'UDP port 4789 is taken by "other0"'),
    "no checksums": ("id 7 udp6zerocsumrx", 'UDP port 4789 is taken by "other0"'),
}

LISTEN = """
import socket, sys
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.bind(("", 4789))
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def ready(node: Node) -> Node:
    """A node with a default route through wan0."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    return node


@pytest.mark.parametrize("other", OTHERS)
def test_a_conflicting_device_is_named(cni: CNI, ready: Node, other: str) -> None:
    """ADD fails with code 999 and STATUS with code 50; neither our device nor a pod is left."""
    keys, named = OTHERS[other]
    ready.run(["sh", "-c", f"ip link add other0 type vxlan {keys} dstport 4789 && ip link set other0 up"])
    pod, conf = ready.pod("pod"), network("vxlan")
    for verb, code in (("ADD", 999), ("STATUS", 50)):
        error = refused(cni, verb, conf, pod)
        assert (error.code, named in error.msg) == (code, True), error
    assert "slash24.1" not in ready.links()
    assert pods_left(ready, pod) == NO_PODS
    assert "slash24_vtep" not in ready.ruleset()
    ready.run(["ip", "link", "del", "other0"])
    cni.status(conf)
    cni.add(conf, pod)


def test_a_device_that_does_not_conflict_is_accepted(cni: CNI, ready: Node) -> None:
    """One with another VNI, with another port, or over the other IP version (flannel-v6.1)."""
    for number, keys in enumerate(("id 7 dstport 4789", "id 1 dstport 8472", "id 1 dstport 4789 local 2001:db8:1::1")):
        ready.run(["sh", "-c", f"ip link add o{number} type vxlan {keys} && ip link set o{number} up"])
    cni.status(network("vxlan"))
    cni.add(network("vxlan"), ready.pod("pod"))


def test_a_device_is_kept_if_its_replacement_cannot_be_created(cni: CNI, ready: Node) -> None:
    """The existing tunnel goes on working."""
    cni.add(network("vxlan"), ready.pod("pod"))
    before = ready.links()["slash24.1"]
    ready.run(["sh", "-c", "ip link add other0 type vxlan id 2 dstport 4789; ip link set other0 up"])
    error = refused(cni, "ADD", network("vxlan", vni=2, device="slash24.1"), ready.pod("second"))
    assert 'VNI 2 on UDP port 4789 is taken by "other0"' in error.msg
    assert ready.links()["slash24.1"]["ifindex"] == before["ifindex"]


def test_a_program_that_has_the_port_is_reported(cni: CNI, ready: Node) -> None:
    """Our device is deleted again, not left down."""
    pod, pipes = ready.pod("pod"), {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with ready.start([sys.executable, "-c", LISTEN], **pipes) as program:
        program.stdout.readline()
        error = refused(cni, "ADD", network("vxlan"), pod)
        assert "UDP port 4789 is taken by another program" in error.msg
        assert "slash24.1" not in ready.links()
        program.communicate()
    cni.add(network("vxlan"), pod)

"""The effect of masquerade on packets."""

import socket

import pytest

from rules import masquerade
from spec.attachment import Attachment
from tests.netns.nft_tools import on
from tests.netns.node import NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, Node, Pod, ask

ALICE = Attachment("net1", "alice", "eth0")


def connect(node: Node) -> tuple[Pod, Pod]:
    """A routed pod 10.1.2.5, fd00:1::5; the outside host, also with 10.1.2.200, fd00:1::200 of the pod's subnets."""
    pod, outside = node.pod("pod"), node.outside()
    node.run(["ip", "link", "add", "pod0", "type", "veth", "peer", "name", "eth0", "netns", "pod"])
    for host, link, last in ((node, "pod0", 1), (pod, "eth0", 5)):
        host.run(["ip", "link", "set", link, "up"])
        host.run(["ip", "addr", "add", f"10.1.2.{last}/24", "dev", link])
        host.run(["ip", "addr", "add", f"fd00:1::{last}/64", "dev", link, "nodad"])
    for family, gateway, neighbour, beyond in (
        ("-4", "10.1.2.1", "10.1.2.200", OUTSIDE_V4),
        ("-6", "fd00:1::1", "fd00:1::200", OUTSIDE_V6),
    ):
        pod.run(["ip", family, "route", "add", "default", "via", gateway])
        pod.run(["ip", family, "route", "add", neighbour, "via", gateway])
        node.run(["ip", family, "route", "add", neighbour, "via", beyond])
    outside.run(["ip", "addr", "add", "10.1.2.200/32", "dev", "eth0"])
    outside.run(["ip", "addr", "add", "fd00:1::200/128", "dev", "eth0", "nodad"])
    node.run(["sysctl", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
    assert pod.reaches(OUTSIDE_V4)
    assert pod.reaches(OUTSIDE_V6)
    return pod, outside


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_pod_to_outside(node: Node, kind: str) -> None:
    """Outside its subnet a masqueraded pod has the node's address, and its own before `ensure` and after `delete`."""
    pod, outside = connect(node)
    for port, change, seen in (
        (7001, lambda: None, ("10.1.2.5", "fd00:1::5")),
        (7002, lambda: masquerade.ensure(ALICE, ["10.1.2.5/24", "fd00:1::5/64"]), (NODE_V4, NODE_V6)),
        (7003, lambda: masquerade.delete(ALICE), ("10.1.2.5", "fd00:1::5")),
    ):
        on(node, change)
        assert (ask(pod, outside, OUTSIDE_V4, port, kind), ask(pod, outside, OUTSIDE_V6, port, kind)) == seen


def test_pod_to_its_own_subnet(node: Node) -> None:
    """Within its own subnet a masqueraded pod keeps its address, even if the node routes the traffic."""
    pod, outside = connect(node)
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/24", "fd00:1::5/64"])
    assert ask(pod, outside, "10.1.2.200", 7001, "udp") == "10.1.2.5"
    assert ask(pod, outside, "fd00:1::200", 7001, "tcp") == "fd00:1::5"
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/25", "fd00:1::5/120"])
    assert ask(pod, outside, "10.1.2.200", 7002, "udp") == NODE_V4
    assert ask(pod, outside, "fd00:1::200", 7002, "tcp") == NODE_V6


@pytest.mark.parametrize(
    ("source", "group", "unicast", "masked"),
    [("10.1.2.1", "224.0.0.99", OUTSIDE_V4, NODE_V4), ("fd00:1::1", "ff05::99", OUTSIDE_V6, NODE_V6)],
)
def test_multicast(node: Node, source: str, group: str, unicast: str, masked: str) -> None:
    """Multicast keeps its source address, while unicast from the same sender is masqueraded."""
    _, outside = connect(node)
    on(node, masquerade.ensure, ALICE, [f"{source}/{64 if ':' in source else 24}"])
    link = node.links()["wan0"]["ifindex"]
    with outside.socket(group, "udp") as receiver, node.socket(group, "udp") as sender:
        receiver.bind(("", 7001))
        sender.bind((source, 0))
        if ":" in group:
            there = outside.links()["eth0"]["ifindex"]
            membership = socket.inet_pton(socket.AF_INET6, group) + there.to_bytes(4, "little")
            receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, link)
        else:
            membership = socket.inet_aton(group) + socket.inet_aton(OUTSIDE_V4)
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, bytes(8) + link.to_bytes(4, "little"))
        sender.sendto(b"word", (group, 7001))
        assert receiver.recvfrom(16)[1][0] == source
        sender.sendto(b"word", (unicast, 7001))
        assert receiver.recvfrom(16)[1][0] == masked

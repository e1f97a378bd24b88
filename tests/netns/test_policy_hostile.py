"""Network policies against a pod with raw sockets: forged sources, tags and MACs, and what no pod's address tells."""

import socket
from collections.abc import Iterator

import pytest

from rules import source_validation
from tests.netns.nft_tools import nft, on
from tests.netns.node import Host, Node
from tests.netns.policy_world import GATEWAYS, INET, MAC, Member, World, build
from tests.netns.test_nft_antispoof import packet_socket
from tests.netns.test_nft_policy_frames import BROADCAST, checksum, ipv4, ipv6, mac

SECONDS = 0.4
UDP = 17


@pytest.fixture(params=[False, True], ids=["switched", "br_netfilter"])
def world(node: Node, request: pytest.FixtureRequest) -> Iterator[World]:
    """The world with source validation, as policies have it; without and with br_netfilter."""
    with build(node, br_netfilter=request.param) as made:
        for one in made.pods:
            on(node, source_validation.ensure, one.owner, one.link, one.ips)
        yield made


def datagram(source: str, target: str, port: int = 8080) -> bytes:
    """A UDP packet with its EtherType that says "word"."""
    body = bytes.fromhex("2328") + port.to_bytes(2, "big") + (12).to_bytes(2, "big")
    if ":" not in source:
        return ipv4(source, target, UDP, body + b"\0\0word")
    ends = b"".join(socket.inet_pton(socket.AF_INET6, text) for text in (source, target))
    total = checksum(ends + (12).to_bytes(4, "big") + UDP.to_bytes(4, "big") + body + b"\0\0word")
    return ipv6(source, target, UDP, body + total.to_bytes(2, "big") + b"word", hops=64)


def hears(sender: Member, listener: Host, address: str, frame: bytes, *, to: str = MAC, port: int = 8080) -> bool:
    """Whether a UDP socket at an address hears a frame from a pod to a MAC."""
    with listener.socket(address, "udp") as waiting, on(sender.pod, packet_socket, 0) as sending:
        waiting.bind((address, port))
        waiting.settimeout(SECONDS)
        sending.send(mac(to) + mac(sender.mac) + frame)
        return _word(waiting)


@pytest.mark.parametrize(
    "tags", ["81000000", "8100000081000000", "88a8000081000000", "810000008100000081000000", "8100000588a80000"]
)
def test_tags_do_not_hide_a_forged_source(world: World, tags: str) -> None:
    """The kernel strips any number of tags of VLAN 0; a frame with a forged address under them is lost."""
    a, b, c = world.pods
    world.free(b, c)
    world.isolate(a, "egress")
    for mine, other, target in zip(a.ips, c.ips, b.ips, strict=True):
        assert c.pod.reaches(target)
        assert hears(c, b.pod, target, datagram(other, target))
        assert not hears(a, b.pod, target, bytes.fromhex(tags) + datagram(other, target))
        assert not hears(a, b.pod, target, bytes.fromhex(tags) + datagram(mine, target))
        assert not hears(a, b.pod, target, bytes.fromhex(tags) + datagram(other, target), to=b.mac)


def test_no_source_at_all_is_no_way_to_the_node(world: World) -> None:
    """nodeAccess holds for packets from 0.0.0.0 and ::, which are no pod's; DHCP's port is for it to decide, too."""
    a, _, _ = world.pods
    world.free(a)
    for source, target, to in (("0.0.0.0", "255.255.255.255", BROADCAST), ("::", GATEWAYS[1], MAC)):
        bound = "0.0.0.0" if to == BROADCAST else "::"
        nft(world.node, "flush", "chain", *INET.split(), "node_access")
        nft(world.node, "add", "rule", *INET.split(), "node_access", "udp", "dport", "!=", "67", "drop")
        assert not hears(a, world.node, bound, datagram(source, target), to=to)


def test_a_pod_does_not_receive_for_another(world: World) -> None:
    """Neither by taking another's MAC nor by announcing its own for an address does a pod get what others get."""
    a, b, c = world.pods
    world.free(a, b, c)
    taken = mac(MAC) + mac(b.mac) + ipv4(a.ips[0], GATEWAYS[0], payload=b"mine")
    announced = bytes.fromhex("8800000060000000") + socket.inet_pton(socket.AF_INET6, b.ips[1]) + b"\2\1" + mac(a.mac)
    claim = mac(MAC) + mac(a.mac) + ipv6(a.ips[1], GATEWAYS[1], 58, announced)
    for target, forged in zip(b.ips, (taken, claim), strict=True):
        assert c.pod.reaches(target)
        with on(a.pod, packet_socket, 3) as receiver, on(a.pod, packet_socket, 0) as sending:
            receiver.settimeout(SECONDS)
            sending.send(forged)
            with c.pod.socket(target, "udp") as caller:
                caller.sendto(b"word", (target, 8080))
            assert not _word(receiver)


def test_a_host_outside_cannot_send_in_a_pods_name(world: World) -> None:
    """A packet with a pod's address that comes in by another link is not that pod's, whatever rp_filter says."""
    a, b, _ = world.pods
    world.free(a)
    world.isolate(b, "ingress", "ip saddr 10.244.1.2", "ip6 saddr fd00:1::2")
    world.node.run(["sysctl", "-w", *(f"net.ipv4.conf.{link}.rp_filter=0" for link in ("all", "wan0", "cbr0"))])
    (uplink,) = world.node.ip("link", "show", "dev", "wan0")
    for source, target in zip(a.ips, b.ips, strict=True):
        assert hears(a, b.pod, target, datagram(source, target))
        world.forget_connections()
        with b.pod.socket(target, "udp") as waiting, on(world.outside, packet_socket, 0) as sending:
            waiting.bind((target, 8080))
            waiting.settimeout(SECONDS)
            sending.send(mac(uplink["address"]) + mac("02:00:00:00:00:99") + datagram(source, target))
            assert not _word(waiting)


def _word(waiting: socket.socket) -> bool:
    """Whether "word" arrives."""
    try:
        while b"word" not in waiting.recv(4096):
            pass
    except TimeoutError:
        return False
    return True

"""Network policies with single frames: what is switched, what is routed, and what isolated pods do not get."""

import socket
import struct
from collections.abc import Iterator

import pytest

from rules import policy
from tests.netns.nft_tools import on
from tests.netns.node import Node, wait_until
from tests.netns.policy_world import GATEWAYS, GROUP, MAC, Member, World, build
from tests.netns.test_nft_antispoof import packet_socket

ETH_P_ALL = 3
BROADCAST, ALL_NODES = "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"
END = b"over"


@pytest.fixture(params=[False, True], ids=["switched", "br_netfilter"])
def world(node: Node, request: pytest.FixtureRequest) -> Iterator[World]:
    """The world, without and with br_netfilter."""
    with build(node, br_netfilter=request.param) as made:
        yield made


def mac(text: str) -> bytes:
    """A MAC in bytes."""
    return bytes.fromhex(text.replace(":", ""))


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source: str, target: str, protocol: int = 253, payload: bytes = b"word") -> bytes:
    """An IPv4 packet with its EtherType; 253 is an experimental protocol (RFC 3692)."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target)
    return bytes.fromhex("0800") + head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def ipv6(source: str, target: str, kind: int = 253, payload: bytes = b"word", hops: int = 255) -> bytes:
    """Likewise for IPv6; the checksum of ICMPv6 is filled in."""
    ends = b"".join(socket.inet_pton(socket.AF_INET6, text) for text in (source, target))
    if kind == 58:
        pseudo = ends + struct.pack(">II", len(payload), 58) + payload
        payload = payload[:2] + struct.pack(">H", checksum(pseudo)) + payload[4:]
    return bytes.fromhex("86dd") + struct.pack(">IHBB", 6 << 28, len(payload), kind, hops) + ends + payload


def solicitation(target: str, code: int = 135) -> bytes:
    """The body of a neighbour solicitation or advertisement (RFC 4861)."""
    return bytes([code, 0, 0, 0, 0, 0, 0, 0]) + socket.inet_pton(socket.AF_INET6, target) + b"word".ljust(4)


def arp(source: Member, target: Member) -> bytes:
    """An ARP request."""
    head = bytes.fromhex("0806 0001 0800 06 04 0001") + mac(source.mac) + socket.inet_aton(source.ips[0])
    return head + bytes(6) + socket.inet_aton(target.ips[0]) + b"word"


def arrives(source: Member, target: Member, frame: bytes, *, to: str = "", sender: str = "", tag: str = "") -> bool:
    """Whether a frame (EtherType and payload) with "word" in it arrives at the target, which gets a last frame, too."""
    head = mac(to or target.mac) + mac(sender or source.mac)
    with on(source.pod, packet_socket, 0) as sending, on(target.pod, packet_socket, ETH_P_ALL) as receiver:
        receiver.settimeout(0.4)
        sending.send((head + bytes.fromhex(tag) + frame).ljust(60, b"\0"))
        try:
            while True:
                received = receiver.recv(4096)
                if b"word" in received:
                    return True
        except TimeoutError:
            return False


def frames(a: Member, b: Member) -> dict[str, tuple[bytes, str, bool]]:
    """Frames from a to b: (frame, destination MAC if another than b's, whether an isolated pod gets them)."""
    local_a, local_b = "fe80::2", "fe80::3"
    return {
        "ARP, broadcast": (arp(a, b), BROADCAST, True),
        "ARP, unicast": (arp(a, b), "", True),
        "neighbour solicitation, multicast": (
            ipv6(a.ips[1], "ff02::1", 58, solicitation(b.ips[1])),
            ALL_NODES,
            True,
        ),
        "neighbour solicitation, unicast": (ipv6(a.ips[1], b.ips[1], 58, solicitation(b.ips[1])), "", True),
        "neighbour advertisement": (ipv6(local_a, "ff02::1", 58, solicitation(a.ips[1], 136)), ALL_NODES, True),
        "MLD report": (ipv6(local_a, "ff02::1", 58, solicitation("ff02::1", 143)), ALL_NODES, True),
        "IGMP": (ipv4(a.ips[0], "224.0.0.1", 2), "01:00:5e:00:00:01", True),
        "IPv4 broadcast": (ipv4(a.ips[0], "255.255.255.255"), BROADCAST, False),
        "IPv4 multicast": (ipv4(a.ips[0], "224.0.0.5"), "01:00:5e:00:00:05", False),
        "IPv4 multicast to a pod's MAC": (ipv4(a.ips[0], "224.0.0.5"), "", False),
        "IPv4 to the pod by broadcast": (ipv4(a.ips[0], b.ips[0]), BROADCAST, False),
        "IPv6 multicast": (ipv6(local_a, "ff02::5"), "33:33:00:00:00:05", False),
        "IPv6 to the pod by multicast": (ipv6(a.ips[1], b.ips[1]), ALL_NODES, False),
        "IPv6 between link-local addresses": (ipv6(local_a, local_b), "", False),
        "IPv6 from a link-local address": (ipv6(local_a, b.ips[1]), "", False),
        "echo request between link-local addresses": (
            ipv6(local_a, local_b, 58, b"\x80\0\0\0word\0\0\0\0"),
            "",
            False,
        ),
        "another protocol": (bytes.fromhex("88b5") + b"word", "", False),
        "another protocol, broadcast": (bytes.fromhex("88b5") + b"word", BROADCAST, False),
        "IPv4": (ipv4(a.ips[0], b.ips[0]), "", False),
        "IPv6": (ipv6(a.ips[1], b.ips[1]), "", False),
    }


def test_frames(world: World) -> None:
    """Frames of all kinds pass between pods that are not isolated; an isolated one sends and gets only what it must."""
    a, b, _ = world.pods
    world.free(a, b)
    every = frames(a, b)
    assert {kind for kind, (frame, to, _) in every.items() if arrives(a, b, frame, to=to)} == {*every}
    due = {kind for kind, (_, _, passes) in every.items() if passes}
    world.isolate(b, "ingress")
    assert {kind for kind, (frame, to, _) in every.items() if arrives(a, b, frame, to=to)} == due
    world.free(b)
    world.isolate(a, "egress")
    assert {kind for kind, (frame, to, _) in every.items() if arrives(a, b, frame, to=to)} == due
    world.free(a)
    world.isolate(a, "ingress")
    assert {kind for kind, (frame, to, _) in every.items() if arrives(a, b, frame, to=to)} == {*every}


def test_frames_that_the_pod_has_tagged(world: World) -> None:
    """Frames with a VLAN tag are switched; an isolated pod gets none that has IP in it."""
    a, b, _ = world.pods
    world.free(a, b)
    frame = ipv4(a.ips[0], b.ips[0])
    assert arrives(a, b, frame, tag="81000005")
    assert arrives(a, b, frame, tag="88a80005")
    world.isolate(b, "ingress")
    assert not arrives(a, b, frame, tag="81000005")
    assert not arrives(a, b, frame, tag="88a80005")
    world.free(b)
    world.isolate(a, "egress")
    assert not arrives(a, b, frame, tag="81000005")


def test_a_pod_cannot_take_the_gateways_place(world: World) -> None:
    """Frames with the gateway's MAC as their source are dropped, so that the bridge does not learn it."""
    a, b, _ = world.pods
    world.free(a, b)
    assert not arrives(a, b, arp(a, b), to=BROADCAST, sender=MAC)
    assert arrives(a, b, ipv4(a.ips[0], b.ips[0]))


def test_frames_for_a_gateway_that_is_elsewhere_are_lost(world: World) -> None:
    """If the bridge has another MAC than the rules know, isolated pods get nothing rather than all."""
    a, b, c = world.pods
    world.free(a, c)
    world.hold(b)
    on(world.node, policy.set_gateway, GROUP, "0a:58:0a:f4:01:99")
    assert not arrives(a, b, ipv4(a.ips[0], b.ips[0]))
    assert not arrives(a, c, ipv4(a.ips[0], c.ips[0]))
    on(world.node, policy.set_gateway, GROUP, MAC)
    assert arrives(a, c, ipv4(a.ips[0], c.ips[0]))


def test_pods_get_no_redirects(world: World) -> None:
    """The node does not tell pods that they reach each other directly, whatever its sysctls say."""
    a, b, _ = world.pods
    world.free(a, b)
    on_all = [f"net.ipv4.conf.{link}.send_redirects=1" for link in ("all", "cbr0")]
    world.node.run(["sysctl", "-w", *on_all])
    with on(a.pod, packet_socket, ETH_P_ALL) as receiver:
        for ip in b.ips:
            assert a.pod.reaches(ip, timeout=10)
            a.pod.run(["ping", "-n", "-c3", "-i0.2", "-W5", ip])
        kinds = set()
        receiver.settimeout(0.3)
        try:
            while True:
                frame = receiver.recv(4096)
                version = frame[12:14].hex()
                if version in _TYPE_AT:
                    kinds.add((version, frame[_TYPE_AT[version]]))
        except TimeoutError:
            pass
    assert {("0800", 0), ("86dd", 129)} <= kinds  # the answers
    assert {("0800", 5), ("86dd", 137)}.isdisjoint(kinds)


_TYPE_AT = {"0800": 34, "86dd": 54}


def test_duplicate_addresses_are_found(world: World) -> None:
    """Also between held pods: an IPv6 address that another pod has fails its detection."""
    a, b, _ = world.pods
    world.hold(a, b)
    a.pod.run(["sysctl", "-w", "net.ipv6.conf.eth0.accept_dad=1"])
    a.pod.run(["ip", "addr", "add", f"{b.ips[1]}/64", "dev", "eth0"])
    assert wait_until(lambda: "dadfailed" in a.pod.run(["ip", "addr", "show", "dev", "eth0"]).stdout, timeout=15)


def test_neighbours_stay_reachable(world: World) -> None:
    """A neighbour entry that gets old is confirmed by a unicast solicitation, between pods and with the gateway."""
    a, b, _ = world.pods
    world.free(a, b)
    for target in (b.ips[1], b.ips[0], *GATEWAYS):
        assert a.pod.reaches(target)
    for target, link in ((b.ips[1], b.mac), (b.ips[0], b.mac), *((gateway, MAC) for gateway in GATEWAYS)):
        a.pod.run(["ip", "neigh", "replace", target, "lladdr", link, "dev", "eth0", "nud", "probe"])
        assert wait_until(lambda target=target: _state(a, target) == "REACHABLE", timeout=15), target


def _state(member: Member, target: str) -> str:
    (entry,) = member.pod.ip("neigh", "show", "to", target, "dev", "eth0")
    return entry["state"][0]


def test_large_packets(world: World) -> None:
    """Datagrams in fragments, and streams in segments larger than the MTU, get through as they did."""
    a, b, _ = world.pods
    world.free(a, b)
    world.isolate(b, "ingress", "meta l4proto { tcp, udp } th dport 8080")
    for ip in b.ips:
        a.pod.reaches(ip, timeout=1)  # not, but then neighbours are known
        with b.pod.socket(ip, "udp") as listener, a.pod.socket(ip, "udp") as caller:
            listener.bind((ip, 8080))
            caller.sendto(b"x" * 20000, (ip, 8080))
            assert len(listener.recv(65536)) == 20000
        with b.pod.socket(ip, "tcp") as listener, a.pod.socket(ip, "tcp") as caller:
            listener.bind((ip, 8080))
            listener.listen()
            caller.connect((ip, 8080))
            with listener.accept()[0] as connection:
                caller.setblocking(True)
                sent = 0
                received = 0
                while sent < 4_000_000:
                    sent += caller.send(b"x" * 65536)
                    while received < sent:
                        received += len(connection.recv(1 << 20))
            assert received == sent


def test_denied_fragments(world: World) -> None:
    """No fragment of a datagram that is denied arrives."""
    a, b, _ = world.pods
    world.free(a)
    world.isolate(b, "ingress", "udp dport 8080")
    with on(b.pod, packet_socket, ETH_P_ALL) as receiver:
        receiver.settimeout(0.4)
        for ip in b.ips:
            with a.pod.socket(ip, "udp") as caller:
                caller.sendto(b"word" * 3000, (ip, 9999))
        seen = b""
        try:
            while b"word" not in seen:
                seen = receiver.recv(4096)
        except TimeoutError:
            pass
    assert b"word" not in seen

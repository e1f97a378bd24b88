"""Two nodes joined by an underlay: pods reach each other through the entries that we create."""

import socket
import struct

import pytest

from linux.rtnl.forwarding import sync
from linux.rtnl.vxlan import ensure_vtep, overhead
from tests.netns.node import Node, wait_until
from tests.netns.overlay_tools import (  # noqa: F401 (one is a fixture)
    UNDERLAY_V4,
    UNDERLAY_V6,
    inside,
    join,
    own_addresses,
    peer,
    second_node,
    shell,
    vtep,
)

POD_V4, POD_V6 = "10.244.{}.7", "fd00:244:0:{}::7"
_ETH_P_ALL = 3


def set_up(node: Node, number: int, underlay: str, **changes: object) -> None:
    """Configure node NUMBER: a pod address of its own, the VTEP, and the entries for the other node."""
    shell(node, f"ip addr add {POD_V4.format(number)}/32 dev lo; ip addr add {POD_V6.format(number)}/128 dev lo")
    with inside(node) as netlink:
        link, _ = ensure_vtep(netlink, vtep(node, number, underlay, **changes), own_addresses(number))
        sync(netlink, peer(3 - number, link.index, underlay), device=link.index)


@pytest.mark.parametrize("underlay", [UNDERLAY_V4, UNDERLAY_V6], ids=["over IPv4", "over IPv6"])
def test_pods_of_two_nodes_reach_each_other(node: Node, other: Node, underlay: str) -> None:
    """In both families; the largest packet passes, one byte more does not, and all neighbour entries are permanent."""
    join(node, other)
    set_up(node, 1, underlay)
    set_up(other, 2, underlay)
    mtu = 1500 - overhead(underlay)
    for source, target, headers in ((POD_V4, POD_V4.format(2), 28), (POD_V6, POD_V6.format(2), 48)):
        ping = ["ping", "-n", "-c1", "-W2", "-M", "do", "-I", source.format(1), target]
        assert node.run([*ping, "-s", str(mtu - headers)], check=False).returncode == 0
        assert node.run([*ping, "-s", str(mtu - headers + 1)], check=False).returncode != 0
        assert other.reaches(source.format(1))
    for one in (node, other):
        asked = one.run(["ip", "neigh", "show", "dev", "slash24.1"]).stdout.splitlines()
        assert len(asked) == 2
        assert all(line.split()[-1] == "PERMANENT" for line in asked)


def test_without_offload_the_inner_checksum_is_correct_on_the_wire(node: Node, other: Node) -> None:
    """The offload leaves it to the device to fill in; a veth does not, so the capture shows it incomplete."""
    join(node, other)
    set_up(node, 1, UNDERLAY_V4, tx_checksum=True)
    assert not is_sum_right(sent_through_tunnel(node, other))
    with inside(node) as netlink:
        ensure_vtep(netlink, vtep(node, 1, tx_checksum=False), own_addresses(1))
    assert is_sum_right(sent_through_tunnel(node, other))


def sent_through_tunnel(node: Node, other: Node) -> bytes:
    """Send a datagram to a pod of the other node; return the inner packet as captured there."""
    with inside(other):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        wire.bind(("wan0", _ETH_P_ALL))
    wire.setblocking(False)
    captured: list[bytes] = []
    with wire, node.socket("10.244.1.0", "udp") as caller:
        caller.sendto(b"some words", ("10.244.2.7", 9))
        assert wait_until(lambda: captured.extend(inner_packets(wire)) or captured)
    return captured[0]


def inner_packets(wire: socket.socket) -> list[bytes]:
    """The inner IPv4 packets captured: Ethernet, IPv4, UDP to 4789, VXLAN, Ethernet, IPv4, UDP to 9."""
    found = []
    while True:
        try:
            frame = wire.recv(2048)
        except BlockingIOError:
            return found
        if frame[23] == socket.IPPROTO_UDP and frame[36:38] == (4789).to_bytes(2, "big"):
            inner = frame[14 + 20 + 8 + 8 + 14 :]
            if inner[9] == socket.IPPROTO_UDP and inner[22:24] == (9).to_bytes(2, "big"):
                found.append(inner)


def is_sum_right(packet: bytes) -> bool:
    """Whether the UDP checksum of an IPv4 packet without options is correct (RFC 768)."""
    datagram = packet[20 : struct.unpack_from("!H", packet, 2)[0]]
    pseudo = packet[12:20] + struct.pack("!HH", socket.IPPROTO_UDP, len(datagram))
    data = pseudo + datagram + bytes(len(datagram) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF

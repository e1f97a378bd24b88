"""Packets that rules have logged: read from whatever bytes a sender has chosen."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linux.netlink.attributes import MESSAGE_HEADER, attribute
from linux.nflog import LoggedPacket, packets_in, read_packet

_PACKET, _PAYLOAD, _PREFIX = 4 << 8, 9, 10
A4, B4, A6, B6 = b"\x0a\1\2\5", b"\x0a\1\2\6", bytes(15) + b"\5", bytes(15) + b"\6"
PORTS = struct.pack("!HH", 40000, 80)


def ipv4(protocol: int, payload: bytes, *, options: bytes = b"", fragment: int = 0) -> bytes:
    """The beginning of an IPv4 packet."""
    length = 5 + len(options) // 4
    return struct.pack("!BBHHHBBH", 0x40 | length, 0, 0, 1, fragment, 64, protocol, 0) + A4 + B4 + options + payload


def ipv6(kind: int, payload: bytes) -> bytes:
    """The beginning of an IPv6 packet."""
    return struct.pack("!IHBB", 6 << 28, len(payload), kind, 64) + A6 + B6 + payload


def logged(packet: bytes, prefix: bytes = b"egress \0") -> bytes:
    """The kernel's message about a packet."""
    body = bytes(4) + attribute(_PREFIX, prefix) + attribute(_PAYLOAD, packet)
    return MESSAGE_HEADER.pack(MESSAGE_HEADER.size + len(body), _PACKET, 0, 0, 0) + body


@pytest.mark.parametrize(
    ("packet", "protocol", "ports"),
    [
        (ipv4(6, PORTS), 6, (40000, 80)),
        (ipv4(17, PORTS, options=bytes(12)), 17, (40000, 80)),
        (ipv4(132, PORTS), 132, (40000, 80)),
        (ipv4(1, b"\x08\0\1\2"), 1, (0, 0)),
        (ipv4(47, PORTS), 47, (0, 0)),
        (ipv4(17, PORTS, fragment=0x2000), 17, (40000, 80)),  # the first fragment
        (ipv4(17, PORTS, fragment=0x00B9), 17, (0, 0)),  # a later one
        (ipv4(6, PORTS[:3]), 6, (0, 0)),
        (ipv6(6, PORTS), 6, (40000, 80)),
        (ipv6(58, b"\x80\0\1\2"), 58, (0, 0)),
        (ipv6(0, bytes([60, 0]) + bytes(6) + bytes([17, 1]) + bytes(14) + PORTS), 17, (40000, 80)),
        (ipv6(44, bytes([17, 0, 0, 1]) + bytes(4) + PORTS), 17, (40000, 80)),  # the first fragment
        (ipv6(44, bytes([17, 0, 0, 9]) + bytes(4) + PORTS), 17, (0, 0)),  # a later one
        (ipv6(51, bytes([6, 4]) + bytes(22) + PORTS), 6, (40000, 80)),
        (ipv6(43, bytes([6, 200]) + bytes(40)), 6, (0, 0)),  # the ports are not in what was copied
        (ipv6(60, bytes([60, 0, 0, 0, 0, 0, 0, 0]) * 20), 60, (0, 0)),  # no end of extensions
    ],
)
def test_ports_are_found(packet: bytes, protocol: int, ports: tuple[int, int]) -> None:
    """After options and extension headers, and only where there are any."""
    source, destination = (A4, B4) if packet[0] >> 4 == 4 else (A6, B6)
    assert read_packet("p", packet) == LoggedPacket("p", source, destination, protocol, *ports)


@pytest.mark.parametrize("packet", [b"", b"\x45", ipv4(6, b"")[:19], ipv6(6, b"")[:39], b"\x50" + bytes(60)])
def test_what_is_no_packet_of_ip_is_left_out(packet: bytes) -> None:
    """Too short, or of another version."""
    assert read_packet("p", packet) is None
    assert list(packets_in(logged(packet))) == []


def test_several_packets_of_a_datagram_are_read() -> None:
    """Each with its prefix, up to the first NUL."""
    first, other = logged(ipv4(6, PORTS)), logged(ipv6(17, PORTS), b"ingress \0x")
    found = list(packets_in(first + other))
    assert [(one.prefix, one.protocol) for one in found] == [("egress ", 6), ("ingress ", 17)]
    assert [str(one) for one in found] == [
        "egress protocol 6 from 10.1.2.5 to 10.1.2.6",
        "ingress protocol 17 from ::5 to ::6",
    ]


@given(st.binary(max_size=300))
def test_arbitrary_packets_raise_nothing(data: bytes) -> None:
    """Whatever a pod sends is a packet of IP, or none."""
    for packet in (data, b"\x45" + data, b"\x60" + data):
        found = read_packet("p", packet)
        if found:
            assert len(found.source) == len(found.destination) == (4 if packet[0] >> 4 == 4 else 16)
            assert 0 <= found.port <= 65535


@given(st.binary(max_size=300), st.integers(0, 400), st.binary(max_size=4))
def test_arbitrary_datagrams_raise_nothing(data: bytes, at: int, damage: bytes) -> None:
    """Damaged lengths and kinds, and datagrams that end early."""
    message = logged(data)
    for one in (data, message, message[:at], message[:at] + damage + message[at + len(damage) :]):
        assert all(len(packet.source) in (4, 16) for packet in packets_in(one))


@given(st.binary(max_size=130))
def test_arbitrary_prefixes_raise_nothing(prefix: bytes) -> None:
    """Other programs may log to the group, too."""
    (packet,) = packets_in(logged(ipv4(6, PORTS), prefix))
    assert packet.port == 80

"""Raw packets as bytes, for senders of packets that an ordinary socket would not send."""

import socket
import struct


def ipv4(source: bytes, to: bytes, payload: bytes, fragment: int = 0) -> bytes:
    """An IPv4 packet that carries UDP."""
    start = struct.pack(">BBHHHBB", 0x45, 0, 20 + len(payload), 4242, fragment, 64, 17)
    return start + struct.pack(">H", internet_checksum(start + b"\0\0" + source + to)) + source + to + payload


def ipv4_fragment(source: bytes, to: bytes, part: bytes, offset: int, *, more: bool) -> bytes:
    """A fragment of a UDP datagram in IPv4."""
    return ipv4(source, to, part, offset // 8 | more << 13)


def ipv6_fragment(source: bytes, to: bytes, part: bytes, offset: int, *, more: bool) -> bytes:
    """A fragment of a UDP datagram in IPv6."""
    fragment = struct.pack(">BBHI", 17, 0, offset | more, 4242)
    return struct.pack(">IHBB", 6 << 28, 8 + len(part), 44, 64) + source + to + fragment + part


def internet_checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1])) + (data[-1] << 8 if len(data) & 1 else 0)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp(ends: bytes, port: int, payload: bytes) -> bytes:
    """A UDP datagram from port 50000; `ends` are the packed source and destination addresses."""
    header = struct.pack(">3H", 50000, port, 8 + len(payload))
    pseudo = ends + struct.pack(">II", 8 + len(payload), socket.IPPROTO_UDP)
    return header + struct.pack(">H", internet_checksum(pseudo + header + b"\0\0" + payload) or 0xFFFF) + payload


def vxlan(vni: int, to: str, packet: bytes) -> bytes:
    """The payload of a VXLAN datagram: VXLAN header, and an Ethernet frame to this MAC with an IPv4 packet."""
    return (
        struct.pack(">II", 8 << 24, vni << 8)
        + bytes.fromhex(to.replace(":", "") + "020000000001")
        + b"\x08\x00"
        + packet
    )

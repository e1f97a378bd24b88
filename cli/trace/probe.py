"""The packet that is sent: its bytes, how it is recognized wherever it is seen, and what is an answer to it.

A SYN is recognized by its sequence number, a datagram or an echo request by the beginning of its payload: neither is
changed by a translation of addresses or ports.
"""

import os
from dataclasses import dataclass
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP
from struct import Struct

from linux.nflog import LoggedPacket, read_packet
from spec.addresses import pack, unpack

TCP, UDP, ICMP = "tcp", "udp", "icmp"
PROTOCOLS = (TCP, UDP, ICMP)
MARK_AT = {TCP: 4, UDP: 8, ICMP: 8}
"""Where the mark is, in bytes after the beginning of the transport header."""
ANSWERS_MARK_AT = 8
"""Where the answer to a SYN has its own."""
ICMP_HEADER = 8
IP_HEADER = {4: 20, 6: 40}
TUNNEL_HEADERS = 8 + 8 + 14
"""Bytes of UDP, VXLAN and Ethernet around a packet."""
THERE, BACK, OUTER = "there", "back", "outer"
"""The packet itself; an answer to it; the datagram of a tunnel that it is in."""

_NUMBERS = {TCP: IPPROTO_TCP, UDP: IPPROTO_UDP}
_ECHO = {4: (8, 0), 6: (128, 129)}  # types of an echo request, and of the reply
_UNREACHABLE = {4: 3, 6: 1}
_ERRORS = {4: (3, 11, 12), 6: (1, 2, 3, 4)}
_CODES = {
    (4, 0): "network unreachable",
    (4, 1): "host unreachable",
    (4, 2): "protocol unreachable",
    (4, 3): "port unreachable",
    (4, 4): "fragmentation needed",
    (4, 9): "network administratively prohibited",
    (4, 10): "host administratively prohibited",
    (4, 13): "administratively prohibited",
    (6, 0): "no route to destination",
    (6, 1): "administratively prohibited",
    (6, 3): "address unreachable",
    (6, 4): "port unreachable",
    (6, 5): "source address failed policy",
    (6, 6): "route rejected",
}
_OTHER_ERRORS = {(4, 11): "time exceeded", (6, 2): "packet too big", (6, 3): "time exceeded"}
_SYN, _RST, _ACK = 2, 4, 16
_TCP_HEADER, _UDP_HEADER, _ECHO_HEADER = Struct("!HH4sIBBHHH"), Struct("!HHHH"), Struct("!BBHHH")
_MSS = bytes.fromhex("020405b4")  # the option: 1460
_VXLAN_FLAGS = 0x08
_VXLAN_AT = 8


@dataclass(frozen=True)
class Probe:
    """One packet. `port`, `source_port`: of TCP and UDP; of ICMP the latter is the identifier of the echo request."""

    protocol: str
    source: str
    destination: str
    port: int
    source_port: int
    mark: bytes

    @property
    def version(self) -> int:
        """The IP version."""
        return 6 if ":" in self.destination else 4

    @property
    def number(self) -> int:
        """The protocol (IPPROTO_*)."""
        return _NUMBERS.get(self.protocol, IPPROTO_ICMP if self.version == 4 else IPPROTO_ICMPV6)

    @property
    def places(self) -> tuple[int, int]:
        """Where the last four bytes of the mark are after the IP header, also if the packet is in a tunnel's."""
        at = MARK_AT[self.protocol] + len(self.mark) - 4
        return at, TUNNEL_HEADERS + IP_HEADER[self.version] + at

    @property
    def answers_mark(self) -> bytes:
        """What acknowledges a SYN."""
        return (int.from_bytes(self.mark, "big") + 1 & 0xFFFFFFFF).to_bytes(4, "big")

    def __str__(self) -> str:
        return f"{self.protocol} {self.port}" if self.protocol != ICMP else self.protocol


@dataclass(frozen=True)
class Reply:
    """An answer: `kind` for people, and the address that sent it. `is_from_target`: what was addressed has answered."""

    kind: str
    sender: str
    is_from_target: bool


def new_mark(protocol: str) -> bytes:
    """A mark that no other packet has."""
    return os.urandom(4) if protocol == TCP else b"slash24:" + os.urandom(4)


def segment(probe: Probe) -> bytes:
    """The packet without its IP header; the checksum of ICMPv6 is left to the kernel."""
    if probe.protocol == UDP:
        head = _UDP_HEADER.pack(probe.source_port, probe.port, _UDP_HEADER.size + len(probe.mark), 0)
        return _summed(head + probe.mark, 6, _pseudo(probe, len(head + probe.mark)))
    if probe.protocol == TCP:
        head = _TCP_HEADER.pack(probe.source_port, probe.port, probe.mark, 0, 6 << 4, _SYN, 64240, 0, 0)
        return _summed(head + _MSS, 16, _pseudo(probe, len(head + _MSS)))
    echo = _ECHO_HEADER.pack(_ECHO[probe.version][0], 0, 0, probe.source_port, 1) + probe.mark
    return _summed(echo, 2, b"") if probe.version == 4 else echo


def _pseudo(probe: Probe, length: int) -> bytes:
    return pack(probe.source) + pack(probe.destination) + length.to_bytes(4, "big") + probe.number.to_bytes(4, "big")


def _summed(data: bytes, at: int, pseudo: bytes) -> bytes:
    """With the Internet checksum (RFC 1071) of both in its place."""
    total = sum(Struct(f"!{len(pseudo + data) // 2}H").unpack(pseudo + data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    checksum = (~total & 0xFFFF) or 0xFFFF
    return data[:at] + checksum.to_bytes(2, "big") + data[at + 2 :]


def ends_of(packet: bytes) -> LoggedPacket | None:
    """Addresses, protocol and ports of an IP packet, None if it is none."""
    return read_packet("", packet)


def transport_of(packet: bytes) -> bytes:
    """What follows the IP header; b"" if this is no IP packet."""
    if not packet:
        return b""
    return packet[(packet[0] & 15) * 4 :] if packet[0] >> 4 == 4 else packet[IP_HEADER[6] :]


def direction_of(probe: Probe, packet: bytes) -> str:
    """What a packet, from its IP header on, is to the probe: THERE, BACK, OUTER, or "" for something else.

    At least 20 bytes of the transport header are needed.
    """
    ends, body = ends_of(packet), transport_of(packet)
    if not ends or len(body) < _UDP_HEADER.size:
        return ""
    version = 4 if len(ends.source) == 4 else 6
    if ends.protocol == IPPROTO_UDP and body[_VXLAN_AT : _VXLAN_AT + 1] == bytes([_VXLAN_FLAGS]):
        return OUTER
    if version != probe.version:
        return ""
    if ends.protocol in (IPPROTO_ICMP, IPPROTO_ICMPV6) and body[0] in _ERRORS[version]:
        return BACK
    return _of_same_protocol(probe, body) if ends.protocol == probe.number else ""


def _of_same_protocol(probe: Probe, body: bytes) -> str:
    at = MARK_AT[probe.protocol]
    is_marked = body[at : at + len(probe.mark)] == probe.mark
    if probe.protocol == TCP:
        is_answer = body[ANSWERS_MARK_AT : ANSWERS_MARK_AT + 4] == probe.answers_mark
    elif probe.protocol == UDP:
        is_answer = int.from_bytes(body[2:4], "big") == probe.source_port
    else:
        is_answer = is_marked and body[0] == _ECHO[probe.version][1]
        is_marked = is_marked and body[0] == _ECHO[probe.version][0]
    return THERE if is_marked else BACK if is_answer else ""


def reply_in(probe: Probe, protocol: int, body: bytes, sender: str) -> Reply | None:
    """The answer to the probe that a packet without its IP header is; None if it is none."""
    if protocol == probe.number and probe.protocol != ICMP:
        return _transport_reply(probe, body, sender)
    if len(body) < ICMP_HEADER:
        return None
    kind, code, version = body[0], body[1], probe.version
    if kind == _ECHO[version][1] and probe.protocol == ICMP:
        return Reply("echo reply", sender, is_from_target=True) if probe.mark in body else None
    if kind not in _ERRORS[version] or not _quotes(probe, body[ICMP_HEADER:]):
        return None
    if kind != _UNREACHABLE[version]:
        words = _OTHER_ERRORS.get((version, kind), f"type {kind} code {code}")
        return Reply(f"ICMP {words}", sender, is_from_target=False)
    is_closed = _CODES.get((version, code), "").startswith(("port", "protocol"))
    words = f"ICMP {_CODES.get((version, code), f'unreachable, code {code}')}"
    return Reply(words, sender, is_from_target=is_closed and sender == probe.destination)


def _transport_reply(probe: Probe, body: bytes, sender: str) -> Reply | None:
    if probe.protocol == UDP:
        if body[:2] == probe.port.to_bytes(2, "big") and body[2:4] == probe.source_port.to_bytes(2, "big"):
            return Reply(f"a datagram of {len(body) - _UDP_HEADER.size} bytes", sender, is_from_target=True)
        return None
    if len(body) < _TCP_HEADER.size or body[ANSWERS_MARK_AT : ANSWERS_MARK_AT + 4] != probe.answers_mark:
        return None
    flags = body[13]
    kind = "RST" if flags & _RST else "SYN-ACK" if flags & (_SYN | _ACK) == _SYN | _ACK else "another segment"
    return Reply(kind, sender, is_from_target=True)


def _quotes(probe: Probe, inner: bytes) -> bool:
    """Whether the packet that an ICMP error quotes is the probe: by the mark, or by ports where it is cut short."""
    if probe.mark in inner:
        return True
    ends = ends_of(inner)
    is_same = ends is not None and probe.protocol != ICMP and unpack(ends.destination) == probe.destination
    return is_same and (ends.source_port, ends.port) == (probe.source_port, probe.port)

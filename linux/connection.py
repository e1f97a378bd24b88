"""A tracked connection as a value, read from the kernel's message (ctnetlink).

A table may have a quarter of a million connections. So the four addresses of a message are taken from where the kernel
puts them, without parsing it; a connection is parsed if it is wanted, and what few need only when they ask for it.
Numbers are those of <linux/netfilter/nfnetlink_conntrack.h>.
"""

from dataclasses import dataclass, field
from socket import IPPROTO_TCP
from struct import Struct

from linux.netlink.attributes import ATTRIBUTE_HEADER, NLA_F_NESTED, attribute, attributes_of
from spec.addresses import FAMILIES

CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_PROTOINFO, CTA_ID, CTA_TUPLE_MASTER, CTA_ZONE = 1, 2, 4, 12, 14, 18
CTA_TUPLE_IP, CTA_TUPLE_PROTO, CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 1, 2, 3
CTA_IP_SRC, CTA_IP_DST = {4: 1, 6: 3}, {4: 2, 6: 4}  # CTA_IP_V4_SRC and so on
CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE = 1, 1
TCP_CONNTRACK_TIME_WAIT, TCP_CONNTRACK_CLOSE = 7, 8

BODY = 20
"""Bytes of the netlink and nfnetlink headers before the attributes of a message."""

WITH_PORTS = frozenset({6, 17, 33, 132, 136})
"""Protocols that have a source port and a destination port: TCP, UDP, DCCP, SCTP, UDP-Lite."""

_CLOSED = bytes([TCP_CONNTRACK_TIME_WAIT]), bytes([TCP_CONNTRACK_CLOSE])
_LENGTH = Struct("=H")


@dataclass(frozen=True, slots=True)
class Connection:
    """A tracked connection: packed addresses, and ports, which are 0 if the protocol has none.

    `source` opened it to address `to` and `port`; after DNAT that is `answered_by` and `answering_port`. Answers go to
    `answers_go_to`, after SNAT another address than `source`. `message`: what the kernel sent.
    """

    version: int
    protocol: int
    source: bytes
    source_port: int
    to: bytes
    port: int
    answered_by: bytes
    answering_port: int
    answers_go_to: bytes
    message: bytes = field(repr=False, compare=False)

    @property
    def master(self) -> bytes:
        """The tuple of the connection that announced this one, as FTP does, without the attribute's header; or b""."""
        return attributes_of(self.message, BODY).get(CTA_TUPLE_MASTER, b"")

    @property
    def is_closed(self) -> bool:
        """Whether it is one of TCP that has ended, and is kept for late packets only."""
        if self.protocol != IPPROTO_TCP:
            return False
        info = attributes_of(attributes_of(self.message, BODY).get(CTA_PROTOINFO, b""))
        return attributes_of(info.get(CTA_PROTOINFO_TCP, b"")).get(CTA_PROTOINFO_TCP_STATE) in _CLOSED


@dataclass(frozen=True, slots=True)
class _Layout:
    """How messages of a family begin. `size`: bytes of an address. `head`: the headers before the first address.

    `with_ports`: a tuple with ports.
    """

    version: int
    size: int
    head: bytes
    with_ports: Struct


def _layout(version: int, size: int) -> _Layout:
    ip = ATTRIBUTE_HEADER.pack(12 + 2 * size, CTA_TUPLE_IP | NLA_F_NESTED)
    head = ip + ATTRIBUTE_HEADER.pack(4 + size, CTA_IP_SRC[version])
    return _Layout(version, size, head, Struct(f"!12x{size}s4x{size}s8xB3x4xH2x4xH2x"))


_LAYOUTS = {FAMILIES[4]: _layout(4, 4), FAMILIES[6]: _layout(6, 16)}


def ends_of(message: bytes) -> tuple[bytes, ...]:
    """`source`, `to`, `answered_by` and `answers_go_to` of the connection in a message; () if there is none of IP."""
    layout = _layout_of(message)
    if not layout:
        return ()
    size, reply = layout.size, BODY + _LENGTH.unpack_from(message, BODY)[0]
    if message[BODY + 4 : BODY + 12] != layout.head or message[reply + 4 : reply + 12] != layout.head:
        one = _read_slowly(message, layout.version)
        return (one.source, one.to, one.answered_by, one.answers_go_to) if one else ()
    source, back = BODY + 12, reply + 12
    to, goes_to = source + size + 4, back + size + 4
    return (
        message[source : source + size],
        message[to : to + size],
        message[back : back + size],
        message[goes_to : goes_to + size],
    )


def read(message: bytes) -> Connection | None:
    """The connection in a message of the kernel, which has its header; None if there is none of IP."""
    layout = _layout_of(message)
    if not layout:
        return None
    version, tuples = layout.version, layout.with_ports
    reply = BODY + tuples.size
    is_plain = (
        _LENGTH.unpack_from(message, BODY)[0] == tuples.size
        and message[BODY + 4 : BODY + 12] == message[reply + 4 : reply + 12] == layout.head
        and len(message) >= reply + tuples.size
    )
    if not is_plain:
        return _read_slowly(message, version)
    source, to, protocol, source_port, port = tuples.unpack_from(message, BODY)
    answered_by, goes_to, _, answering_port, _ = tuples.unpack_from(message, reply)
    if protocol not in WITH_PORTS:
        return _read_slowly(message, version)
    return Connection(version, protocol, source, source_port, to, port, answered_by, answering_port, goes_to, message)


def identity_of(message: bytes) -> bytes:
    """The attributes that identify the connection in a message: its tuple, its ID, and its zone if it has one."""
    attributes = attributes_of(message, BODY)
    kinds = {CTA_TUPLE_ORIG: CTA_TUPLE_ORIG | NLA_F_NESTED, CTA_ID: CTA_ID, CTA_ZONE: CTA_ZONE}
    return b"".join(attribute(kind, attributes[number]) for number, kind in kinds.items() if number in attributes)


def _layout_of(message: bytes) -> _Layout | None:
    return _LAYOUTS.get(message[16]) if len(message) >= BODY + 12 else None


def _read_slowly(message: bytes, version: int) -> Connection | None:
    """As `read`, whatever attributes there are, in whatever order."""
    attributes, size = attributes_of(message, BODY), _LAYOUTS[FAMILIES[version]].size
    (there, forth), (back, answering) = (
        _ends(attributes.get(number, b"")) for number in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY)
    )
    addresses = [ips.get(kinds[version], b"") for ips in (there, back) for kinds in (CTA_IP_SRC, CTA_IP_DST)]
    protocol = forth.get(CTA_PROTO_NUM, b"")
    if len(protocol) != 1 or any(len(address) != size for address in addresses):
        return None
    source, to, answered_by, goes_to = addresses
    places = (forth, CTA_PROTO_SRC_PORT), (forth, CTA_PROTO_DST_PORT), (answering, CTA_PROTO_SRC_PORT)
    source_port, port, answering_port = (
        int.from_bytes(ports.get(kind, b"")[:2], "big") if protocol[0] in WITH_PORTS else 0 for ports, kind in places
    )
    return Connection(
        version, protocol[0], source, source_port, to, port, answered_by, answering_port, goes_to, message
    )


def _ends(data: bytes) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """The addresses and the ports of one direction."""
    attributes = attributes_of(data)
    return attributes_of(attributes.get(CTA_TUPLE_IP, b"")), attributes_of(attributes.get(CTA_TUPLE_PROTO, b""))

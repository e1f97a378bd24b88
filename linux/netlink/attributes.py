"""Netlink messages and attributes as bytes (include/uapi/linux/netlink.h)."""

from collections.abc import Iterator
from struct import Struct

MESSAGE_HEADER = Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port ID."""

ATTRIBUTE_HEADER = Struct("=HH")
"""struct nlattr: length, type."""

RTNL_BODY = 28
"""Offset of the attributes in a route or neighbour message: both have 12 bytes after the 16 of the header."""

NLA_F_NESTED = 0x8000
_NUMBER = Struct("=I")
_NLA_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


def attributes_of(data: bytes, at: int = 0) -> dict[int, bytes]:
    """The attributes from offset `at` on, by type; the last one of several of a type."""
    attributes = {}
    unpack, end = ATTRIBUTE_HEADER.unpack_from, len(data) - 3
    while at < end:
        length, kind = unpack(data, at)
        if length < 4:
            break
        attributes[kind & _NLA_TYPE_MASK] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return attributes


def runs_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of each attribute, where several may have the same type."""
    at = 0
    while at + 4 <= len(data):
        length, kind = ATTRIBUTE_HEADER.unpack_from(data, at)
        if length < 4:
            return
        yield kind & _NLA_TYPE_MASK, data[at + 4 : at + length]
        at += (length + 3) & ~3


def payloads_of(data: bytes) -> Iterator[bytes]:
    """The payloads of attributes, whatever their types."""
    return (payload for _, payload in runs_of(data))


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to a multiple of four bytes."""
    return ATTRIBUTE_HEADER.pack(4 + len(payload), kind) + payload + bytes(-len(payload) & 3)


def text(kind: int, value: str) -> bytes:
    """A string attribute, with its NUL."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """An attribute of 32 bits in host byte order."""
    return attribute(kind, _NUMBER.pack(value))


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that contains attributes."""
    return attribute(kind, b"".join(attributes))

"""Netlink attributes as bytes: read and written, not decoded (length, type, payload; include/uapi/linux/netlink.h).

For what every call sends and reads; what is sent once, or has many forms, is encoded by pyroute2.
"""

from collections.abc import Iterator
from struct import Struct

RTNL_BODY = 28
"""Where the attributes of a route or neighbour message begin: both have 12 bytes after the 16 of the header."""

_HEADER = Struct("=HH")
_NUMBER = Struct("=I")
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


def attributes_of(data: bytes, at: int = 0) -> dict[int, bytes]:
    """The run of attributes that begins at `at`, by type; of several of one type the last."""
    found = {}
    unpack, end = _HEADER.unpack_from, len(data) - 3
    while at < end:
        length, kind = unpack(data, at)
        if length < 4:
            break
        found[kind & _TYPE_MASK] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def runs_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of each of a run of attributes, of which several may be of one type."""
    at = 0
    while at + 4 <= len(data):
        length, kind = _HEADER.unpack_from(data, at)
        if length < 4:
            return
        yield kind & _TYPE_MASK, data[at + 4 : at + length]
        at += (length + 3) & ~3


def payloads_of(data: bytes) -> Iterator[bytes]:
    """The payloads of a run of attributes, whatever their types."""
    return (payload for _, payload in runs_of(data))


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded as the next one wants it."""
    return _HEADER.pack(4 + len(payload), kind) + payload + bytes(-len(payload) & 3)


def text(kind: int, value: str) -> bytes:
    """An attribute that is a text, with its NUL."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """An attribute that is a number of 32 bits in the machine's order."""
    return attribute(kind, _NUMBER.pack(value))


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that is a run of attributes."""
    return attribute(kind, b"".join(attributes))

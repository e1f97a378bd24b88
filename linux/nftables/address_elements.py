"""Elements of nftables sets of addresses, maybe thousands, encoded as netlink has them.

They are compared as bytes and decoded only if they differ, so a comparison that finds no difference is cheap.
"""

import struct
from collections.abc import Iterable

from linux.nftables import uapi
from linux.nftables.expressions import be32
from spec.addresses import pack, parse_address
from spec.addresses import text_of as text_of_address

_BYTES = {4: 4, 6: 16}
_KEY_AT = 12  # after the headers of the element, of its key and of the key's value
_INTERVAL_END = be32(uapi.NFTA_SET_ELEM_FLAGS, uapi.NFT_SET_ELEM_INTERVAL_END)
_LENGTH = struct.Struct("=H")

Span = tuple[int, int]


def of_addresses(version: int, addresses: Iterable[str]) -> tuple[bytes, ...]:
    """An element for each address of IP version 4 or 6 among `addresses`. Raises ValueError: not an address."""
    head = _head(version)
    return tuple(head + key for key in sorted({pack(text) for text in addresses if is_of(version, text)}))


def of_networks(version: int, networks: Iterable[str]) -> tuple[bytes, ...]:
    """The intervals of the networks (CIDR) of IP version 4 or 6 among `networks`, overlapping and adjacent ones merged.

    Raises ValueError: not a network.
    """
    return _intervals(version, [_span_of(text) for text in networks if is_of(version, text)])


def of_ranges(version: int, ranges: Iterable[bytes]) -> tuple[bytes, ...]:
    """The intervals of ranges of addresses of IP version 4 or 6: each the first and the last, packed and joined."""
    size = _BYTES[version]
    return _intervals(
        version, [(int.from_bytes(one[:size], "big"), int.from_bytes(one[size:], "big") + 1) for one in ranges]
    )


def _intervals(version: int, parts: list[Span]) -> tuple[bytes, ...]:
    size = _BYTES[version]
    opening, closing = _head(version), _head(version, len(_INTERVAL_END))
    elements = []
    for first, behind in _merged(parts):
        elements.append(opening + first.to_bytes(size, "big"))
        if behind < 1 << 8 * size:  # an interval up to the last address has no end
            elements.append(closing + behind.to_bytes(size, "big") + _INTERVAL_END)
    return tuple(elements)


def is_of(version: int, text: str) -> bool:
    """Whether an address or network is of IP version 4 or 6."""
    return (":" in text) == (version == 6)


def split(run: bytes) -> list[bytes]:
    """The elements of a list of them, as the kernel sends it."""
    elements, at = [], 0
    while at < len(run):
        length = (_LENGTH.unpack_from(run, at)[0] + 3) & ~3
        if not length:
            break
        elements.append(run[at : at + length])
        at += length
    return elements


def spans(version: int, elements: Iterable[bytes], *, intervals: bool) -> set[Span]:
    """The addresses in elements, however they are divided into intervals: (first, last + 1) of each run of them."""
    size = _BYTES[version]
    keys = sorted(
        (int.from_bytes(element[_KEY_AT : _KEY_AT + size], "big"), element[_KEY_AT + size :][:8] != _INTERVAL_END)
        for element in elements
    )
    if not intervals:
        return {(key, key + 1) for key, _ in keys}
    found, first = set(), None
    for key, opens in [*keys, (1 << 8 * size, False)]:
        if first is not None and key > first:
            found.add((first, key))
        first = key if opens else None
    return found


def text_of(version: int, span: Span) -> str:
    """A span in text: 10.0.0.1, 10.0.0.0/8 or 10.0.0.1-10.0.0.7."""
    size, (first, behind) = _BYTES[version], span
    low, high = (text_of_address(version, number) for number in (first, behind - 1))
    count = behind - first
    if count == 1:
        return low
    if count & count - 1 or first % count:
        return f"{low}-{high}"
    return f"{low}/{8 * size - count.bit_length() + 1}"


def _head(version: int, more: int = 0) -> bytes:
    """The headers before the key of an element that has `more` bytes after it."""
    value = 4 + _BYTES[version]
    headers = (value + 8 + more, uapi.NFTA_LIST_ELEM, value + 4, uapi.NFTA_SET_ELEM_KEY, value, uapi.NFTA_DATA_VALUE)
    return struct.pack("=HHHHHH", *headers)


def _span_of(text: str) -> Span:
    network = parse_address(text)
    return network.first, network.last + 1


def _merged(parts: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for first, behind in sorted(parts):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(behind, merged[-1][1]))
        else:
            merged.append((first, behind))
    return merged

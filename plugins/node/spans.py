"""Networks as numbers, to be compared by thousands. Pure."""

from bisect import bisect_right
from collections.abc import Iterable
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

Span = tuple[int, int, int]
"""IP version, first and last address of a network (or twice the same address)."""

_BITS = {4: 32, 6: 128}


def span(cidr: str) -> Span:
    """Of a network or an address (without a length) in canonical text; host bits do not count."""
    address, _, length = cidr.partition("/")
    version, family = (6, AF_INET6) if ":" in address else (4, AF_INET)
    number = int.from_bytes(inet_pton(family, address), "big")
    host_bits = _BITS[version] - int(length) if length else 0
    first = number >> host_bits << host_bits
    return version, first, first + (1 << host_bits) - 1


def first_of(network: Span) -> str:
    """The network's first address, as text."""
    version, first, _ = network
    return inet_ntop(AF_INET6 if version == 6 else AF_INET, first.to_bytes(_BITS[version] // 8, "big"))


def width(network: Span) -> int:
    """The prefix length of a network."""
    version, first, last = network
    return _BITS[version] - (last - first).bit_length()


def holds(outer: Span, inner: Span) -> bool:
    """Whether all of `inner` is in `outer`."""
    return outer[0] == inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2]


def overlap(one: Span, other: Span) -> bool:
    """Whether two networks have addresses in common: one of them is then in the other."""
    return one[0] == other[0] and one[1] <= other[2] and other[1] <= one[2]


class Areas:
    """Networks, joined where they touch, to be asked by thousands."""

    def __init__(self, networks: Iterable[Span]) -> None:
        self._starts: dict[int, list[int]] = {4: [], 6: []}
        self._ends: dict[int, list[int]] = {4: [], 6: []}
        for version, first, last in sorted(networks):
            ends = self._ends[version]
            if ends and first <= ends[-1] + 1:
                ends[-1] = max(ends[-1], last)
            else:
                self._starts[version].append(first)
                ends.append(last)

    def has(self, version: int) -> bool:
        """Whether there is any of that IP version."""
        return bool(self._starts[version])

    def touch(self, network: Span) -> bool:
        """Whether any of the network's addresses is in one of these."""
        version, first, last = network
        at = bisect_right(self._starts[version], last) - 1
        return at >= 0 and self._ends[version][at] >= first

    def hold(self, network: Span) -> bool:
        """Whether all of the network's addresses are in these."""
        version, first, last = network
        at = bisect_right(self._starts[version], first) - 1
        return at >= 0 and self._ends[version][at] >= last

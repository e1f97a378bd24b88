"""Networks with exceptions as intervals of addresses, which do not overlap and are sorted."""

from collections.abc import Iterable
from itertools import pairwise

from policy.objects import NetworkPeer
from spec.addresses import BITS, Address, parse_cidr

Interval = tuple[int, int]
"""The first and the last address, as numbers."""


def intervals(peers: Iterable[NetworkPeer], version: int) -> tuple[Interval, ...]:
    """The addresses of an IP version that any of the peers has. Raises ValueError: not a CIDR."""
    found = []
    for peer in peers:
        network = parse_cidr(peer.cidr)
        if network.version == version:
            found += _without(network, [parse_cidr(text) for text in peer.excepts])
    return tuple(_merged(found))


def is_everything(found: tuple[Interval, ...], version: int) -> bool:
    """Whether the intervals are all addresses of the version."""
    return found == ((0, (1 << BITS[version]) - 1),)


def packed(found: Iterable[Interval], version: int) -> frozenset[bytes]:
    """The elements of a set of NETWORKS4 or NETWORKS6: first and last address, joined."""
    size = BITS[version] >> 3
    return frozenset(first.to_bytes(size, "big") + last.to_bytes(size, "big") for first, last in found)


def _without(network: Address, excepts: Iterable[Address]) -> list[Interval]:
    """What remains of a network: the gaps between the exceptions."""
    holes = _merged((one.first, one.last) for one in excepts if one.overlaps(network))
    edges = [(0, network.first - 1), *holes, (network.last + 1, 0)]
    gaps = [(before[1] + 1, after[0] - 1) for before, after in pairwise(edges)]
    return [(first, last) for first, last in gaps if first <= last]


def _merged(found: Iterable[Interval]) -> list[Interval]:
    """The same addresses, in as few intervals as possible."""
    merged: list[Interval] = []
    for first, last in sorted(found):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged

"""A set of networks, to look up thousands of addresses and networks in. Pure."""

from bisect import bisect_right
from collections.abc import Iterable

from spec.addresses import Address


class NetworkSet:
    """The addresses of some networks; those that touch or overlap are joined."""

    def __init__(self, networks: Iterable[Address]) -> None:
        self._starts: dict[int, list[int]] = {4: [], 6: []}
        self._ends: dict[int, list[int]] = {4: [], 6: []}
        for version, first, last in sorted((one.version, one.first, one.last) for one in networks):
            ends = self._ends[version]
            if ends and first <= ends[-1] + 1:
                ends[-1] = max(ends[-1], last)
            else:
                self._starts[version].append(first)
                ends.append(last)

    def has(self, version: int) -> bool:
        """Whether there are any addresses of that IP version."""
        return bool(self._starts[version])

    def overlaps(self, network: Address) -> bool:
        """Whether any of the network's addresses is in the set."""
        at = bisect_right(self._starts[network.version], network.last) - 1
        return at >= 0 and self._ends[network.version][at] >= network.first

    def contains(self, network: Address) -> bool:
        """Whether all of the network's addresses are in the set."""
        at = bisect_right(self._starts[network.version], network.first) - 1
        return at >= 0 and self._ends[network.version][at] >= network.last

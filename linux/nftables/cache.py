"""What a table holds, as it was read and as our own transactions have changed it since.

Elements stay in the bytes in which the kernel lists them: most lookups are for one pod among many, and to decode all
elements takes a hundred times as long as to search their bytes.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from linux.netlink.socket import Netlink
from linux.nftables import listing, messages
from linux.nftables.messages import Element, Hook, Set, TableName


@dataclass(frozen=True)
class Rule:
    """A rule: the comment that identifies it, and its expressions."""

    comment: str
    expressions: tuple[bytes, ...]


@dataclass(frozen=True)
class Chain:
    """A chain and the rules it should hold; with a hook it is a base chain."""

    name: str
    rules: tuple[Rule, ...]
    hook: Hook | None = None


def _key(element: Element) -> bytes:
    return element.key


@dataclass(frozen=True)
class Table:
    """A feature's table: the sets and chains that it always has.

    `subject`: bytes of an element by which it can be found, besides its owner; mostly its key.
    """

    name: TableName
    comment: str
    sets: tuple[Set, ...]
    chains: tuple[Chain, ...]
    subject: Callable[[Element], bytes] = _key


class TableCache:
    """The rules and elements of a table at one generation, and whatever we add and delete from then on."""

    def __init__(self, netlink: Netlink, table: Table) -> None:
        self._subject = table.subject
        self._sets = {
            each.name: _Elements(each.name, listing.list_elements(netlink, table.name, each.name) or ())
            for each in table.sets
        }
        self.rules: dict[str, list[str]] = {}
        """By chain, the comments of its rules, in order."""
        for rule in listing.list_rules(netlink, table.name):
            self.rules.setdefault(rule.chain, []).append(rule.comment)

    def lacks(self, chain: Chain) -> bool:
        """Whether a chain does not hold its rules, or holds others."""
        return self.rules.get(chain.name) != [rule.comment for rule in chain.rules]

    def find(self, terms: Collection[bytes]) -> list[Element]:
        """The elements whose owner or subject is one of `terms`."""
        found = (element for each in self._sets.values() for _, element in each.containing(terms))
        return [one for one in found if one.owner.encode() in terms or self._subject(one) in terms]

    def everything(self) -> list[Element]:
        """All elements."""
        return [element for each in self._sets.values() for element in each]

    def leads_to(self, chain: str) -> bool:
        """Whether any element leads to a chain."""
        terms = (chain.encode() + b"\0",)
        return any(one.chain == chain for each in self._sets.values() for _, one in each.containing(terms))

    def add(self, element: Element) -> None:
        """Know of an element that was added."""
        self._sets[element.set].add(element)

    def remove(self, element: Element) -> None:
        """Know that an element was deleted."""
        self._sets[element.set].remove(element)


class _Elements:
    """The elements of a set: their bytes in one run, and where in it each begins and the last ends."""

    def __init__(self, set_name: str, elements: Sequence[bytes]) -> None:
        self._set = set_name
        self._run = b"".join(elements)
        self._bounds = list(accumulate(map(len, elements), initial=0))

    def __iter__(self) -> Iterator[Element]:
        return map(self._decoded, range(len(self._bounds) - 1))

    def _decoded(self, place: int) -> Element:
        return listing.decoded(self._set, self._run[self._bounds[place] : self._bounds[place + 1]])

    def containing(self, terms: Iterable[bytes]) -> Iterator[tuple[int, Element]]:
        """The elements whose bytes contain any of `terms`, and the place of each."""
        seen = set()
        for term in terms:
            at = self._run.find(term)
            while at >= 0:
                place = bisect_right(self._bounds, at) - 1
                if place not in seen:
                    seen.add(place)
                    yield place, self._decoded(place)
                at = self._run.find(term, self._bounds[place + 1])

    def add(self, element: Element) -> None:
        """One more."""
        self._run += messages.encoded(element)
        self._bounds.append(len(self._run))

    def remove(self, element: Element) -> None:
        """Remove the element with this key."""
        place = next((place for place, one in self.containing([element.key]) if one.key == element.key), None)
        if place is not None:
            begin, end = self._bounds[place : place + 2]
            self._run = self._run[:begin] + self._run[end:]
            self._bounds[place:] = [bound - (end - begin) for bound in self._bounds[place + 1 :]]

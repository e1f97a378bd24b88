"""What a table holds, as it was seen and as our own transactions changed it since.

Elements are kept in the bytes in which the kernel listed them, because most looks are at a table that somebody else may
have changed since, and are for one element among many. A cache that stays good for many looks is indexed: then a
look costs the same however many elements there are.
"""

import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from linux.netlink.attributes import payloads_of
from linux.netlink.socket import Netlink
from linux.nftables import listing, messages
from linux.nftables.messages import Element, Hook, Set, TableName

_LOOKS_BEFORE_INDEX = 16  # so many searches cost what an index costs
_LARGEST_RUN = 1 << 14  # bytes: what is cut and joined
_LENGTH = struct.Struct("=H")
_Place = tuple[str, bytes]


@dataclass(frozen=True)
class Rule:
    """What a rule does, and the comment by which it is known."""

    comment: str
    expressions: tuple[bytes, ...]


@dataclass(frozen=True)
class Chain:
    """A chain and the rules it should hold."""

    name: str
    rules: tuple[Rule, ...]
    hook: Hook | None = None


def _key(element: Element) -> bytes:
    return element.key


@dataclass(frozen=True)
class Table:
    """A feature's table: what is always there.

    `subject`: what an element can be looked for by, beside its owner: bytes that it contains; mostly its key.
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
        self._sets = [_Listed(netlink, table.name, each) for each in table.sets]
        self._index: _Index | None = None
        self._looks = 0
        self.rules: dict[str, list[str]] = {}
        """By chain, the comments of its rules, in order."""
        for rule in listing.list_rules(netlink, table.name):
            self.rules.setdefault(rule.chain, []).append(rule.comment)

    def lacks(self, chain: Chain) -> bool:
        """Whether a chain does not hold its rules, or something else."""
        return self.rules.get(chain.name) != [rule.comment for rule in chain.rules]

    def find(self, terms: Collection[bytes]) -> list[Element]:
        """The elements whose owner or subject is one of `terms`."""
        self._looks += 1
        if self._index is None and self._looks > _LOOKS_BEFORE_INDEX:
            self._index = _Index(self.everything(), self._subject)
        if self._index:
            return self._index.find(terms)
        found = (element for each in self._sets for element in each.containing(terms))
        return [one for one in found if one.owner.encode() in terms or self._subject(one) in terms]

    def everything(self) -> list[Element]:
        """All elements."""
        if self._index:
            return list(self._index.elements.values())
        return [element for each in self._sets for element in each]

    def leads_to(self, chain: str) -> bool:
        """Whether any element leads to a chain."""
        if self._index:
            return self._index.leading.get(chain, 0) > 0
        found = (element for each in self._sets for element in each.containing([chain.encode() + b"\0"]))
        return any(element.chain == chain for element in found)

    def add(self, element: Element) -> None:
        """Know of an element that was added."""
        if self._index:
            self._index.add(element)
        else:
            next(each for each in self._sets if each.name == element.set).add(element)

    def remove(self, element: Element) -> None:
        """Know that an element is gone."""
        if self._index:
            self._index.remove(element)
        else:
            next(each for each in self._sets if each.name == element.set).remove(element.key)


class _Listed:
    """The elements of a set as they are listed: runs of bytes."""

    def __init__(self, netlink: Netlink, table: TableName, listed: Set) -> None:
        self.name = listed.name
        # What comes before the key in every element, behind its length.
        self._mark = struct.pack(
            "=HHHHH", 1, messages.type_size(listed.key) + 8, 1, messages.type_size(listed.key) + 4, 1
        )
        self._runs = listing.dump_elements(netlink, table, listed.name) or []
        if any(run[_LENGTH.size :][: len(self._mark)] != self._mark for run in self._runs):
            # A kernel that writes them differently.
            self._runs = [b"".join(map(messages.encoded, self))]

    def __iter__(self) -> Iterator[Element]:
        return (listing.element_of(self.name, data) for run in self._runs for data in payloads_of(run))

    def containing(self, needles: Iterable[bytes]) -> Iterator[Element]:
        """The elements whose bytes contain any of `needles`."""
        for run in self._runs:
            seen = set()
            for needle in needles:
                at = run.find(needle)
                while at >= 0:
                    begin, end = self._bounds(run, run.rfind(self._mark, 0, at))
                    if begin < at < end and begin not in seen:
                        seen.add(begin)
                        yield listing.element_of(self.name, run[begin + 4 : end])
                    at = run.find(needle, max(at + 1, end))

    def add(self, element: Element) -> None:
        """One more."""
        if not self._runs or len(self._runs[-1]) > _LARGEST_RUN:
            self._runs.append(b"")
        self._runs[-1] += messages.encoded(element)

    def remove(self, key: bytes) -> None:
        """The one with this key is gone."""
        for number, run in enumerate(self._runs):
            at = run.find(self._mark + key)
            if at >= 0:
                begin, end = self._bounds(run, at)
                self._runs[number] = run[:begin] + run[end:]

    def _bounds(self, run: bytes, mark_at: int) -> tuple[int, int]:
        """Where the element begins and ends whose mark is there; nowhere for -1."""
        begin = mark_at - _LENGTH.size
        return (begin, begin + (_LENGTH.unpack_from(run, begin)[0] + 3 & ~3)) if begin >= 0 else (0, 0)


class _Index:
    """Elements by what they can be looked for by, and how many lead to each chain."""

    def __init__(self, elements: Iterable[Element], subject: Callable[[Element], bytes]) -> None:
        self._subject = subject
        self._by_term: dict[bytes, set[_Place]] = {}
        self.elements: dict[_Place, Element] = {}
        self.leading: dict[str, int] = {}
        for element in elements:
            self.add(element)

    def find(self, terms: Iterable[bytes]) -> list[Element]:
        """The elements whose owner or subject is one of `terms`."""
        places = set().union(*(self._by_term.get(term, ()) for term in terms))
        return [self.elements[place] for place in places]

    def add(self, element: Element) -> None:
        """One more."""
        place = (element.set, element.key)
        self.elements[place] = element
        for term in (element.owner.encode(), self._subject(element)):
            self._by_term.setdefault(term, set()).add(place)
        self._lead(element.chain, 1)

    def remove(self, element: Element) -> None:
        """One less."""
        place = (element.set, element.key)
        del self.elements[place]
        for term in (element.owner.encode(), self._subject(element)):
            places = self._by_term.get(term, set())
            places.discard(place)
            if not places:
                self._by_term.pop(term, None)
        self._lead(element.chain, -1)

    def _lead(self, chain: str, more: int) -> None:
        if chain:
            self.leading[chain] = self.leading.get(chain, 0) + more
            if not self.leading[chain]:
                del self.leading[chain]

"""Tables whose whole content follows from the configuration: rules, and sets of addresses, maybe thousands.

`ensure` compares the whole table. If anything differs, it writes the whole table, whatever was there. So it need not
know the difference, and need not decide again because other tables have changed meanwhile.

A packet must see either the old content or the new. One transaction that replaces rules and sets does not achieve that:
a packet that still runs through the old rules looks up their sets by the new generation, in which these have no
elements; and in recent kernels an interval set gets its elements some microseconds after the rules are in force. So:

1. add spare sets, then replace the rules by rules that use these;
2. when no packet uses the old rules any more, replace the sets, then the rules by those that use them;
3. when no packet uses the rules of step 1 any more, delete the spare sets.

(Sets could also be changed in place. But to enlarge an interval is to delete it and add it, and kernels before 6.17 may
miss it in between.) A process that is killed in between leaves the old content or the new, and perhaps spare sets. The
next change deletes those.

A rule is identified by its comment (as in linux/nftables/pod_table.py), so whatever it depends on must be in there.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from linux.netlink.socket import NETLINK_NETFILTER, Netlink, NetlinkError
from linux.nftables import address_elements, listing, messages, uapi
from linux.nftables.cache import Chain
from linux.nftables.messages import IP_ADDR, Set, Step, TableName
from linux.nftables.transactions import change, retry_on_change

_LONGEST_PLAIN = 128  # the kernel allows 255 bytes for the name of a table
_LONGEST_IN_COMMENT = 48  # nft allows 127 bytes for a comment
_NAMED_AT_MOST = 3
_SPARE = "_spare"


@dataclass(frozen=True)
class AddressSet:
    """A set of addresses, or with `intervals` of networks, of IP `version` 4 or 6, and the elements it should hold.

    `elements`: encoded, from linux/nftables/address_elements.py.
    """

    name: str
    version: int
    elements: tuple[bytes, ...]
    intervals: bool = False

    def definition(self) -> Set:
        """The set in nftables' terms: `type ipv4_addr` or `type ipv6_addr`."""
        return Set(self.name, (IP_ADDR[self.version],), intervals=self.intervals)


@dataclass(frozen=True)
class StaticTable:
    """A table and everything it should hold. A chain precedes the chains that jump to it."""

    name: TableName
    comment: str
    sets: tuple[AddressSet, ...]
    chains: tuple[Chain, ...]


Make = Callable[[str], StaticTable]
"""Makes the table with this suffix at the names of its sets and in the comments of its rules."""


def table_name(family: int, feature: str, network: str) -> TableName:
    """The name of a network's table: slash24_<feature>_<network>.

    A network's name that is too long, or that nft cannot parse, is shortened and followed by a slash and a digest. No
    other name has a slash, so that no two networks share a table.
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", network)[:_LONGEST_PLAIN]
    if plain != network:
        import hashlib

        digest = hashlib.sha256(network.encode("utf-8", "surrogateescape")).hexdigest()
        plain = f"{plain[:_LONGEST_IN_COMMENT]}/{digest[:40]}"
    return TableName(family, f"slash24_{feature}_{plain}")


def comment_name(network: str) -> str:
    """The name of a network in a comment: shortened, with the characters replaced that nft cannot parse there."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", network)
    return plain if len(plain) <= _LONGEST_IN_COMMENT else f"{plain[: _LONGEST_IN_COMMENT - 2]}.."


def ensure(make: Make) -> None:
    """Make the table hold what it should; if it does, nothing is written. Raises NetlinkError."""
    table = make("")

    def attempt(netlink: Netlink) -> None:
        if not any(_problems(netlink, table)):
            return
        if listing.table_flags(netlink, table.name) == 0:
            # The kernel refuses it if something with the same name is different (a chain at another hook), or if a
            # foreign rule uses our set. Then the table is deleted and added again.
            with suppress(NetlinkError):
                _exchange(netlink, table, make(_SPARE))
                return
        messages.commit(netlink, [*_table_deletion(table), *_sets(table), *_rules(table)])

    retry_on_change(attempt)


@dataclass(frozen=True)
class AddressChange:
    """Elements that a set of addresses (not of intervals) of a table loses and gets, encoded."""

    table: TableName
    set: str
    gone: tuple[bytes, ...]
    new: tuple[bytes, ...]


def exchange_addresses(changes: Iterable[AddressChange]) -> None:
    """Change sets as one transaction, reading nothing.

    Raises NetlinkError (ENOENT) if a set or an element is not there: then something else has changed, and `ensure` is
    needed.
    """
    steps = [step for each in changes for step in _element_steps(each)]
    if steps:
        change(lambda transaction: transaction.append(steps))


def _element_steps(each: AddressChange) -> Iterator[Step]:
    yield from messages.delete_encoded_elements(each.table, each.set, each.gone)
    yield from messages.add_encoded_elements(each.table, each.set, each.new)


def _exchange(netlink: Netlink, table: StaticTable, spare: StaticTable) -> None:
    if not table.sets:
        messages.commit(netlink, list(_rules(table)))
        return
    for each in (spare, table):
        messages.commit(netlink, list(_sets(each)))
        messages.commit(netlink, list(_rules(each)))
        _await_packets()
    messages.commit(netlink, [messages.delete_set(table.name, each.name) for each in spare.sets])


def _await_packets() -> None:
    """Wait until no packet uses deleted rules any more, as the kernel does before it closes an nftables socket."""
    Netlink(NETLINK_NETFILTER).close()


def delete(name: TableName) -> None:
    """Delete a table; if there is none, nothing is written. Raises NetlinkError."""

    def attempt(netlink: Netlink) -> None:
        if listing.table_flags(netlink, name) is not None:
            messages.commit(netlink, [messages.delete_table(name)])

    retry_on_change(attempt)


def problems(table: StaticTable) -> list[str]:
    """A sentence for each difference between the table and what it should hold. Raises NetlinkError."""
    return retry_on_change(lambda netlink: list(_problems(netlink, table)))


def _table_deletion(table: StaticTable) -> list[Step]:
    """Steps that delete the table, whether it exists or not."""
    return [messages.add_table(table.name, table.comment), messages.delete_table(table.name)]


def _sets(table: StaticTable) -> Iterator[Step]:
    """Steps that replace the sets and their elements; refused (EBUSY) if a rule uses one of them."""
    yield messages.add_table(table.name, table.comment)
    for each in table.sets:
        definition = each.definition()
        yield messages.add_set(table.name, definition)
        yield messages.delete_set(table.name, each.name)
        yield messages.add_set(table.name, definition)
        yield from messages.add_encoded_elements(table.name, each.name, each.elements)


def _rules(table: StaticTable) -> Iterator[Step]:
    """Steps that replace the rules of the chains."""
    for chain in table.chains:
        yield messages.add_chain(table.name, chain.name, chain.hook)
        yield messages.flush_chain(table.name, chain.name)
        for rule in chain.rules:
            yield messages.add_rule(table.name, chain.name, rule.expressions, rule.comment)


def _problems(netlink: Netlink, table: StaticTable) -> Iterator[str]:
    """A sentence for each difference, the cheapest to find first."""
    flags = listing.table_flags(netlink, table.name)
    if flags is None:
        yield f"table {table.name} does not exist"
        return
    if flags:
        yield f"table {table.name} is dormant"
    held: dict[str, list[str]] = {}
    for rule in listing.list_rules(netlink, table.name):
        held.setdefault(rule.chain, []).append(rule.comment)
    for chain in table.chains:
        if listing.find_hook(netlink, table.name, chain.name) != (chain.hook and (chain.hook, uapi.NF_ACCEPT)):
            yield f"chain {chain.name} of table {table.name} is not at its hook"
        elif held.get(chain.name, []) != [rule.comment for rule in chain.rules]:
            yield f"chain {chain.name} of table {table.name} does not hold its rules"
    for each in table.sets:
        yield from _set_problems(netlink, table.name, each)


def _set_problems(netlink: Netlink, table: TableName, wanted: AddressSet) -> Iterator[str]:
    held = listing.list_elements(netlink, table, wanted.name)
    if held is None:
        yield f"table {table} has no set {wanted.name}"
        return
    if len(held) == len(wanted.elements) and set(held) == set(wanted.elements):
        return
    there, due = (
        address_elements.spans(wanted.version, elements, intervals=wanted.intervals)
        for elements in (held, wanted.elements)
    )
    for verb, wrong in (("lacks", due - there), ("should not hold", there - due)):
        if wrong:
            yield f"set {wanted.name} of table {table} {verb} {_some(wanted.version, sorted(wrong))}"


def _some(version: int, spans: Sequence[address_elements.Span]) -> str:
    named = ", ".join(address_elements.text_of(version, span) for span in spans[:_NAMED_AT_MOST])
    more = len(spans) - _NAMED_AT_MOST
    return f"{named} and {more} more" if more > 0 else named

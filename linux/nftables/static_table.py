"""A table whose whole content follows from the configuration: rules, and sets of addresses, maybe of thousands.

A look compares all of it. If anything differs, all of it is written, whatever was there, so that it needs no knowledge
of what that was and never has to be decided anew because somebody else changed other tables meanwhile.

Packets meet the old content or the new. A transaction that exchanges rules and their sets would not do: a packet that
reads the old rules asks their sets by the new generation, in which they have no elements, and an interval set of recent
kernels has elements only some microseconds after the rules. So spare sets come first, then rules for those; when no
packet reads the old rules any more, the sets under their own names, and rules for those; when none reads the spare
rules, the spare sets go. (A set could be changed in place, but an interval that grows would be taken out and put in,
and kernels older than 6.17 may miss it in between.) Who is killed on the way leaves a whole content, old or new, and
perhaps spare sets that the next change removes.

A rule is known by its comment (as in linux/nftables/pod_table.py): what it depends on must be in there.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from linux.netlink.socket import NETLINK_NETFILTER, Netlink, NetlinkError
from linux.nftables import address_elements, listing, messages, uapi
from linux.nftables.messages import IP_ADDR, Set, Step, TableName
from linux.nftables.pod_table import Chain, retry_on_change

_LONGEST_PLAIN = 128  # of 255 that the kernel has for the name of a table
_LONGEST_IN_COMMENT = 48  # in a comment, of which nft takes 127
_NAMED_AT_MOST = 3
_SPARE = "_spare"


@dataclass(frozen=True)
class AddressSet:
    """A set of addresses, or with `intervals` of networks, of IP `version`, and the elements it should hold.

    `elements` are those of linux/nftables/address_elements.py.
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
    """A table and all that it should hold. A chain that rules jump to stands before theirs."""

    name: TableName
    comment: str
    sets: tuple[AddressSet, ...]
    chains: tuple[Chain, ...]


Make = Callable[[str], StaticTable]
"""Makes the table with names of sets, and comments of rules, that end with what is given."""


def table_name(family: int, feature: str, network: str) -> TableName:
    """The name of a network's table: slash24_<feature>_<network>, what does not fit or suit replaced by a digest.

    Only the name of a replaced one has a slash, so that no two networks share a table.
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", network)[:_LONGEST_PLAIN]
    if plain != network:
        import hashlib

        digest = hashlib.sha256(network.encode("utf-8", "surrogateescape")).hexdigest()
        plain = f"{plain[:_LONGEST_IN_COMMENT]}/{digest[:40]}"
    return TableName(family, f"slash24_{feature}_{plain}")


def comment_name(network: str) -> str:
    """The name of a network in a comment: shortened to fit, and without characters that nft can not read again."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", network)
    return plain if len(plain) <= _LONGEST_IN_COMMENT else f"{plain[: _LONGEST_IN_COMMENT - 2]}.."


def ensure(make: Make) -> None:
    """Make the table hold what it should; nothing is written if it does. Raises NetlinkError."""
    table = make("")

    def attempt(netlink: Netlink, _: int) -> None:
        if not any(_problems(netlink, table)):
            return
        if listing.table_flags(netlink, table.name) == 0:
            # Refused if something of the same name is of another make (a chain at another hook), or somebody's rule
            # looks into our set.
            with suppress(NetlinkError):
                _exchange(netlink, table, make(_SPARE))
                return
        messages.commit(netlink, [*_clearance(table), *_sets(table), *_rules(table)])

    retry_on_change(attempt)


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
    """Wait until no packet reads rules that are deleted: the kernel does before it closes a socket of nftables."""
    Netlink(NETLINK_NETFILTER).close()


def delete(name: TableName) -> None:
    """Delete a table; nothing is written if there is none. Raises NetlinkError."""

    def attempt(netlink: Netlink, _: int) -> None:
        if listing.table_flags(netlink, name) is not None:
            messages.commit(netlink, [messages.delete_table(name)])

    retry_on_change(attempt)


def problems(table: StaticTable) -> list[str]:
    """What differs between the table and what it should hold, a sentence each. Raises NetlinkError."""
    return retry_on_change(lambda netlink, _: list(_problems(netlink, table)))


def _clearance(table: StaticTable) -> list[Step]:
    """Steps after which there is no such table, whether there was or not."""
    return [messages.add_table(table.name, table.comment), messages.delete_table(table.name)]


def _sets(table: StaticTable) -> Iterator[Step]:
    """Steps after which the sets hold what they should, whatever they held; refused if a rule looks into them."""
    yield messages.add_table(table.name, table.comment)
    for each in table.sets:
        definition = each.definition()
        yield messages.add_set(table.name, definition)
        yield messages.delete_set(table.name, each.name)
        yield messages.add_set(table.name, definition)
        yield from messages.add_encoded_elements(table.name, each.name, each.elements)


def _rules(table: StaticTable) -> Iterator[Step]:
    """Steps after which the chains hold what they should, whatever they held."""
    for chain in table.chains:
        yield messages.add_chain(table.name, chain.name, chain.hook)
        yield messages.flush_chain(table.name, chain.name)
        for rule in chain.rules:
            yield messages.add_rule(table.name, chain.name, rule.expressions, rule.comment)


def _problems(netlink: Netlink, table: StaticTable) -> Iterator[str]:
    """A sentence for each difference, the cheapest to find first."""
    flags = listing.table_flags(netlink, table.name)
    if flags is None:
        yield f"there is no table {table.name}"
        return
    if flags:
        yield f"table {table.name} is dormant"
    held: dict[str, list[str]] = {}
    for rule in listing.list_rules(netlink, table.name):
        held.setdefault(rule.chain, []).append(rule.comment)
    for chain in table.chains:
        # At its hook it sees the packets it should, and lets pass what its rules do not drop.
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

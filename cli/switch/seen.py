"""What is on this node, read once: links, rules, sets, routes, configurations. Nothing here changes anything."""

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from sys import byteorder

from cli.switch.programs import find_program, run
from linux.ipsets import IPSet, list_sets
from linux.netlink.socket import NETLINK_NETFILTER, Netlink
from linux.nftables import listing, messages
from linux.nftables.messages import TableName
from linux.rtnl.links import Link, list_links
from linux.rtnl.policy_routing import AnyRoute, PolicyRule, list_all_routes, list_rules
from linux.rtnl.tc import Program, Qdisc, list_programs, list_qdiscs
from linux.xfrm import Policy, State, list_policies, list_states
from rules.iptables import comment_of

_XTABLES = {
    messages.IP: ("raw", "mangle", "nat", "filter", "security"),
    messages.IP6: ("raw", "mangle", "nat", "filter", "security"),
    messages.BRIDGE: ("filter", "nat"),
}
"""The tables that iptables and ebtables have in nf_tables."""
_LEGACY = (
    ("iptables-legacy", "/proc/thread-self/net/ip_tables_names"),
    ("ip6tables-legacy", "/proc/thread-self/net/ip6_tables_names"),
)


@dataclass(frozen=True)
class SeenRule:
    """A rule of iptables: its chain, the chain that it leads to ("" if none), its comment, the links that it names.

    `sets`: the ipsets that it looks into, by index or by name. `matches`: names of matches. `place`: the handle, or for
    iptables-legacy the words after the name of the chain.
    """

    chain: str
    target: str
    comment: str
    links: frozenset[str]
    sets: frozenset[int | str]
    matches: frozenset[str]
    place: int | tuple[str, ...]


@dataclass(frozen=True)
class SeenTable:
    """A table of iptables or ebtables: of nf_tables, or of iptables-legacy, whose `program` lists and changes it."""

    table: TableName
    chains: tuple[str, ...]
    rules: tuple[SeenRule, ...]
    program: str = ""


@dataclass(frozen=True)
class Seen:
    """What is on this node. `notes`: sentences on what could not be looked at."""

    links: Sequence[Link] = ()
    tables: Sequence[TableName] = ()
    xtables: Sequence[SeenTable] = ()
    sets: Sequence[IPSet] = ()
    rules: Sequence[PolicyRule] = ()
    routes: Sequence[AnyRoute] = ()
    qdiscs: Sequence[Qdisc] = ()
    programs: Sequence[Program] = ()
    ipsec: Sequence[Policy | State] = ()
    notes: Sequence[str] = ()

    def link_name(self, index: int) -> str:
        """The name of the link with that index, "" if there is none."""
        return next((link.name for link in self.links if link.index == index), "")


def read() -> Seen:
    """What is in the network namespace of the calling thread. Raises OSError."""
    notes: list[str] = []
    with Netlink() as routing, Netlink(NETLINK_NETFILTER) as netfilter:
        known = [table for table in listing.list_tables(netfilter) if table.family in messages.FAMILY_NAMES]
        made_by_iptables = [table for table in known if table.name in _XTABLES.get(table.family, ())]
        qdiscs = list_qdiscs(routing)
        filtered = sorted({qdisc.link for qdisc in qdiscs if qdisc.kind == "clsact"})
        return Seen(
            links=list_links(routing),
            tables=known,
            xtables=[*(read_table(netfilter, table) for table in made_by_iptables), *_legacy_tables(notes)],
            sets=list_sets(),
            rules=list_rules(routing),
            routes=list(list_all_routes(routing)),
            qdiscs=qdiscs,
            programs=[program for link in filtered for program in list_programs(routing, link)],
            ipsec=[*list_policies(), *list_states()],
            notes=notes,
        )


def read_table(netlink: Netlink, table: TableName) -> SeenTable:
    """A table of nf_tables. Raises NetlinkError."""
    base = {name for name, *_ in listing.list_base_chains(netlink, table)}
    chains = [chain for chain in listing.list_chains(netlink, table) if chain not in base]
    return SeenTable(table, tuple(chains), tuple(map(_seen, listing.list_rules(netlink, table))))


def _seen(rule: listing.FoundRule) -> SeenRule:
    matches = listing.match_names(rule)
    index = listing.match_info(rule, "set")[:2]  # struct xt_set_info
    return SeenRule(
        chain=rule.chain,
        target=listing.target_chain(rule),
        comment=comment_of(rule),
        links=frozenset(listing.link_names(rule)),
        sets=frozenset([int.from_bytes(index, byteorder)] if index else []),
        matches=frozenset(matches),
        place=rule.handle,
    )


def _legacy_tables(notes: list[str]) -> Iterator[SeenTable]:
    for program, listed in _LEGACY:
        names: list[str] = []
        with suppress(OSError), open(listed, encoding="ascii", errors="replace") as file:
            names = file.read().split()
        if names and not find_program(f"{program}-save"):
            tables = ", ".join(names)
            notes.append(f"there are tables of {program} ({tables}), which only {program}-save can list: install it")
            continue
        for name in names:
            yield read_legacy(program, name)


def read_legacy(program: str, name: str) -> SeenTable:
    """A table of iptables-legacy. Raises OSError."""
    return parse_saved(program, name, run(f"{program}-save", "-t", name))


def parse_saved(program: str, name: str, text: str) -> SeenTable:
    """The table that `iptables-save` printed."""
    chains, rules = [], []
    for line in text.splitlines():
        words = _words(line)
        if len(words) >= 2 and words[0].startswith(":") and words[1] == "-":  # others: the kernel's own, with a policy
            chains.append(words[0][1:])
        elif len(words) >= 2 and words[0] == "-A":
            rules.append(_saved_rule(words[1], words[2:]))
    family = messages.IP6 if program.startswith("ip6") else messages.IP
    return SeenTable(TableName(family, name), tuple(chains), tuple(rules), program)


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return []


def _saved_rule(chain: str, words: list[str]) -> SeenRule:
    after: dict[str, list[str]] = {}
    for option, value in pairwise(words):
        after.setdefault(option, []).append(value)

    def those(*options: str) -> list[str]:
        return [value for option in options for value in after.get(option, ())]

    return SeenRule(
        chain=chain,
        target=next(iter(those("-j", "-g")), ""),
        comment=next(iter(those("--comment")), ""),
        links=frozenset(link.rstrip("+") for link in those("-i", "-o")),
        sets=frozenset(those("--match-set")),
        matches=frozenset(those("-m")),
        place=tuple(words),
    )


def running(names: Sequence[str]) -> list[tuple[str, int]]:
    """The processes with one of these names: (name, process ID)."""
    wanted = {name[:15] for name in names}  # TASK_COMM_LEN
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError), open(f"/proc/{entry}/comm", encoding="utf-8", errors="replace") as file:
                name = file.read().strip()
                if name in wanted:
                    found.append((name, int(entry)))
    return sorted(found)

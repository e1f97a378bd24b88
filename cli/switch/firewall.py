"""Tables, chains, rules and ipsets of a provider.

Chains of iptables go together with the rules that lead to them, table by table. In nf_tables that is one transaction,
which also deletes what a provider's own clean-up leaves because a rule still leads to it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from errno import ENOENT
from functools import partial

from cli.switch.leftover import RULES, SET, Leftover, command
from cli.switch.programs import run
from cli.switch.providers import Provider, matches
from cli.switch.seen import Seen, SeenRule, SeenTable, read_legacy, read_table
from linux.ipsets import destroy_set
from linux.netlink.socket import NETLINK_NETFILTER, Netlink, NetlinkError
from linux.nftables import messages
from linux.nftables.messages import FAMILY_NAMES, Step, TableName
from linux.nftables.transactions import retry_on_change

MASQUERADE, PODS = "masquerade", "pods"
"""What running pods need a provider's rules for."""

_WAIT = ("-w", "10")  # seconds for the lock of iptables-legacy
_NAMED = 4  # chains in a sentence


@dataclass(frozen=True)
class Choice:
    """What of a table is the provider's: chains, and rules of other chains."""

    chains: tuple[str, ...]
    rules: tuple[SeenRule, ...]

    def __bool__(self) -> bool:
        return bool(self.chains or self.rules)


Again = Callable[[SeenTable], Choice]
"""Chooses from a table as it is now."""


def find_tables(provider: Provider, seen: Seen) -> Iterator[tuple[str, Leftover]]:
    """nftables tables that are the provider's as a whole; and for what running pods need them (`MASQUERADE` or "")."""
    for table in seen.tables:
        if matches(provider.tables, str(table)):
            need = MASQUERADE if matches(provider.masquerade, str(table)) else ""
            lines = (command("nft", "delete", "table", *str(table).split()),)
            yield need, Leftover(RULES, str(table), f"nftables table {table}", lines, partial(_delete_table, table))


def find_chains(provider: Provider, seen: Seen, *, weak: bool) -> Iterator[tuple[str, Leftover]]:
    """Chains and rules in the tables of iptables and ebtables; and for what running pods need them, or ""."""
    indexes = {one.index: one.name for one in seen.sets}
    for table in seen.xtables:
        for need in ("", MASQUERADE, PODS):
            again = partial(choose, provider, indexes=indexes, need=need, weak=weak)
            if chosen := again(table):
                yield need, rules_leftover(table, chosen, again)


def find_sets(provider: Provider, seen: Seen) -> Iterator[Leftover]:
    """The provider's ipsets, those that contain others first."""
    found = [one for one in seen.sets if matches(provider.sets, one.name)]
    for one in sorted(found, key=lambda one: one.kind != "list:set"):
        yield Leftover(
            SET, one.name, f"ipset {one.name}", (command("ipset", "destroy", one.name),), partial(destroy_set, one.name)
        )


def choose(provider: Provider, table: SeenTable, indexes: Mapping[int, str], need: str, *, weak: bool) -> Choice:
    """What of a table is the provider's, and needed by running pods for `need` ("": for nothing)."""
    own = (*provider.chains, *(provider.weak_chains if weak else ()))
    all_chains = {chain for chain in table.chains if matches(own, chain)}
    rules = [
        rule
        for rule in table.rules
        if rule.chain not in all_chains and (rule.target in all_chains or _is_of(provider, rule, indexes, weak=weak))
    ]
    return Choice(
        tuple(chain for chain in table.chains if chain in all_chains and _need(provider, chain) == need),
        tuple(rule for rule in rules if _need(provider, rule.target, rule.comment) == need),
    )


def _is_of(provider: Provider, rule: SeenRule, indexes: Mapping[int, str], *, weak: bool) -> bool:
    sets = [indexes.get(one, "") if isinstance(one, int) else one for one in rule.sets]
    return (
        matches(provider.comments, rule.comment)
        or any(matches(provider.interfaces, link) for link in rule.links)
        or any(matches(provider.sets, name) for name in sets)
        or (weak and any(matches(provider.matches, name) for name in rule.matches))
    )


def _need(provider: Provider, *texts: str) -> str:
    for need, patterns in ((MASQUERADE, provider.masquerade), (PODS, provider.pod_rules)):
        if any(text and matches(patterns, text) for text in texts):
            return need
    return ""


def rules_leftover(table: SeenTable, chosen: Choice, again: Again) -> Leftover:
    """The leftover that chains and rules of one table are. `again` chooses them when they are taken away."""
    if table.program:
        where = f"{table.program}'s table {table.table.name}"
        lines = [command(*words) for words in legacy_commands(table, chosen)]
        remove = partial(_remove_legacy, table, again)
    else:
        where = f"table {table.table}"
        lines = nft_commands(table.table, chosen)
        remove = partial(_remove_from_nft, table.table, again)
    name = f"{table.program} {table.table}".strip()
    return Leftover(RULES, name, f"{_counted(chosen)} in {where}", tuple(lines), remove)


def _remove_legacy(table: SeenTable, again: Again) -> None:
    now = read_legacy(table.program, table.table.name)
    _run_all(legacy_commands(now, again(now)))


def _remove_from_nft(table: TableName, again: Again) -> None:
    def attempt(netlink: Netlink) -> None:
        steps = _steps(table, again(read_table(netlink, table)))
        if steps:
            messages.commit(netlink, steps)

    retry_on_change(attempt)


def _counted(chosen: Choice) -> str:
    """For example "2 chains (A, B) and 1 rule"."""
    parts = []
    if chosen.chains:
        names = ", ".join(chosen.chains[:_NAMED]) + (", ..." if len(chosen.chains) > _NAMED else "")
        parts.append(f"{_plural(len(chosen.chains), 'chain')} ({names})")
    if chosen.rules:
        places = ", ".join(sorted({rule.chain for rule in chosen.rules}))
        parts.append(f"{_plural(len(chosen.rules), 'rule')} of {places}")
    return " and ".join(parts)


def _plural(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def nft_commands(table: TableName, chosen: Choice) -> list[str]:
    """What takes the choice away by nft: the rules that lead to chains, then what chains lead to, then the chains."""
    place = (FAMILY_NAMES[table.family], table.name)
    return [
        *(command("nft", "delete", "rule", *place, rule.chain, "handle", str(rule.place)) for rule in chosen.rules),
        *(command("nft", "flush", "chain", *place, chain) for chain in chosen.chains),
        *(command("nft", "delete", "chain", *place, chain) for chain in chosen.chains),
    ]


def legacy_commands(table: SeenTable, chosen: Choice) -> list[list[str]]:
    """The same by iptables-legacy."""
    start = [table.program, *_WAIT, "-t", table.table.name]
    return [
        *([*start, "-D", rule.chain, *rule.place] for rule in chosen.rules if isinstance(rule.place, tuple)),
        *([*start, "-F", chain] for chain in chosen.chains),
        *([*start, "-X", chain] for chain in chosen.chains),
    ]


def _steps(table: TableName, chosen: Choice) -> list[Step]:
    return [
        *(messages.delete_rule(table, rule.chain, rule.place) for rule in chosen.rules if isinstance(rule.place, int)),
        *(messages.flush_chain(table, chain) for chain in chosen.chains),
        *(messages.delete_chain(table, chain) for chain in chosen.chains),
    ]


def _delete_table(table: TableName) -> None:
    with Netlink(NETLINK_NETFILTER) as netlink:
        try:
            messages.commit(netlink, [messages.delete_table(table)])
        except NetlinkError as error:
            if error.errno != ENOENT:
                raise


def _run_all(commands: Sequence[Sequence[str]]) -> None:
    """Run all of them; raises OSError about those that failed."""
    failures = []
    for words in commands:
        try:
            run(*words)
        except OSError as error:
            failures.append(f"{command(*words)}: {error}")
    if failures:
        raise OSError("; ".join(failures))

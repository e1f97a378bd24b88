"""What the tables of network policies always have: found, made, mended, and made anew by another version.

The rules of the base are the same on every node, so an ADD may make them before the daemon runs. What depends on pods
and on the configuration is elements of sets and maps, and chains of the daemon; a repair keeps them.
"""

from collections.abc import Iterable, Iterator

from linux.netlink.socket import Netlink, NetlinkError
from linux.nftables import listing, messages, uapi
from linux.nftables.cache import Chain, Table
from linux.nftables.messages import Element, Step, TableName
from linux.nftables.transactions import Transaction, change, retry_on_change
from rules.policy import names
from rules.policy.bridge_table import BRIDGE
from rules.policy.inet_table import INET

TABLES = (INET, BRIDGE)
_NAMES = tuple(table.name for table in TABLES)
BASE_CHAINS: dict[TableName, tuple[str, ...]] = {
    table.name: tuple(chain.name for chain in table.chains) for table in TABLES
}
"""The chains that each table always has."""
_FIXED = tuple(
    (table.name, chain.name) for table in TABLES for chain in table.chains if chain.name not in names.CONFIGURED
)
_REQUESTS = tuple(messages.of_chain(*place) for place in _FIXED)
_LED_TO = (names.HELD, names.TO_INGRESS, names.DENIED_EGRESS_CHAIN, names.DENIED_INGRESS_CHAIN)
_SHARED = frozenset(place for place, (_, chain) in enumerate(_FIXED) if chain in _LED_TO)
"""Of these, to which elements and chains of pods lead."""
_KEPT = (*names.PODS.values(), *names.SELF.values(), *names.LEFT.values(), names.BRIDGES)


def ensure_base() -> bool:
    """Have both tables with their rules, whoever made or changed them; returns whether anything was to be done.

    Elements and chains of the daemon stay, except those of sets that have another type. If something foreign keeps the
    kernel from doing that, the tables are made anew, with all pods held. Raises NetlinkError.
    """

    def attempt(netlink: Netlink) -> bool:
        generation = messages.generation(netlink)
        if not any(_problems(netlink)):
            return False
        try:
            messages.commit(netlink, [*_steps(netlink)], generation=generation)
        except NetlinkError:
            if messages.generation(netlink) != generation:
                raise
            messages.commit(netlink, [*_anew(netlink)], generation=generation)
        return True

    return retry_on_change(attempt)


def ensure_in(transaction: Transaction) -> None:
    """The same, as part of a transaction, which fails where `ensure_base` would make the tables anew."""
    if not transaction.remember((names.TABLE, "base"), lambda: _is_whole(transaction)):
        transaction.add_alone([*_steps(transaction.netlink)])


def _is_whole(transaction: Transaction) -> bool:
    """Whether the base is there."""
    netlink = transaction.netlink
    return transaction.is_still_right(_NAMES, _REQUESTS, lambda: not any(_problems(netlink, is_quick=True)), _SHARED)


def problems() -> list[str]:
    """What the base lacks, a sentence each; [] if it is whole. Raises NetlinkError."""
    return change(lambda transaction: [*_problems(transaction.netlink)])


def delete_all() -> None:
    """Delete both tables with all that is in them; none is success. Raises NetlinkError."""

    def attempt(netlink: Netlink) -> None:
        there = [table.name for table in TABLES if listing.table_flags(netlink, table.name) is not None]
        if there:
            messages.commit(netlink, [messages.delete_table(name) for name in there])

    retry_on_change(attempt)


def _problems(netlink: Netlink, *, is_quick: bool = False) -> Iterator[str]:
    """Sentences, the cheapest to find first. `is_quick`: without the sets that rules name: those cannot be deleted."""
    for table in TABLES:
        flags = listing.table_flags(netlink, table.name)
        if flags is None:
            yield f"table {table.name} does not exist"
            continue
        if flags:
            yield f"table {table.name} is dormant"
        for chain in table.chains:
            yield from _chain_problems(netlink, table.name, chain)
        if is_quick:
            continue
        for name in sorted(_misplaced(netlink, table)):
            yield f"chain {name} of table {table.name} is not at the hook where it should be, or at any"
        for each in table.sets:
            if not listing.set_is_like(netlink, table.name, each):
                yield f"table {table.name} has no set {each.name} of the type that it should have"


def _chain_problems(netlink: Netlink, table: TableName, chain: Chain) -> Iterator[str]:
    if chain.hook and listing.find_hook(netlink, table, chain.name) != (chain.hook, uapi.NF_ACCEPT):
        yield f"chain {chain.name} of table {table} is not at its hook"
    elif chain.name in names.CONFIGURED:
        if listing.chain_uses(netlink, table, chain.name) is None:
            yield f"table {table} has no chain {chain.name}"
    elif not _holds_rules(netlink, table, chain):
        yield f"chain {chain.name} of table {table} does not hold its rules"


def _holds_rules(netlink: Netlink, table: TableName, chain: Chain) -> bool:
    held = listing.list_rules(netlink, table, chain.name)
    return [rule.comment for rule in held] == [rule.comment for rule in chain.rules]


def _steps(netlink: Netlink) -> Iterator[Step]:
    """Steps that mend what differs and keep the rest. A packet meets all of the old rules, or all of the new ones."""
    for table in TABLES:
        yield messages.add_table(table.name, table.comment)
        if listing.table_flags(netlink, table.name):
            yield messages.wake_table(table.name)
        yield from _rules_steps(netlink, table)


def _rules_steps(netlink: Netlink, table: Table) -> Iterator[Step]:
    name = table.name
    misplaced = _misplaced(netlink, table)
    retyped = [each for each in table.sets if listing.set_is_like(netlink, name, each) is False]
    drifted = [chain for chain in table.chains if chain.name not in names.CONFIGURED]
    if not (misplaced or retyped):
        drifted = [chain for chain in drifted if not _holds_rules(netlink, name, chain)]
    there = set(listing.list_chains(netlink, name))
    doomed = {chain.name for chain in drifted if chain.name in there} | misplaced
    if retyped:
        doomed |= there & set(names.CONFIGURED)  # the daemon fills them again
    yield from (messages.flush_chain(name, chain) for chain in sorted(doomed))
    yield from (messages.delete_chain(name, chain) for chain in sorted(misplaced))
    yield from (messages.delete_set(name, each.name) for each in retyped)
    yield from (messages.add_set(name, each) for each in table.sets)
    yield from (messages.add_chain(name, chain.name, chain.hook) for chain in table.chains)
    for chain in drifted:
        yield from (messages.add_rule(name, chain.name, rule.expressions, rule.comment) for rule in chain.rules)


def _misplaced(netlink: Netlink, table: Table) -> set[str]:
    """The chains at a hook where the table should have none, or at another than they should be; or at none."""
    wanted = {chain.name: (chain.hook, uapi.NF_ACCEPT) for chain in table.chains if chain.hook}
    hooked = {name: place for name, *place in listing.list_base_chains(netlink, table.name)}
    unhooked = wanted.keys() & set(listing.list_chains(netlink, table.name)) - hooked.keys()
    return unhooked | {name for name, place in hooked.items() if wanted.get(name) != tuple(place)}


def _anew(netlink: Netlink) -> Iterator[Step]:
    """Steps that make the tables anew, and hold all pods that they knew, until the daemon says what holds for them."""
    held = [element for table in TABLES for element in _of_pods(netlink, table.name)]
    for table in TABLES:
        yield messages.add_table(table.name, table.comment)
        yield messages.delete_table(table.name)
        yield messages.add_table(table.name, table.comment)
        yield from (messages.add_set(table.name, each) for each in table.sets)
        yield from (messages.add_chain(table.name, chain.name, chain.hook) for chain in table.chains)
        for chain in table.chains:
            for rule in chain.rules:
                yield messages.add_rule(table.name, chain.name, rule.expressions, rule.comment)
    for table, element in held:
        yield messages.add_element(table, element)


def _of_pods(netlink: Netlink, table: TableName) -> Iterator[tuple[TableName, Element]]:
    """The elements of held pods in the place of those that are there."""
    kept = (*_KEPT, *names.BASE_SETS[names.BRIDGE_TABLE])
    for each in names.BASE_SETS[table]:
        if each not in kept or not listing.set_is_like(netlink, table, each):
            continue
        found = [listing.decoded(each.name, one) for one in listing.list_elements(netlink, table, each.name) or ()]
        yield from ((table, element) for element in found)
        if each in names.PODS.values():
            for version in (4, 6):
                if each == names.PODS[version]:
                    yield from ((table, one) for element in found for one in _held(element, version))


def _held(pod: Element, version: int) -> Iterable[Element]:
    yield Element(names.ISOLATED[version].name, pod.key, pod.owner)
    for each in (names.EGRESS, names.INGRESS):
        yield Element(each[version].name, pod.key, pod.owner, names.HELD)

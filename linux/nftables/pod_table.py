"""Tables with fixed rules, and with elements that come and go with pods, each commented with its owner.

A change reads the table, decides on the difference, and commits that as one transaction (see transactions.py beside). A
transaction that writes rules or deletes something names the generation that was read, and the kernel refuses it if
the ruleset has changed since. So of several processes that find no table only one adds it, and the late DEL of a dead
pod cannot delete what a new ADD has just added. A transaction that only adds elements need not name a generation: the
kernel refuses a key that exists, or a chain that does not. A change refused because the ruleset had changed is decided
again; one refused for any other reason fails.

A rule is identified by its comment: rules cannot be edited in place, so a rule with our comment is as we wrote it.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from linux.nftables import listing, messages
from linux.nftables.cache import Chain, Rule, Table
from linux.nftables.messages import Element
from linux.nftables.transactions import Transaction, change, repair
from linux.ownership import stale_predicate
from spec.attachment import Attachment

__all__ = ["Chain", "Rule", "State", "Table", "Transaction", "change"]

_ELEMENTS_A_TRANSACTION = 1000


@dataclass(frozen=True)
class State:
    """What was read: the chains that do not hold their rules, and the elements that were looked for."""

    drifted: tuple[Chain, ...]
    elements: tuple[Element, ...]


def put(
    table: Table,
    chains: Sequence[Chain],
    wanted: Sequence[Element],
    *,
    is_stale: Callable[[Element], bool],
    terms: Collection[bytes],
) -> None:
    """Make the table hold its rules, `chains` and the elements `wanted`; delete other elements that are stale.

    `terms`: owners and subjects; every stale or wanted element has at least one of them. Raises NetlinkError.
    """
    change(lambda transaction: put_into(transaction, table, chains, wanted, is_stale=is_stale, terms=terms))


def put_into(
    transaction: Transaction,
    table: Table,
    chains: Sequence[Chain],
    wanted: Sequence[Element],
    *,
    is_stale: Callable[[Element], bool],
    terms: Collection[bytes],
) -> None:
    """The same, as part of a transaction."""
    every = (*table.chains, *chains)
    held = transaction.cache(table).find(terms)
    gone = [element for element in held if element not in wanted and is_stale(element)]
    new = [element for element in wanted if element not in held]
    transaction.repair(table, every)
    transaction.keep(table, every)
    transaction.exchange(table, gone, new)


def remove(
    table: Table,
    doomed: Callable[[Element], bool],
    *,
    terms: Collection[bytes] | None = None,
    places: Sequence[tuple[str, bytes]] = (),
) -> list[Element]:
    """Delete the elements that are `doomed`, and the chains that only they led to; returns those elements.

    `terms`: owners and subjects; every doomed element has at least one of them. None: any element may be doomed.
    `places`: the caller's guess of (set, key) of all doomed elements; if it is right, the table need not be read.
    Without such a table there is nothing to do. Raises NetlinkError.
    """

    def decide(transaction: Transaction) -> list[Element]:
        if not transaction.is_cached(table.name) and transaction.is_absent(table.name):
            return []
        gone = _doomed_at(transaction, table, doomed, places)
        if gone is None:
            cache = transaction.cache(table)
            found = cache.everything() if terms is None else cache.find(terms)
            gone = [element for element in found if doomed(element)][:_ELEMENTS_A_TRANSACTION]
        transaction.exchange(table, gone, ())
        return gone

    removed = part = change(decide)
    while len(part) == _ELEMENTS_A_TRANSACTION:
        part = change(decide)
        removed = removed + part
    return removed


def sweep(table: Table, network: str, valid: Collection[Attachment]) -> int:
    """Delete the elements of attachments to `network` that are not `valid`; returns how many these attachments were.

    Raises NetlinkError.
    """
    is_forfeit = stale_predicate(network, valid)
    return len({element.owner for element in remove(table, lambda element: is_forfeit(element.owner))})


def _doomed_at(
    transaction: Transaction, table: Table, doomed: Callable[[Element], bool], places: Sequence[tuple[str, bytes]]
) -> list[Element] | None:
    """The elements at these places, if all of them are doomed; None if not, or if the table is cached."""
    if not places or transaction.is_cached(table.name):
        return None
    found = [listing.find_element(transaction.netlink, table.name, *place) for place in places]
    return found if all(element and doomed(element) for element in found) else None


def inspect(
    table: Table, chains: Sequence[Chain], terms: Collection[bytes], places: Iterable[tuple[str, bytes]] = ()
) -> State:
    """The table's rules, `chains`, and elements with one of `terms` or at one of `places`, all of one generation."""

    def decide(transaction: Transaction) -> State:
        cache = transaction.cache(table)
        at_places = (listing.find_element(transaction.netlink, table.name, *place) for place in places)
        elements = dict.fromkeys([*cache.find(terms), *(element for element in at_places if element)])
        return State(tuple(chain for chain in (*table.chains, *chains) if cache.lacks(chain)), tuple(elements))

    return change(decide)


def drift(table: Table, chains: Iterable[Chain]) -> list[str]:
    """Sentences for CHECK about chains that do not hold their rules."""
    return [
        f"chain {one.name} of table {table.name} does not hold its rules; the next ADD restores them" for one in chains
    ]


def dry_run(table: Table) -> None:
    """Have the kernel check that it could make the table; raises NetlinkError if not."""
    change(lambda transaction: messages.dry_run(transaction.netlink, repair(table, table.chains)))

"""A table of a feature: a few fixed rules, and elements that come and go with pods, each carrying its owner.

Every change is read, decide, commit: what is there is read, the difference to what should be is one transaction. A
decision to write rules or to take something away is only carried out on the very state it was made on (the transaction
names the generation it was decided on): of many who find no table one makes it, and the late DEL of a dead pod can not
take what a new ADD has just put in its place. An ADD that only adds an element needs no such care, nor collides with
others: the kernel refuses a key that exists, a chain that is gone. Refused because somebody changed something
meanwhile, a change is decided anew; refused for any other reason, it fails. Who reads, decides and commits, for all
that want to change something at the same time, is in linux/nftables/transactions.py.

A rule is known by its comment: rules can not be edited in place, so one with our comment says what we made it say.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from linux.netlink.socket import Netlink
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
    """What was found: chains that do not hold their rules, and the elements asked for."""

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
    """Make the table hold its rules, `chains` and `wanted`, and no other element that `is_stale`.

    `terms`: owners and subjects, of which every stale or wanted element has at least one. Raises NetlinkError.
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
    """The same as a part of what is decided in `transaction`."""
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

    `terms`: owners and subjects, of which every doomed element has at least one; None for whatever there is. `places`:
    (set, key) of all doomed elements as the caller believes; it may be wrong, and where it is right, less is read.
    Nothing happens without such a table. Raises NetlinkError.
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
    """The elements at these places if all of them are doomed; None if not, or if the table is cached."""
    if not places or transaction.is_cached(table.name):
        return None
    found = [listing.find_element(transaction.netlink, table.name, *place) for place in places]
    return found if all(element and doomed(element) for element in found) else None


def inspect(
    table: Table, chains: Sequence[Chain], terms: Collection[bytes], places: Iterable[tuple[str, bytes]] = ()
) -> State:
    """The table's rules, `chains`, and elements of an owner or subject or at a place, all at one moment."""

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
    """Have the kernel check that it could make the table; raises NetlinkError if it can not."""
    change(lambda transaction: messages.dry_run(transaction.netlink, repair(table, table.chains)))


def retry_on_change(attempt: Callable[[Netlink, int], object]) -> object:
    """Call `attempt`, which commits itself what it decides, with a socket and the generation of the rules.

    Again if it fails while others change the rules.
    """

    def decide(transaction: Transaction) -> object:
        transaction.leave_to_caller()
        return attempt(transaction.netlink, transaction.generation)

    return change(decide)

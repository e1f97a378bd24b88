"""A table of a feature: a few fixed rules, and elements that come and go with pods, each carrying its owner.

Every change is read, decide, commit: what is there is read, the difference to what should be is one transaction. A
decision to write rules or to take something away is only carried out on the very state it was made on (the transaction
names the generation it was decided on): of many who find no table one makes it, and the late DEL of a dead pod can not
take what a new ADD has just put in its place. An ADD that only adds an element needs no such care, nor collides with
others: the kernel refuses a key that exists, a chain that is gone. Refused because somebody changed something
meanwhile, a change is decided anew; refused for any other reason, it fails.

A rule is known by its comment: rules can not be edited in place, so one with our comment says what we made it say.
"""

import os
import time
from _thread import start_new_thread
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from linux import nft, nft_found
from linux.netlink import NETLINK_NETFILTER, Netlink, NetlinkError
from linux.nft import Element, Hook, Set, Step, TableName

_ERESTART = 85
_PATIENCE_SECONDS = 30
_PAUSE_SECONDS = 0.005
_CLOSE_AFTER_SECONDS = 0.1
_ELEMENTS_A_TRANSACTION = 1000


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


@dataclass(frozen=True)
class Table:
    """A feature's table: what is always there."""

    name: TableName
    comment: str
    sets: tuple[Set, ...]
    chains: tuple[Chain, ...]


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
    needles: Sequence[bytes],
) -> None:
    """Make the table hold its rules, `chains` and `wanted`, and no other element that `is_stale`.

    `needles`: bytes of which every stale or wanted element contains at least one. Raises NetlinkError.
    """
    every = (*table.chains, *chains)

    def attempt(netlink: Netlink, generation: int) -> None:
        state = read(netlink, table, every, needles)
        gone = [element for element in state.elements if element not in wanted and is_stale(element)]
        new = [element for element in wanted if element not in state.elements]
        steps = [
            *repair(table, state.drifted),
            *(nft.delete_element(table.name, element) for element in gone),
            *(nft.add_element(table.name, element) for element in new),
            *_drop_chains(netlink, table, gone, kept={chain.name for chain in every}),
        ]
        if steps:
            nft.commit(netlink, steps, generation=generation if gone or state.drifted else None)

    until_settled(attempt)


def remove(table: Table, doomed: Callable[[Element], bool], *, needle: bytes = b"") -> list[Element]:
    """Delete the elements that are `doomed`, and the chains that only they led to; returns those elements.

    `needle`: bytes that every doomed element contains. Nothing happens without such a table. Raises NetlinkError.
    """

    def attempt(netlink: Netlink, generation: int) -> list[Element]:
        found = _elements(netlink, table, [needle])
        gone = [element for element in found if doomed(element)][:_ELEMENTS_A_TRANSACTION]
        steps = [nft.delete_element(table.name, element) for element in gone]
        steps += _drop_chains(netlink, table, gone, kept=set())
        if steps:
            nft.commit(netlink, steps, generation=generation)
        return gone

    removed = part = until_settled(attempt)
    while len(part) == _ELEMENTS_A_TRANSACTION:
        part = until_settled(attempt)
        removed = removed + part
    return removed


def inspect(table: Table, chains: Sequence[Chain], needles: Sequence[bytes]) -> State:
    """One moment's view of the table's rules, of `chains`, and of the elements that contain any of `needles`."""

    def attempt(netlink: Netlink, generation: int) -> State:
        state = read(netlink, table, (*table.chains, *chains), needles)
        if nft.generation(netlink) != generation:
            raise NetlinkError(_ERESTART, "nftables: the rules changed while they were read")
        return state

    return until_settled(attempt)


def delete_unused(table: Table) -> None:
    """Delete the table if there is no element in it. Raises NetlinkError."""

    def attempt(netlink: Netlink, generation: int) -> None:
        held = nft_found.list_rules(netlink, table.name)
        if held and not _elements(netlink, table, [b""]):
            nft.commit(netlink, [nft.delete_table(table.name)], generation=generation)

    until_settled(attempt)


def rehearse(table: Table) -> None:
    """Have the kernel try to make the table, and take it back; raises NetlinkError if it can not."""
    with Netlink(NETLINK_NETFILTER) as netlink:
        nft.rehearse(netlink, repair(table, table.chains))


def until_settled(attempt: Callable[[Netlink, int], object]) -> object:
    """Call `attempt` with a socket and the generation of the rules; again if it fails while others change the rules."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    netlink = Netlink(NETLINK_NETFILTER)
    try:
        while True:
            generation = nft.generation(netlink)
            try:
                return attempt(netlink, generation)
            except NetlinkError:
                if nft.generation(netlink) == generation or time.monotonic() > deadline:
                    raise
            # Of many that collide, some should wait: up to _PAUSE_SECONDS, by chance.
            time.sleep(_PAUSE_SECONDS * os.urandom(1)[0] / 255)
    finally:
        start_new_thread(_close_later, (netlink,))


def _close_later(netlink: Netlink) -> None:
    """Close the socket when nobody has to wait for that.

    Closing waits, and makes every transaction of the namespace wait, until all that was deleted is freed: a grace
    period of 10 ms or more. A little later that is over; or the process is, and the kernel closes the socket.
    """
    time.sleep(_CLOSE_AFTER_SECONDS)
    netlink.close()


def read(netlink: Netlink, table: Table, chains: Sequence[Chain], needles: Sequence[bytes]) -> State:
    """What the table holds of `chains`, and its elements that contain any of `needles`; for `until_settled`."""
    held: dict[str, list[str]] = {}
    for rule in nft_found.list_rules(netlink, table.name):
        held.setdefault(rule.chain, []).append(rule.comment)
    drifted = tuple(chain for chain in chains if held.get(chain.name) != [rule.comment for rule in chain.rules])
    return State(drifted, tuple(_elements(netlink, table, needles)))


def _elements(netlink: Netlink, table: Table, needles: Sequence[bytes]) -> list[Element]:
    return [found for each in table.sets for found in nft_found.list_elements(netlink, table.name, each.name, needles)]


def repair(table: Table, drifted: Sequence[Chain]) -> list[Step]:
    """Steps that give chains their rules, and make whatever those need; none if no chain has drifted."""
    if not drifted:
        return []
    steps = [nft.add_table(table.name, table.comment), *(nft.add_set(table.name, each) for each in table.sets)]
    for chain in drifted:
        steps += [nft.add_chain(table.name, chain.name, chain.hook), nft.flush_chain(table.name, chain.name)]
        steps += [nft.add_rule(table.name, chain.name, rule.expressions, rule.comment) for rule in chain.rules]
    return steps


def _drop_chains(netlink: Netlink, table: Table, gone: Sequence[Element], *, kept: set[str]) -> list[Step]:
    """Steps that delete the chains to which nothing leads any more when the elements `gone` are gone."""
    steps = []
    for chain in sorted({element.chain for element in gone if element.chain} - kept):
        rules = len(nft_found.list_rules(netlink, table.name, chain))
        leading = sum(element.chain == chain for element in gone)
        if nft_found.chain_uses(netlink, table.name, chain) == rules + leading:
            steps.append(nft.delete_chain(table.name, chain))
    return steps

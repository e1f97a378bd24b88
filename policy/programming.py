"""Makes nftables equal to what the policies come to: the tables that rules/policy begins, complete.

A packet meets either the old rules or the new ones. Two things are needed for that besides transactions, because a
packet that began to run through the old rules looks up sets and maps by the new generation:

* Sets and chains are committed before the elements that lead to them. Otherwise such a packet could be led to a chain
  that has no rules in the old generation, and be accepted; or an interval set could be empty, since recent kernels
  publish its elements some microseconds late.
* Chains and sets that nothing leads to any more are deleted some seconds later.

Pods come and go meanwhile, as calls of plugins add and delete their elements. So a transaction that changes elements
of pods is decided on what the kernel has for these pods, and names the generation of that (see
linux/nftables/transactions.py). An element is only changed or deleted if the pod still has the address.
"""

import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from errno import EBUSY, ENOENT

from linux.netlink.socket import Netlink, NetlinkError
from linux.nftables import listing, messages
from linux.nftables.messages import Element, Step, padded
from linux.nftables.transactions import Transaction, change, retry_on_change
from policy.compiled import Compiled, Delta, Enforced, SetChange
from policy.nftables import contents, fixed, pods, rules, sets
from policy.nftables.pods import State, Wish
from policy.settings import Settings
from rules import policy
from rules.policy.names import CUT, DENIED_EGRESS, DENIED_INGRESS, TABLE
from spec.addresses import unpack

EGRESS, INGRESS = "egress", "ingress"

Connection = tuple[bytes, bytes, int, int, int]
"""Source and destination (packed), protocol (IPPROTO_*), source port and destination port."""

_UNUSED_SECONDS = 3
_CUT_SECONDS = 10
_CUT_AT_ONCE = 5000
_FEW_PODS = 16  # to look up their elements one by one is faster than to list all


class Programmer:
    """Writes to the network namespace of the calling thread, and knows what it has written.

    `cut` and `denied` may be called from other threads. After a NetlinkError of `apply` only `resync` is certain.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        """What it was made with."""
        self._clock = clock
        self._pods: dict[str, Enforced] = {}
        self._exempt: frozenset[str] = frozenset()
        self._kinds: dict[str, str] = {}
        self._digests: dict[str, int] = {}
        self._unused_chains: dict[str, float] = {}
        self._unused_sets: dict[str, float] = {}

    # -- everything ---------------------------------------------------------------------------------------------------

    def resync(self, compiled: Compiled, local: Mapping[str, str]) -> None:
        """Read what the kernel has, and make it equal; if it is, nothing is written. Raises NetlinkError.

        `local`: the owner's tag of each address of an attached pod. An attached pod that is not in `compiled` is held.
        The elements of one that is in neither go away, unless its host veth is still there. What should not be there
        is deleted by `sweep`.
        """
        policy.ensure_base()
        unused = retry_on_change(lambda netlink: self._repair(netlink, compiled))
        change(lambda transaction: self._match_pods(transaction, compiled, local))
        self._pods, self._exempt = dict(compiled.pods), compiled.metadata_exempt
        self._kinds = {name: one.kind for name, one in compiled.sets.items()}
        now = self._clock()
        for names, since in zip(unused, (self._unused_chains, self._unused_sets), strict=True):
            known = dict(since)
            since.clear()
            since.update({name: known.get(name, now) for name in names})
        retry_on_change(self._match_logs)

    def resync_pods(self, compiled: Compiled, local: Mapping[str, str]) -> bool:
        """The same for elements of pods only, which is all that ADDs and DELs change; whether any were wrong.

        `compiled`: what is in force. It takes a few milliseconds, however many chains and sets there are. Raises
        NetlinkError.
        """
        return change(lambda transaction: self._match_pods(transaction, compiled, local))

    def _repair(self, netlink: Netlink, compiled: Compiled) -> tuple[set[str], set[str]]:
        """Make sets and chains equal; returns the chains and the sets that should not be there."""
        found = contents.read(netlink)
        if steps := contents.fixed_steps(found.comments, fixed.chains(self.settings)):
            messages.commit(netlink, steps)
        repair = contents.Repair(netlink, found, compiled, self._digests)
        for steps in repair.transactions():
            messages.commit(netlink, steps)
        self._digests = repair.intact
        return repair.unused()

    def _match_logs(self, netlink: Netlink) -> None:
        """Make the chains that log equal, after everything else: a kernel without nflog refuses it."""
        chains = fixed.log_chains(self.settings)
        found = {
            chain.name: [rule.comment for rule in listing.list_rules(netlink, TABLE, chain.name)] for chain in chains
        }
        if steps := contents.fixed_steps(found, chains):
            messages.commit(netlink, steps)

    def _match_pods(self, transaction: Transaction, compiled: Compiled, local: Mapping[str, str]) -> bool:
        found = pods.read_all(transaction.netlink)
        attached = pods.attached(found)
        links = {one.owner: one.link for one in self._pods.values()} | pods.links(found)
        wishes, left = [], []
        for address in attached.keys() | local.keys():
            owner = attached.get(address) or local[address]
            one = compiled.pods.get(address)
            if one and one.owner == owner:
                wishes.append(pods.enforced(address, one, is_exempt=address in compiled.metadata_exempt))
            elif local.get(address) == owner or _is_there(links.get(owner, "")):
                wishes.append(pods.held(address, owner, links.get(owner, "")))
            else:
                left.append(address)
        steps = list(_steps(found, wishes, left))
        transaction.add_alone(steps)
        return bool(steps)

    # -- changes ------------------------------------------------------------------------------------------------------

    def apply(self, delta: Delta) -> None:
        """Make what `resync` and earlier deltas have made equal to what comes after this one. Raises NetlinkError.

        Of pods only those are touched that still have their addresses.
        """
        kinds = self._kinds | {name: one.kind for name, one in delta.new_sets.items()}
        new = creation(delta, kinds)
        if new:
            change(lambda transaction: transaction.append(new))
        after = {**self._pods, **{name: one for name, one in delta.pods.items() if one}}
        after = {name: one for name, one in after.items() if delta.pods.get(name, one)}
        exempt = (self._exempt - delta.exempt_gone) | delta.exempt_new
        touched = delta.pods.keys() | delta.exempt_gone | delta.exempt_new
        changed = list(_set_changes(delta.sets))
        if touched:
            change(lambda transaction: self._change_pods(transaction, changed, touched, after, exempt))
        elif changed:
            change(lambda transaction: transaction.append(changed))
        self._pods, self._exempt, self._kinds = after, exempt, kinds
        self._note_unused(delta)

    def _change_pods(
        self,
        transaction: Transaction,
        changed: Sequence[Step],
        touched: Iterable[str],
        after: Mapping[str, Enforced],
        exempt: frozenset[str],
    ) -> None:
        """Commit changes of sets together with those of the pods that have these addresses."""
        theirs = {address: one for address in touched if (one := after.get(address) or self._pods.get(address))}
        owners = {one.owner for one in theirs.values()}
        # The host veth of a pod is isolated if one of its addresses is.
        theirs |= {address: one for address, one in after.items() if one.owner in owners}
        found = _read(transaction.netlink, theirs)
        theirs = {address: one for address, one in theirs.items() if pods.owner_of(found, address) == one.owner}
        wishes, left = [], []
        for address, one in theirs.items():
            if address in after:
                wishes.append(pods.enforced(address, one, is_exempt=address in exempt))
            elif _is_there(one.link):
                wishes.append(pods.held(address, one.owner, one.link))
            else:
                left.append(address)
        places = _places(theirs)
        found = {place: found[place] for place in places if place in found}
        owners = {one.owner for one in theirs.values()}
        found = {place: one for place, one in found.items() if place[0] == TABLE or one.owner in owners}
        transaction.add_alone([*changed, *_steps(found, wishes, left)])

    def _note_unused(self, delta: Delta) -> None:
        now = self._clock()
        for names, used, since in (
            (delta.unused_chains, delta.new_chains, self._unused_chains),
            (delta.unused_sets, delta.new_sets, self._unused_sets),
        ):
            since.update(dict.fromkeys(names, now))
            for name in used:
                since.pop(name, None)

    # -- what is not used any more, and others' questions -------------------------------------------------------------

    def sweep(self) -> None:
        """Delete the chains and sets that nothing has led to for some seconds. Raises NetlinkError."""
        until = self._clock() - _UNUSED_SECONDS
        chains = [name for name, since in self._unused_chains.items() if since <= until]
        names = [name for name, since in self._unused_sets.items() if since <= until]
        if not chains and not names:
            return
        if not _delete(chains, names):
            # What others use stays, and what others have deleted is forgotten.
            if not _delete(chains, ()):
                chains = [name for name in chains if _delete([name], ())]
            names = [name for name in names if _delete((), [name])]
        for name in chains:
            del self._unused_chains[name]
        for name in names:
            del self._unused_sets[name]

    def cut(self, connections: Iterable[Connection]) -> None:
        """Have packets of these connections refused for some seconds, answers excepted. Raises NetlinkError."""
        new: dict[int, list[bytes]] = {4: [], 6: []}
        for source, destination, protocol, source_port, port in connections:
            version = 4 if len(source) == 4 else 6
            packed = source + destination + bytes([protocol]) + source_port.to_bytes(2, "big") + port.to_bytes(2, "big")
            key = padded(CUT[version].key, packed)
            new[version].append(messages.encoded(Element(CUT[version].name, key, "", timeout=_CUT_SECONDS)))
        for version, elements in new.items():
            for at in range(0, len(elements), _CUT_AT_ONCE):
                part = elements[at : at + _CUT_AT_ONCE]
                steps = list(messages.add_encoded_elements(TABLE, CUT[version].name, part))
                change(lambda transaction, steps=steps: transaction.append(steps))

    def denied(self) -> Mapping[tuple[str, str], int]:
        """How many packets have been denied, by direction ("egress", "ingress") and address of the pod.

        Those of a pod are forgotten when none has been denied for an hour. Raises NetlinkError.
        """
        return retry_on_change(lambda netlink: dict(_denied(netlink)))


def creation(delta: Delta, kinds: Mapping[str, str]) -> list[Step]:
    """Steps that add its new sets and chains. `kinds`: of all sets that the chains use.

    Raises ValueError, KeyError and others if the delta is wrong in itself.
    """
    new = [step for name, one in delta.new_sets.items() for step in sets.creation(name, one)]
    return new + rules.creation(delta.new_chains, kinds)


def _denied(netlink: Netlink) -> Iterator[tuple[tuple[str, str], int]]:
    for direction, each in ((EGRESS, DENIED_EGRESS), (INGRESS, DENIED_INGRESS)):
        for one in each.values():
            for counted in listing.list_counted(netlink, TABLE, one.name) or ():
                yield (direction, unpack(counted.key)), counted.packets


def _read(netlink: Netlink, theirs: Mapping[str, Enforced]) -> State:
    """The elements that these pods have, and maybe others."""
    return pods.read_all(netlink) if len(theirs) > _FEW_PODS else pods.read(netlink, _places(theirs))


def _places(theirs: Mapping[str, Enforced]) -> list[pods.Place]:
    return pods.places(theirs, {one.link for one in theirs.values()})


def _steps(found: State, wishes: Iterable[Wish], left: Iterable[str]) -> list[Step]:
    return [*pods.changes(found, pods.elements(wishes)), *pods.leaving(left)]


def _set_changes(changes: Mapping[str, SetChange]) -> Iterator[Step]:
    for name, one in changes.items():
        yield from messages.delete_encoded_elements(TABLE, name, sets.encoded(one.kind, one.gone))
        yield from messages.add_encoded_elements(TABLE, name, sets.encoded(one.kind, one.new))


def _delete(chains: Sequence[str], names: Sequence[str]) -> bool:
    """Delete chains and sets. False: something is still in use, or one of several is not there."""
    # Flushed first, since they may jump to each other.
    steps = [messages.flush_chain(TABLE, name) for name in chains]
    steps += [messages.delete_chain(TABLE, name) for name in chains]
    steps += [messages.delete_set(TABLE, name) for name in names]
    try:
        change(lambda transaction: transaction.append(steps))
    except NetlinkError as error:
        if error.errno not in (EBUSY, ENOENT):
            raise
        return error.errno == ENOENT and len(chains) + len(names) == 1
    return True


def _is_there(link: str) -> bool:
    """Whether there is a link of that name."""
    with suppress(OSError):
        return bool(link and socket.if_nametoindex(link))
    return False

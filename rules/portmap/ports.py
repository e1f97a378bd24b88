"""Host ports: what reaches a port of the node is sent on to a port of a pod.

Maps lead from (address,) protocol and port to the pod's address and port, so a packet costs a few look-ups however many
ports there are, and a port that comes or goes is an element, no rule. Conditions of an attachment stand in a chain that
a map of verdicts leads to; attachments with the same conditions share it.

The answer to what was sent on must come back this way, so who would be answered directly gets the node's address: the
pod's own subnet, and the node's 127.0.0.0/8. Only the first packet of a connection sees any of this.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from errno import EEXIST
from functools import partial

from linux.netlink.socket import Netlink
from linux.nftables import listing, messages, pod_table
from linux.nftables.cache import TableCache
from linux.nftables.messages import Element
from linux.nftables.pod_table import Chain, Transaction
from linux.nftables.transactions import repair
from linux.ownership import forfeited, owner_tag
from rules import iptables
from rules.portmap import after_iptables, port_notes
from rules.portmap.holders import is_dead
from rules.portmap.service_addresses import list_service_addresses
from rules.portmap.table import (
    FROM_ANYWHERE,
    LOOPBACK,
    MASQUERADES,
    SERVICES,
    SERVICES_OWNER,
    TABLE,
    TARGETS,
    TRANSPORTS,
    after,
    conditional_chain,
    conditional_map,
    leads_to,
    masquerading_chain,
    table,
    to_the_node,
)
from spec.addresses import Address, unpack
from spec.attachment import Attachment
from spec.errors import is_shortage

TYPE_CHECKING = False  # as type checkers know it, without an import of typing
if TYPE_CHECKING:
    from rules.conditions.expressions import Condition

_NAMES = {number: name for name, number in TRANSPORTS.items()}


class PortTaken(OSError):
    """A host port belongs to another attachment; the text says to which.

    `owner` is its tag, "" if the port has none; `entry` is the entry of the table, as nft takes it to delete it.
    """

    def __init__(self, message: str, owner: str, entry: str) -> None:
        super().__init__(EEXIST, message)
        self.owner, self.entry = owner, entry


@dataclass(frozen=True)
class Forward:
    """A port of the node and where it leads: `host` is a packed address, b"" for any of the node's.

    `version` is 4 or 6, `protocol` 6, 17 or 132, `pod` the packed address of the pod.
    """

    version: int
    host: bytes
    protocol: int
    host_port: int
    pod: bytes
    pod_port: int

    @property
    def entry(self) -> str:
        """The element of a map that it is, as nft names one."""
        protocol = _NAMES.get(self.protocol, self.protocol)
        address = f"{_shown(self.host, self.version).strip('[]')} . " if self.host else ""
        return f"{TARGETS[self.version, bool(self.host)].name} {{ {address}{protocol} . {self.host_port} }}"

    def __str__(self) -> str:
        return f"{_shown(self.host, self.version)}:{self.host_port}/{_NAMES.get(self.protocol, self.protocol)}"


@dataclass(frozen=True)
class Wish:
    """The forwards of an attachment, when they apply, and who gets the node's address.

    `conditions` by IP version, () for always. `subnets`: the pod's, by IP version; None masquerades nobody.
    `everybody`: the IP versions in which whoever comes is masqueraded. `noted`: in iptables, for who looks for a port.
    """

    forwards: tuple[Forward, ...]
    conditions: "dict[int, tuple[Condition, ...]]"
    subnets: dict[int, Address] | None
    everybody: Collection[int] = ()
    noted: bool = True


def ensure(owner: Attachment, wish: Wish) -> bool:
    """Forward as wished, and nothing else, for `owner`; returns whether there was no table for that before.

    Raises PortTaken, or NetlinkError; then nothing has changed.

    A leftover that is in the way loses all its ports: one whose ports lead to an address of this very pod, which IPAM
    gave to `owner`, and one that has such a port and whose link is gone.
    """
    tag = owner_tag(owner)
    wanted, chains = _elements(tag, wish)
    services = _services()
    pods = {forward.pod for forward in wish.forwards}
    is_refused = False

    def decide(transaction: Transaction) -> bool:
        cache = transaction.cache(TABLE)
        is_new = not cache.rules
        behind, lost = _behind_iptables(transaction, cache)
        whole = table(behind)
        stale = {tag, *(found.owner for found in cache.find(pods) if found.owner and leads_to(found) in pods)}
        if is_refused:
            stale |= _dead_holders(transaction, wanted, stale)
        terms = {other.encode() for other in stale}
        held = {found for found in cache.find(terms) if found.owner in stale}
        stale.add(SERVICES_OWNER)
        terms.add(SERVICES_OWNER.encode())
        everything = [*wanted, *services]
        pod_table.put_into(
            transaction, whole, chains, everything, is_stale=lambda found: found.owner in stale, terms=terms
        )
        if wish.noted and 4 in behind and (lost or held != set(wanted)):
            noted = cache.everything() if lost else wanted
            if lost or held or is_new:
                owners = stale | {one.owner for one in noted}
                transaction.append(port_notes.removal(transaction.netlink, owners.__contains__))
            transaction.append(port_notes.steps(_ports(noted)))
        return is_new

    try:
        return pod_table.change(decide)
    except OSError as error:
        if error.errno != EEXIST:
            raise
    is_refused = True
    try:
        return pod_table.change(decide)
    except OSError as error:
        if error.errno == EEXIST:
            _raise_taken(wanted, tag, error)
        raise


def _services() -> list[Element]:
    """The elements that keep host ports off the addresses of services, as these are now."""
    found = list_service_addresses()
    return [Element(SERVICES[4 if len(one) == 4 else 6].name, one, SERVICES_OWNER) for one in found]


def _dead_holders(transaction: Transaction, wanted: Sequence[Element], known: Collection[str]) -> set[str]:
    """Others that have the places of `wanted`, if every one of them is proven to be gone; else nobody."""
    found = (listing.find_element(transaction.netlink, TABLE.name, *place) for place in _places(wanted))
    others = [one for one in found if one and one.owner not in known]
    return set() if _living(others) else {one.owner for one in others}


def _living(elements: Iterable[Element]) -> list[Element]:
    """Those that lead to pods of which nothing proves that they are gone."""
    with Netlink() as host:
        return [
            one for one in elements if leads_to(one) and not (one.owner and is_dead(host, one.owner, leads_to(one)))
        ]


def _behind_iptables(transaction: Transaction, cache: TableCache) -> tuple[frozenset[int], bool]:
    """Have iptables see packets first; the IP versions for which that is so, and whether IPv4's had to be made so.

    A kernel without x_tables can not.
    """
    found, was_lost = _after_iptables(cache), False
    is_new = cache.lacks(to_the_node(found))
    for version in (4, 6):
        if version not in found and not is_new:
            continue  # it was tried when the chain was made
        steps = transaction.remember(
            ("after iptables", version), partial(after_iptables.steps, transaction.netlink, version)
        )
        if steps and is_new:
            try:
                messages.dry_run(transaction.netlink, steps)
            except OSError as error:
                if is_shortage(error):
                    raise
                continue
        transaction.add_alone(steps)
        found |= {version}
        was_lost = was_lost or (version == 4 and bool(steps))
    return found, was_lost


def _after_iptables(cache: TableCache) -> frozenset[int]:
    """The IP versions whose packets need the mark of iptables' last rule, as the table is now."""
    comments = cache.rules.get("to-the-node", ())
    return frozenset(version for version in (4, 6) if after(version) in comments)


def guard_loopback() -> bool:
    """Make sure of the rules that keep strangers from the node's 127.0.0.0/8; whether they were gone.

    Raises NetlinkError.
    """

    def decide(transaction: Transaction) -> bool:
        is_gone = transaction.cache(TABLE).lacks(LOOPBACK)
        if is_gone:
            transaction.add_alone(
                [messages.add_table(TABLE.name, TABLE.comment), *repair(TABLE, [LOOPBACK], is_whole=True)]
            )
        return is_gone

    return pod_table.change(decide)


def undo(owner: Attachment, *, made: bool, noted: bool) -> None:
    """Take back what `ensure` did for an owner of whom there was nothing; `made` is what it returned."""
    delete(owner, noted=noted)
    if made:
        pod_table.change(_delete_unused)


def _delete_unused(transaction: Transaction) -> None:
    """Delete the table if there is no port in it, and with it the rules by which iptables marks packets for it."""
    cache = transaction.cache(TABLE)
    if cache.rules and all(one.owner == SERVICES_OWNER for one in cache.everything()):
        marking = [step for version in (4, 6) for step in after_iptables.removal(transaction.netlink, version)]
        transaction.add_alone([messages.delete_table(TABLE.name), *marking])


def delete(owner: Attachment, *, noted: bool = True) -> list[Forward]:
    """Forward nothing for `owner` any more; what was forwarded. Nothing to do is success. Raises NetlinkError.

    `noted`: whether there may be notes of it.
    """
    tag = owner_tag(owner)
    gone = pod_table.remove(TABLE, lambda found: found.owner == tag, terms={tag.encode()})
    if noted:
        _delete_notes(lambda other: other == tag, owner=tag)
    return _forwards(gone)


def missing(owner: Attachment, wish: Wish) -> list[str]:
    """What of the work of `ensure` is not there, a sentence each; empty if all is well. Raises NetlinkError."""
    tag = owner_tag(owner)
    wanted, chains = _elements(tag, wish)
    versions = pod_table.change(lambda transaction: _after_iptables(transaction.cache(TABLE)))
    state = pod_table.inspect(table(versions), chains, {tag.encode()}, _places(wanted))
    problems = pod_table.change(
        lambda transaction: [
            said for version in sorted(versions) for said in after_iptables.missing(transaction.netlink, version)
        ]
    )
    problems += [f"chain {chain.name} of table {TABLE.name} does not hold its rules" for chain in state.drifted]
    present = {(found.set, found.key): found for found in state.elements}
    for element in wanted:
        found = present.get((element.set, element.key))
        what = _described(element)
        if not found:
            problems.append(f"{what}: it is not in map {element.set} of {TABLE.name}")
        elif found.owner != tag:
            problems.append(f"{what} for {found.owner or 'nobody'}, not for {tag}")
        elif found != element:
            problems.append(f"{what} as it should: map {element.set} of {TABLE.name} leads elsewhere")
    return problems


def sweep(network: str, valid: Collection[Attachment]) -> list[Forward]:
    """Forward nothing for attachments to `network` that are not `valid`; what was forwarded. Raises NetlinkError."""
    is_forfeit = forfeited(network, valid)
    gone = pod_table.remove(TABLE, lambda found: is_forfeit(found.owner))
    _delete_notes(is_forfeit)
    return _forwards(gone)


def _delete_notes(doomed: Callable[[str], bool], *, owner: str = "") -> None:
    def decide(transaction: Transaction) -> None:
        if not transaction.is_absent(iptables.NAT[4]):
            transaction.append(port_notes.removal(transaction.netlink, doomed, owner=owner))

    pod_table.change(decide)


def _ports(elements: Iterable[Element]) -> dict[tuple[str, int, bytes, int], None]:
    """The ports to note: for IPv6, which has no place in a table of IPv4, those of all addresses."""
    owners = {(one.set, one.key): one.owner for one in elements}
    noted = {}
    for (version, exact), target in TARGETS.items():
        for (name, key), owner in owners.items():
            if name == target.name and not (version == 6 and exact):
                noted[owner, key[-8], key[:-8], int.from_bytes(key[-4:-2], "big")] = None
    return noted


def _elements(tag: str, wish: Wish) -> tuple[list[Element], list[Chain]]:
    """What the maps should hold for an attachment, and the chains to which its elements lead."""
    elements: dict[tuple[str, bytes], Element] = {}
    chains: dict[str, Chain] = {}

    def lead(map_name: str, key: bytes, chain: Chain) -> None:
        elements[map_name, key] = Element(map_name, key, tag, chain=chain.name)
        chains.setdefault(chain.name, chain)

    for forward in wish.forwards:
        exact, version = bool(forward.host), forward.version
        key = forward.host + _number(forward.protocol) + _number(forward.host_port, 2)
        target = TARGETS[version, exact].name
        elements[target, key] = Element(target, key, tag, value=forward.pod + _number(forward.pod_port, 2))
        conditions = wish.conditions.get(version, ())
        if conditions:
            lead(conditional_map(version, exact=exact).name, key, conditional_chain(version, conditions, exact=exact))
        if wish.subnets is not None:
            answer = forward.pod + _number(forward.protocol) + _number(forward.pod_port, 2)
            back = FROM_ANYWHERE if version in wish.everybody else masquerading_chain(wish.subnets[version].network)
            lead(MASQUERADES[version].name, answer + _number(forward.host_port, 2), back)
    return list(elements.values()), list(chains.values())


def _number(value: int, length: int = 1) -> bytes:
    """A number in network order, padded to the 4 bytes that a part of a key has."""
    return value.to_bytes(length, "big").ljust(4, b"\0")


def _forwards(elements: Iterable[Element]) -> list[Forward]:
    """The forwards that elements stood for."""
    found = []
    for (version, _), target in TARGETS.items():
        for element in elements:
            if element.set == target.name:
                host, protocol, port = element.key[:-8], element.key[-8], int.from_bytes(element.key[-4:-2], "big")
                pod_port = int.from_bytes(element.value[-4:-2], "big")
                found.append(Forward(version, host, protocol, port, element.value[:-4], pod_port))
    return found


def _raise_taken(wanted: Sequence[Element], tag: str, error: OSError) -> None:
    """Raise PortTaken if one of the elements is somebody else's."""
    state = pod_table.inspect(TABLE, (), (), _places(wanted))
    others = _living(found for found in state.elements if found.owner != tag)
    for forward in _forwards(others):
        (other,) = {found.owner for found in others if _forwards([found]) == [forward]}
        pod = f"{_shown(forward.pod, forward.version)}:{forward.pod_port}"
        message = f"host port {forward} is taken by {other or 'somebody unknown'}, and leads to {pod}"
        raise PortTaken(message, other, forward.entry) from error


def _places(elements: Iterable[Element]) -> list[tuple[str, bytes]]:
    return [(element.set, element.key) for element in elements]


def _described(element: Element) -> str:
    for (version, exact), target in TARGETS.items():
        if element.set in (target.name, conditional_map(version, exact=exact).name):
            host, protocol, port = element.key[:-8], element.key[-8], int.from_bytes(element.key[-4:-2], "big")
            return f"host port {Forward(version, host, protocol, port, b'', 0)} is not forwarded"
    return "what comes from beside the pod is not masqueraded"


def _shown(address: bytes, version: int) -> str:
    if not address:
        return "*"
    return unpack(address) if version == 4 else f"[{unpack(address)}]"

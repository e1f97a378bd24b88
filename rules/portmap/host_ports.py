"""Host ports: connections to a port of the node are forwarded (DNAT) to a port of a pod.

Maps from (address,) protocol and port to the pod's address and port: a packet costs a few lookups however many ports
there are, and a port that comes or goes is an element, not a rule. The conditions of an attachment are rules of a chain
that a verdict map leads to; attachments with the same conditions share the chain.

Replies must come back through the node, so clients that the pod would answer directly are masqueraded: those in the
pod's own subnet, and the node's own 127.0.0.0/8. Only the first packet of a connection passes any of these rules, which
are in rules/portmap/table.py.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from errno import EEXIST
from functools import partial

from linux.netlink.socket import Netlink
from linux.nftables import listing, messages, pod_table
from linux.nftables.cache import TableCache
from linux.nftables.messages import Element
from linux.nftables.pod_table import Chain, Transaction
from linux.nftables.transactions import repair
from linux.ownership import is_of_container, owner_tag, stale_predicate
from rules import iptables
from rules.portmap import iptables_nat
from rules.portmap.links import is_gone, list_service_addresses
from rules.portmap.table import (
    FROM_ANYWHERE,
    LOOPBACK,
    MASQUERADES,
    SERVICES,
    SERVICES_OWNER,
    TABLE,
    TARGETS,
    TRANSPORTS,
    conditional_chain,
    conditional_map,
    marking_comment,
    masquerading_chain,
    pod_of,
    table,
    to_the_node,
)
from spec.addresses import Address, unpack
from spec.attachment import Attachment
from spec.errors import is_shortage

TYPE_CHECKING = False  # as type checkers know it, without an import of typing
if TYPE_CHECKING:
    from rules.conditions.condition import Condition

_NAMES = {number: name for name, number in TRANSPORTS.items()}


class PortTaken(OSError):
    """A host port belongs to another attachment; `strerror` names it.

    `owner` is its tag, "" if the port has none; `entry` is the element of the table, as `nft delete element` takes it.
    """

    def __init__(self, message: str, owner: str, entry: str) -> None:
        super().__init__(EEXIST, message)
        self.owner, self.entry = owner, entry


@dataclass(frozen=True)
class Forward:
    """A port of the node and the pod's port that it is forwarded to, for IP `version` 4 or 6.

    `host`: a packed address of the node, b"" for any; `protocol`: 6, 17 or 132; `pod`: the pod's packed address.
    """

    version: int
    host: bytes
    protocol: int
    host_port: int
    pod: bytes
    pod_port: int

    @property
    def entry(self) -> str:
        """Its element, as `nft delete element` takes it: ports4 { tcp . 8080 }."""
        protocol = _NAMES.get(self.protocol, self.protocol)
        address = f"{_text(self.host, self.version).strip('[]')} . " if self.host else ""
        return f"{TARGETS[self.version, bool(self.host)].name} {{ {address}{protocol} . {self.host_port} }}"

    def __str__(self) -> str:
        return f"{_text(self.host, self.version)}:{self.host_port}/{_NAMES.get(self.protocol, self.protocol)}"


@dataclass(frozen=True)
class HostPorts:
    """The host ports of an attachment, the conditions under which they are forwarded, and what is masqueraded.

    `conditions` by IP version, () for none. `subnets`: the pod's, by IP version, clients in which are masqueraded;
    None masquerades nothing. `masquerade_all`: the IP versions in which all clients are masqueraded. `is_listed`: list
    the ports in iptables too, for programs that look for free ones.
    """

    forwards: tuple[Forward, ...]
    conditions: "dict[int, tuple[Condition, ...]]"
    subnets: dict[int, Address] | None
    masquerade_all: Collection[int] = ()
    is_listed: bool = True


def ensure(owner: Attachment, host_ports: HostPorts) -> bool:
    """Forward these ports, and no others, for `owner`; returns whether this made the table.

    Raises PortTaken, or NetlinkError; then nothing has changed. The container's other interfaces keep their ports.

    Two kinds of stale owners lose all their ports: one whose ports lead to an address of this pod, which IPAM gave to
    `owner`; and one that has one of these ports and whose link is deleted.
    """
    tag = owner_tag(owner)
    services = _services()
    pods = {forward.pod for forward in host_ports.forwards}
    is_refused = False

    def decide(transaction: Transaction) -> bool:
        cache = transaction.cache(TABLE)
        is_new = not cache.rules
        marked, is_restored = _ensure_marking(transaction, cache)
        stale = {tag, *(element.owner for element in cache.find(pods) if element.owner and pod_of(element) in pods)}
        own = _not_shared(owner, host_ports, _not_gone(_holders(transaction, host_ports))) if is_refused else host_ports
        wanted, chains = _elements(tag, own)
        if is_refused:
            stale |= _gone_owners(transaction, wanted, stale)
        terms = {other.encode() for other in stale}
        held = {element for element in cache.find(terms) if element.owner in stale}
        stale.add(SERVICES_OWNER)
        terms.add(SERVICES_OWNER.encode())
        everything = [*wanted, *services]
        pod_table.put_into(
            transaction, table(marked), chains, everything, is_stale=lambda element: element.owner in stale, terms=terms
        )
        if host_ports.is_listed and 4 in marked and (is_restored or held != set(wanted)):
            listed = cache.everything() if is_restored else wanted
            if is_restored or held or is_new:
                owners = stale | {one.owner for one in listed}
                transaction.append(iptables_nat.listing_removal(transaction.netlink, owners.__contains__))
            transaction.append(iptables_nat.listing_steps(_listed_ports(listed)))
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
            _raise_taken(owner, host_ports, error)
        raise


def _services() -> list[Element]:
    """Elements for the current addresses of services, where host ports are not forwarded."""
    addresses = list_service_addresses()
    return [Element(SERVICES[4 if len(one) == 4 else 6].name, one, SERVICES_OWNER) for one in addresses]


def _holders(transaction: Transaction, host_ports: HostPorts) -> list[Element]:
    """Where these ports lead now."""
    found = (listing.find_element(transaction.netlink, TABLE.name, *_place(one)) for one in host_ports.forwards)
    return [one for one in found if one]


def _gone_owners(transaction: Transaction, wanted: Sequence[Element], known: Collection[str]) -> set[str]:
    """The other owners of the places of `wanted`, if all their pods are provably gone; otherwise none."""
    holders = (listing.find_element(transaction.netlink, TABLE.name, *place) for place in _places(wanted))
    others = [one for one in holders if one and one.owner not in known]
    return set() if _not_gone(others) else {one.owner for one in others}


def _not_shared(owner: Attachment, host_ports: HostPorts, holders: Iterable[Element]) -> HostPorts:
    """Without the ports that another interface of the container has: runtimes publish them on each of its networks."""
    others = {(one.set, one.key) for one in holders if _is_other_interface(one.owner, owner)}
    return replace(host_ports, forwards=tuple(one for one in host_ports.forwards if _place(one) not in others))


def _is_other_interface(tag: str, owner: Attachment) -> bool:
    return is_of_container(tag, owner.container_id) and tag != owner_tag(owner)


def _not_gone(elements: Iterable[Element]) -> list[Element]:
    """The elements that lead to pods which are not provably gone."""
    with Netlink() as host:
        return [one for one in elements if pod_of(one) and not (one.owner and is_gone(host, one.owner, pod_of(one)))]


def _ensure_marking(transaction: Transaction, cache: TableCache) -> tuple[frozenset[int], bool]:
    """Have iptables mark packets for us; the IP versions it marks, and whether IPv4's rules had to be written.

    A kernel without x_tables cannot mark them.
    """
    marked, is_restored = _marked_versions(cache), False
    is_new = cache.lacks(to_the_node(marked))
    for version in (4, 6):
        if version not in marked and not is_new:
            continue  # the kernel refused it when the chain was made
        steps = transaction.remember(
            ("marking", version), partial(iptables_nat.marking_steps, transaction.netlink, version)
        )
        if steps and is_new:
            try:
                messages.dry_run(transaction.netlink, steps)
            except OSError as error:
                if is_shortage(error):
                    raise
                continue
        transaction.add_alone(steps)
        marked |= {version}
        is_restored = is_restored or (version == 4 and bool(steps))
    return marked, is_restored


def _marked_versions(cache: TableCache) -> frozenset[int]:
    """The IP versions of which the table forwards only packets that iptables has marked."""
    comments = cache.rules.get("to-the-node", ())
    return frozenset(version for version in (4, 6) if marking_comment(version) in comments)


def guard_loopback() -> bool:
    """Ensure the rules that protect the node's 127.0.0.0/8; returns whether they were gone. Raises NetlinkError."""

    def decide(transaction: Transaction) -> bool:
        is_gone = transaction.cache(TABLE).lacks(LOOPBACK)
        if is_gone:
            transaction.add_alone(
                [messages.add_table(TABLE.name, TABLE.comment), *repair(TABLE, [LOOPBACK], is_whole=True)]
            )
        return is_gone

    return pod_table.change(decide)


def undo(owner: Attachment, *, made: bool, is_listed: bool) -> None:
    """Undo an `ensure` for an owner that had no ports before; `made` is what it returned. Raises NetlinkError."""
    delete(owner, is_listed=is_listed)
    if made:
        pod_table.change(_delete_unused)


def _delete_unused(transaction: Transaction) -> None:
    """Delete the table and the marking rules if there are no ports."""
    cache = transaction.cache(TABLE)
    if cache.rules and all(one.owner == SERVICES_OWNER for one in cache.everything()):
        marking = [step for version in (4, 6) for step in iptables_nat.marking_removal(transaction.netlink, version)]
        transaction.add_alone([messages.delete_table(TABLE.name), *marking])


def delete(owner: Attachment, *, is_listed: bool = True) -> list[Forward]:
    """Forward nothing for `owner` any more; returns what was. Nothing to do is success. Raises NetlinkError.

    `is_listed`: whether the ports may be listed in iptables.
    """
    tag = owner_tag(owner)
    gone = pod_table.remove(TABLE, lambda element: element.owner == tag, terms={tag.encode()})
    if is_listed:
        _unlist(lambda other: other == tag, owner=tag)
    return _forwards(gone)


def problems(owner: Attachment, host_ports: HostPorts) -> list[str]:
    """What differs from the result of `ensure`, a sentence each; [] if all is well. Raises NetlinkError."""
    tag = owner_tag(owner)
    wanted, chains = _elements(tag, host_ports)
    versions = pod_table.change(lambda transaction: _marked_versions(transaction.cache(TABLE)))
    state = pod_table.inspect(table(versions), chains, {tag.encode()}, _places(wanted))
    own = _not_shared(owner, host_ports, state.elements)
    if own != host_ports:
        return problems(owner, own)
    sentences = pod_table.change(
        lambda transaction: [
            text for version in sorted(versions) for text in iptables_nat.marking_problems(transaction.netlink, version)
        ]
    )
    sentences += pod_table.drift(TABLE, state.drifted)
    present = {(one.set, one.key): one for one in state.elements}
    for element in wanted:
        other, where = present.get((element.set, element.key)), f"map {element.set} of table {TABLE.name}"
        if not other:
            sentences.append(f"{_described(element)}: {where} has no element for it; recreate the pod")
        elif other.owner != tag:
            holder = f"belongs to {other.owner or 'another program'}, not to {tag}"
            sentences.append(f"{_described(element)}: its element in {where} {holder}; delete it and recreate the pod")
        elif other != element:
            sentences.append(f"{_described(element)}: its element in {where} has another value; recreate the pod")
    return sentences


def sweep(network: str, valid: Collection[Attachment]) -> list[Forward]:
    """Forward nothing for attachments to `network` that are not `valid`; returns what was. Raises NetlinkError."""
    is_forfeit = stale_predicate(network, valid)
    gone = pod_table.remove(TABLE, lambda element: is_forfeit(element.owner))
    _unlist(is_forfeit)
    return _forwards(gone)


def _unlist(doomed: Callable[[str], bool], *, owner: str = "") -> None:
    """Take the ports of `doomed` owners' tags off the list in iptables."""

    def decide(transaction: Transaction) -> None:
        if not transaction.is_absent(iptables.NAT[4]):
            transaction.append(iptables_nat.listing_removal(transaction.netlink, doomed, owner=owner))

    pod_table.change(decide)


def _listed_ports(elements: Iterable[Element]) -> dict[tuple[str, int, bytes, int], None]:
    """The ports to list; the list is IPv4's, so of IPv6's only those at any address."""
    owners = {(one.set, one.key): one.owner for one in elements}
    listed = {}
    for (version, exact), target in TARGETS.items():
        for (name, key), owner in owners.items():
            if name == target.name and not (version == 6 and exact):
                listed[owner, key[-8], key[:-8], int.from_bytes(key[-4:-2], "big")] = None
    return listed


def _elements(tag: str, host_ports: HostPorts) -> tuple[list[Element], list[Chain]]:
    """The elements that the maps should hold for an attachment, and the chains that they lead to."""
    elements: dict[tuple[str, bytes], Element] = {}
    chains: dict[str, Chain] = {}

    def lead(map_name: str, key: bytes, chain: Chain) -> None:
        elements[map_name, key] = Element(map_name, key, tag, chain=chain.name)
        chains.setdefault(chain.name, chain)

    for forward in host_ports.forwards:
        exact, version = bool(forward.host), forward.version
        target, key = _place(forward)
        elements[target, key] = Element(target, key, tag, value=forward.pod + _number(forward.pod_port, 2))
        conditions = host_ports.conditions.get(version, ())
        if conditions:
            lead(conditional_map(version, exact=exact).name, key, conditional_chain(version, conditions, exact=exact))
        if host_ports.subnets is not None:
            answer = forward.pod + _number(forward.protocol) + _number(forward.pod_port, 2)
            back = (
                FROM_ANYWHERE
                if version in host_ports.masquerade_all
                else masquerading_chain(host_ports.subnets[version].network)
            )
            lead(MASQUERADES[version].name, answer + _number(forward.host_port, 2), back)
    return list(elements.values()), list(chains.values())


def _place(forward: Forward) -> tuple[str, bytes]:
    """The map and the key of a port."""
    key = forward.host + _number(forward.protocol) + _number(forward.host_port, 2)
    return TARGETS[forward.version, bool(forward.host)].name, key


def _number(value: int, length: int = 1) -> bytes:
    """A number in network order, padded to the 4 bytes that a part of a key has."""
    return value.to_bytes(length, "big").ljust(4, b"\0")


def _forwards(elements: Iterable[Element]) -> list[Forward]:
    """The forwards that elements are for."""
    forwards = []
    for (version, _), target in TARGETS.items():
        for element in elements:
            if element.set == target.name:
                host, protocol, port = element.key[:-8], element.key[-8], int.from_bytes(element.key[-4:-2], "big")
                pod_port = int.from_bytes(element.value[-4:-2], "big")
                forwards.append(Forward(version, host, protocol, port, element.value[:-4], pod_port))
    return forwards


def _raise_taken(owner: Attachment, host_ports: HostPorts, error: OSError) -> None:
    """Raise PortTaken if one of the ports has another owner, which is not the same container."""
    tag = owner_tag(owner)
    holders = pod_table.change(lambda transaction: _holders(transaction, host_ports))
    others = _not_gone(one for one in holders if one.owner != tag and not _is_other_interface(one.owner, owner))
    for forward in _forwards(others):
        (other,) = {element.owner for element in others if _forwards([element]) == [forward]}
        pod = f"{_text(forward.pod, forward.version)}:{forward.pod_port}"
        message = f"host port {forward} is taken by {other or 'an unknown owner'}, and leads to {pod}"
        raise PortTaken(message, other, forward.entry) from error


def _places(elements: Iterable[Element]) -> list[tuple[str, bytes]]:
    return [(element.set, element.key) for element in elements]


def _described(element: Element) -> str:
    for (version, exact), target in TARGETS.items():
        if element.set in (target.name, conditional_map(version, exact=exact).name):
            host, protocol, port = element.key[:-8], element.key[-8], int.from_bytes(element.key[-4:-2], "big")
            return f"host port {Forward(version, host, protocol, port, b'', 0)} is not forwarded"
    return "connections to a host port from the pod's own subnet are not masqueraded"


def _text(address: bytes, version: int) -> str:
    if not address:
        return "*"
    return unpack(address) if version == 4 else f"[{unpack(address)}]"

"""Firewall: pods are reachable on a node that drops forwarded packets, and an ingress policy separates their bridges.

A verdict of one base chain does not bind the next: what the chain FORWARD of iptables drops (Docker sets its policy to
drop), no table of ours can accept. So the rules that accept are in iptables' table `filter`, chain CNI-FORWARD, in the
form that iptables lists as its own and that the reference plugin uses: three for each pod's address. Which pod has
which address, and the policies, are in our table `inet slash24_firewall`.

A change in all of these tables is one transaction.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from linux.netlink.socket import Netlink
from linux.nftables import listing, messages, pod_table, uapi
from linux.nftables.expressions import (
    ADDRESS_BYTES,
    DROP,
    IFNAMSIZ,
    RETURN,
    ifname,
    iifname,
    ip_daddr,
    jump,
    lookup,
    nfproto,
    oifname,
    vmap,
)
from linux.nftables.listing import FoundRule
from linux.nftables.messages import IFNAME, IP_ADDR, VERDICT, Element, Hook, Set, Step, TableName
from linux.nftables.pod_table import Chain, Rule, Table, Transaction, change
from linux.nftables.transactions import repair
from linux.ownership import owner_tag, stale_predicate
from rules import iptables
from spec.addresses import unpack
from spec.attachment import Attachment

_PODS = {v: Set(f"pods{v}", (IP_ADDR[v],)) for v in (4, 6)}
_POLICED = {v: Set(f"policed{v}", (IFNAME, IP_ADDR[v]), (VERDICT,)) for v in (4, 6)}
_BRIDGES = Set("bridges", (IFNAME,))
_SAME = Set("same", (IFNAME, IFNAME))
_PODS_SETS, _POLICED_SETS = ({each.name for each in sets.values()} for sets in (_PODS, _POLICED))
_SHARED = "shared"  # the owner of elements that several pods need; they are deleted with the last of these pods
_ADMIN = "admin"  # a chain of our table, for the administrator: made empty, and never changed again

# iifname @bridges drop
_FROM_BRIDGES = Rule("from a bridge", (iifname(), lookup("bridges"), DROP))


def _link_and_destination(version: int) -> tuple[bytes, ...]:
    """oifname . ip daddr"""
    return (*nfproto(version), oifname(), ip_daddr(version, uapi.NFT_REG_2))


def _address_of(element: Element) -> bytes:
    """The pod's address in an element, packed; b"" in that of a bridge."""
    if element.set in _POLICED_SETS:
        return element.key[IFNAMSIZ:]
    return element.key if element.set in _PODS_SETS else b""


TABLE = Table(
    TableName(messages.INET, "slash24_firewall"),
    "slash24: who may reach pods",
    (*_PODS.values(), *_POLICED.values(), _BRIDGES, _SAME),
    (
        Chain("isolated", (_FROM_BRIDGES,)),
        Chain(
            "same-bridge",
            (
                # iifname . oifname @same return
                Rule("within a bridge", (iifname(), oifname(uapi.NFT_REG_2), lookup("same"), RETURN)),
                _FROM_BRIDGES,
            ),
        ),
        Chain(
            "forward",
            (
                # jump admin
                Rule("of the administrator", (jump(_ADMIN),)),
                # oifname . ip daddr vmap @policed4
                Rule("pods v4", (*_link_and_destination(4), vmap("policed4"))),
                # oifname . ip6 daddr vmap @policed6
                Rule("pods v6", (*_link_and_destination(6), vmap("policed6"))),
            ),
            Hook("filter", uapi.NF_INET_FORWARD, uapi.NF_IP_PRI_FILTER),  # type filter hook forward priority filter
        ),
    ),
    subject=_address_of,
)
"""The chain "admin" is not listed here, because its rules are the administrator's."""

_FORWARD, _OURS = "FORWARD", "CNI-FORWARD"
_JUMPS = "CNI firewall plugin rules", "CNI firewall plugin admin overrides"
_FIREWALLD, _REJECTS = TableName(messages.INET, "firewalld"), "filter_FORWARD"
# What CNI-FORWARD accepts for an address: in words; the side of the packet and the connection states; the rule.
_ACCEPTED = (
    # -A CNI-FORWARD -d 10.1.2.5/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    ("replies to", ("destination", iptables.RELATED_ESTABLISHED), iptables.accept_replies_to),
    # -A CNI-FORWARD -d 10.1.2.5/32 -m conntrack --ctstate DNAT -j ACCEPT
    ("connections translated (DNAT) to", ("destination", iptables.DNAT), iptables.accept_translated_to),
    # -A CNI-FORWARD -s 10.1.2.5/32 -j ACCEPT
    ("packets from", ("source", 0), iptables.accept_from),
)


@dataclass(frozen=True)
class PodRules:
    """The rules that a pod needs: `addresses`, packed; the ingress `policy` "open", "same-bridge" or "isolated".

    `bridge`: the pod's, "" if the policy is "open". `admin_chain`: the chain of iptables that CNI-FORWARD jumps to
    first. `make_chain`: make the chain FORWARD if it does not exist.
    """

    addresses: tuple[bytes, ...]
    policy: str
    bridge: str
    admin_chain: str
    make_chain: bool

    def elements(self, tag: str) -> list[Element]:
        """The pod's elements in our table."""
        bridge, elements = ifname(self.bridge), []
        for address in self.addresses:
            version = 4 if len(address) == 4 else 6
            # 10.1.2.5 comment "v1:..."
            elements.append(Element(_PODS[version].name, address, tag))
            if self.policy != "open":
                # "cni0" . 10.1.2.5 comment "v1:..." : goto isolated
                elements.append(Element(_POLICED[version].name, bridge + address, tag, chain=self.policy))
        return elements


def _bridge_elements(bridge: bytes) -> list[Element]:
    """The elements for a bridge (its name padded) with pods that have a policy: "cni0", and "cni0" . "cni0"."""
    return [Element(_BRIDGES.name, bridge, _SHARED), Element(_SAME.name, bridge + bridge, _SHARED)]


def ensure(owner: Attachment, pod: PodRules) -> None:
    """Accept packets from the pod's addresses and replies to them, and apply its policy; nothing else for `owner`.

    An address that another owner has is taken over: IPAM gave it to `owner`, so the other is stale. Raises
    NetlinkError; then nothing has changed.
    """
    tag = owner_tag(owner)
    wanted = pod.elements(tag)

    def decide(transaction: Transaction) -> None:
        cache = transaction.cache(TABLE)
        terms = {tag.encode(), *pod.addresses}
        stale = [one for one in cache.find(terms) if one not in wanted]
        if any(map(cache.lacks, TABLE.chains)):
            transaction.append(_admin_chain())
        pod_table.put_into(transaction, TABLE, (), wanted, is_stale=lambda _: True, terms=terms)
        if any(one.set in _POLICED_SETS for one in (*stale, *wanted)):
            _put_bridges(transaction)
            transaction.is_certain = False  # another process may delete the bridge's elements with its last such pod
        released = {_address_of(one) for one in stale} - set(pod.addresses)
        for version in (4, 6):
            _accept(transaction, version, pod, is_takeover=bool(stale))
            transaction.add_alone(rule_deletions(transaction.netlink, version, released))

    change(decide)


def delete(owner: Attachment, addresses: Collection[bytes] = ()) -> None:
    """Accept nothing for `owner` any more, and apply no policy; nothing to do is success. Raises NetlinkError.

    `addresses`: those that the pod had as far as the caller knows, for rules that another suite made; an address that
    belongs to another owner by now is left alone.
    """
    tag = owner_tag(owner)
    _remove(lambda one: one.owner == tag, addresses)


def sweep(network: str, valid: Collection[Attachment]) -> None:
    """The same for all attachments to `network` that are not `valid`. Raises NetlinkError."""
    is_forfeit = stale_predicate(network, valid)
    _remove(lambda one: is_forfeit(one.owner), ())


def released_by_delete(owner: Attachment, addresses: Collection[bytes] = ()) -> set[bytes]:
    """The addresses, packed, that no owner will have after `delete` with the same arguments. Raises NetlinkError."""
    tag = owner_tag(owner)
    return change(
        lambda transaction: _released(transaction.cache(TABLE).everything(), lambda one: one.owner == tag, addresses)
    )


def released_by_sweep(network: str, valid: Collection[Attachment]) -> set[bytes]:
    """The addresses, packed, that no owner will have after `sweep` with the same arguments. Raises NetlinkError."""
    is_forfeit = stale_predicate(network, valid)
    return change(
        lambda transaction: _released(transaction.cache(TABLE).everything(), lambda one: is_forfeit(one.owner), ())
    )


def owned(addresses: Collection[bytes]) -> set[bytes]:
    """Those of the addresses that an owner has in our table. Raises NetlinkError."""
    return change(lambda transaction: {_address_of(one) for one in transaction.cache(TABLE).find({*addresses})})


def problems(owner: Attachment, pod: PodRules, *, by_firewalld: bool = False) -> list[str]:
    """What differs from the result of `ensure`, a sentence each; [] if all is well. Raises NetlinkError.

    A pod without elements in our table whose packets are accepted, be it `by_firewalld`, was added by the reference
    plugin: that is well.
    """
    tag = owner_tag(owner)
    wanted = pod.elements(tag)
    if pod.policy != "open":
        wanted += _bridge_elements(ifname(pod.bridge))

    def decide(transaction: Transaction) -> list[str]:
        cache = transaction.cache(TABLE)
        elements = cache.find({tag.encode(), _SHARED.encode(), *pod.addresses})
        ours = any(_address_of(one) in pod.addresses for one in elements)
        sentences = [text for version in (4, 6) for text in _not_accepted(transaction.netlink, version, pod, ours=ours)]
        if not ours and (by_firewalld or (not sentences and _is_accepted(transaction.netlink, pod))):
            return []
        sentences += pod_table.drift(TABLE, filter(cache.lacks, TABLE.chains))
        present = {(one.set, one.key): one for one in elements}
        for element in wanted:
            other = present.get((element.set, element.key))
            if not other:
                sentences.append(f"set {element.set} of table {TABLE.name} lacks an element of {tag}; recreate the pod")
            elif other != element:
                holder = f"belongs to {other.owner or 'another program'}, not to {tag}"
                sentences.append(f"an element in set {element.set} of table {TABLE.name} {holder}; recreate the pod")
        return sentences

    return change(decide)


def is_firewalld_active() -> bool:
    """Whether firewalld filters with nftables: then it rejects what it does not accept, whatever we accept."""
    return change(
        lambda transaction: (
            not transaction.is_absent(_FIREWALLD) and _has_chain(transaction.netlink, _FIREWALLD, _REJECTS)
        )
    )


def dry_run() -> None:
    """Have the kernel check that it could make the table; raises NetlinkError if not."""
    change(lambda transaction: messages.dry_run(transaction.netlink, [*_admin_chain(), *repair(TABLE, TABLE.chains)]))


def _remove(doomed: Callable[[Element], bool], addresses: Collection[bytes]) -> None:
    def decide(transaction: Transaction) -> None:
        everything = transaction.cache(TABLE).everything()
        transaction.keep(TABLE, TABLE.chains)
        transaction.exchange(TABLE, [one for one in everything if doomed(one)], ())
        _put_bridges(transaction)
        released = _released(everything, doomed, addresses)
        for version in (4, 6):
            transaction.add_alone(rule_deletions(transaction.netlink, version, released))

    change(decide)


def _released(
    everything: Sequence[Element], doomed: Callable[[Element], bool], addresses: Collection[bytes]
) -> set[bytes]:
    """The addresses of doomed elements, and `addresses`, less those of other elements."""
    kept = {_address_of(one) for one in everything if not doomed(one)}
    return ({_address_of(one) for one in everything if doomed(one)} | set(addresses)) - kept - {b""}


def _admin_chain() -> list[Step]:
    """Steps that make the table with the chain that its rules jump to."""
    return [messages.add_table(TABLE.name, TABLE.comment), messages.add_chain(TABLE.name, _ADMIN)]


def _put_bridges(transaction: Transaction) -> None:
    """Have the elements of just the bridges that pods with a policy are on."""
    everything = transaction.cache(TABLE).everything()
    bridges = {one.key[:IFNAMSIZ] for one in everything if one.set in _POLICED_SETS}
    wanted = [element for bridge in sorted(bridges) for element in _bridge_elements(bridge)]
    held = [one for one in everything if one.owner == _SHARED]
    gone, new = [one for one in held if one not in wanted], [one for one in wanted if one not in held]
    transaction.exchange(TABLE, gone, new)


# -- iptables' chains -----------------------------------------------------------------------------------------------


def _accept(transaction: Transaction, version: int, pod: PodRules, *, is_takeover: bool) -> None:
    """Accept the packets of the pod's addresses of an IP version, where there is a chain that may drop them."""
    table, addresses = iptables.FILTER[version], _of(version, pod.addresses)
    if not addresses:
        return
    key = (_OURS, version, pod.admin_chain, pod.make_chain)
    frame = transaction.remember(
        key, lambda: _frame(transaction.netlink, table, pod.admin_chain, make_chain=pod.make_chain)
    )
    if frame is None:
        return
    transaction.add_alone(frame)
    rules = listing.list_rules(transaction.netlink, table, _OURS)
    steps = []
    for address in addresses:
        held = _held(rules, version, address)
        steps += [messages.add_rule(table, _OURS, make(address), None) for _, key, make in _ACCEPTED if key not in held]
    # Another call of the same transaction may delete or add rules only of addresses that change their owner.
    (transaction.add_alone if is_takeover else transaction.append)(steps)


def _frame(netlink: Netlink, table: TableName, admin: str, *, make_chain: bool) -> list[Step] | None:
    """Steps that make the chains that pods share and the jumps to them; None without a chain that may drop packets."""
    steps: list[Step] = []
    if not _has_chain(netlink, table, _FORWARD):
        if not make_chain:
            return None
        hook = Hook("filter", uapi.NF_INET_FORWARD, uapi.NF_IP_PRI_FILTER)
        steps += [messages.add_table(table, None), messages.add_chain(table, _FORWARD, hook)]
    steps += [messages.add_chain(table, chain) for chain in (_OURS, admin) if not _has_chain(netlink, table, chain)]
    # -A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD
    # -A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN
    for chain, target, comment in zip((_FORWARD, _OURS), (_OURS, admin), _JUMPS, strict=True):
        if not _jumps(netlink, table, chain, target):
            steps.append(messages.add_rule(table, chain, iptables.jump(target, comment), None, first=True))
    return steps


def rule_deletions(netlink: Netlink, version: int, addresses: Collection[bytes]) -> list[Step]:
    """Steps that delete all rules in CNI-FORWARD of these addresses, packed, not only ours. Raises NetlinkError."""
    table, doomed = iptables.FILTER[version], set(_of(version, addresses))
    if not doomed:
        return []
    return [
        messages.delete_rule(table, rule.chain, rule.handle)
        for rule in listing.list_rules(netlink, table, _OURS)
        if not doomed.isdisjoint(rule_addresses(rule, version))
    ]


def rule_addresses(rule: FoundRule, version: int) -> Iterator[bytes]:
    """The single addresses, packed, that a rule compares source and destination with; networks are left out."""
    for network in (listing.source_network(rule, version), listing.destination_network(rule, version)):
        if network and network[1] == b"\xff" * ADDRESS_BYTES[version]:
            yield network[0]


def _not_accepted(netlink: Netlink, version: int, pod: PodRules, *, ours: bool) -> Iterable[str]:
    """Sentences on what is not accepted, where a chain may drop it; the reference plugin accepts no DNAT by itself."""
    table, addresses = iptables.FILTER[version], _of(version, pod.addresses)
    if not addresses or not (pod.make_chain or _has_chain(netlink, table, _FORWARD)):
        return
    for chain, target in ((_FORWARD, _OURS), (_OURS, pod.admin_chain)):
        if not _jumps(netlink, table, chain, target):
            yield f"expected rule not found: chain {chain} of table {table} does not jump to {target}"
    rules = listing.list_rules(netlink, table, _OURS)
    for address in addresses:
        held = _held(rules, version, address)
        for what, key, make in _ACCEPTED:
            if key not in held and (ours or make is not iptables.accept_translated_to):
                chain = f"chain {_OURS} of table {table}"
                yield f"expected rule not found: {chain} does not accept {what} {unpack(address)}"


def _is_accepted(netlink: Netlink, pod: PodRules) -> bool:
    """Whether there are rules that accept the pod's packets (not: whether no chain drops them)."""
    wanted = set(pod.addresses)
    return any(
        not wanted.isdisjoint(rule_addresses(rule, version))
        for version in (4, 6)
        for rule in listing.list_rules(netlink, iptables.FILTER[version], _OURS)
    )


def _held(rules: Sequence[FoundRule], version: int, address: bytes) -> set[tuple[str, int]]:
    """The keys, as in _ACCEPTED, of the rules that accept packets of just this address."""
    whole = (address, b"\xff" * len(address))
    held = set()
    for rule in rules:
        if address in rule.expressions and listing.accepts(rule):
            states = iptables.states_of(rule)
            if listing.destination_network(rule, version) == whole:
                held.add(("destination", states))
            if listing.source_network(rule, version) == whole:
                held.add(("source", states))
    return held


def _of(version: int, addresses: Iterable[bytes]) -> list[bytes]:
    return [address for address in addresses if len(address) == ADDRESS_BYTES[version]]


def _jumps(netlink: Netlink, table: TableName, chain: str, target: str) -> bool:
    return any(listing.target_chain(rule) == target for rule in listing.list_rules(netlink, table, chain))


def _has_chain(netlink: Netlink, table: TableName, chain: str) -> bool:
    return listing.chain_uses(netlink, table, chain) is not None

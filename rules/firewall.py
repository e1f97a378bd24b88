"""Forwarding to and from pods: let through where iptables drops what nobody accepts, and cut off from other bridges.

A verdict of ours can not let pass what the chain FORWARD of iptables drops (Docker sets its policy so): of all chains
at a hook, each must accept. So what accepts stands there, in rules that iptables shows as its own, the same ones as
the reference suite's: two a pod and address. Whose address it is stands in our table, together with the policies.

All of a change, in all tables, is one transaction.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from linux.netlink.socket import Netlink
from linux.nftables import listing, messages, uapi
from linux.nftables.cache import TableCache
from linux.nftables.expressions import ifname
from linux.nftables.listing import FoundRule
from linux.nftables.messages import Element, Hook, Step, TableName
from linux.nftables.pod_table import Chain, retry_on_change
from linux.nftables.transactions import change, repair
from linux.ownership import forfeited, owner_tag
from rules import iptables
from rules.firewall_table import (
    POLICED,
    SHARED,
    TABLE,
    address_of,
    bridge_elements,
    bridge_of,
    is_policed,
    pod_elements,
)
from spec.attachment import Attachment

_FORWARD, _OURS = "FORWARD", "CNI-FORWARD"
_TO_OURS, _TO_ADMIN = "CNI firewall plugin rules", "CNI firewall plugin admin overrides"
_FIREWALLD, _REJECTS = TableName(messages.INET, "firewalld"), "filter_FORWARD"
# What is accepted of an address: in words, which of a packet's addresses it is and the states asked for, the rule.
_RULES = (
    ("answers to", ("destination", iptables.RELATED_ESTABLISHED), iptables.accept_answers_to),
    ("what is translated to", ("destination", iptables.DNAT), iptables.accept_translated_to),
    ("what comes from", ("source", 0), iptables.accept_from),
)


@dataclass(frozen=True)
class Wish:
    """What is wanted for a pod: `addresses` packed; `policy` "open", "same-bridge" or "isolated", behind `bridge`.

    `admin_chain`: the chain of iptables that comes first. `make_chain`: make FORWARD where there is none.
    """

    addresses: tuple[bytes, ...]
    policy: str
    bridge: str
    admin_chain: str
    make_chain: bool


def ensure(owner: Attachment, wish: Wish) -> None:
    """Let through what comes from these addresses and answers to it, and apply the policy, for `owner`, and no more.

    An address that somebody else has is taken over: IPAM gave it to `owner`, so the other is a leftover. Raises
    NetlinkError; then nothing has changed.
    """
    tag = owner_tag(owner)
    wanted = pod_elements(tag, wish.addresses, wish.policy, wish.bridge)

    def attempt(netlink: Netlink, generation: int) -> None:
        cache = TableCache(netlink, TABLE)
        drifted = [chain for chain in TABLE.chains if cache.lacks(chain)]
        held = cache.find({tag.encode(), *wish.addresses})
        gone = [one for one in held if one not in wanted]
        new = [one for one in wanted if one not in held]
        lost = {address_of(one) for one in gone} - set(wish.addresses)
        steps = [
            *(_made(drifted) if drifted else []),
            *(messages.delete_element(TABLE.name, one) for one in gone),
            *(messages.add_element(TABLE.name, one) for one in new),
            *_shared(netlink, gone, wanted),
        ]
        certain = not steps or not (gone or drifted or wish.policy != "open")
        for version in (4, 6):
            added, plain = _let_through(netlink, version, wish)
            steps += [*added, *_no_longer_through(netlink, version, lost)]
            certain = certain and plain
        if steps:
            messages.commit(netlink, steps, generation=None if certain else generation)

    retry_on_change(attempt)


def delete(owner: Attachment, addresses: Collection[bytes] = ()) -> None:
    """Let nothing through for `owner` any more, and apply no policy; nothing to do is success. Raises NetlinkError.

    `addresses`: those that the pod had as far as the caller knows, for what others than `ensure` let through; an
    address that belongs to somebody else by now is left alone.
    """
    tag = owner_tag(owner)
    _remove(lambda one: one.owner == tag, addresses)


def sweep(network: str, valid: Collection[Attachment]) -> None:
    """The same for all attachments to `network` that are not `valid`. Raises NetlinkError."""
    is_forfeit = forfeited(network, valid)
    _remove(lambda one: is_forfeit(one.owner), ())


def released(owner: Attachment, addresses: Collection[bytes] = ()) -> set[bytes]:
    """The addresses that nobody has any more when `owner` has none; `addresses` as for `delete`."""
    tag = owner_tag(owner)
    return retry_on_change(
        lambda netlink, _: _lost(TableCache(netlink, TABLE).everything(), lambda one: one.owner == tag, addresses)
    )


def swept(network: str, valid: Collection[Attachment]) -> set[bytes]:
    """The addresses that nobody has any more after a `sweep`. Raises NetlinkError."""
    is_forfeit = forfeited(network, valid)
    return retry_on_change(
        lambda netlink, _: _lost(TableCache(netlink, TABLE).everything(), lambda one: is_forfeit(one.owner), ())
    )


def known(addresses: Collection[bytes]) -> set[bytes]:
    """Those of the addresses that a pod has as far as our table knows. Raises NetlinkError."""
    return retry_on_change(
        lambda netlink, _: {address_of(one) for one in TableCache(netlink, TABLE).find({*addresses})}
    )


def missing(owner: Attachment, wish: Wish, *, by_firewalld: bool = False) -> list[str]:
    """What of the work of `ensure` is not there, a sentence each; empty if all is well. Raises NetlinkError.

    A pod of which our table knows nothing but that is let through, be it `by_firewalld`, is one that the reference has
    added: that is well.
    """
    tag = owner_tag(owner)
    wanted = pod_elements(tag, wish.addresses, wish.policy, wish.bridge)
    if wish.policy != "open":
        wanted += bridge_elements(ifname(wish.bridge))

    def attempt(netlink: Netlink, _: int) -> list[str]:
        cache = TableCache(netlink, TABLE)
        elements = cache.find({tag.encode(), SHARED.encode(), *wish.addresses})
        ours = any(address_of(one) in wish.addresses for one in elements)
        problems = [s for version in (4, 6) for s in _not_through(netlink, version, wish, ours=ours)]
        if not ours and (by_firewalld or (not problems and _forwards(netlink, wish))):
            return []
        problems += [
            f"chain {chain.name} of table {TABLE.name} does not hold its rules"
            for chain in TABLE.chains
            if cache.lacks(chain)
        ]
        present = {(one.set, one.key): one for one in elements}
        for element in wanted:
            found = present.get((element.set, element.key))
            if not found:
                problems.append(f"set {element.set} of {TABLE.name} lacks an element of {tag}")
            elif found != element:
                problems.append(f"set {element.set} of {TABLE.name} has an element of {tag} for {found.owner}")
        return problems

    return retry_on_change(attempt)


def is_firewalld_at_work() -> bool:
    """Whether firewalld filters here, with nftables: then what it does not accept is rejected, whatever we accept."""
    return change(
        lambda transaction: (
            not transaction.is_absent(_FIREWALLD) and _has_chain(transaction.netlink, _FIREWALLD, _REJECTS)
        )
    )


def dry_run() -> None:
    """Have the kernel try to make the table, and take it back; raises NetlinkError if it can not."""
    change(lambda transaction: messages.dry_run(transaction.netlink, _made(TABLE.chains)))


def _remove(doomed: Callable[[Element], bool], addresses: Collection[bytes]) -> None:
    def attempt(netlink: Netlink, generation: int) -> None:
        everything = TableCache(netlink, TABLE).everything()
        gone = [one for one in everything if doomed(one)]
        lost = _lost(everything, doomed, addresses)
        steps = [*(messages.delete_element(TABLE.name, one) for one in gone), *_shared(netlink, gone, ())]
        for version in (4, 6):
            steps += _no_longer_through(netlink, version, lost)
        if steps:
            messages.commit(netlink, steps, generation=generation)

    retry_on_change(attempt)


def _lost(everything: Sequence[Element], doomed: Callable[[Element], bool], addresses: Collection[bytes]) -> set[bytes]:
    """The addresses of doomed elements, and `addresses`, less those that are somebody else's."""
    foreign = {address_of(one) for one in everything if not doomed(one)}
    return ({address_of(one) for one in everything if doomed(one)} | set(addresses)) - foreign - {b""}


def _made(drifted: Sequence[Chain]) -> list[Step]:
    """Steps that make the table, and give chains their rules."""
    admin = messages.add_chain(TABLE.name, "admin")
    return [messages.add_table(TABLE.name, TABLE.comment), admin, *repair(TABLE, drifted)]


def _shared(netlink: Netlink, gone: Sequence[Element], wanted: Sequence[Element]) -> list[Step]:
    """Steps that make the elements of bridges fit to the pods that there are when `gone` are gone, `wanted` there."""
    if not any(map(is_policed, (*gone, *wanted))):
        return []
    pods = [
        one for policed in POLICED.values() for one in listing.list_elements(netlink, TABLE.name, policed.name, [b""])
    ]
    bridges = {bridge_of(one) for one in (*pods, *filter(is_policed, wanted)) if one not in gone}
    due = [one for name in sorted(bridges) for one in bridge_elements(name)]
    held = [
        one
        for each in TABLE.sets
        for one in listing.list_elements(netlink, TABLE.name, each.name, [SHARED.encode()])
        if one.owner == SHARED
    ]
    return [
        *(messages.delete_element(TABLE.name, one) for one in held if one not in due),
        *(messages.add_element(TABLE.name, one) for one in due if one not in held),
    ]


def _let_through(netlink: Netlink, version: int, wish: Wish) -> tuple[list[Step], bool]:
    """Steps that let the addresses of an IP version through, and whether they add only what nobody else adds."""
    table = iptables.FILTER[version]
    addresses = _of(version, wish.addresses)
    if not addresses or not (wish.make_chain or _has_chain(netlink, table, _FORWARD)):
        return [], True
    frame = _frame(netlink, version, wish.admin_chain)
    rules = listing.list_rules(netlink, table, _OURS)
    steps = list(frame)
    for address in addresses:
        held = _held(rules, version, address)
        steps += [messages.add_rule(table, _OURS, make(address), None) for _, key, make in _RULES if key not in held]
    return steps, not frame


def _frame(netlink: Netlink, version: int, admin: str) -> list[Step]:
    """Steps that make what pods share: the chains, and the ways into them. Nothing that is there is touched."""
    table = iptables.FILTER[version]
    steps: list[Step] = []
    if not _has_chain(netlink, table, _FORWARD):
        steps += [
            messages.add_table(table, None),
            messages.add_chain(table, _FORWARD, Hook("filter", uapi.NF_INET_FORWARD, uapi.NF_IP_PRI_FILTER)),
        ]
    steps += [messages.add_chain(table, chain) for chain in (_OURS, admin) if not _has_chain(netlink, table, chain)]
    for chain, target, comment in ((_FORWARD, _OURS, _TO_OURS), (_OURS, admin, _TO_ADMIN)):
        if not _leads(netlink, table, chain, target):
            steps.append(messages.add_rule(table, chain, iptables.jump(target, comment), None, first=True))
    return steps


def _no_longer_through(netlink: Netlink, version: int, addresses: Collection[bytes]) -> list[Step]:
    """Steps that delete the rules of these addresses, whoever made them."""
    table = iptables.FILTER[version]
    doomed = set(_of(version, addresses))
    if not doomed:
        return []
    return [
        messages.delete_rule(table, rule.chain, rule.handle)
        for rule in listing.list_rules(netlink, table, _OURS)
        if not doomed.isdisjoint(_subjects(rule, version))
    ]


def _not_through(netlink: Netlink, version: int, wish: Wish, *, ours: bool) -> Iterable[str]:
    """Sentences on what is not let through, where a chain may drop it; the reference lets less through."""
    table = iptables.FILTER[version]
    addresses = _of(version, wish.addresses)
    if not addresses or not (wish.make_chain or _has_chain(netlink, table, _FORWARD)):
        return
    for chain, target in ((_FORWARD, _OURS), (_OURS, wish.admin_chain)):
        if not _leads(netlink, table, chain, target):
            yield f"expected rule not found: chain {chain} of table {table} does not lead to {target}"
    rules = listing.list_rules(netlink, table, _OURS)
    for address in addresses:
        held = _held(rules, version, address)
        for what, key, make in _RULES:
            if key not in held and (ours or make is not iptables.accept_translated_to):
                place = f"chain {_OURS} of table {table}"
                yield f"expected rule not found: {place} does not accept {what} {_shown(address)}"


def _forwards(netlink: Netlink, wish: Wish) -> bool:
    """Whether there are rules that let the pod through (not: whether it is let through for want of any chain)."""
    wanted = set(wish.addresses)
    return any(
        not wanted.isdisjoint(_subjects(rule, version))
        for version in (4, 6)
        for rule in listing.list_rules(netlink, iptables.FILTER[version], _OURS)
    )


def _held(rules: Sequence[FoundRule], version: int, address: bytes) -> set[tuple[str, int]]:
    """What of the rules that accept something of just this address: which address they look at, and which states."""
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


def _subjects(rule: FoundRule, version: int) -> Iterator[bytes]:
    """The addresses that a rule is about, each as a whole, not as a network."""
    for network in (listing.source_network(rule, version), listing.destination_network(rule, version)):
        if network and network[1] == b"\xff" * {4: 4, 6: 16}[version]:
            yield network[0]


def _of(version: int, addresses: Iterable[bytes]) -> list[bytes]:
    """Those of an IP version."""
    return [address for address in addresses if len(address) == {4: 4, 6: 16}[version]]


def _leads(netlink: Netlink, table: TableName, chain: str, target: str) -> bool:
    return any(listing.target_chain(rule) == target for rule in listing.list_rules(netlink, table, chain))


def _has_chain(netlink: Netlink, table: TableName, chain: str) -> bool:
    return listing.chain_uses(netlink, table, chain) is not None


def _shown(address: bytes) -> str:
    from socket import AF_INET, AF_INET6, inet_ntop

    return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)

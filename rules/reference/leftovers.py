"""What the reference suite (containernetworking/plugins v1.9.1) left for an attachment that it added and we go on with.

Its masquerade, of the iptables backend (where iptables writes to nf_tables) and of the nftables backend, and its MAC
spoofing filter: as good as ours to a CHECK, and to be removed by a DEL. Names and comments are those its bridge plugin
makes. Rules are deleted one by one, by handle, in one transaction; tables and chains that everybody shares stay, as
they do there.
"""

from collections.abc import Iterable, Sequence
from socket import AF_INET, AF_INET6, inet_pton

from linux.netlink.socket import Netlink
from linux.nftables import listing, messages
from linux.nftables.listing import FoundRule
from linux.nftables.messages import Step, TableName
from linux.nftables.transactions import Book, change
from spec.attachment import Attachment

_IPTABLES = {4: TableName(messages.IP, "nat"), 6: TableName(messages.IP6, "nat")}
_NFTABLES = TableName(messages.INET, "cni_plugins_masquerade")
_SPOOF = TableName(messages.BRIDGE, "nat")


def delete_masquerade(owner: Attachment, addresses: Sequence[str] = ()) -> None:
    """Delete the reference's masquerade of `owner`; nothing to do is success. Raises NetlinkError.

    `addresses`: the pod's, "10.1.2.5" or "10.1.2.5/24". The iptables backend has one chain for all interfaces of a
    container on one network, so there only the rules of these addresses go, and the chain with the last of them.
    Without `addresses` all of the chain goes: nothing in it tells whose it is.
    """

    def decide(book: Book) -> None:
        backends = [version for version, table in _IPTABLES.items() if not book.is_absent(table)]
        if backends:
            packed = [_packed(address) for address in addresses]
            for version in backends:
                book.do(_iptables_backend(book.netlink, owner, version, packed))
        if not book.is_absent(_NFTABLES):
            book.do(
                [messages.delete_rule(_NFTABLES, rule.chain, rule.handle) for rule in _masq_checks(book.netlink, owner)]
            )

    change(decide)


def delete_antispoof(owner: Attachment) -> None:
    """Delete the reference's MAC spoofing filter of `owner`; nothing to do is success. Raises NetlinkError."""
    link_chain, mac_chain = _spoof_chains(owner)

    def decide(book: Book) -> None:
        if book.is_absent(_SPOOF):
            return
        netlink = book.netlink
        jumps = _jumps_to(netlink, _SPOOF, "PREROUTING", link_chain)
        inner = _jumps_to(netlink, _SPOOF, link_chain, mac_chain)
        book.do(
            [
                *(messages.delete_rule(_SPOOF, rule.chain, rule.handle) for rule in jumps),
                *_drop_chain(netlink, _SPOOF, link_chain, losing=len(jumps)),
                *_drop_chain(netlink, _SPOOF, mac_chain, losing=len(inner)),
            ]
        )

    change(decide)


def masquerades(owner: Attachment, addresses: Sequence[str]) -> bool:
    """Whether the reference masquerades each of these addresses, CIDR, for `owner`. Raises NetlinkError."""
    pods = [_packed(address) for address in addresses]

    def decide(book: Book) -> bool:
        netlink = book.netlink
        by_nftables = {source[0] for rule in _masq_checks(netlink, owner) if (source := _source(rule))}
        return all(
            pod in by_nftables
            or any(_comes_from(rule, _version(pod), [pod]) for rule in _masq_jumps(netlink, owner, _version(pod)))
            for pod in pods
        )

    return change(decide)


def filters_mac(owner: Attachment) -> bool:
    """Whether the reference's MAC spoofing filter of `owner` is there whole. Raises NetlinkError."""
    link_chain, mac_chain = _spoof_chains(owner)

    def decide(book: Book) -> bool:
        netlink = book.netlink
        return bool(
            _jumps_to(netlink, _SPOOF, "PREROUTING", link_chain)
            and _jumps_to(netlink, _SPOOF, link_chain, mac_chain)
            and len(listing.list_rules(netlink, _SPOOF, mac_chain)) == 2  # the pod's own returns, all else drops
        )

    return change(decide)


def _spoof_chains(owner: Attachment) -> tuple[str, str]:
    """The chains of a link's MAC filter: where its frames are sent, and where they go on to."""
    chain = f"cni-br-iface-{owner.container_id}-{owner.ifname}"
    return chain, f"{chain}-mac"


def _masq_checks(netlink: Netlink, owner: Attachment) -> list[FoundRule]:
    """The rules of the nftables backend, "ip saddr ADDRESS ip daddr != SUBNET masquerade", of this attachment."""
    instance = f"{_sha512(owner.network)[:16]}-{_sha512(f'{owner.ifname}:{owner.container_id}')[:16]}"
    rules = listing.list_rules(netlink, _NFTABLES, "masq_checks")
    return [rule for rule in rules if rule.comment.startswith(instance)]


def _source(rule: FoundRule) -> tuple[bytes, bytes] | None:
    return listing.source_network(rule, 4) or listing.source_network(rule, 6)


def _masq_chain(owner: Attachment) -> str:
    return f"CNI-{_sha512(owner.network + owner.container_id)[:24]}"


def _masq_jumps(netlink: Netlink, owner: Attachment, version: int) -> list[FoundRule]:
    """The rules of the iptables backend, "-s ADDRESS -j CHAIN", of this container, if its chain masquerades."""
    table, chain = _IPTABLES[version], _masq_chain(owner)
    return _jumps_to(netlink, table, "POSTROUTING", chain) if listing.list_rules(netlink, table, chain) else []


def _iptables_backend(netlink: Netlink, owner: Attachment, version: int, addresses: Sequence[bytes]) -> list[Step]:
    table, chain = _IPTABLES[version], _masq_chain(owner)
    if listing.chain_uses(netlink, table, chain) is None:
        return []
    jumps = _jumps_to(netlink, table, "POSTROUTING", chain)
    if addresses:
        jumps = [rule for rule in jumps if _comes_from(rule, version, addresses)]
    return [
        *(messages.delete_rule(table, rule.chain, rule.handle) for rule in jumps),
        *_drop_chain(netlink, table, chain, losing=len(jumps)),
    ]


def _packed(address: str) -> bytes:
    return inet_pton(AF_INET6 if ":" in address else AF_INET, address.partition("/")[0])


def _version(packed: bytes) -> int:
    return 4 if len(packed) == 4 else 6


def _comes_from(rule: FoundRule, version: int, addresses: Iterable[bytes]) -> bool:
    """Whether the rule's source (an address, or in older releases a subnet) includes one of the addresses."""
    source = listing.source_network(rule, version)
    return source is None or any(listing.is_in(address, source) for address in addresses)


def _jumps_to(netlink: Netlink, table: TableName, chain: str, target: str) -> list[FoundRule]:
    return [rule for rule in listing.list_rules(netlink, table, chain) if listing.target_chain(rule) == target]


def _drop_chain(netlink: Netlink, table: TableName, chain: str, *, losing: int) -> list[Step]:
    """The step that deletes a chain, if nothing leads to it any more when `losing` rules that do are gone."""
    rules = len(listing.list_rules(netlink, table, chain))
    return [messages.delete_chain(table, chain)] if listing.chain_uses(netlink, table, chain) == rules + losing else []


def _sha512(text: str) -> str:
    import hashlib

    return hashlib.sha512(text.encode("utf-8", "surrogateescape")).hexdigest()

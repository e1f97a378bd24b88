"""What the reference suite (containernetworking/plugins v1.9.1) left behind for attachments that it added.

A node can switch from the Go suite to this one under running pods. CHECK accepts what the Go plugins made; DEL removes
it: the masquerade and the MAC spoofing filter of bridge, the host ports of portmap. Names and comments are those that
the Go plugins use, with their iptables backend (where iptables writes to nf_tables) and their nftables backend. Rules
are deleted one by one, by handle, in one transaction. Tables and chains that several pods share stay, as they do there.
"""

from collections.abc import Collection, Iterable, Sequence

from linux.netlink.socket import Netlink
from linux.nftables import listing, messages
from linux.nftables.listing import FoundRule
from linux.nftables.messages import Step, TableName
from linux.nftables.transactions import Transaction, change
from spec.addresses import parse_address
from spec.attachment import Attachment

_NAT = {4: TableName(messages.IP, "nat"), 6: TableName(messages.IP6, "nat")}
_MASQUERADE = TableName(messages.INET, "cni_plugins_masquerade")
_SPOOF = TableName(messages.BRIDGE, "nat")
_HOST_PORTS = {4: TableName(messages.IP, "cni_hostport"), 6: TableName(messages.IP6, "cni_hostport")}


# -- masquerade -----------------------------------------------------------------------------------------------------


def delete_masquerade(owner: Attachment, addresses: Sequence[str] = ()) -> None:
    """Delete the reference's masquerade of `owner`; nothing to do is success. Raises NetlinkError.

    `addresses`: the pod's, "10.1.2.5" or "10.1.2.5/24". The iptables backend has one chain for all interfaces of a
    container on one network, so only the rules of these addresses are deleted, and the chain with the last of them.
    Without `addresses` the whole chain is deleted: nothing in it names the interface.
    """

    def decide(transaction: Transaction) -> None:
        backends = [version for version, table in _NAT.items() if not transaction.is_absent(table)]
        if backends:
            packed = [parse_address(address).packed for address in addresses]
            for version in backends:
                transaction.add_alone(_masquerade_removal(transaction.netlink, owner, version, packed))
        if not transaction.is_absent(_MASQUERADE):
            transaction.add_alone(_deletion(_MASQUERADE, _masq_checks(transaction.netlink, owner)))

    change(decide)


def masquerades(owner: Attachment, addresses: Sequence[str]) -> bool:
    """Whether the reference masquerades each of these addresses, CIDR, for `owner`. Raises NetlinkError."""
    pods = [parse_address(address).packed for address in addresses]

    def decide(transaction: Transaction) -> bool:
        netlink = transaction.netlink
        by_nftables = {source[0] for rule in _masq_checks(netlink, owner) if (source := _source(rule))}
        return all(
            pod in by_nftables
            or any(_comes_from(rule, _version(pod), [pod]) for rule in _masq_jumps(netlink, owner, _version(pod)))
            for pod in pods
        )

    return change(decide)


def _masquerade_removal(netlink: Netlink, owner: Attachment, version: int, addresses: Sequence[bytes]) -> list[Step]:
    """Steps that delete the masquerade of the iptables backend."""
    table, chain = _NAT[version], _masq_chain(owner)
    if listing.chain_uses(netlink, table, chain) is None:
        return []
    jumps = _jumps_to(netlink, table, "POSTROUTING", chain)
    if addresses:
        jumps = [rule for rule in jumps if _comes_from(rule, version, addresses)]
    return [*_deletion(table, jumps), *_chain_deletion(netlink, table, chain, fewer=len(jumps))]


def _masq_checks(netlink: Netlink, owner: Attachment) -> list[FoundRule]:
    """The rules of the nftables backend, "ip saddr ADDRESS ip daddr != SUBNET masquerade", of this attachment."""
    instance = f"{_sha512(owner.network)[:16]}-{_sha512(f'{owner.ifname}:{owner.container_id}')[:16]}"
    rules = listing.list_rules(netlink, _MASQUERADE, "masq_checks")
    return [rule for rule in rules if rule.comment.startswith(instance)]


def _masq_jumps(netlink: Netlink, owner: Attachment, version: int) -> list[FoundRule]:
    """The rules of the iptables backend, "-s ADDRESS -j CHAIN", of this container, if its chain masquerades."""
    table, chain = _NAT[version], _masq_chain(owner)
    return _jumps_to(netlink, table, "POSTROUTING", chain) if listing.list_rules(netlink, table, chain) else []


def _masq_chain(owner: Attachment) -> str:
    return f"CNI-{_sha512(owner.network + owner.container_id)[:24]}"


# -- MAC spoofing filter --------------------------------------------------------------------------------------------


def delete_antispoof(owner: Attachment) -> None:
    """Delete the reference's MAC spoofing filter of `owner`; nothing to do is success. Raises NetlinkError."""
    link_chain, mac_chain = _spoof_chains(owner)

    def decide(transaction: Transaction) -> None:
        if transaction.is_absent(_SPOOF):
            return
        netlink = transaction.netlink
        jumps = _jumps_to(netlink, _SPOOF, "PREROUTING", link_chain)
        inner = _jumps_to(netlink, _SPOOF, link_chain, mac_chain)
        transaction.add_alone(
            [
                *_deletion(_SPOOF, jumps),
                *_chain_deletion(netlink, _SPOOF, link_chain, fewer=len(jumps)),
                *_chain_deletion(netlink, _SPOOF, mac_chain, fewer=len(inner)),
            ]
        )

    change(decide)


def filters_mac(owner: Attachment) -> bool:
    """Whether the reference's MAC spoofing filter of `owner` is complete. Raises NetlinkError."""
    link_chain, mac_chain = _spoof_chains(owner)

    def decide(transaction: Transaction) -> bool:
        netlink = transaction.netlink
        return bool(
            _jumps_to(netlink, _SPOOF, "PREROUTING", link_chain)
            and _jumps_to(netlink, _SPOOF, link_chain, mac_chain)
            and len(listing.list_rules(netlink, _SPOOF, mac_chain)) == 2  # the pod's own MAC: return; others: drop
        )

    return change(decide)


def _spoof_chains(owner: Attachment) -> tuple[str, str]:
    """The two chains of a host veth's MAC filter, the first of which jumps to the second."""
    chain = f"cni-br-iface-{owner.container_id}-{owner.ifname}"
    return chain, f"{chain}-mac"


# -- host ports -----------------------------------------------------------------------------------------------------


def delete_host_ports(owner: Attachment) -> None:
    """Delete the reference's host ports of a container on a network; nothing to do is success. Raises NetlinkError.

    Neither backend stores the interface: the ports of all interfaces of the container are deleted, as there.
    """

    def decide(transaction: Transaction) -> None:
        for version in (4, 6):
            if not transaction.is_absent(_NAT[version]):
                for chain in _host_port_chains(owner):
                    transaction.add_alone(_host_port_removal(transaction.netlink, _NAT[version], chain))
            if not transaction.is_absent(_HOST_PORTS[version]):
                rules = listing.list_rules(transaction.netlink, _HOST_PORTS[version])
                transaction.add_alone(
                    _deletion(_HOST_PORTS[version], [r for r in rules if r.comment == owner.container_id])
                )

    change(decide)


def forwards_ports(owner: Attachment, versions: Collection[int]) -> bool:
    """Whether the reference forwards ports for a container on a network, in all these IP versions."""
    return change(lambda transaction: all(_forwards_ports(transaction.netlink, owner, version) for version in versions))


def _forwards_ports(netlink: Netlink, owner: Attachment, version: int) -> bool:
    chain, table = _host_port_chains(owner)[0], _NAT[version]
    if listing.list_rules(netlink, table, chain):
        return bool(_jumps_to(netlink, table, "CNI-HOSTPORT-DNAT", chain))
    rules = listing.list_rules(netlink, _HOST_PORTS[version], "hostports")
    return any(rule.comment == owner.container_id for rule in rules)


def _host_port_chains(owner: Attachment) -> tuple[str, str]:
    """The chains of the iptables backend: that of the ports, and one for masquerading that older releases made."""
    digest = _sha512(owner.network + owner.container_id)[:21]
    return f"CNI-DN-{digest}", f"CNI-SN-{digest}"


def _host_port_removal(netlink: Netlink, table: TableName, chain: str) -> list[Step]:
    """Steps that delete all jumps to a chain and then the chain."""
    if listing.chain_uses(netlink, table, chain) is None:
        return []
    return [*_deletion(table, _jumps_to(netlink, table, None, chain)), messages.delete_chain(table, chain)]


# -- shared ---------------------------------------------------------------------------------------------------------


def _deletion(table: TableName, rules: Iterable[FoundRule]) -> list[Step]:
    return [messages.delete_rule(table, rule.chain, rule.handle) for rule in rules]


def _chain_deletion(netlink: Netlink, table: TableName, chain: str, *, fewer: int) -> list[Step]:
    """The step that deletes a chain, if nothing else leads to it once `fewer` rules that do are deleted."""
    rules = len(listing.list_rules(netlink, table, chain))
    return [messages.delete_chain(table, chain)] if listing.chain_uses(netlink, table, chain) == rules + fewer else []


def _jumps_to(netlink: Netlink, table: TableName, chain: str | None, target: str) -> list[FoundRule]:
    """The rules of a chain (None: of the whole table) that jump to `target`."""
    return [rule for rule in listing.list_rules(netlink, table, chain) if listing.target_chain(rule) == target]


def _source(rule: FoundRule) -> tuple[bytes, bytes] | None:
    return listing.source_network(rule, 4) or listing.source_network(rule, 6)


def _comes_from(rule: FoundRule, version: int, addresses: Iterable[bytes]) -> bool:
    """Whether the rule's source (an address; in older releases a subnet) includes one of the addresses."""
    source = listing.source_network(rule, version)
    return source is None or any(listing.is_in(address, source) for address in addresses)


def _version(packed: bytes) -> int:
    return 4 if len(packed) == 4 else 6


def _sha512(text: str) -> str:
    import hashlib

    return hashlib.sha512(text.encode("utf-8", "surrogateescape")).hexdigest()

"""The host ports of the reference suite's portmap (containernetworking/plugins v1.9.1): for CHECK and DEL.

Of its iptables backend, where iptables writes to nf_tables, and of its nftables backend. Neither knows the interface:
what it made for two interfaces of a container is one, and goes as one, as there. Chains that everybody shares stay.
"""

from collections.abc import Collection

from linux.netlink.socket import Netlink
from linux.nftables import listing, messages
from linux.nftables.messages import Step, TableName
from linux.nftables.transactions import Book, change
from rules import iptables
from spec.attachment import Attachment

_NFTABLES = {4: TableName(messages.IP, "cni_hostport"), 6: TableName(messages.IP6, "cni_hostport")}


def delete(owner: Attachment) -> None:
    """Delete the reference's host ports of a container on a network; nothing to do is success. Raises NetlinkError."""

    def decide(book: Book) -> None:
        for version in (4, 6):
            if not book.is_absent(iptables.NAT[version]):
                for chain in _chains(owner):
                    book.do(_drop(book.netlink, iptables.NAT[version], chain))
            if not book.is_absent(_NFTABLES[version]):
                rules = listing.list_rules(book.netlink, _NFTABLES[version])
                doomed = [rule for rule in rules if rule.comment == owner.container_id]
                book.do([messages.delete_rule(_NFTABLES[version], rule.chain, rule.handle) for rule in doomed])

    change(decide)


def serves(owner: Attachment, versions: Collection[int]) -> bool:
    """Whether the reference forwards ports for a container on a network, in all these IP versions."""

    return change(lambda book: all(_serves(book.netlink, owner, version) for version in versions))


def _serves(netlink: Netlink, owner: Attachment, version: int) -> bool:
    chain, table = _chains(owner)[0], iptables.NAT[version]
    if listing.list_rules(netlink, table, chain):
        entries = listing.list_rules(netlink, table, "CNI-HOSTPORT-DNAT")
        return any(listing.target_chain(rule) == chain for rule in entries)
    rules = listing.list_rules(netlink, _NFTABLES[version], "hostports")
    return any(rule.comment == owner.container_id for rule in rules)


def _chains(owner: Attachment) -> tuple[str, str]:
    """The chains of the iptables backend: that of ports, and the one which older releases had for masquerading."""
    import hashlib

    digest = hashlib.sha512((owner.network + owner.container_id).encode("utf-8", "surrogateescape")).hexdigest()[:21]
    return f"CNI-DN-{digest}", f"CNI-SN-{digest}"


def _drop(netlink: Netlink, table: TableName, chain: str) -> list[Step]:
    """Steps that delete a chain, and before it all rules that lead to it."""
    if listing.chain_uses(netlink, table, chain) is None:
        return []
    jumps = [rule for rule in listing.list_rules(netlink, table) if listing.target_chain(rule) == chain]
    return [
        *(messages.delete_rule(table, rule.chain, rule.handle) for rule in jumps),
        messages.delete_chain(table, chain),
    ]

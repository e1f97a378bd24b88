"""The host ports of the reference suite's portmap (containernetworking/plugins v1.9.1): for CHECK and DEL.

Of its iptables backend, where iptables writes to nf_tables, and of its nftables backend. Neither knows the interface:
what it made for two interfaces of a container is one, and goes as one, as there. Chains that everybody shares stay.
"""

from collections.abc import Collection

from linux import iptables, nft, nft_found
from linux.netlink import Netlink
from linux.nft import Step, TableName
from linux.nft_session import Book, change
from spec.attachment import Attachment

_NFTABLES = {4: TableName(nft.IP, "cni_hostport"), 6: TableName(nft.IP6, "cni_hostport")}


def delete(owner: Attachment) -> None:
    """Delete the reference's host ports of a container on a network; nothing to do is success. Raises NetlinkError."""

    def decide(book: Book) -> None:
        for version in (4, 6):
            if not book.is_absent(iptables.NAT[version]):
                for chain in _chains(owner):
                    book.do(_drop(book.netlink, iptables.NAT[version], chain))
            if not book.is_absent(_NFTABLES[version]):
                rules = nft_found.list_rules(book.netlink, _NFTABLES[version])
                doomed = [rule for rule in rules if rule.comment == owner.container_id]
                book.do([nft.delete_rule(_NFTABLES[version], rule.chain, rule.handle) for rule in doomed])

    change(decide)


def serves(owner: Attachment, versions: Collection[int]) -> bool:
    """Whether the reference forwards ports for a container on a network, in all these IP versions."""

    return change(lambda book: all(_serves(book.netlink, owner, version) for version in versions))


def _serves(netlink: Netlink, owner: Attachment, version: int) -> bool:
    chain, table = _chains(owner)[0], iptables.NAT[version]
    if nft_found.list_rules(netlink, table, chain):
        entries = nft_found.list_rules(netlink, table, "CNI-HOSTPORT-DNAT")
        return any(nft_found.target_chain(rule) == chain for rule in entries)
    rules = nft_found.list_rules(netlink, _NFTABLES[version], "hostports")
    return any(rule.comment == owner.container_id for rule in rules)


def _chains(owner: Attachment) -> tuple[str, str]:
    """The chains of the iptables backend: that of ports, and the one which older releases had for masquerading."""
    import hashlib

    digest = hashlib.sha512((owner.network + owner.container_id).encode("utf-8", "surrogateescape")).hexdigest()[:21]
    return f"CNI-DN-{digest}", f"CNI-SN-{digest}"


def _drop(netlink: Netlink, table: TableName, chain: str) -> list[Step]:
    """Steps that delete a chain, and before it all rules that lead to it."""
    if nft_found.chain_uses(netlink, table, chain) is None:
        return []
    jumps = [rule for rule in nft_found.list_rules(netlink, table) if nft_found.target_chain(rule) == chain]
    return [*(nft.delete_rule(table, rule.chain, rule.handle) for rule in jumps), nft.delete_chain(table, chain)]

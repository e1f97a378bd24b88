"""What iptables' nat table leaves to others: kube-proxy in IPVS mode keeps a service's packets by ACCEPT there.

A verdict of one base chain says nothing to the next, so a rule at the end of PREROUTING and OUTPUT marks what no rule
before it has accepted or translated: it stands where the reference plugin's jump stands. kube-proxy puts its own jump
first, so the order in which both arrive does not matter. The rule reads and deletes like any other of iptables (its
nf_tables variant); what iptables-legacy accepts can not be seen.
"""

from collections.abc import Iterator

from linux.netlink.socket import Netlink
from linux.nftables import listing, messages, uapi
from linux.nftables.messages import Hook, Step, TableName
from rules import iptables
from rules.portmap import port_notes

BIT = 0x1000
"""The bit of the packet's mark. It is set and taken away again at one hook: no routing rule nor other hook sees it."""

_COMMENT = "slash24: left to host ports"
_CHAINS = {
    "PREROUTING": Hook("nat", uapi.NF_INET_PRE_ROUTING, uapi.NF_IP_PRI_NAT_DST),
    "OUTPUT": Hook("nat", uapi.NF_INET_LOCAL_OUT, uapi.NF_IP_PRI_NAT_DST),
}


def steps(netlink: Netlink, version: int) -> list[Step]:
    """Steps after which the rules are last in both chains of an IP version; none if they are. Raises NetlinkError."""
    return [step for chain in _CHAINS for step in _steps(netlink, iptables.NAT[version], chain)]


def removal(netlink: Netlink, version: int) -> list[Step]:
    """Steps that delete the rules, and chain and table if nothing else is in them. Raises NetlinkError."""
    table = iptables.NAT[version]
    rules = listing.list_rules(netlink, table)
    ours = [rule for rule in rules if _is_ours(rule)]
    if ours and len(ours) == len(rules) and set(listing.list_chains(netlink, table)) <= {*_CHAINS, port_notes.CHAIN}:
        return [messages.delete_table(table)]
    is_idle = listing.chain_uses(netlink, table, port_notes.CHAIN) == 0
    idle = [messages.delete_chain(table, port_notes.CHAIN)] if is_idle else []
    return [*(messages.delete_rule(table, rule.chain, rule.handle) for rule in ours), *idle]


def missing(netlink: Netlink, version: int) -> Iterator[str]:
    """A sentence for each chain that lacks its rule. Raises NetlinkError."""
    for chain in _CHAINS:
        table = iptables.NAT[version]
        if not any(map(_is_ours, listing.list_rules(netlink, table, chain))):
            yield f'chain {chain} of table {table} does not hold its rule "{_COMMENT}": host ports get no packets'


def _steps(netlink: Netlink, table: TableName, chain: str) -> Iterator[Step]:
    rules = listing.list_rules(netlink, table, chain)
    if rules and _is_ours(rules[-1]):
        return
    if not rules:
        yield messages.add_table(table, None)
        yield messages.add_chain(table, chain, _CHAINS[chain])
    for rule in filter(_is_ours, rules):
        yield messages.delete_rule(table, chain, rule.handle)
    yield messages.add_rule(table, chain, iptables.mark_local(BIT, _COMMENT), None)


def _is_ours(rule: listing.FoundRule) -> bool:
    return iptables.is_mark_local(rule, BIT, _COMMENT)

"""What portmap puts into iptables' tables `nat`: rules that mark packets for our chains, and a list of ports in use.

kube-proxy in IPVS mode keeps a service's packets to itself by ACCEPT in iptables' chains. A verdict of one base chain
does not bind the next, so a rule at the end of PREROUTING and OUTPUT marks the packets that no rule before it accepted
or translated, and our table `slash24_portmap` forwards only these. The rule is where the reference plugin's jump is;
kube-proxy puts its own jump first, so it does not matter which of them starts first. Any iptables of the nf_tables
variant lists and deletes the rule as its own. What iptables-legacy accepts is not visible here.

Programs that look for free host ports (nerdctl) read `--dports` and `-d` in the reference plugin's chain
CNI-HOSTPORT-DNAT of the table `ip nat`. There is a rule without a target for the ports of each owner. Packets reach
these rules only if the reference plugin also forwards ports and jumps to the chain. The rules follow from the table
`slash24_portmap`; nothing else depends on them.
"""

from collections.abc import Callable, Iterable, Iterator

from linux.netlink.socket import Netlink
from linux.nftables import listing, messages, uapi
from linux.nftables.messages import Hook, Step, TableName
from rules import iptables

MARK_BIT = 0x1000
"""The bit of the packet's mark. It is set and cleared at one hook: no routing rule and no other hook sees it."""

_MARK_COMMENT = "slash24: left to host ports"
_MARK_CHAINS = {
    "PREROUTING": Hook("nat", uapi.NF_INET_PRE_ROUTING, uapi.NF_IP_PRI_NAT_DST),
    "OUTPUT": Hook("nat", uapi.NF_INET_LOCAL_OUT, uapi.NF_IP_PRI_NAT_DST),
}

_LIST_TABLE, _LIST_CHAIN = iptables.NAT[4], "CNI-HOSTPORT-DNAT"
_Port = tuple[str, int, bytes, int]


def marking_steps(netlink: Netlink, version: int) -> list[Step]:
    """Steps that put the marking rule last in both chains of an IP version; [] if it is. Raises NetlinkError."""
    return [step for chain in _MARK_CHAINS for step in _marking_steps(netlink, iptables.NAT[version], chain)]


def marking_removal(netlink: Netlink, version: int) -> list[Step]:
    """Steps that delete the rules, and chain and table if they hold nothing else. Raises NetlinkError."""
    table = iptables.NAT[version]
    rules = listing.list_rules(netlink, table)
    ours = [rule for rule in rules if _is_marking(rule)]
    if ours and len(ours) == len(rules) and set(listing.list_chains(netlink, table)) <= {*_MARK_CHAINS, _LIST_CHAIN}:
        return [messages.delete_table(table)]
    is_unused = listing.chain_uses(netlink, table, _LIST_CHAIN) == 0
    unused = [messages.delete_chain(table, _LIST_CHAIN)] if is_unused else []
    return [*(messages.delete_rule(table, rule.chain, rule.handle) for rule in ours), *unused]


def marking_problems(netlink: Netlink, version: int) -> Iterator[str]:
    """A sentence for each chain without its marking rule. Raises NetlinkError."""
    table = iptables.NAT[version]
    for chain in _MARK_CHAINS:
        if not any(map(_is_marking, listing.list_rules(netlink, table, chain))):
            what = f'chain {chain} of table {table} does not hold its rule "{_MARK_COMMENT}"'
            yield f"{what}: host ports get no packets; the next ADD with host ports restores it"


def _marking_steps(netlink: Netlink, table: TableName, chain: str) -> Iterator[Step]:
    rules = listing.list_rules(netlink, table, chain)
    if rules and _is_marking(rules[-1]):
        return
    if not rules:
        yield messages.add_table(table, None)
        yield messages.add_chain(table, chain, _MARK_CHAINS[chain])
    for rule in filter(_is_marking, rules):
        yield messages.delete_rule(table, chain, rule.handle)
    # -A PREROUTING -m addrtype --dst-type LOCAL -m comment --comment "..." -j MARK --set-xmark 0x1000/0x1000
    yield messages.add_rule(table, chain, iptables.mark_local(MARK_BIT, _MARK_COMMENT), None)


def _is_marking(rule: listing.FoundRule) -> bool:
    return iptables.is_mark_local(rule, MARK_BIT, _MARK_COMMENT)


def listing_steps(ports: Iterable[_Port]) -> Iterator[Step]:
    """Steps that list ports: owner's tag, protocol, packed IPv4 address of the node or b"" for all, and port."""
    groups: dict[tuple[str, int, bytes], list[int]] = {}
    for tag, protocol, host, port in ports:
        groups.setdefault((tag, protocol, host), []).append(port)
    if groups:
        yield messages.add_chain(_LIST_TABLE, _LIST_CHAIN)
    for (tag, protocol, host), numbers in groups.items():
        for at in range(0, len(numbers), iptables.MOST_PORTS):
            # -A CNI-HOSTPORT-DNAT -d 192.0.2.1/32 -p tcp -m multiport --dports 8080,8443 -m comment --comment "v1:..."
            rule = iptables.to_ports(protocol, host, numbers[at : at + iptables.MOST_PORTS], tag)
            yield messages.add_rule(_LIST_TABLE, _LIST_CHAIN, rule, None, protocol=protocol)


def listing_removal(netlink: Netlink, doomed: Callable[[str], bool], *, owner: str = "") -> list[Step]:
    """Steps that take the ports of `doomed` owners' tags off the list (`owner`: the only one). Raises NetlinkError."""
    rules = listing.list_rules(netlink, _LIST_TABLE, _LIST_CHAIN, containing=owner.encode())
    ours = [rule for rule in rules if not listing.target_chain(rule) and doomed(iptables.comment_of(rule))]
    return [messages.delete_rule(_LIST_TABLE, _LIST_CHAIN, rule.handle) for rule in ours]

"""Host firewall: does the node filter its own packets by connection state? Reads rules of others, and writes none.

Untracked packets are neither new nor established: a chain that accepts only these drops them. Nothing filters by state
if all chains of others that the node's packets pass have the policy accept, and only rules that accept or that jump to
chains of kube-proxy and of CNI plugins. Anything else counts as filtering.
"""

from contextlib import suppress
from functools import partial

from linux.netlink.socket import Netlink
from linux.nftables import listing, messages, uapi
from linux.nftables.messages import TableName
from linux.nftables.transactions import change

_PASSED = (uapi.NF_INET_PRE_ROUTING, uapi.NF_INET_LOCAL_IN, uapi.NF_INET_LOCAL_OUT, uapi.NF_INET_POST_ROUTING)
_KUBE_PROXY, _IPTABLES = "kube-proxy", ("nat", "mangle", "raw", "security")
_KNOWN_CHAINS = ("KUBE-", "CNI-")
_LEGACY_TABLES = ("/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names")


def may_filter_by_state() -> bool:
    """Whether it may; rules of iptables-legacy are not visible here and count as yes. Raises NetlinkError."""
    if any("filter" in _lines(path) for path in _LEGACY_TABLES):
        return True
    return change(lambda transaction: transaction.remember("host firewall", partial(_may_filter, transaction.netlink)))


def _may_filter(netlink: Netlink) -> bool:
    return any(_is_relevant(table) and _filters(netlink, table) for table in listing.list_tables(netlink))


def _is_relevant(table: TableName) -> bool:
    if table.family not in (messages.INET, messages.IP, messages.IP6) or table.name.startswith("slash24_"):
        return False
    return table.name != _KUBE_PROXY and (table.family == messages.INET or table.name not in _IPTABLES)


def _filters(netlink: Netlink, table: TableName) -> bool:
    for chain, hook, policy in listing.list_base_chains(netlink, table):
        # Chains before connection tracking know no states.
        is_passed = hook.number in _PASSED and hook.priority > uapi.NF_IP_PRI_CONNTRACK
        if hook.type != "filter" or not is_passed:
            continue
        if policy != uapi.NF_ACCEPT or not all(map(_is_harmless, listing.list_rules(netlink, table, chain))):
            return True
    return False


def _is_harmless(rule: listing.FoundRule) -> bool:
    return listing.accepts(rule) or listing.target_chain(rule).startswith(_KNOWN_CHAINS)


def _lines(path: str) -> list[str]:
    with suppress(OSError), open(path, encoding="ascii") as file:
        return file.read().split()
    return []

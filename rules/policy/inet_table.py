"""Network policies, table `inet slash24_policy`: what every connection of a pod passes.

A packet of a connection that is open passes with one comparison. The first packet of another is looked up in the map
`egress`, by its source, and in `ingress`, by its destination; both lead to chains that the daemon makes
(policy/programming.py), or to `held` as long as it has not said what holds for a pod. How many pods and policies there
are makes no difference.

The two maps are looked up in two base chains: what the first accepts meets the second. If one led to the other, kernels
that do not remember which chains they have checked (6.1 for example) would check the chains of all pods for each rule
in the chain of each pod, whenever a pod is added.
"""

from linux.nftables import uapi
from linux.nftables.cache import Chain, Rule, Table
from linux.nftables.expressions import (
    ACCEPT,
    ADDRESS_BYTES,
    CONCATENATION,
    DROP,
    RETURN,
    TCP_ACK,
    TCP_FIN,
    TCP_RST,
    TCP_SYN,
    cmp_eq,
    cmp_neq,
    ct_state,
    fib_type_local,
    goto,
    icmpv6_type,
    ifname,
    iifname,
    in_network,
    ip_daddr,
    ip_saddr,
    jump,
    l4proto,
    l4proto_is,
    lookup,
    meta,
    nfproto,
    oifname,
    payload,
    tcp_flags_are,
    th_dport,
    th_sport,
    vmap,
)
from linux.nftables.messages import Hook
from linux.nftables.statements import reject_tcp_reset, set_update
from rules.policy import names

_ICMP, _IGMP, _TCP, _UDP, _ICMPV6 = 1, 2, 6, 17, 58
_MULTICAST = bytes([224, 0, 0, 0])
_MULTICAST6, _LINK_LOCAL = bytes([255, *[0] * 15]), bytes([0xFE, 0x80, *[0] * 14])
_ND_NEIGHBOR_SOLICIT, _ND_NEIGHBOR_ADVERT, _ND_REDIRECT = 135, 136, 137
_ICMP_REDIRECT = 5
_HOPS = (*nfproto(6), payload(uapi.NFT_PAYLOAD_NETWORK_HEADER, 7, 1), cmp_eq(b"\xff"))
_ICMP_TYPE = (*l4proto_is(_ICMP), icmpv6_type())  # the type is in the same place
_ICMPV6_TYPE = (*l4proto_is(_ICMPV6), icmpv6_type())
_FROM_BRIDGE = (iifname(), lookup(names.BRIDGES.name))
_TO_A_BRIDGE = (oifname(), lookup(names.BRIDGES.name))
_NOT_TO_A_BRIDGE = (oifname(), lookup(names.BRIDGES.name, inverted=True))
_FROM_LINK_LOCAL = (*nfproto(6), ip_saddr(6), *in_network(_LINK_LOCAL, 10))
_TO_DHCP = (th_dport(), cmp_eq((67).to_bytes(2, "big")))
_OPEN = uapi.CT_STATE_ESTABLISHED | uapi.CT_STATE_RELATED
_AFTER_FILTERS = uapi.NF_IP_PRI_FILTER + 10


def _of_nobody(version: int) -> tuple[bytes, ...]:
    """ip saddr 0.0.0.0"""
    return *nfproto(version), ip_saddr(version), cmp_eq(bytes(ADDRESS_BYTES[version]))


def _pair(version: int) -> tuple[bytes, bytes]:
    """ip saddr . ip daddr"""
    return ip_saddr(version), ip_daddr(version, CONCATENATION[ADDRESS_BYTES[version] // 4])


def _flow(version: int) -> tuple[bytes, ...]:
    """ip saddr . ip daddr . meta l4proto . th sport . th dport"""
    at = 2 * ADDRESS_BYTES[version] // 4
    ports = (th_sport(CONCATENATION[at + 1]), th_dport(CONCATENATION[at + 2]))
    return (*_pair(version), l4proto(CONCATENATION[at]), *ports)


def _both(comment: str, make: object) -> tuple[Rule, Rule]:
    """The rule for IPv4 and the one for IPv6."""
    return tuple(Rule(f"{comment} IPv{version}", (*nfproto(version), *make(version))) for version in (4, 6))


# ip saddr . ip daddr . meta l4proto . th sport . th dport @cut4 goto refuse
_CUT = _both("cut", lambda v: (*_flow(v), lookup(names.CUT[v].name), goto(names.REFUSE)))

# ip saddr . ip daddr @self4 accept
_ITSELF = _both("itself", lambda v: (*_pair(v), lookup(names.SELF[v].name), ACCEPT))

_CONNECTION = (
    *_ITSELF,
    *_CUT,
    # ip saddr @pods4 jump metadata
    *_both("metadata", lambda v: (ip_saddr(v), lookup(names.PODS[v].name), jump(names.METADATA))),
    # ct state invalid goto invalid
    Rule("invalid", (*ct_state(uapi.CT_STATE_INVALID), goto(names.INVALID))),
    # tcp flags != syn / fin,syn,rst,ack goto unopened
    Rule(
        "unopened",
        (*tcp_flags_are(TCP_SYN, TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK, inverted=True), goto(names.UNOPENED)),
    ),
    # ip saddr vmap @egress4
    *_both("egress", lambda v: (ip_saddr(v), vmap(names.EGRESS[v].name))),
    # goto to_ingress
    Rule("ingress", (goto(names.TO_INGRESS),)),
)

_INCOMING = (
    *_ITSELF,
    # ip daddr vmap @ingress4
    *_both("ingress", lambda v: (ip_daddr(v), vmap(names.INGRESS[v].name))),
)

_FROM_POD = (
    *_CUT,
    # jump metadata
    Rule("metadata", (jump(names.METADATA),)),
    # ip saddr vmap @to_node4
    *_both("to the node", lambda v: (ip_saddr(v), vmap(names.TO_NODE[v].name))),
    # goto node_access
    Rule("node access", (goto(names.NODE_ACCESS),)),
)


def _denied(direction: str, load: object, sets: dict, log: str) -> tuple[Rule, ...]:
    """update @denied_egress4 { ip saddr counter }"""
    return (
        *_both(f"denied {direction}", lambda v: (load(v), set_update(sets[v].name, counted=True))),
        Rule("log", (jump(log),)),
        # drop
        Rule("denied", (DROP,)),
    )


def _isolated(verdict: bytes) -> tuple[Rule, ...]:
    return (
        *_both("from", lambda v: (ip_saddr(v), lookup(names.ISOLATED[v].name), verdict)),
        *_both("to", lambda v: (ip_daddr(v), lookup(names.ISOLATED[v].name), verdict)),
        *_NOT_ISOLATED,
    )


_NOT_ISOLATED = (
    # oifname @bridges goto to_bridge
    Rule("to a bridge", (*_TO_A_BRIDGE, goto(names.TO_BRIDGE))),
    # accept
    Rule("not isolated", (ACCEPT,)),
)

_TO_BRIDGE = (
    # ip daddr @pods4 accept
    *_both("pods", lambda v: (ip_daddr(v), lookup(names.PODS[v].name), ACCEPT)),
    # ip daddr 224.0.0.0/4 accept
    Rule("groups IPv4", (*nfproto(4), ip_daddr(4), *in_network(_MULTICAST, 4), ACCEPT)),
    # ip6 daddr ff00::/8 accept
    Rule("groups IPv6", (*nfproto(6), ip_daddr(6), *in_network(_MULTICAST6, 8), ACCEPT)),
    # ip6 daddr fe80::/10 accept
    Rule("link-local", (*nfproto(6), ip_daddr(6), *in_network(_LINK_LOCAL, 10), ACCEPT)),
    # update @vacant4 { ip daddr } accept
    *_both("vacant", lambda v: (ip_daddr(v), set_update(names.VACANT[v].name), ACCEPT)),
    # drop
    Rule("too many", (DROP,)),
)


_NEIGHBOURS = (
    # What was routed has a lower hop limit.
    # ip6 hoplimit 255 icmpv6 type nd-neighbor-solicit accept
    # ip6 hoplimit 255 icmpv6 type nd-neighbor-advert accept
    Rule("solicitations", (*_HOPS, *_ICMPV6_TYPE, cmp_eq(bytes([_ND_NEIGHBOR_SOLICIT])), ACCEPT)),
    Rule("advertisements", (*_HOPS, *_ICMPV6_TYPE, cmp_eq(bytes([_ND_NEIGHBOR_ADVERT])), ACCEPT)),
)

_FORWARDED = (
    # ct state established,related accept
    Rule("open", (*ct_state(_OPEN), ACCEPT)),
    # What br_netfilter passes here though it is switched; the table for the bridge decides on that.
    *_NEIGHBOURS,
    # ip daddr 224.0.0.0/4 meta l4proto igmp accept
    Rule("groups", (*nfproto(4), ip_daddr(4), *in_network(_MULTICAST, 4), *l4proto_is(_IGMP), ACCEPT)),
    # iifname != @bridges jump by_another_link
    Rule("by another link", (iifname(), lookup(names.BRIDGES.name, inverted=True), jump(names.BY_ANOTHER_LINK))),
)

_BY_ANOTHER_LINK = (
    # What br_netfilter passes here on the way between a VLAN's pods and its gateway.
    # oifname != @bridges fib saddr type local accept
    Rule("switched from the node", (*_NOT_TO_A_BRIDGE, *fib_type_local(uapi.NFTA_FIB_F_SADDR), ACCEPT)),
    # oifname != @bridges fib daddr type local accept
    Rule("switched to the node", (*_NOT_TO_A_BRIDGE, *fib_type_local(uapi.NFTA_FIB_F_DADDR), ACCEPT)),
    # Of a VLAN's pods br_netfilter knows the bridge.
    # meta iifkind "bridge" return
    Rule("by a bridge", (meta(uapi.NFT_META_IIFKIND), cmp_eq(ifname("bridge")), RETURN)),
    # What comes in by a link where no pod is, in the name of a pod.
    # ip saddr @pods4 drop
    *_both("forged", lambda v: (ip_saddr(v), lookup(names.PODS[v].name), DROP)),
)

# Redirects would tell pods that they reach each other directly.
_REDIRECTS = (
    # icmp type redirect oifname @bridges drop
    Rule("redirects IPv4", (*_ICMP_TYPE, cmp_eq(bytes([_ICMP_REDIRECT])), *_TO_A_BRIDGE, DROP)),
    # icmpv6 type nd-redirect oifname @bridges drop
    Rule("redirects IPv6", (*_ICMPV6_TYPE, cmp_eq(bytes([_ND_REDIRECT])), *_TO_A_BRIDGE, DROP)),
)

# Not untracked packets: so IPVS marks what it sends on without net.ipv4.vs.conntrack.
# ct state established,related accept
_SENT = Rule("open", (*ct_state(_OPEN), ACCEPT))

# What else is not its own, IPVS has translated and sends on.
_OWN = (
    # The kernel does not take such addresses for local without a link, and routes nobody's.
    # ip6 saddr fe80::/10 accept
    Rule("own link-local", (*_FROM_LINK_LOCAL, ACCEPT)),
    # fib saddr type local accept
    Rule("own", (*fib_type_local(uapi.NFTA_FIB_F_SADDR), ACCEPT)),
    # The node's resets in the name of another, for connections that are not tracked.
    # tcp flags rst / syn,rst accept
    Rule("resets", (*tcp_flags_are(TCP_RST, TCP_SYN | TCP_RST), ACCEPT)),
)

CHAINS = (
    # -- what other chains lead to, the last first
    Chain(names.HELD, (Rule("held", (DROP,)),)),
    Chain(
        names.REFUSE,
        (
            # meta l4proto tcp reject with tcp reset
            Rule("reset", (*l4proto_is(_TCP), reject_tcp_reset())),
            Rule("refused", (DROP,)),
        ),
    ),
    Chain(names.TO_BRIDGE, _TO_BRIDGE),
    # ip saddr @isolated4 goto refuse
    # ip daddr @isolated4 goto refuse
    Chain(names.UNOPENED, _isolated(goto(names.REFUSE))),
    # ip saddr @isolated4 drop
    # ip daddr @isolated4 drop
    Chain(names.INVALID, _isolated(DROP)),
    # jump log_egress
    Chain(
        names.DENIED_EGRESS_CHAIN,
        # update @denied_egress4 { ip saddr counter }
        _denied("egress", ip_saddr, names.DENIED_EGRESS, names.LOG_EGRESS),
    ),
    # jump log_ingress
    Chain(
        names.DENIED_INGRESS_CHAIN,
        # update @denied_ingress4 { ip daddr counter }
        _denied("ingress", ip_daddr, names.DENIED_INGRESS, names.LOG_INGRESS),
    ),
    # What the sender's policies allow goes on to the next base chain: accept
    Chain(names.TO_INGRESS, (Rule("allowed", (ACCEPT,)),)),
    Chain(names.CONNECTION, _CONNECTION),
    Chain(names.INCOMING, (*_INCOMING, *_NOT_ISOLATED)),
    Chain(names.FROM_POD, _FROM_POD),
    Chain(names.BY_ANOTHER_LINK, _BY_ANOTHER_LINK),
    # -- where packets enter
    Chain(
        names.FORWARD,
        # goto connection
        (*_FORWARDED, Rule("new", (goto(names.CONNECTION),))),
        Hook("filter", uapi.NF_INET_FORWARD, _AFTER_FILTERS),  # type filter hook forward priority filter + 10
    ),
    Chain(
        names.FORWARD_INGRESS,
        # goto incoming
        (*_FORWARDED, Rule("new", (goto(names.INCOMING),))),
        Hook("filter", uapi.NF_INET_FORWARD, _AFTER_FILTERS + 1),  # type filter hook forward priority 11
    ),
    Chain(
        names.OUTPUT,
        # What the node sends on a connection of a pod to it that was cut would open it again.
        (*_REDIRECTS, _SENT, *_CUT, *_OWN, Rule("new", (goto(names.CONNECTION),))),
        Hook("filter", uapi.NF_INET_LOCAL_OUT, _AFTER_FILTERS),  # type filter hook output priority filter + 10
    ),
    Chain(
        names.OUTPUT_INGRESS,
        (_SENT, *_OWN, Rule("new", (goto(names.INCOMING),))),
        Hook("filter", uapi.NF_INET_LOCAL_OUT, _AFTER_FILTERS + 1),  # type filter hook output priority 11
    ),
    Chain(
        names.INPUT,
        (
            Rule("open", (*ct_state(_OPEN), ACCEPT)),
            *_NEIGHBOURS,
            # ip saddr @pods4 goto from_pod
            *_both("pods", lambda v: (ip_saddr(v), lookup(names.PODS[v].name), goto(names.FROM_POD))),
            # By a link-local address any pod could speak to the node in the name of none.
            # Or by none at all: of that only DHCP (67) and announcements of groups have a meaning.
            # iifname @bridges ip6 saddr fe80::/10 meta l4proto != ipv6-icmp drop
            Rule("link-local", (*_FROM_BRIDGE, *_FROM_LINK_LOCAL, l4proto(), cmp_neq(bytes([_ICMPV6])), DROP)),
            # iifname @bridges ip6 saddr :: meta l4proto != ipv6-icmp drop
            Rule("nobody IPv6", (*_FROM_BRIDGE, *_of_nobody(6), l4proto(), cmp_neq(bytes([_ICMPV6])), DROP)),
            # iifname @bridges ip saddr 0.0.0.0 meta l4proto igmp accept
            Rule("groups", (*_FROM_BRIDGE, *_of_nobody(4), *l4proto_is(_IGMP), ACCEPT)),
            # iifname @bridges ip saddr 0.0.0.0 udp dport 67 goto node_access
            Rule("DHCP", (*_FROM_BRIDGE, *_of_nobody(4), *l4proto_is(_UDP), *_TO_DHCP, goto(names.NODE_ACCESS))),
            # iifname @bridges ip saddr 0.0.0.0 drop
            Rule("nobody IPv4", (*_FROM_BRIDGE, *_of_nobody(4), DROP)),
        ),
        # After source translation, and IPVS has taken its packets.
        # type filter hook input priority 101
        Hook("filter", uapi.NF_INET_LOCAL_IN, uapi.NF_IP_PRI_NAT_SRC + 1),
    ),
)

INET = Table(
    names.TABLE,
    "slash24: network policies of pods",
    names.BASE_SETS[names.TABLE],
    (*(Chain(name, ()) for name in names.CONFIGURED), *CHAINS),
)
"""Of the chains in CONFIGURED only the names are of this table; their rules are the daemon's."""

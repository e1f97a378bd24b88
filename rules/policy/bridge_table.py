"""Network policies, table `bridge slash24_policy`: has the node route what pods of a bridge send each other.

Frames between ports of a bridge pass the rules for IP packets only with br_netfilter, which not all nodes have, and
which does not track connections of its own. So what enters by a host veth gets the MAC of the link with the gateway
addresses as its destination, and is routed: every connection of a pod passes `inet slash24_policy`. Pods notice only
that the TTL is one less.

What cannot be routed stays switched: broadcast and multicast, IPv6 from or to link-local addresses, neighbour
discovery (its hop limit must be 255), frames that the pod has tagged itself, other protocols. Of that an isolated pod
sends and receives only what makes addresses work: ARP, neighbour discovery, and announcements of multicast groups.

Each frame of a pod passes the chain `prerouting`, so there are few rules and lookups in it. A chain at the hook for
output would cost each routed packet as much again; there is none.
"""

from linux.nftables import uapi
from linux.nftables.cache import Chain, Rule, Table
from linux.nftables.expressions import (
    ACCEPT,
    CONCATENATION,
    DROP,
    ETH_P_ARP,
    RETURN,
    bitwise_and,
    cmp_eq,
    cmp_neq,
    cmp_range,
    goto,
    host32,
    icmpv6_type,
    iifgroup,
    iifname,
    in_network,
    ip_daddr,
    ip_saddr,
    l4proto_is,
    lookup,
    map_lookup,
    meta,
    oifgroup,
    oifname,
    payload,
    protocol,
    protocol_ip,
)
from linux.nftables.messages import Hook
from linux.nftables.statements import PACKET_HOST, ether_daddr_set, pkttype_set
from linux.ownership import GATEWAY_GROUP
from rules.policy import names

_ICMP, _IGMP, _ICMPV6 = 1, 2, 58
_MLD_LISTENER_QUERY, _ND_NEIGHBOR_ADVERT, _ND_REDIRECT, _MLD2_LISTENER_REPORT = 130, 136, 137, 143
_ICMP_REDIRECT = 5
_MULTICAST_BIT = bytes([1, 0, 0, 0, 0, 0])
_ETH_P_IPV4, _ETH_P_IPV6 = bytes.fromhex("0800"), bytes.fromhex("86dd")
_MULTICAST4 = bytes([224, 0, 0, 0])
_MULTICAST6, _LINK_LOCAL = bytes([255, *[0] * 15]), bytes([0xFE, 0x80, *[0] * 14])
_LL, _NH = uapi.NFT_PAYLOAD_LL_HEADER, uapi.NFT_PAYLOAD_NETWORK_HEADER

_ICMPV6_TYPE = (*protocol_ip(6), *l4proto_is(_ICMPV6), icmpv6_type())
_ICMP_TYPE = (*protocol_ip(4), *l4proto_is(_ICMP), icmpv6_type())  # the type is in the same place
_TYPE = (payload(_LL, 12, 2),)
_FROM_ROUTER = (iifgroup(), payload(_LL, 6, 6, CONCATENATION[1]), lookup(names.ROUTERS.name))
_TO_ROUTER = (iifgroup(), payload(_LL, 0, 6, CONCATENATION[1]), lookup(names.ROUTERS.name))
_TO_PODS = (oifgroup(), lookup(names.GROUPS.name))
_TO_THE_NODE = (iifgroup(), map_lookup(names.GATEWAYS.name), ether_daddr_set(), *pkttype_set(PACKET_HOST))

_NOT_IPV4 = (
    # ether type != ip6 return
    Rule("not IP", (*_TYPE, cmp_neq(_ETH_P_IPV6), RETURN)),
    # ip6 daddr fe80::/10 return
    Rule("to link-local", (*protocol_ip(6), ip_daddr(6), *in_network(_LINK_LOCAL, 10), RETURN)),
    # ip6 saddr fe80::/10 return
    Rule("from link-local", (*protocol_ip(6), ip_saddr(6), *in_network(_LINK_LOCAL, 10), RETURN)),
    # icmpv6 type 130-137 return
    Rule("neighbours", (*_ICMPV6_TYPE, cmp_range(bytes([_MLD_LISTENER_QUERY]), bytes([_ND_REDIRECT])), RETURN)),
    # ip6 daddr != ff00::/8 ether daddr set iifgroup map @gateways meta pkttype set host
    Rule("IPv6", (*protocol_ip(6), ip_daddr(6), *in_network(_MULTICAST6, 8, inverted=True), *_TO_THE_NODE)),
)

_PREROUTING = (
    # A pod that takes the gateway's MAC must not attract what others send there.
    # iifgroup . ether saddr @routers drop
    Rule("forged", (*_FROM_ROUTER, DROP)),
    # ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 return
    Rule("to many", (payload(_LL, 0, 6), bitwise_and(_MULTICAST_BIT), cmp_eq(_MULTICAST_BIT), RETURN)),
    # The type of a frame that the pod has tagged is that of the tag.
    # ether type != ip goto not_ipv4
    Rule("not IPv4", (*_TYPE, cmp_neq(_ETH_P_IPV4), goto(names.NOT_IPV4))),
    # Frames that are not from pods are not in the map.
    # ip daddr != 224.0.0.0/4 ether daddr set iifgroup map @gateways meta pkttype set host
    Rule("IPv4", (*protocol_ip(4), ip_daddr(4), *in_network(_MULTICAST4, 4, inverted=True), *_TO_THE_NODE)),
)

# Redirects would tell pods that they reach each other directly. Those of the node do not get here.
_REDIRECTS = (
    # icmp type redirect oifgroup @groups drop
    Rule("redirects IPv4", (*_ICMP_TYPE, cmp_eq(bytes([_ICMP_REDIRECT])), *_TO_PODS, DROP)),
    # icmpv6 type nd-redirect oifgroup @groups drop
    Rule("redirects IPv6", (*_ICMPV6_TYPE, cmp_eq(bytes([_ND_REDIRECT])), *_TO_PODS, DROP)),
)

_SWITCHED = (
    # What the chain prerouting has sent to the port of a VLAN's gateway, or br_netfilter to another port (a service).
    # meta pkttype host accept
    Rule("routed", (meta(uapi.NFT_META_PKTTYPE), cmp_eq(bytes([PACKET_HOST])), ACCEPT)),
    # What the node sends by the port of a VLAN's gateway.
    # iifgroup 620756992 accept
    Rule("from the node", (iifgroup(), cmp_eq(host32(GATEWAY_GROUP)), ACCEPT)),
    # meta protocol arp accept
    Rule("ARP", (*protocol(ETH_P_ARP), ACCEPT)),
    # icmpv6 type 130-136 accept
    Rule("neighbours", (*_ICMPV6_TYPE, cmp_range(bytes([_MLD_LISTENER_QUERY]), bytes([_ND_NEIGHBOR_ADVERT])), ACCEPT)),
    # icmpv6 type mld2-listener-report accept
    Rule("MLD", (*_ICMPV6_TYPE, cmp_eq(bytes([_MLD2_LISTENER_REPORT])), ACCEPT)),
    # ip protocol igmp accept
    Rule("IGMP", (*protocol_ip(4), payload(_NH, 9, 1), cmp_eq(bytes([_IGMP])), ACCEPT)),
    # drop
    Rule("others", (DROP,)),
)

BRIDGE = Table(
    names.BRIDGE_TABLE,
    "slash24: the node routes between pods with network policies",
    names.BASE_SETS[names.BRIDGE_TABLE],
    (
        Chain(names.SWITCHED, _SWITCHED),
        Chain(names.NOT_IPV4, _NOT_IPV4),
        Chain(
            names.PREROUTING,
            _PREROUTING,
            # After source validation.
            # type filter hook prerouting priority dstnat + 1
            Hook("filter", uapi.NF_BR_PRE_ROUTING, uapi.NF_BR_PRI_NAT_DST_BRIDGED + 1),
        ),
        Chain(
            names.FORWARD,
            (
                *_REDIRECTS,
                # What should be routed, but the gateway's MAC is not where it should be.
                # oifgroup != 620756992 iifgroup . ether daddr @routers drop
                Rule("astray", (oifgroup(), cmp_neq(host32(GATEWAY_GROUP)), *_TO_ROUTER, DROP)),
                # oifname @receivers goto switched
                Rule("receivers", (oifname(), lookup(names.RECEIVERS.name), goto(names.SWITCHED))),
                # iifname @senders goto switched
                Rule("senders", (iifname(), lookup(names.SENDERS.name), goto(names.SWITCHED))),
            ),
            Hook(
                "filter", uapi.NF_BR_FORWARD, uapi.NF_BR_PRI_FILTER_BRIDGED
            ),  # type filter hook forward priority filter
        ),
    ),
)

"""Source validation (table `bridge slash24_source_validation`): a pod sends only from its own IP addresses.

Dropped are packets that enter by a pod's host veth with another IPv4 or IPv6 source address, ARP packets that claim
another address, and router advertisements. Unspecified source addresses are accepted (duplicate address detection,
RFC 5227 and RFC 4862), and link-local IPv6 ones, which no router forwards. So are frames with more than one VLAN tag
dropped: the kernel strips any number of tags of VLAN 0, and would find a packet under them that nobody has looked at.

What the node sends to a pod must be for an address of the pod: a pod could take the MAC of another, or announce its own
MAC for the other's address, and get what is meant for that one; and the bridge floods frames to MACs that it does not
know. Elements of sets are the links that are bound, and the addresses that they are bound to; the rules are the same
for all pods.

The target of a neighbour advertisement is not checked: nft before 1.0.9 has no expression for it and could not load a
saved ruleset with such a rule.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from socket import IPPROTO_ICMPV6, IPPROTO_TCP

from linux.nftables import listing, messages, pod_table, uapi
from linux.nftables.expressions import (
    DROP,
    ETH_P_ARP,
    IFNAMSIZ,
    RETURN,
    arp_saddr_ip,
    bitwise_and,
    cmp_eq,
    goto,
    host32,
    icmpv6_type,
    ifname,
    iifgroup,
    iifname,
    in_network,
    ip_daddr,
    ip_saddr,
    l4proto_is,
    lookup,
    oifname,
    payload,
    protocol,
    protocol_ip,
)
from linux.nftables.messages import IFNAME, IPV4_ADDR, IPV6_ADDR, Element, Hook, Set, TableName
from linux.nftables.pod_table import Chain, Rule, Table
from linux.ownership import GATEWAY_GROUP, owner_tag
from spec.addresses import Address, parse_address
from spec.attachment import Attachment

_BOUND = Set("bound", (IFNAME,))
_SOURCES = {
    4: Set("sources4", (IFNAME, IPV4_ADDR)),
    6: Set("sources6", (IFNAME, IPV6_ADDR)),
}
_LINK_LOCAL, _LINK_LOCAL_BITS = bytes([0xFE, 0x80, *[0] * 14]), 10
_ND_ROUTER_ADVERT = 134
_UNSPECIFIED = ("0.0.0.0", "::")
_ETH_P_8021Q, _ETH_P_8021AD = 0x8100, 0x88A8
_MULTICAST_BIT = bytes([1, 0, 0, 0, 0, 0])
_TO_MANY4, _TO_MANY6 = bytes([224, 0, 0, 0]), bytes([0xFF, *[0] * 15])  # with 255.255.255.255

_TCP_V6 = (*protocol_ip(6), *l4proto_is(IPPROTO_TCP))
_ICMPV6 = (*protocol_ip(6), *l4proto_is(IPPROTO_ICMPV6))


def _link_and_source(version: int) -> tuple[bytes, bytes]:
    """iifname . ip saddr"""
    return iifname(), ip_saddr(version, uapi.NFT_REG_2)


def _link_and_target(version: int) -> tuple[bytes, ...]:
    """oifname . ip daddr"""
    return *protocol_ip(version), oifname(), ip_daddr(version, uapi.NFT_REG_2)


_DELIVERY = (
    # oifname . ip daddr @sources4 return
    Rule("own IPv4", (*_link_and_target(4), lookup("sources4"), RETURN)),
    # oifname . ip6 daddr @sources6 return
    Rule("own IPv6", (*_link_and_target(6), lookup("sources6"), RETURN)),
    # oifname != @bound return
    Rule("not bound", (oifname(), lookup("bound", inverted=True), RETURN)),
    # ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 return
    Rule(
        "to many",
        (payload(uapi.NFT_PAYLOAD_LL_HEADER, 0, 6), bitwise_and(_MULTICAST_BIT), cmp_eq(_MULTICAST_BIT), RETURN),
    ),
    # ip daddr != 224.0.0.0/3 drop
    Rule("IPv4", (*protocol_ip(4), ip_daddr(4), *in_network(_TO_MANY4, 3, inverted=True), DROP)),
    # ip6 daddr ff00::/8 return
    Rule("groups", (*protocol_ip(6), ip_daddr(6), *in_network(_TO_MANY6, 8), RETURN)),
    # ip6 daddr != fe80::/10 drop
    Rule("IPv6", (*protocol_ip(6), ip_daddr(6), *in_network(_LINK_LOCAL, _LINK_LOCAL_BITS, inverted=True), DROP)),
)

TABLE = Table(
    TableName(messages.BRIDGE, "slash24_source_validation"),
    "slash24: what comes from a pod has an address of the pod",
    (_BOUND, *_SOURCES.values()),
    (
        Chain(
            "prerouting",
            (
                # First what nearly all frames are, for one lookup.
                # iifname . ip saddr @sources4 return
                Rule("own IPv4", (*protocol_ip(4), *_link_and_source(4), lookup("sources4"), RETURN)),
                # meta l4proto tcp iifname . ip6 saddr @sources6 return
                Rule("own TCP over IPv6", (*_TCP_V6, *_link_and_source(6), lookup("sources6"), RETURN)),
                # iifname != @bound return
                Rule("not bound", (iifname(), lookup("bound", inverted=True), RETURN)),
                # The first tag is not in the frame any more.
                # meta protocol 8021q drop
                Rule("tagged twice", (*protocol(_ETH_P_8021Q), DROP)),
                # meta protocol 8021ad drop
                Rule("tagged twice", (*protocol(_ETH_P_8021AD), DROP)),
                # meta protocol ip drop
                Rule("IPv4", (*protocol_ip(4), DROP)),
                # iifname . arp saddr ip != @sources4 drop
                Rule(
                    "ARP",
                    (
                        *protocol(ETH_P_ARP),
                        iifname(),
                        arp_saddr_ip(uapi.NFT_REG_2),
                        lookup("sources4", inverted=True),
                        DROP,
                    ),
                ),
                # ip6 saddr != fe80::/10 iifname . ip6 saddr != @sources6 drop
                Rule(
                    "IPv6",
                    (
                        *protocol_ip(6),
                        ip_saddr(6),
                        *in_network(_LINK_LOCAL, _LINK_LOCAL_BITS, inverted=True),
                        *_link_and_source(6),
                        lookup("sources6", inverted=True),
                        DROP,
                    ),
                ),
                # icmpv6 type nd-router-advert drop
                Rule("routers", (*_ICMPV6, icmpv6_type(), cmp_eq(bytes([_ND_ROUTER_ADVERT])), DROP)),
            ),
            # type filter hook prerouting priority dstnat
            Hook("filter", uapi.NF_BR_PRE_ROUTING, uapi.NF_BR_PRI_NAT_DST_BRIDGED),
        ),
        Chain("delivery", _DELIVERY),
        Chain(
            "forward",
            # What the node sends by the port of a VLAN's gateway.
            # iifgroup 620756992 goto delivery
            (Rule("from the node", (iifgroup(), cmp_eq(host32(GATEWAY_GROUP)), goto("delivery"))),),
            # type filter hook forward priority filter
            Hook("filter", uapi.NF_BR_FORWARD, uapi.NF_BR_PRI_FILTER_BRIDGED),
        ),
        Chain(
            "output",
            # goto delivery
            (Rule("from the node", (goto("delivery"),)),),
            # type filter hook output priority filter
            Hook("filter", uapi.NF_BR_LOCAL_OUT, uapi.NF_BR_PRI_FILTER_BRIDGED),
        ),
    ),
    subject=lambda element: element.key[:IFNAMSIZ],  # the link
)

_KEY_AT = 12
"""Where the kernel puts the key into an element that it lists: it is the first attribute."""
_CHAINS = tuple(messages.of_chain(TABLE.name, chain.name) for chain in TABLE.chains)
_RULES = [(chain.name, rule.comment) for chain in TABLE.chains for rule in chain.rules]


def ensure(owner: Attachment, host_link: str, addresses: Sequence[str]) -> None:
    """Accept packets that enter by `host_link` only if they come from `addresses` ("10.1.2.5/24", "10.1.2.5").

    All other elements of this link and of `owner` are deleted. Raises NetlinkError, ValueError for an invalid address.
    """
    pod_table.change(lambda transaction: ensure_in(transaction, owner, host_link, addresses))


def ensure_in(transaction: pod_table.Transaction, owner: Attachment, host_link: str, addresses: Sequence[str]) -> None:
    """The same, as part of a transaction.

    For a link that nobody has bound, the elements of other pods are not read: there may be many, and the daemon changes
    the ruleset all the time.
    """
    tag, name = owner_tag(owner), ifname(host_link)
    if not transaction.is_cached(TABLE.name) and _is_new(transaction, name):
        transaction.exchange(TABLE, (), _elements(tag, host_link, addresses))
        return
    pod_table.put_into(
        transaction,
        TABLE,
        (),
        _elements(tag, host_link, addresses),
        is_stale=lambda element: element.owner == tag or element.key.startswith(name),
        terms={tag.encode(), name},
    )


def keep(links: Mapping[str, tuple[str, Sequence[str]]]) -> None:
    """Bind again what others have taken away. `links`: by the owner's tag, host veth and addresses as for `ensure`.

    What there is besides stays. Raises as `ensure`.
    """

    def decide(transaction: pod_table.Transaction) -> None:
        if _is_right(transaction) and _are_bound(transaction, links.values()):
            return
        there = {(one.set, one.key) for one in transaction.cache(TABLE).everything()}
        wanted = (one for tag, (link, addresses) in links.items() for one in _elements(tag, link, addresses))
        transaction.repair(TABLE, TABLE.chains)
        transaction.keep(TABLE, TABLE.chains)
        transaction.exchange(TABLE, (), [one for one in wanted if (one.set, one.key) not in there])

    if links:
        pod_table.change(decide)


def delete(owner: Attachment) -> None:
    """Bind nothing for `owner` any more; nothing to do is success. Raises NetlinkError."""
    delete_tagged(owner_tag(owner))


def delete_tagged(tag: str) -> None:
    """The same, for the tag of an owner."""
    pod_table.remove(TABLE, lambda element: element.owner == tag, terms={tag.encode()})


def problems(owner: Attachment, host_link: str, addresses: Sequence[str]) -> list[str]:
    """What differs from the result of `ensure`, a sentence each; [] if all is well. Raises as `ensure`."""
    tag, name = owner_tag(owner), ifname(host_link)
    state = pod_table.inspect(TABLE, (), {name})
    wanted = {(element.set, element.key) for element in _elements(tag, host_link, addresses)}
    owners = {(one.set, one.key): one.owner for one in state.elements if one.key.startswith(name)}
    lacking = sorted({place[0] for place in wanted - owners.keys()})
    surplus = sorted({place[0] for place in owners.keys() - wanted})
    others = sorted({other for place, other in owners.items() if place in wanted and other != tag})
    where = f"of table {TABLE.name}"
    return [
        *pod_table.drift(TABLE, state.drifted),
        *(f"link {host_link} is not bound to the pod's addresses: set {s} {where}; recreate the pod" for s in lacking),
        *(f"link {host_link} may send from other addresses: set {s} {where}; recreate the pod" for s in surplus),
        *(f"link {host_link} is bound for {other or 'another program'}, not for {tag}" for other in others),
    ]


def sweep(network: str, valid: Collection[Attachment]) -> int:
    """Bind nothing for attachments to `network` that are not `valid`; returns how many. Raises NetlinkError."""
    return pod_table.sweep(TABLE, network, valid)


def _is_new(transaction: pod_table.Transaction, name: bytes) -> bool:
    """Whether the table holds its rules and has nothing of the link: what it has is added and deleted together."""
    return not listing.find_element(transaction.netlink, TABLE.name, _BOUND.name, name) and _is_right(transaction)


def _is_right(transaction: pod_table.Transaction) -> bool:
    """Whether the table holds its rules."""

    def look() -> bool:
        found = listing.list_rules(transaction.netlink, TABLE.name)
        return [(one.chain, one.comment) for one in found] == _RULES

    return transaction.is_still_right((TABLE.name,), _CHAINS, look)


def _are_bound(transaction: pod_table.Transaction, links: Iterable[tuple[str, Sequence[str]]]) -> bool:
    """Whether these links are bound to these addresses; if in doubt, not. Nothing is decoded: there may be many."""
    there: dict[str, set[bytes]] = {}
    for each in TABLE.sets:
        key = slice(_KEY_AT, _KEY_AT + messages.type_size(each.key))
        found = listing.list_elements(transaction.netlink, TABLE.name, each.name)
        there[each.name] = {one[key] for one in found or ()}
    return all(key in there[name] for link, addresses in links for name, key in _places(link, tuple(addresses)))


@lru_cache(1024)
def _places(host_link: str, addresses: tuple[str, ...]) -> tuple[tuple[str, bytes], ...]:
    """The sets and keys of a pod's elements."""
    return tuple((one.set, one.key) for one in _elements("", host_link, addresses))


def _elements(tag: str, host_link: str, addresses: Iterable[str]) -> list[Element]:
    """The elements of a pod."""
    sources = {parse_address(address).packed: parse_address(address) for address in (*addresses, *_UNSPECIFIED)}
    return [
        # "veth0" comment "v1:..."
        Element(_BOUND.name, ifname(host_link), tag),
        # "veth0" . 10.1.2.5 comment "v1:..."
        *(Element(_SOURCES[one.version].name, _key(host_link, one), tag) for one in sources.values()),
    ]


def _key(host_link: str, address: Address) -> bytes:
    return ifname(host_link) + address.packed

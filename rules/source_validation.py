"""Source address validation: a pod sends from its own IP addresses, or not at all.

What enters from a pod's link with another IPv4 or IPv6 source is dropped, as are ARP packets that claim another
address, and router advertisements. Unspecified addresses pass (duplicate address detection, RFC 5227 and RFC 4862), and
link-local IPv6 sources, which no router forwards. Which links are bound, and to which addresses, are elements of sets;
the rules are the same for all pods.

The target of a neighbour advertisement is not looked at: releases of nft before 1.0.9 have no word for it, and could
not load a saved ruleset with such a rule.
"""

from collections.abc import Collection, Iterable, Sequence
from socket import IPPROTO_ICMPV6, IPPROTO_TCP

from linux.nftables import messages, pod_table, uapi
from linux.nftables.expressions import (
    DROP,
    ETH_P_ARP,
    IFNAMSIZ,
    RETURN,
    arp_saddr_ip,
    cmp_eq,
    icmpv6_type,
    ifname,
    iifname,
    in_network,
    ip_saddr,
    l4proto_is,
    lookup,
    protocol,
    protocol_ip,
)
from linux.nftables.messages import IFNAME, IPV4_ADDR, IPV6_ADDR, Element, Hook, Set, TableName
from linux.nftables.pod_table import Chain, Rule, Table
from linux.ownership import forfeited, owner_tag
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

_TCP_V6 = (*protocol_ip(6), *l4proto_is(IPPROTO_TCP))
_ICMPV6 = (*protocol_ip(6), *l4proto_is(IPPROTO_ICMPV6))


def _link_and_source(version: int) -> tuple[bytes, bytes]:
    """iifname . ip saddr"""
    return iifname(), ip_saddr(version, uapi.NFT_REG_2)


_TABLE = Table(
    TableName(messages.BRIDGE, "slash24_source_validation"),
    "slash24: what comes from a pod has an address of the pod",
    (_BOUND, *_SOURCES.values()),
    (
        Chain(
            "prerouting",
            (
                # First what nearly all frames are, for one look-up: iifname . ip saddr @sources4 return
                Rule("own IPv4", (*protocol_ip(4), *_link_and_source(4), lookup("sources4"), RETURN)),
                # meta l4proto tcp iifname . ip6 saddr @sources6 return
                Rule("own TCP over IPv6", (*_TCP_V6, *_link_and_source(6), lookup("sources6"), RETURN)),
                # iifname != @bound return
                Rule("not bound", (iifname(), lookup("bound", inverted=True), RETURN)),
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
    ),
    subject=lambda element: element.key[:IFNAMSIZ],  # the link
)


def ensure(owner: Attachment, host_link: str, addresses: Sequence[str]) -> None:
    """Let packets that enter by `host_link` pass only if they come from `addresses` ("10.1.2.5/24", "10.1.2.5").

    Whatever else was known of this link, or of `owner`, is forgotten. Raises NetlinkError, ValueError for
    what is no address.
    """
    tag, name = owner_tag(owner), ifname(host_link)
    pod_table.put(
        _TABLE,
        (),
        _elements(tag, host_link, addresses),
        is_stale=lambda found: found.owner == tag or found.key.startswith(name),
        terms={tag.encode(), name},
    )


def delete(owner: Attachment) -> None:
    """Bind nothing for `owner` any more; nothing to do is success. Raises NetlinkError."""
    tag = owner_tag(owner)
    pod_table.remove(_TABLE, lambda found: found.owner == tag, terms={tag.encode()})


def missing(owner: Attachment, host_link: str, addresses: Sequence[str]) -> list[str]:
    """What of the work of `ensure` is not there, a sentence each; empty if all is well. Raises as `ensure`."""
    tag, name = owner_tag(owner), ifname(host_link)
    state = pod_table.inspect(_TABLE, (), {name})
    problems = [f"chain {chain.name} of table {_TABLE.name} does not hold its rules" for chain in state.drifted]
    wanted = {(element.set, element.key) for element in _elements(tag, host_link, addresses)}
    of_link = {(found.set, found.key): found.owner for found in state.elements if found.key.startswith(name)}
    lacking = sorted({place[0] for place in wanted - of_link.keys()})
    problems += [f"link {host_link} is not bound to the pod's addresses: set {s} of {_TABLE.name}" for s in lacking]
    surplus = sorted({place[0] for place in of_link.keys() - wanted})
    problems += [f"link {host_link} may send from other addresses: set {s} of {_TABLE.name}" for s in surplus]
    foreign = sorted({found for place, found in of_link.items() if place in wanted and found != tag})
    return problems + [f"link {host_link} is bound for {other or 'nobody'}, not for {tag}" for other in foreign]


def sweep(network: str, valid: Collection[Attachment]) -> int:
    """Bind nothing for attachments to `network` that are not `valid`; returns how many that were.

    Raises NetlinkError.
    """
    is_forfeit = forfeited(network, valid)
    return len({found.owner for found in pod_table.remove(_TABLE, lambda found: is_forfeit(found.owner))})


def _elements(tag: str, host_link: str, addresses: Iterable[str]) -> list[Element]:
    """The elements `"veth0" comment "v1:..."` and, an address each, `"veth0" . 10.1.2.5 comment "v1:..."`."""
    sources = {parse_address(address).packed: parse_address(address) for address in (*addresses, *_UNSPECIFIED)}
    return [
        Element(_BOUND.name, ifname(host_link), tag),
        *(Element(_SOURCES[one.version].name, _key(host_link, one), tag) for one in sources.values()),
    ]


def _key(host_link: str, address: Address) -> bytes:
    return ifname(host_link) + address.packed

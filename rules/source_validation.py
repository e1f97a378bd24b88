"""Source address validation: a pod sends from its own IP addresses, or not at all.

What enters from a pod's link with another IPv4 or IPv6 source is dropped, as are ARP packets that claim another
address, and router advertisements. Unspecified addresses pass (duplicate address detection, RFC 5227 and RFC 4862), and
link-local IPv6 sources, which no router forwards. Which links are bound, and to which addresses, are elements of sets;
the rules are the same for all pods.

The target of a neighbour advertisement is not looked at: releases of nft before 1.0.9 have no word for it, and could
not load a saved ruleset with such a rule.
"""

from collections.abc import Collection, Iterable, Sequence
from socket import IPPROTO_TCP

from linux.nftables import messages, pod_table
from linux.nftables.expressions import (
    DROP,
    RETURN,
    arp,
    frame_of_version,
    icmpv6_of_type,
    in_set,
    incoming_link,
    link_and_arp_sender,
    link_and_source,
    of_protocol,
    source_outside,
    verdict,
)
from linux.nftables.messages import Element, Hook, Set, TableName
from linux.nftables.pod_table import Chain, Rule, Table
from linux.ownership import forfeited, owner_tag
from spec.addresses import Address, parse_address
from spec.attachment import Attachment

_NAME_BYTES = 16  # IFNAMSIZ
_IFNAME, _IPV4_ADDR, _IPV6_ADDR = 41, 7, 8  # nft's numbers of these types; a concatenation has 6 bits for each
_BOUND = Set("bound", key_type=_IFNAME, key_bytes=_NAME_BYTES, byte_order=1)
_SOURCES = {
    4: Set("sources4", key_type=_IFNAME << 6 | _IPV4_ADDR, key_bytes=_NAME_BYTES + 4, byte_order=0),
    6: Set("sources6", key_type=_IFNAME << 6 | _IPV6_ADDR, key_bytes=_NAME_BYTES + 16, byte_order=0),
}
_LINK_LOCAL, _LINK_LOCAL_BITS = bytes([0xFE, 0x80, *[0] * 14]), 10
_ROUTER_ADVERTISEMENT = 134
_UNSPECIFIED = ("0.0.0.0", "::")

_TCP_V6 = (*frame_of_version(6), *of_protocol(IPPROTO_TCP))

_TABLE = Table(
    TableName(messages.BRIDGE, "slash24_source_validation"),
    "slash24: what comes from a pod has an address of the pod",
    (_BOUND, *_SOURCES.values()),
    (
        Chain(
            "prerouting",
            (
                # First what nearly all frames are, for one look-up: iifname . ip saddr @sources4 return
                Rule("own IPv4", (*frame_of_version(4), *link_and_source(4), in_set("sources4"), verdict(RETURN))),
                # meta l4proto tcp iifname . ip6 saddr @sources6 return
                Rule("own TCP over IPv6", (*_TCP_V6, *link_and_source(6), in_set("sources6"), verdict(RETURN))),
                # iifname != @bound return
                Rule("not bound", (incoming_link(), in_set("bound", inverted=True), verdict(RETURN))),
                # meta protocol ip drop
                Rule("IPv4", (*frame_of_version(4), verdict(DROP))),
                # iifname . arp saddr ip != @sources4 drop
                Rule("ARP", (*arp(), *link_and_arp_sender(), in_set("sources4", inverted=True), verdict(DROP))),
                # ip6 saddr != fe80::/10 iifname . ip6 saddr != @sources6 drop
                Rule(
                    "IPv6",
                    (
                        *frame_of_version(6),
                        *source_outside(6, _LINK_LOCAL, _LINK_LOCAL_BITS),
                        *link_and_source(6),
                        in_set("sources6", inverted=True),
                        verdict(DROP),
                    ),
                ),
                # icmpv6 type nd-router-advert drop
                Rule("routers", (*icmpv6_of_type(_ROUTER_ADVERTISEMENT), verdict(DROP))),
            ),
            Hook("filter", 0, -300),  # type filter hook prerouting priority dstnat
        ),
    ),
    subject=lambda element: element.key[:_NAME_BYTES],  # the link
)


def ensure(owner: Attachment, host_link: str, addresses: Sequence[str]) -> None:
    """Let packets that enter by `host_link` pass only if they come from `addresses` ("10.1.2.5/24", "10.1.2.5").

    Whatever else was known of this link, or of `owner`, is forgotten. Raises NetlinkError, OSError or ValueError for
    what is no address.
    """
    tag, name = owner_tag(owner), _name(host_link)
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
    tag, name = owner_tag(owner), _name(host_link)
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
        Element(_BOUND.name, _name(host_link), tag),
        *(Element(_SOURCES[one.version].name, _key(host_link, one), tag) for one in sources.values()),
    ]


def _key(host_link: str, address: Address) -> bytes:
    return _name(host_link) + address.packed


def _name(link: str) -> bytes:
    return link.encode().ljust(_NAME_BYTES, b"\0")

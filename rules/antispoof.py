"""Anti-spoofing (table `bridge slash24_antispoof`): frames from a pod with a source MAC not its own are dropped.

This holds for frames of any kind, also ARP, before anything else on the bridge sees them. Elements of two sets are the
host veths that are filtered and the MAC that each may use; there is one rule for all.
"""

from collections.abc import Collection

from linux.nftables import messages, pod_table, uapi
from linux.nftables.expressions import DROP, IFNAMSIZ, ether_saddr, ifname, iifname, lookup
from linux.nftables.messages import ETHER_ADDR, IFNAME, Element, Hook, Set, TableName
from linux.nftables.pod_table import Chain, Rule, Table
from linux.ownership import owner_tag
from linux.rtnl.links import pack_mac
from spec.attachment import Attachment

_LINKS = Set("links", (IFNAME,))
_ALLOWED = Set("allowed", (IFNAME, ETHER_ADDR))

TABLE = Table(
    TableName(messages.BRIDGE, "slash24_antispoof"),
    "slash24: frames from a pod carry the MAC of the pod",
    (_LINKS, _ALLOWED),
    (
        Chain(
            "prerouting",
            (
                # iifname @links iifname . ether saddr != @allowed drop
                Rule(
                    "spoofed",
                    (
                        iifname(),
                        lookup("links"),
                        iifname(),
                        ether_saddr(uapi.NFT_REG_2),
                        lookup("allowed", inverted=True),
                        DROP,
                    ),
                ),
            ),
            # type filter hook prerouting priority dstnat
            Hook("filter", uapi.NF_BR_PRE_ROUTING, uapi.NF_BR_PRI_NAT_DST_BRIDGED),
        ),
    ),
    subject=lambda element: element.key[:IFNAMSIZ],  # the link
)


def ensure(owner: Attachment, host_link: str, mac: str) -> None:
    """Accept frames that enter by `host_link` only if they come from `mac` ("02:00:00:00:00:01").

    All other elements of this link and of `owner` are deleted. Raises NetlinkError.
    """
    tag, name = owner_tag(owner), ifname(host_link)
    pod_table.put(
        TABLE,
        (),
        _elements(tag, host_link, mac),
        is_stale=lambda element: element.owner == tag or element.key.startswith(name),
        terms={tag.encode(), name},
    )


def delete(owner: Attachment) -> None:
    """Filter nothing for `owner` any more; nothing to do is success. Raises NetlinkError."""
    tag = owner_tag(owner)
    pod_table.remove(TABLE, lambda element: element.owner == tag, terms={tag.encode()})


def problems(owner: Attachment, host_link: str, mac: str) -> list[str]:
    """What differs from the result of `ensure`, a sentence each; [] if all is well. Raises NetlinkError."""
    tag, name = owner_tag(owner), ifname(host_link)
    state = pod_table.inspect(TABLE, (), {name})
    sentences = pod_table.drift(TABLE, state.drifted)
    of_link = {(element.set, element.key): element for element in state.elements if element.key.startswith(name)}
    for element in _elements(tag, host_link, mac):
        other, where = of_link.get((element.set, element.key)), f"set {element.set} of table {TABLE.name}"
        if not other:
            what = "is not filtered" if element.set == _LINKS.name else f"may not use its MAC {mac}"
            sentences.append(f"link {host_link} {what}: {where} has no element for it; recreate the pod")
        elif other.owner != tag:
            sentences.append(f"link {host_link} belongs to {other.owner or 'another program'} in {where}, not to {tag}")
    others = {key for each, key in of_link if each == _ALLOWED.name} - {_allowed_key(host_link, mac)}
    macs = ", ".join(key[IFNAMSIZ : IFNAMSIZ + 6].hex(":") for key in sorted(others))
    if macs:
        sentences.append(f"link {host_link} may use {macs} beside {mac}: set {_ALLOWED.name} of table {TABLE.name}")
    return sentences


def sweep(network: str, valid: Collection[Attachment]) -> int:
    """Filter nothing for attachments to `network` that are not `valid`; returns how many. Raises NetlinkError."""
    return pod_table.sweep(TABLE, network, valid)


def _elements(tag: str, host_link: str, mac: str) -> list[Element]:
    """The elements of a pod."""
    return [
        # "veth0" comment "v1:..."
        Element(_LINKS.name, ifname(host_link), tag),
        # "veth0" . 02:00:00:00:00:01 comment "v1:..."
        Element(_ALLOWED.name, _allowed_key(host_link, mac), tag),
    ]


def _allowed_key(host_link: str, mac: str) -> bytes:
    return ifname(host_link) + pack_mac(mac) + bytes(2)

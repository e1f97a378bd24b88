"""Anti-spoofing: a frame that enters from a pod's link with another source MAC than the pod's is dropped.

Any kind of frame, ARP among them, before anything else on the bridge sees it. Which links are watched and which MAC
each may use are elements of two sets; the rule is one for all.
"""

from collections.abc import Collection

from linux.nftables import messages, pod_table, uapi
from linux.nftables.expressions import DROP, IFNAMSIZ, ether_saddr, ifname, iifname, lookup
from linux.nftables.messages import ETHER_ADDR, IFNAME, Element, Hook, Set, TableName
from linux.nftables.pod_table import Chain, Rule, Table
from linux.ownership import forfeited, owner_tag
from spec.attachment import Attachment

_LINKS = Set("links", (IFNAME,))
_ALLOWED = Set("allowed", (IFNAME, ETHER_ADDR))

_TABLE = Table(
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
    """Let frames that enter by `host_link` pass only if they come from `mac` ("02:00:00:00:00:01").

    Whatever else was known of this link, or of `owner`, is forgotten. Raises NetlinkError.
    """
    tag, name = owner_tag(owner), ifname(host_link)
    pod_table.put(
        _TABLE,
        (),
        _elements(tag, host_link, mac),
        is_stale=lambda found: found.owner == tag or found.key.startswith(name),
        terms={tag.encode(), name},
    )


def delete(owner: Attachment) -> None:
    """Watch nothing for `owner` any more; nothing to do is success. Raises NetlinkError."""
    tag = owner_tag(owner)
    pod_table.remove(_TABLE, lambda found: found.owner == tag, terms={tag.encode()})


def missing(owner: Attachment, host_link: str, mac: str) -> list[str]:
    """What of the work of `ensure` is not there, a sentence each; empty if all is well. Raises NetlinkError."""
    tag, name = owner_tag(owner), ifname(host_link)
    state = pod_table.inspect(_TABLE, (), {name})
    problems = [f"chain {chain.name} of table {_TABLE.name} does not hold its rules" for chain in state.drifted]
    of_link = [found for found in state.elements if found.key.startswith(name)]
    for element in _elements(tag, host_link, mac):
        found = next((other for other in of_link if (other.set, other.key) == (element.set, element.key)), None)
        if not found:
            what = "is not watched" if element.set == _LINKS.name else f"does not let {mac} pass"
            problems.append(f"link {host_link} {what}: no element in set {element.set} of {_TABLE.name}")
        elif found.owner != tag:
            problems.append(f"link {host_link} is in set {element.set} for {found.owner or 'nobody'}, not for {tag}")
    problems += [
        f"link {host_link} lets {found.key[IFNAMSIZ : IFNAMSIZ + 6].hex(':')} pass, not only {mac}"
        for found in of_link
        if found.set == _ALLOWED.name and found.key != _allowed_key(host_link, mac)
    ]
    return problems


def sweep(network: str, valid: Collection[Attachment]) -> int:
    """Watch nothing for attachments to `network` that are not `valid`; returns how many that were.

    Raises NetlinkError.
    """
    is_forfeit = forfeited(network, valid)
    return len({found.owner for found in pod_table.remove(_TABLE, lambda found: is_forfeit(found.owner))})


def _elements(tag: str, host_link: str, mac: str) -> list[Element]:
    """The elements `"veth0" comment "v1:..."` and `"veth0" . 02:00:00:00:00:01 comment "v1:..."`."""
    return [
        Element(_LINKS.name, ifname(host_link), tag),
        Element(_ALLOWED.name, _allowed_key(host_link, mac), tag),
    ]


def _allowed_key(host_link: str, mac: str) -> bytes:
    return ifname(host_link) + bytes.fromhex(mac.replace(":", "")) + bytes(2)

"""The table of forwarding: who owns which pod's address, and which bridges must not reach which pods."""

from collections.abc import Sequence

from linux.nftables import messages, uapi
from linux.nftables.expressions import (
    DROP,
    IFNAMSIZ,
    RETURN,
    ifname,
    iifname,
    ip_daddr,
    jump,
    lookup,
    nfproto,
    oifname,
    vmap,
)
from linux.nftables.messages import IFNAME, IP_ADDR, VERDICT, Element, Hook, Set, TableName
from linux.nftables.pod_table import Chain, Rule, Table

SHARED = "shared"
"""What elements have in an owner's place that several pods need: they go with the last of them."""

PODS = {v: Set(f"pods{v}", (IP_ADDR[v],)) for v in (4, 6)}
POLICED = {v: Set(f"policed{v}", (IFNAME, IP_ADDR[v]), (VERDICT,)) for v in (4, 6)}
_BRIDGES = Set("bridges", (IFNAME,))
_SAME = Set("same", (IFNAME, IFNAME))

# iifname @bridges drop
_FROM_BRIDGES = Rule("from a bridge", (iifname(), lookup("bridges"), DROP))


def _link_and_destination(version: int) -> tuple[bytes, ...]:
    """oifname . ip daddr"""
    return (*nfproto(version), oifname(), ip_daddr(version, uapi.NFT_REG_2))


def is_policed(element: Element) -> bool:
    """Whether it is a pod's to which a policy applies."""
    return element.set in {policed.name for policed in POLICED.values()}


def address_of(element: Element) -> bytes:
    """The pod's address that an element is about; b"" for that of a bridge."""
    if is_policed(element):
        return element.key[IFNAMSIZ:]
    return element.key if element.set in {pods.name for pods in PODS.values()} else b""


TABLE = Table(
    TableName(messages.INET, "slash24_firewall"),
    "slash24: who may reach pods",
    (*PODS.values(), *POLICED.values(), _BRIDGES, _SAME),
    (
        Chain("isolated", (_FROM_BRIDGES,)),
        Chain(
            "same-bridge",
            (
                # iifname . oifname @same return
                Rule("within a bridge", (iifname(), oifname(uapi.NFT_REG_2), lookup("same"), RETURN)),
                _FROM_BRIDGES,
            ),
        ),
        Chain(
            "forward",
            (
                # jump admin
                Rule("of the administrator", (jump("admin"),)),
                # oifname . ip daddr vmap @policed4
                Rule("pods v4", (*_link_and_destination(4), vmap("policed4"))),
                # oifname . ip6 daddr vmap @policed6
                Rule("pods v6", (*_link_and_destination(6), vmap("policed6"))),
            ),
            Hook("filter", uapi.NF_INET_FORWARD, uapi.NF_IP_PRI_FILTER),  # type filter hook forward priority filter
        ),
    ),
    subject=address_of,
)
"""Beside these there is the chain "admin": empty when it is made, and never touched again."""


def pod_elements(tag: str, addresses: Sequence[bytes], policy: str, bridge: str) -> list[Element]:
    """What stands for a pod: its addresses, and where `policy` is not "open", the one that applies to each."""
    elements = []
    for address in addresses:
        version = 4 if len(address) == 4 else 6
        elements.append(Element(PODS[version].name, address, tag))
        if policy != "open":
            elements.append(Element(POLICED[version].name, ifname(bridge) + address, tag, chain=policy))
    return elements


def bridge_elements(name: bytes) -> list[Element]:
    """What stands for a bridge (its name padded, as in a key) behind which there are policed pods."""
    return [Element(_BRIDGES.name, name, SHARED), Element(_SAME.name, name + name, SHARED)]


def bridge_of(element: Element) -> bytes:
    """The bridge that an element of a policed pod, or of a bridge, is about."""
    return element.key[:IFNAMSIZ]

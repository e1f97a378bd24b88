"""The table of forwarding: who owns which pod's address, and which bridges must not reach which pods."""

from collections.abc import Sequence

from linux.nftables import messages
from linux.nftables.expressions import (
    DROP,
    JUMP,
    RETURN,
    destination_behind_link,
    in_set,
    incoming_link,
    links_in_and_out,
    verdict,
    verdict_of,
)
from linux.nftables.messages import Element, Hook, Set, TableName
from linux.nftables.pod_table import Chain, Rule, Table

_IFNAME, _ADDRESS = 41, {4: 7, 6: 8}  # nft's numbers of these types; a concatenation has 6 bits for each
_NAME_BYTES, _ADDRESS_BYTES = 16, {4: 4, 6: 16}  # IFNAMSIZ
SHARED = "shared"
"""What elements have in an owner's place that several pods need: they go with the last of them."""

PODS = {v: Set(f"pods{v}", _ADDRESS[v], _ADDRESS_BYTES[v], byte_order=2) for v in (4, 6)}
POLICED = {
    v: Set(
        f"policed{v}",
        _IFNAME << 6 | _ADDRESS[v],
        _NAME_BYTES + _ADDRESS_BYTES[v],
        byte_order=0,
        verdicts=True,
    )
    for v in (4, 6)
}
_BRIDGES = Set("bridges", _IFNAME, _NAME_BYTES, byte_order=1)
_SAME = Set("same", _IFNAME << 6 | _IFNAME, 2 * _NAME_BYTES, byte_order=0)

# iifname @bridges drop
_FROM_BRIDGES = Rule("from a bridge", (incoming_link(), in_set("bridges"), verdict(DROP)))


def is_policed(element: Element) -> bool:
    """Whether it is a pod's to which a policy applies."""
    return element.set in {policed.name for policed in POLICED.values()}


def address_of(element: Element) -> bytes:
    """The pod's address that an element is about; b"" for that of a bridge."""
    if is_policed(element):
        return element.key[_NAME_BYTES:]
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
                Rule("within a bridge", (*links_in_and_out(), in_set("same"), verdict(RETURN))),
                _FROM_BRIDGES,
            ),
        ),
        Chain(
            "forward",
            (
                # jump admin
                Rule("of the administrator", (verdict(JUMP, "admin"),)),
                # oifname . ip daddr vmap @policed4
                Rule("pods v4", (*destination_behind_link(4), verdict_of("policed4"))),
                # oifname . ip6 daddr vmap @policed6
                Rule("pods v6", (*destination_behind_link(6), verdict_of("policed6"))),
            ),
            Hook("filter", 2, 0),  # type filter hook forward priority filter
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
            elements.append(Element(POLICED[version].name, link_key(bridge) + address, tag, chain=policy))
    return elements


def bridge_elements(name: bytes) -> list[Element]:
    """What stands for a bridge (its name padded, as in a key) behind which there are policed pods."""
    return [Element(_BRIDGES.name, name, SHARED), Element(_SAME.name, name + name, SHARED)]


def link_key(name: str) -> bytes:
    """The name of a link as keys have it."""
    return name.encode().ljust(_NAME_BYTES, b"\0")


def bridge_of(element: Element) -> bytes:
    """The bridge that an element of a policed pod, or of a bridge, is about."""
    return element.key[:_NAME_BYTES]

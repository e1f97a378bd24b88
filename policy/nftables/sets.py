"""Sets of addresses, networks and ports: their nftables types, and their elements as netlink has them."""

from collections.abc import Collection, Iterable, Sequence

from linux.nftables import address_elements, messages, uapi
from linux.nftables.messages import INET_PROTO, INET_SERVICE, IPV4_ADDR, IPV6_ADDR, Datatype, Element, Set, Step
from policy.compiled import ADDRESSES4, ADDRESSES6, NAMED4, NAMED6, NETWORKS4, NETWORKS6, SERVICES, AddressSet
from policy.nftables.texts import comment
from rules.policy.names import TABLE

_VERSIONS = {NETWORKS4: 4, NETWORKS6: 6}
_KEYS: dict[str, tuple[Datatype, ...]] = {
    ADDRESSES4: (IPV4_ADDR,),
    ADDRESSES6: (IPV6_ADDR,),
    NETWORKS4: (IPV4_ADDR,),
    NETWORKS6: (IPV6_ADDR,),
    SERVICES: (INET_PROTO, INET_SERVICE),
    NAMED4: (IPV4_ADDR, INET_PROTO, INET_SERVICE),
    NAMED6: (IPV6_ADDR, INET_PROTO, INET_SERVICE),
}


def definition(name: str, wanted: AddressSet) -> Set:
    """The set in nftables' terms, without its elements."""
    return Set(name, _KEYS[wanted.kind], intervals=wanted.kind in _VERSIONS, comment=comment(wanted.comment))


def encoded(kind: str, elements: Iterable[bytes]) -> Sequence[bytes]:
    """Elements of a set of that kind as netlink has them. Raises ValueError: an element is too long or too short."""
    if kind in _VERSIONS:
        return address_elements.of_ranges(_VERSIONS[kind], elements)
    parts = _KEYS[kind]
    keys = elements if len(parts) == 1 else [messages.padded(parts, one) for one in elements]
    head = _head(messages.type_size(parts))
    return [head + key for key in keys]


def holds(wanted: AddressSet, found: Collection[bytes] | None) -> bool:
    """Whether the elements that were found are those that the set should have; None: there is no such set."""
    due = encoded(wanted.kind, wanted.elements)
    if found is None:
        return False
    if set(found) == set(due):
        return True
    if wanted.kind not in _VERSIONS:
        return False
    # nft begins a set of intervals with the end of one that has no begin.
    there, right = (address_elements.spans(_VERSIONS[wanted.kind], each, intervals=True) for each in (found, due))
    return there == right


def _head(size: int) -> bytes:
    """What precedes a key of this many bytes in an encoded element."""
    return messages.encoded(Element("", bytes(size), ""))[:-size]


def creation(name: str, wanted: AddressSet) -> list[Step]:
    """Steps that add the set, and make its elements those that it should have, whatever it held."""
    return [messages.add_set(TABLE, definition(name, wanted)), *replacement(name, wanted)]


def replacement(name: str, wanted: AddressSet) -> list[Step]:
    """Steps that make the elements of an existing set those that it should have."""
    flush = Step(f"flush set {name} of table {TABLE}", uapi.NFT_MSG_DELSETELEM, 0, messages.of_elements(TABLE, name))
    return [flush, *messages.add_encoded_elements(TABLE, name, encoded(wanted.kind, wanted.elements))]

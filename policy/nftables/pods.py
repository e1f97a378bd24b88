"""Elements of pods: in the maps from a pod to its chains, in sets of pods, and in sets of their host veths."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from linux.netlink.socket import Netlink
from linux.nftables import listing, messages
from linux.nftables.expressions import ifname
from linux.nftables.messages import Element, Set, Step, TableName
from policy.compiled import Enforced
from rules.policy.names import (
    BRIDGE_TABLE,
    EGRESS,
    EXEMPT,
    HELD,
    INGRESS,
    ISOLATED,
    LEFT,
    PODS,
    RECEIVERS,
    SELF,
    SENDERS,
    TABLE,
    TO_NODE,
)
from spec.addresses import pack, unpack

_OF_ADDRESSES: tuple[Mapping[int, Set], ...] = (PODS, SELF, ISOLATED, EGRESS, INGRESS, TO_NODE, EXEMPT)
_OF_LINKS = (RECEIVERS, SENDERS)

Place = tuple[TableName, str, bytes]
"""Where an element is: table, set, key."""

State = dict[Place, Element]
"""Elements by their places."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What an address of an attached pod should have. `link`: its host veth, "" if that is not known."""

    address: str
    owner: str
    link: str
    ingress: str = ""
    egress: str = ""
    to_node: str = ""
    is_exempt: bool = False


def held(address: str, owner: str, link: str) -> Wish:
    """What an address of a pod should have whose policies are not known."""
    return Wish(address, owner, link, HELD, HELD)


def enforced(address: str, one: Enforced, *, is_exempt: bool) -> Wish:
    """What an address of a pod should have whose policies are known."""
    return Wish(address, one.owner, one.link, one.ingress, one.egress, one.to_node, is_exempt)


def elements(wishes: Iterable[Wish]) -> State:
    """The elements that these come to."""
    return {(table, one.set, one.key): one for wish in wishes for table, one in _elements_of(wish)}


def _elements_of(wish: Wish) -> Iterator[tuple[TableName, Element]]:
    key = pack(wish.address)
    version, owner = _version(key), wish.owner
    # 10.1.2.5 comment "v1:..."
    yield TABLE, Element(PODS[version].name, key, owner)
    # 10.1.2.5 . 10.1.2.5 comment "v1:..."
    yield TABLE, Element(SELF[version].name, key + key, owner)
    if wish.ingress or wish.egress:
        yield TABLE, Element(ISOLATED[version].name, key, owner)
    if wish.is_exempt:
        yield TABLE, Element(EXEMPT[version].name, key, owner)
    for verdicts, chain in ((EGRESS, wish.egress), (INGRESS, wish.ingress), (TO_NODE, wish.to_node)):
        if chain:
            # 10.1.2.5 comment "v1:..." : goto CHAIN
            yield TABLE, Element(verdicts[version].name, key, owner, chain)
    for links, chain in ((RECEIVERS, wish.ingress), (SENDERS, wish.egress)):
        if chain and wish.link:
            # "veth0" comment "v1:..."
            yield BRIDGE_TABLE, Element(links.name, ifname(wish.link), owner)


def places(addresses: Iterable[str], links: Iterable[str]) -> list[Place]:
    """Where these addresses and host veths may have elements."""
    found: list[Place] = []
    for address in addresses:
        key = pack(address)
        found += [(TABLE, each[_version(key)].name, key * (2 if each is SELF else 1)) for each in _OF_ADDRESSES]
    return found + [(BRIDGE_TABLE, each.name, ifname(link)) for link in links if link for each in _OF_LINKS]


def read(netlink: Netlink, wanted: Sequence[Place]) -> State:
    """The elements that are at these places."""
    found = zip(wanted, listing.find_elements(netlink, wanted), strict=True)
    return {place: element for place, element in found if element}


def read_all(netlink: Netlink) -> State:
    """The elements of all pods. Raises NetlinkError (ENOENT): a set is missing."""
    sets = [(TABLE, each[version].name) for each in _OF_ADDRESSES for version in each]
    state: State = {}
    for table, name in [*sets, *((BRIDGE_TABLE, each.name) for each in _OF_LINKS)]:
        for one in listing.list_elements(netlink, table, name) or ():
            element = listing.decoded(name, one)
            state[table, name, element.key] = element
    return state


def owner_of(state: Mapping[Place, Element], address: str) -> str | None:
    """The owner of the attached pod with this address; None if no pod is attached."""
    key = pack(address)
    found = state.get((TABLE, PODS[_version(key)].name, key))
    return found.owner if found else None


def attached(state: Mapping[Place, Element]) -> dict[str, str]:
    """The owners of all attached pods, by address."""
    names = {each.name for each in PODS.values()}
    return {unpack(one.key): one.owner for (table, name, _), one in state.items() if table == TABLE and name in names}


def links(state: Mapping[Place, Element]) -> dict[str, str]:
    """Host veths by owner, as far as elements tell."""
    return {one.owner: one.key.rstrip(b"\0").decode() for (table, *_), one in state.items() if table == BRIDGE_TABLE}


def changes(found: Mapping[Place, Element], wanted: Mapping[Place, Element]) -> list[Step]:
    """Steps that make what was found what is wanted."""
    gone: dict[tuple[TableName, str], list[bytes]] = {}
    new: dict[tuple[TableName, str], list[bytes]] = {}
    for place, element in found.items():
        if wanted.get(place) != element:
            gone.setdefault(place[:2], []).append(messages.encoded(Element(element.set, element.key, "")))
    for place, element in wanted.items():
        if found.get(place) != element:
            new.setdefault(place[:2], []).append(messages.encoded(element))
    return [
        *(step for place, each in gone.items() for step in messages.delete_encoded_elements(*place, each)),
        *(step for place, each in new.items() for step in messages.add_encoded_elements(*place, each)),
    ]


def leaving(addresses: Iterable[str]) -> list[Step]:
    """Steps that note addresses whose pods are gone, and whose connections are to be flushed."""
    steps: list[Step] = []
    for address in addresses:
        key = pack(address)
        name = LEFT[_version(key)].name
        steps += messages.add_encoded_elements(TABLE, name, [messages.encoded(Element(name, key, ""))])
    return steps


def _version(key: bytes) -> int:
    return 4 if len(key) == 4 else 6

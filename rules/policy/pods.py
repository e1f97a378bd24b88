"""The elements of pods in the tables of network policies, those of an attachment commented with its tag.

A pod that has just been attached is held: it speaks with its node only, until the daemon lets its addresses lead to the
chains of its policies. Nothing here reads a whole table: the daemon's may be large, and it changes them often.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from linux.netlink.socket import Netlink, NetlinkError
from linux.nftables import listing, messages
from linux.nftables.expressions import host32, ifname
from linux.nftables.messages import Element, Set, TableName
from linux.nftables.transactions import Transaction, change
from linux.ownership import owner_tag, stale_predicate
from linux.rtnl.links import pack_mac
from rules.policy import base, names
from spec.addresses import Address, parse_ip, unpack
from spec.attachment import Attachment

_OF_ADDRESS = (
    *(names.PODS, names.SELF, names.ISOLATED),
    *(names.EGRESS, names.INGRESS, names.TO_NODE, names.EXEMPT),
)
_WITHOUT_OWNER = {each.name for each in names.EXEMPT.values()}
_ALWAYS = {each.name for of_version in (names.PODS, names.SELF) for each in of_version.values()}
_ADDRESS_BYTES = (4, 16)
_OF_LINK = (names.RECEIVERS, names.SENDERS)

_LISTED = "listed"
"""The comment of an address in LEFT that `list_left` has returned."""

Place = tuple[TableName, Element]
"""An element and its table."""


def hold(
    owner: Attachment,
    ips: Sequence[str],
    link: str,
    network_group: int,
    bridge_mac: str,
    gateway_link: str = "",
) -> frozenset[str]:
    """Have a new pod speak with its node only, until the daemon knows its policies.

    `ips`: with or without a prefix. `link`: the name of its host veth, in the link group `network_group`. `bridge_mac`:
    of the link with the gateway addresses ("0a:58:0a:f4:01:01"), whose name is `gateway_link`. Whatever anybody had at
    these addresses and this link is replaced. Returns the addresses of which connections may be open, another pod's or
    such that nobody answered: the caller flushes them. Raises NetlinkError, ValueError for an invalid address.
    """

    def decide(transaction: Transaction) -> frozenset[str]:
        return hold_into(transaction, owner, ips, link, network_group, bridge_mac, gateway_link)

    try:
        return change(decide)
    except NetlinkError:
        if not base.ensure_base():
            raise
    return change(decide)


def hold_into(  # noqa: PLR0913  (as `hold`)
    transaction: Transaction,
    owner: Attachment,
    ips: Sequence[str],
    link: str,
    network_group: int,
    bridge_mac: str,
    gateway_link: str = "",
) -> frozenset[str]:
    """The same, as part of a transaction."""
    base.ensure_in(transaction)
    tag, addresses = owner_tag(owner), _parsed(ips)
    _claim(transaction, addresses, [link])
    there = [*_found(transaction.netlink, addresses, [link], names.LEFT, names.VACANT)]
    transaction.append_uncached([messages.delete_element(*place) for place in there])
    transaction.append(messages.add_element(*place) for place in _of_held(tag, addresses, link))
    put_gateway(transaction, network_group, bridge_mac, gateway_link)
    keys = {
        one.key for table, one in there if table == names.TABLE and one.owner != tag and one.set not in _WITHOUT_OWNER
    }
    return frozenset(str(one) for one in addresses if not keys.isdisjoint((one.packed, one.packed * 2)))


def release(owner: Attachment, ips: Sequence[str] = (), link: str = "") -> None:
    """Delete the elements of a pod that is gone; its addresses are in `list_left` from then on.

    An address or a link that has another owner by now is left alone. `ips`, `link`: as far as they are known; without
    `ips` the sets are searched. Nothing to do is success. Raises NetlinkError, ValueError for an invalid address.
    """
    tag = owner_tag(owner)

    def decide(transaction: Transaction) -> None:
        if transaction.is_absent(names.TABLE):
            return
        addresses, links = _parsed(ips), [link] if link else []
        if not (addresses and links):
            pods = [*_owned(transaction.netlink, lambda one: one == tag)]
            addresses, links = addresses or _addresses_of(pods), links or _links_of(pods)
        _release_into(transaction, lambda one: one == tag, addresses, links)

    change(decide)


def sweep(network: str, valid: Collection[Attachment]) -> int:
    """Release all attachments to `network` that are not `valid`; returns how many. Raises NetlinkError."""
    is_forfeit = stale_predicate(network, valid)

    def decide(transaction: Transaction) -> int:
        if transaction.is_absent(names.TABLE):
            return 0
        pods = [*_owned(transaction.netlink, is_forfeit)]
        _release_into(transaction, is_forfeit, _addresses_of(pods), _links_of(pods))
        return len({element.owner for _, element in pods})

    return change(decide)


def is_held(ips: Sequence[str]) -> bool:
    """Whether a pod with these addresses still waits for its policies. Raises NetlinkError, ValueError."""

    def decide(transaction: Transaction) -> bool:
        maps = (names.EGRESS, names.INGRESS)
        every = [(names.TABLE, each[one.version].name, one.packed) for one in _parsed(ips) for each in maps]
        found = listing.find_elements(transaction.netlink, every)
        return any(element and element.chain == names.HELD for element in found)

    return change(decide)


def problems(owner: Attachment, ips: Sequence[str], link: str) -> list[str]:
    """What keeps the policies of a pod from being in force, a sentence each; [] if all is well. Raises as `hold`.

    Whether it is held, or which policies it has, is the daemon's matter.
    """
    tag = owner_tag(owner)

    def decide(transaction: Transaction) -> list[str]:
        netlink, addresses = transaction.netlink, _parsed(ips)
        there = [*_found(netlink, addresses, [link])]
        kept = {(element.set, element.key) for _, element in there}
        sentences = [
            f"set {one.set} of table {table} lacks an element of {tag}; recreate the pod"
            for table, one in _of_held(tag, addresses, link)
            if one.set in _ALWAYS and (one.set, one.key) not in kept
        ]
        for table, one in there:
            if one.owner != tag and one.set not in _WITHOUT_OWNER:
                holder = f"belongs to {one.owner or 'another program'}, not to {tag}"
                sentences.append(f"an element in set {one.set} of table {table} {holder}; recreate the pod")
        return sentences

    return base.problems() or change(decide)


def list_left() -> frozenset[str]:
    """The addresses of pods that are gone, the connections of which may be open. Raises NetlinkError.

    They are marked, until they are forgotten, or another pod has them: that one may leave meanwhile, too.
    """

    def decide(transaction: Transaction) -> frozenset[str]:
        found = [
            listing.decoded(each.name, one)
            for each in names.LEFT.values()
            for one in listing.list_elements(transaction.netlink, names.TABLE, each.name) or ()
        ]
        fresh = [one for one in found if one.owner != _LISTED]
        _claim(transaction, [parse_ip(unpack(one.key)) for one in fresh], ())
        transaction.append_uncached([messages.delete_element(names.TABLE, one) for one in fresh])
        # 10.1.2.5 comment "listed"
        transaction.append(messages.add_element(names.TABLE, replace(one, owner=_LISTED)) for one in fresh)
        return frozenset(unpack(one.key) for one in found)

    return change(decide)


def forget_left(ips: Collection[str]) -> None:
    """Have these addresses no longer in `list_left`: their connections are flushed. Raises NetlinkError, ValueError."""
    _forget(ips, lambda _: True)


def forget_listed(ips: Collection[str]) -> None:
    """The same, but not of those that another pod has had, and left, since they were listed."""
    _forget(ips, lambda mark: mark == _LISTED)


def _forget(ips: Collection[str], is_meant: Callable[[str], bool]) -> None:
    def decide(transaction: Transaction) -> None:
        addresses = _parsed(ips)
        _claim(transaction, addresses, ())
        left = [(names.TABLE, one) for one in map(_left, addresses)]
        found = [place for place in left if (one := _find(transaction.netlink, *place)) and is_meant(one.owner)]
        transaction.append_uncached([messages.delete_element(*place) for place in found])

    change(decide)


def set_gateway(group: int, mac: str, gateway_link: str = "") -> None:
    """Have the node route what pods in a link group send each other, by the link with this MAC ("0a:58:0a:f4:01:01").

    `gateway_link`: its name. Nothing is written if it is so already. Raises NetlinkError: without the tables
    (`ensure_base`), for example.
    """
    change(lambda transaction: put_gateway(transaction, group, mac, gateway_link))


def has_gateway(transaction: Transaction, gateway_link: str) -> bool:
    """Whether connections to addresses behind a link that no pod has are noted. Raises NetlinkError."""
    place = (names.TABLE, names.BRIDGES.name, ifname(gateway_link))
    return listing.find_element(transaction.netlink, *place) is not None


def put_gateway(transaction: Transaction, group: int, mac: str, gateway_link: str = "") -> None:
    """The same, as part of a transaction."""
    key, value = host32(group), pack_mac(mac)
    places = [(names.BRIDGE_TABLE, names.GATEWAYS.name, key), (names.TABLE, names.BRIDGES.name, ifname(gateway_link))]
    found, bridge = listing.find_elements(transaction.netlink, places)
    if gateway_link and not bridge:
        # "cbr0"
        element = Element(names.BRIDGES.name, ifname(gateway_link), "")
        transaction.append([messages.add_element(names.TABLE, element, must_be_new=False)])
    if found and found.value == value:
        return
    transaction.claim((names.GATEWAYS.name, key))
    if found:
        old = _of_gateway(key, found.value)
        there = [one for one in old if _find(transaction.netlink, names.BRIDGE_TABLE, one)]
        transaction.append_uncached([messages.delete_element(names.BRIDGE_TABLE, one) for one in there])
    transaction.append(
        messages.add_element(names.BRIDGE_TABLE, one, must_be_new=False) for one in _of_gateway(key, value)
    )


def _of_gateway(key: bytes, mac: bytes) -> tuple[Element, ...]:
    """603979777 : 0a:58:0a:f4:01:01, 603979777, 603979777 . 0a:58:0a:f4:01:01"""
    return (
        Element(names.GATEWAYS.name, key, "", value=mac),
        Element(names.GROUPS.name, key, ""),
        Element(names.ROUTERS.name, messages.padded(names.ROUTERS.key, key + mac), ""),
    )


def _parsed(ips: Iterable[str]) -> list[Address]:
    return list(dict.fromkeys(parse_ip(ip.partition("/")[0]) for ip in ips))


def _claim(transaction: Transaction, addresses: Iterable[Address], links: Iterable[str]) -> None:
    for key in (*addresses, *links):
        transaction.claim((names.TABLE, key))


def _of_held(tag: str, addresses: Iterable[Address], link: str) -> Iterator[Place]:
    """The elements of a held pod, each with the comment "v1:..."."""
    for one in addresses:
        version, packed = one.version, one.packed
        # 10.1.2.5
        yield names.TABLE, Element(names.PODS[version].name, packed, tag)
        # 10.1.2.5 . 10.1.2.5
        yield names.TABLE, Element(names.SELF[version].name, packed + packed, tag)
        yield names.TABLE, Element(names.ISOLATED[version].name, packed, tag)
        # 10.1.2.5 : goto held
        yield names.TABLE, Element(names.EGRESS[version].name, packed, tag, names.HELD)
        yield names.TABLE, Element(names.INGRESS[version].name, packed, tag, names.HELD)
    for each in _OF_LINK:
        # "veth0"
        yield names.BRIDGE_TABLE, Element(each.name, ifname(link), tag)


def _left(address: Address) -> Element:
    return Element(names.LEFT[address.version].name, address.packed, "")


def _find(netlink: Netlink, table: TableName, element: Element) -> Element | None:
    return listing.find_element(netlink, table, element.set, element.key)


def _found(
    netlink: Netlink, addresses: Iterable[Address], links: Iterable[str], *more: dict[int, Set]
) -> Iterator[Place]:
    """What is there of these addresses and links."""
    places = [
        *(
            (names.TABLE, each[one.version].name, one.packed * len(each[one.version].key))
            for one in addresses
            for each in (*_OF_ADDRESS, *more)
        ),
        *((names.BRIDGE_TABLE, each.name, ifname(link)) for link in links for each in _OF_LINK),
    ]
    for (table, _, _), element in zip(places, listing.find_elements(netlink, places), strict=True):
        if element:
            yield table, element


def _owned(netlink: Netlink, is_owner: Callable[[str], bool]) -> Iterator[Place]:
    """All elements whose comments are such owners, in sets of pods and of links."""
    of_pods = [(names.TABLE, each[version].name) for each in _OF_ADDRESS for version in (4, 6)]
    for table, name in (*of_pods, *((names.BRIDGE_TABLE, each.name) for each in _OF_LINK)):
        for one in listing.list_elements(netlink, table, name) or ():
            element = listing.decoded(name, one)
            if is_owner(element.owner):
                yield table, element


def _addresses_of(pods: Iterable[Place]) -> list[Address]:
    keys = {element.key for table, element in pods if table == names.TABLE}
    return [parse_ip(unpack(key)) for key in sorted(keys) if len(key) in _ADDRESS_BYTES]


def _links_of(pods: Iterable[Place]) -> list[str]:
    keys = {element.key for table, element in pods if table == names.BRIDGE_TABLE}
    return [key.rstrip(b"\0").decode() for key in sorted(keys)]


def _release_into(
    transaction: Transaction, is_owner: Callable[[str], bool], addresses: Sequence[Address], links: Sequence[str]
) -> None:
    """Delete what owners have at these addresses and links, and note the addresses that nobody has by then."""
    _claim(transaction, addresses, links)
    there = [*_found(transaction.netlink, addresses, links)]
    gone = [place for place in there if is_owner(place[1].owner)]
    left = [one for one in addresses if (names.PODS[one.version].name, one.packed) in {(e.set, e.key) for _, e in gone}]
    exempt = [place for place in there if place[1].set in _WITHOUT_OWNER and place not in gone]
    gone += [place for place in exempt if any(place[1].key == one.packed for one in left)]
    transaction.append_uncached([messages.delete_element(*place) for place in gone])
    transaction.append(messages.add_element(names.TABLE, _left(one), must_be_new=False) for one in left)

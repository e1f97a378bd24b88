"""The routes to the subnets of peers, recognised by their protocol number."""

from collections.abc import Mapping, Sequence
from errno import EACCES, EADDRNOTAVAIL, EEXIST, EHOSTUNREACH, EINVAL, ENETDOWN, ENETUNREACH, ESRCH
from socket import AF_INET, AF_INET6
from struct import Struct

from linux.netlink.attributes import RTNL_BODY, attribute, attributes_of, number
from linux.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, Netlink, NetlinkError
from linux.rtnl import uapi
from linux.rtnl.bulk import Write, change_all, named, request_about, template
from linux.rtnl.neighbours import Table
from linux.rtnl.routes import RTMSG, destination_of, dump_main
from spec.addresses import Address, pack

PROTOCOL = 24
"""The protocol of our routes, which no other program has registered (/etc/iproute2/rt_protos)."""

_NOT_LIKE_OURS = frozenset((uapi.RTA_METRICS, uapi.RTA_MULTIPATH, uapi.RTA_VIA, uapi.RTA_ENCAP, uapi.RTA_NH_ID))
_KEY_ATTRIBUTES = (uapi.RTA_DST, uapi.RTA_TABLE, uapi.RTA_PRIORITY)
_HOP_ATTRIBUTES = (uapi.RTA_GATEWAY, uapi.RTA_VIA, uapi.RTA_OIF, uapi.RTA_MULTIPATH)
_UINT32 = Struct("=I")
_PRIORITY = {AF_INET: _UINT32.pack(0), AF_INET6: _UINT32.pack(1024)}  # the kernel's defaults
_NO_NUMBER = bytes(4)
_INVALID_ROUTE = frozenset((EINVAL, EACCES, EADDRNOTAVAIL, EHOSTUNREACH, ENETDOWN, ENETUNREACH))

Key = tuple[bytes, int]  # network and prefix length
Hop = tuple[bytes, int]  # gateway and index of the link


class PeerRoutes:
    """The changes that the routes of PROTOCOL in the main table need; nothing is sent before `remove_unwanted`.

    `wanted`: destination to next hop. `onlink`: the index of the link whose gateways need not be on any of its networks
    (0: none). `within`: networks beyond which a route is left alone, unless it is of the link `onlink`; None: no such
    bound. Raises NetlinkError.

    Foreign routes are listed only if one of ours is missing, because a router may have very many. A foreign route with
    the wanted next hop serves as ours. One that leads elsewhere is in `blocking`, and nothing is written there.
    """

    def __init__(
        self, netlink: Netlink, wanted: Mapping[Key, Hop], *, onlink: int, within: Sequence[Address] | None
    ) -> None:
        self._netlink, self._onlink, self._within = netlink, onlink, within
        self._own = _list_own(netlink)
        self._wanted = dict(wanted)
        self.blocking: list[bytes] = []
        missing = {key for key, hop in wanted.items() if self._own.entries.get(key) != hop}
        if missing:
            self._consider_foreign(missing)

    def _consider_foreign(self, missing: set[Key]) -> None:
        for key, (hop, message) in _find_foreign(self._netlink, missing).items():
            if hop != self._wanted[key]:
                self.blocking.append(message)
                # Ours, if there is one, stays as it is: to replace it could hit the foreign route.
                self._own.entries.pop(key, None)
                self._own.messages.pop(key, None)
            del self._wanted[key]

    def writes(self) -> list[Write]:
        """What is missing, except where a foreign route is."""
        templates: dict[tuple, bytes] = {}
        have, messages, writes = self._own.entries, self._own.messages, []
        for key, hop in self._wanted.items():
            if have.get(key) == hop:
                continue
            (dst, length), (via, link), replaced = key, hop, messages.get(key, b"")
            shape = (len(dst), length, link, NLM_F_REPLACE if replaced else NLM_F_EXCL)
            if shape not in templates:
                templates[shape] = route_template(*shape, onlink=link == self._onlink)
            writes.append(Write(templates[shape] % (dst, via), replaced))
        return writes

    def remove_unwanted(self) -> int:
        """Remove our routes that are not wanted; returns how many there were."""
        unwanted = [message for message in self._own.unwanted(self._wanted) if self._is_in_bounds(message)]
        return change_all(self._netlink, [_deletion(message) for message in unwanted], tolerated=(ESRCH,))

    def _is_in_bounds(self, message: bytes) -> bool:
        if self._within is None:
            return True
        attributes = attributes_of(message, RTNL_BODY)
        if self._onlink and attributes.get(uapi.RTA_OIF) == _UINT32.pack(self._onlink):
            return True
        destination = destination_of(message, attributes)
        wanted = (destination.packed, destination.prefix) in self._wanted
        return wanted or any(network.contains(destination) for network in self._within)


def route_template(size: int, length: int, link: int, flags: int, *, onlink: bool) -> bytes:
    """The request for a route to a network of that prefix length, as a format: network and gateway, `size` bytes each.

    `flags`: NLM_F_EXCL or NLM_F_REPLACE.
    """
    body = _rtmsg(AF_INET6 if size == 16 else AF_INET, length, uapi.RTNH_F_ONLINK if onlink else 0)
    return template(
        uapi.RTM_NEWROUTE,
        NLM_F_CREATE | flags,
        body,
        {uapi.RTA_DST: size, uapi.RTA_GATEWAY: size},
        number(uapi.RTA_OIF, link),
    )


def removal_of(key: Key, hop: Hop) -> bytes:
    """The request that deletes our route to a network with exactly that next hop."""
    (dst, length), (via, link) = key, hop
    body = RTMSG.pack(AF_INET6 if len(dst) == 16 else AF_INET, length, 0, 0, uapi.RT_TABLE_MAIN, PROTOCOL, 0, 0, 0)
    slots = {uapi.RTA_DST: len(dst), uapi.RTA_GATEWAY: len(via)}
    return template(uapi.RTM_DELROUTE, 0, body, slots, number(uapi.RTA_OIF, link)) % (dst, via)


def is_taken(netlink: Netlink, key: Key) -> bool:
    """Whether packets to exactly that network take a route that is there already. Raises NetlinkError.

    One look-up: it does not see routes of a greater metric than one of ours, nor those behind routing rules.
    """
    dst, length = key
    body = RTMSG.pack(AF_INET6 if len(dst) == 16 else AF_INET, 8 * len(dst), 0, 0, 0, 0, 0, 0, uapi.RTM_F_FIB_MATCH)
    try:
        found = netlink.get(body + attribute(uapi.RTA_DST, dst), uapi.RTM_GETROUTE)
    except NetlinkError as error:
        return error.errno not in (ENETUNREACH, ESRCH)  # others: a route to nowhere, of whatever length
    return RTMSG.unpack_from(found, 16)[1] == length


def write_routes(netlink: Netlink, requests: Sequence[bytes]) -> tuple[int, bool, list[NetlinkError]]:
    """Send the requests of `PeerRoutes.writes`.

    Returns how many were written, whether another program was faster (list again), and the errors of routes that the
    kernel refuses as invalid: an invalid gateway, a family that is disabled. Raises the first NetlinkError of another
    kind when all are sent.
    """
    written, failure, refused, is_raced = len(requests), None, [], False
    for place, error in netlink.change_many(requests):
        if error.errno == EINVAL and _is_onlink_ipv6(requests[place]):
            error = _write_with_helper_route(netlink, requests[place])  # noqa: PLW2901
        if not error:
            continue
        written -= 1
        if error.errno == EEXIST:
            is_raced = True
        elif error.errno in _INVALID_ROUTE:
            refused.append(named(netlink, error, requests[place]))
        else:
            failure = failure or named(netlink, error, requests[place])
    if failure:
        raise failure
    return written, is_raced, refused


def _is_onlink_ipv6(request: bytes) -> bool:
    family, *_, flags = RTMSG.unpack_from(request, 16)
    return family == AF_INET6 and bool(flags & uapi.RTNH_F_ONLINK)


def _write_with_helper_route(netlink: Netlink, request: bytes) -> NetlinkError | None:
    """Write an IPv6 route whose gateway the kernel takes to be on another link; returns its error, or None.

    Even with `onlink`, the kernel refuses a gateway to which a route leads over another link: the direct route that is
    being replaced, or a foreign one to the whole cluster. Default routes do not count, nor do routes added later. So
    the gateway gets a host route over the right link, for as long as the writing takes.
    """
    attributes = attributes_of(request, RTNL_BODY)
    hop = attribute(uapi.RTA_DST, attributes[uapi.RTA_GATEWAY]) + attribute(uapi.RTA_OIF, attributes[uapi.RTA_OIF])
    flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL
    helper = netlink.encode(_rtmsg(AF_INET6, 128, 0) + hop, uapi.RTM_NEWROUTE, flags)
    removal = request_about(helper, uapi.RTM_DELROUTE, (uapi.RTA_DST, uapi.RTA_OIF))
    return dict(netlink.change_many([helper, request, removal])).get(1)


def key_of(cidr: str) -> Key:
    """The key of the route to a network."""
    network, _, length = cidr.partition("/")
    return pack(network), int(length)


def list_hops(netlink: Netlink) -> Mapping[Key, Hop | None]:
    """Our routes in the kernel: destination to next hop. Raises NetlinkError."""
    return _list_own(netlink).entries


def _rtmsg(family: int, length: int, flags: int) -> bytes:
    return RTMSG.pack(family, length, 0, 0, uapi.RT_TABLE_MAIN, PROTOCOL, 0, uapi.RTN_UNICAST, flags)


def _list_own(netlink: Netlink) -> Table:
    """Our routes of both families: destination to next hop; None for one that is not like those we make."""
    table = Table()
    for message in dump_main(netlink, PROTOCOL):
        attributes = attributes_of(message, RTNL_BODY)
        family, length, sources, tos, _, _, _, kind, _ = RTMSG.unpack_from(message, 16)
        usual = attributes.get(uapi.RTA_PRIORITY, _NO_NUMBER) == _PRIORITY[family]
        if not usual or sources or tos:
            table.duplicates.append(message)  # exists beside one of ours, which would not replace it
            continue
        plain = kind == uapi.RTN_UNICAST and _NOT_LIKE_OURS.isdisjoint(attributes)
        table.add(_key(family, length, attributes), _hop(attributes) if plain else None, message)
    return table


def _find_foreign(netlink: Netlink, keys: set[Key]) -> dict[Key, tuple[Hop, bytes]]:
    """For each destination that has a foreign route, the one of least metric: its next hop, and its message."""
    foreign: dict[Key, tuple[Hop, bytes]] = {}
    for message in dump_main(netlink):
        family, length, _, _, _, protocol, *_ = RTMSG.unpack_from(message, 16)
        if protocol != PROTOCOL:
            attributes = attributes_of(message, RTNL_BODY)
            key = _key(family, length, attributes)
            if key in keys and key not in foreign:
                foreign[key] = (_hop(attributes), message)
    return foreign


def _key(family: int, length: int, attributes: Mapping[int, bytes]) -> Key:
    return attributes.get(uapi.RTA_DST) or bytes(16 if family == AF_INET6 else 4), length


def _hop(attributes: Mapping[int, bytes]) -> Hop:
    return attributes.get(uapi.RTA_GATEWAY, b""), _UINT32.unpack(attributes.get(uapi.RTA_OIF, _NO_NUMBER))[0]


def _deletion(message: bytes) -> bytes:
    """The request that deletes exactly the dumped route, and not one that has replaced it since."""
    by_id = uapi.RTA_NH_ID in attributes_of(message, RTNL_BODY)
    keep = (*_KEY_ATTRIBUTES, uapi.RTA_NH_ID) if by_id else (*_KEY_ATTRIBUTES, *_HOP_ATTRIBUTES)
    request = bytearray(request_about(message, uapi.RTM_DELROUTE, keep))
    request[24:28] = bytes(4)  # flags such as "dead" are the kernel's to set
    return bytes(request)

"""The routes to the subnets of peers, told from everybody else's by their protocol number."""

import struct
from collections.abc import Mapping, Sequence
from errno import EACCES, EADDRNOTAVAIL, EEXIST, EHOSTUNREACH, EINVAL, ENETDOWN, ENETUNREACH, ESRCH
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from pyroute2.netlink.rtnl.rtmsg import rtmsg

from linux.netlink.attributes import RTNL_BODY, attributes_of
from linux.netlink.bulk import SLOT_DST, SLOT_VIA, Write, change_all, echo, named, template
from linux.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, Netlink, NetlinkError
from linux.rtnl.neighbours import Table
from linux.rtnl.routes import dump_main

PROTOCOL = 24
"""By which routes are ours: nobody else has registered it (/etc/iproute2/rt_protos)."""

_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_TABLE_MAIN, _TYPE_UNICAST, _ONLINK = 254, 1, 4
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_METRICS, _RTA_MULTIPATH, _RTA_TABLE = 1, 4, 5, 6, 8, 9, 15
_RTA_VIA, _RTA_ENCAP, _RTA_NH_ID = 18, 22, 30
_NOT_LIKE_OURS = frozenset((_RTA_METRICS, _RTA_MULTIPATH, _RTA_VIA, _RTA_ENCAP, _RTA_NH_ID))
_NAMES_IT = (_RTA_DST, _RTA_TABLE, _RTA_PRIORITY)
_NAMES_ITS_HOPS = (_RTA_GATEWAY, _RTA_VIA, _RTA_OIF, _RTA_MULTIPATH)
_PRIORITY = {AF_INET: struct.pack("=I", 0), AF_INET6: struct.pack("=I", 1024)}  # the kernel's own, if none is given
_NO_PRIORITY = bytes(4)
_INDEX = struct.Struct("=I")
_OF_THE_ROUTE = frozenset((EINVAL, EACCES, EADDRNOTAVAIL, EHOSTUNREACH, ENETDOWN, ENETUNREACH))

Key = tuple[bytes, int]  # network and prefix length
Hop = tuple[bytes, int]  # gateway and index of the link


class Routes:
    """What is to be done to the routes of PROTOCOL in the main table; nothing is until asked.

    `wanted`: destination to next hop. `onlink`: the index of the link whose gateways need not be on any of its networks
    (0: none). `within`: networks (packed, with lengths) beyond which a route is left alone, but for those of `onlink`;
    None: there is no such bound. Raises NetlinkError.

    Foreign routes are asked for only if one of ours is missing: a router may have very many. One that leads to the
    wanted next hop does the work of ours; one that leads elsewhere stands in `refused`, and nothing is written there.
    """

    def __init__(
        self, netlink: Netlink, wanted: Mapping[Key, Hop], *, onlink: int, within: Sequence[Key] | None
    ) -> None:
        self._netlink, self._onlink, self._within = netlink, onlink, within
        self._own = _list_own(netlink)
        self._wanted = dict(wanted)
        self.refused: list[bytes] = []
        if any(self._own.entries.get(key) != hop for key, hop in wanted.items()):
            self._look_for_foreign()

    def _look_for_foreign(self) -> None:
        lacking = {key for key, hop in self._wanted.items() if self._own.entries.get(key) != hop}
        for key, (hop, message) in _find_foreign(self._netlink, lacking).items():
            if hop != self._wanted[key]:
                self.refused.append(message)
                # What of ours is there stays as it is: to replace it could hit the other.
                self._own.entries.pop(key, None)
                self._own.shown.pop(key, None)
            del self._wanted[key]

    def writes(self) -> list[Write]:
        """What is missing; nothing where a foreign route is."""
        templates: dict[tuple, bytes] = {}
        have, shown, writes = self._own.entries, self._own.shown, []
        for key, hop in self._wanted.items():
            if have.get(key) == hop:
                continue
            (dst, length), (via, link), instead = key, hop, shown.get(key, b"")
            shape = (len(dst), length, link, not instead)
            if shape not in templates:
                templates[shape] = self._template(*shape)
            writes.append(Write(templates[shape] % (dst, via), instead))
        return writes

    def remove_unwanted(self) -> int:
        """Remove our routes that are not wanted; how many there were."""
        unwanted = [message for message in self._own.unwanted(self._wanted) if self._is_in_bounds(message)]
        return change_all(self._netlink, [_deletion(message) for message in unwanted], tolerated=(ESRCH,))

    def _is_in_bounds(self, message: bytes) -> bool:
        if self._within is None:
            return True
        shown = attributes_of(message, RTNL_BODY)
        if self._onlink and shown.get(_RTA_OIF) == _INDEX.pack(self._onlink):
            return True
        dst, length = _key(message, shown)
        return (dst, length) in self._wanted or any(_holds(network, dst, length) for network in self._within)

    def _template(self, size: int, length: int, link: int, is_new: bool) -> bytes:  # noqa: FBT001  (part of a key)
        family = AF_INET6 if size == 16 else AF_INET
        dst, via = SLOT_DST[family], SLOT_VIA[family]
        message = rtmsg()
        message.update(
            family=family,
            dst_len=length,
            table=_TABLE_MAIN,
            proto=PROTOCOL,
            scope=0,
            type=_TYPE_UNICAST,
            flags=_ONLINK if link == self._onlink else 0,
            attrs=[("RTA_DST", dst), ("RTA_GATEWAY", via), ("RTA_OIF", link)],
        )
        flags = NLM_F_CREATE | (NLM_F_EXCL if is_new else NLM_F_REPLACE)
        return template(self._netlink, message, _RTM_NEWROUTE, flags, (dst, via))


def write_routes(netlink: Netlink, requests: Sequence[bytes]) -> tuple[int, bool, list[NetlinkError]]:
    """Send what `Routes.writes` gave: how many were written, whether others were quicker (look again), the refused.

    Refused is a route for what it is (a gateway that can be none, a family that is switched off): nothing that stands
    in the way of the others. Raises the first NetlinkError of another kind, all being sent.
    """
    written, failure, refused, is_outrun = len(requests), None, [], False
    for place, error in netlink.change_many(requests):
        if error.errno == EINVAL and _is_onlink_ipv6(requests[place]):
            error = _write_over_stone(netlink, requests[place])  # noqa: PLW2901
        if not error:
            continue
        written -= 1
        if error.errno == EEXIST:
            is_outrun = True
        elif error.errno in _OF_THE_ROUTE:
            refused.append(named(netlink, error, requests[place]))
        else:
            failure = failure or named(netlink, error, requests[place])
    if failure:
        raise failure
    return written, is_outrun, refused


def _is_onlink_ipv6(request: bytes) -> bool:
    return request[16] == AF_INET6 and bool(request[24] & _ONLINK)


def _write_over_stone(netlink: Netlink, request: bytes) -> NetlinkError | None:
    """Write an IPv6 route whose gateway the kernel thinks to be elsewhere; its error, or None.

    `onlink` or not, the kernel refuses a gateway to which a route leads over another link: the direct route that is to
    be replaced, or a foreign one to the whole cluster. The default route does not count, nor do later ones. So for the
    moment of the writing the gateway gets a route of its own over the right link.
    """
    shown = attributes_of(request, RTNL_BODY)
    message = rtmsg()
    message.update(
        family=AF_INET6,
        dst_len=128,
        table=_TABLE_MAIN,
        proto=PROTOCOL,
        scope=0,
        type=_TYPE_UNICAST,
        flags=0,
        attrs=[("RTA_DST", inet_ntop(AF_INET6, shown[_RTA_GATEWAY])), ("RTA_OIF", _INDEX.unpack(shown[_RTA_OIF])[0])],
    )
    stone = netlink.encode(message, _RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL)
    refused = dict(netlink.change_many([stone, request, echo(stone, _RTM_DELROUTE, (_RTA_DST, _RTA_OIF))]))
    return refused.get(1)


def key_of(cidr: str) -> Key:
    """A network in text as the key of its route."""
    network, _, length = cidr.partition("/")
    return inet_pton(AF_INET6 if ":" in network else AF_INET, network), int(length)


def list_hops(netlink: Netlink) -> Mapping[Key, Hop | None]:
    """Our routes as the kernel has them: destination to next hop. Raises NetlinkError."""
    return _list_own(netlink).entries


def _list_own(netlink: Netlink) -> Table:
    """Our routes of both families: destination to next hop; None for one that is not like those we make."""
    table = Table()
    for message in dump_main(netlink, PROTOCOL):
        shown = attributes_of(message, RTNL_BODY)
        _, _, sources, tos, _, _, _, kind = message[16:24]
        usual = shown.get(_RTA_PRIORITY, _NO_PRIORITY) == _PRIORITY[message[16]]
        if not usual or sources or tos:
            table.strays.append(message)  # stands beside one of ours, and would not be replaced by it
            continue
        plain = kind == _TYPE_UNICAST and _NOT_LIKE_OURS.isdisjoint(shown)
        table.add(_key(message, shown), _hop(shown) if plain else None, message)
    return table


def _find_foreign(netlink: Netlink, keys: set[Key]) -> dict[Key, tuple[Hop, bytes]]:
    """For each of these destinations that has any, the foreign route of least metric: its next hop, and its message."""
    found: dict[Key, tuple[Hop, bytes]] = {}
    for message in dump_main(netlink, 0):
        if message[21] != PROTOCOL:
            shown = attributes_of(message, RTNL_BODY)
            key = _key(message, shown)
            if key in keys and key not in found:
                found[key] = (_hop(shown), message)
    return found


def _key(message: bytes, shown: Mapping[int, bytes]) -> Key:
    return shown.get(_RTA_DST) or bytes(16 if message[16] == AF_INET6 else 4), message[17]


def _hop(shown: Mapping[int, bytes]) -> Hop:
    return shown.get(_RTA_GATEWAY, b""), _INDEX.unpack(shown.get(_RTA_OIF, _NO_PRIORITY))[0]


def _deletion(message: bytes) -> bytes:
    """The request that deletes exactly the route shown: not what somebody has put in its place since."""
    by_id = _RTA_NH_ID in attributes_of(message, RTNL_BODY)
    keep = (*_NAMES_IT, _RTA_NH_ID) if by_id else (*_NAMES_IT, *_NAMES_ITS_HOPS)
    request = bytearray(echo(message, _RTM_DELROUTE, keep))
    request[24:28] = bytes(4)  # flags such as "dead" are the kernel's to say
    return bytes(request)


def _holds(network: Key, dst: bytes, length: int) -> bool:
    base, shorter = network
    if len(base) != len(dst) or shorter > length:
        return False
    shift = 8 * len(base) - shorter
    return int.from_bytes(base, "big") >> shift == int.from_bytes(dst, "big") >> shift

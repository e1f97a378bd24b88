"""Routes by rtnetlink."""

from collections.abc import Iterator
from dataclasses import dataclass
from errno import EEXIST
from socket import AF_INET, AF_INET6
from struct import Struct
from sys import byteorder

from linux.netlink.attributes import RTNL_BODY, attribute, attributes_of, nested, number
from linux.netlink.socket import NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, Netlink, NetlinkError
from spec.addresses import family_of, pack, parse_cidr, unpack
from spec.result import Route

RTM_NEWROUTE, RTM_GETROUTE = 24, 26
_BODY = Struct("=BBBBBBBBI")  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_HOP = Struct("=HBBi")  # struct rtnexthop: length, flags, hops, index of the link
_DST, _OIF, _GATEWAY, _PRIORITY, _PREFSRC, _METRICS, _MULTIPATH, _TABLE = 1, 4, 5, 6, 7, 8, 9, 15
_MTU, _ADVMSS = 2, 8
_TABLE_COMPAT, _TABLE_MAIN = 252, 254  # rtm_table is one byte; a larger number stands in RTA_TABLE alone
PROTOCOL_RA = 9  # of routes that the kernel has from router advertisements
_PROTOCOL_BOOT, _TYPE_UNICAST = 3, 1
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253

FAR = {4: "198.41.0.4", 6: "2001:503:ba3e::2:30"}
"""By IP version an address (a root server's) that mostly only the default route leads to. `look_up` sends nothing."""


@dataclass(frozen=True)
class Choice:
    """What the kernel does with a packet of this node: the `link` (index), the next hop ("": none), the source."""

    link: int
    via: str
    source: str


@dataclass(frozen=True)
class KernelRoute:
    """A route as the kernel has it: `via` "" is on-link; `mtu` and `advmss` 0 are not set; `protocol` made it."""

    dst: str
    via: str
    link: int
    priority: int
    table: int
    mtu: int
    advmss: int
    protocol: int = 0


def add_route(netlink: Netlink, index: int, route: Route, gateway: str) -> None:
    """Install `route` on a link, through `gateway` ("": the destination is on the link). Once more is no error.

    A route to the same destination through another gateway stands before (IPv4) or beside (IPv6) the ones there are.
    """
    try:
        netlink.send([route_request(netlink, index, route, gateway)])
    except NetlinkError as error:
        if error.errno != EEXIST:
            raise


def route_request(netlink: Netlink, index: int, route: Route, gateway: str) -> bytes:
    """What `add_route` sends, to be sent with other requests; refused with EEXIST if there is that route already."""
    dst = parse_cidr(route.dst)
    on_link = dst.version == 4 and not gateway
    table = _TABLE_MAIN if route.table is None else route.table
    scope = (_SCOPE_LINK if on_link else _SCOPE_UNIVERSE) if route.scope is None else route.scope
    in_body = table if table < 256 else _TABLE_COMPAT
    message = _BODY.pack(dst.family, dst.prefix, 0, 0, in_body, _PROTOCOL_BOOT, scope, _TYPE_UNICAST, 0)
    message += number(_OIF, index) + number(_TABLE, table)
    if dst.prefix:
        message += attribute(_DST, dst.packed)
    if gateway:
        message += attribute(_GATEWAY, pack(gateway))
    if route.priority:
        message += number(_PRIORITY, route.priority)
    metrics = [number(kind, value) for kind, value in ((_MTU, route.mtu), (_ADVMSS, route.advmss)) if value]
    if metrics:
        message += nested(_METRICS, *metrics)
    return netlink.encode(message, RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE)


def look_up(netlink: Netlink, address: str, *, link: int = 0) -> Choice:
    """How the kernel would send to an address now, by all its rules and tables; over a certain link, if given.

    Raises NetlinkError: ENETUNREACH (there is no route), EINVAL (it is a blackhole), EACCES (prohibit), EHOSTUNREACH
    (unreachable).
    """
    destination = pack(address)
    request = _BODY.pack(family_of(address), 8 * len(destination), 0, 0, 0, 0, 0, 0, 0) + attribute(_DST, destination)
    shown = attributes_of(netlink.get_raw(request + (number(_OIF, link) if link else b""), RTM_GETROUTE), RTNL_BODY)
    source = shown.get(_PREFSRC, b"")
    return Choice(_number(shown, _OIF), _via(shown), unpack(source) if source else "")


def list_routes(netlink: Netlink, family: int) -> list[KernelRoute]:
    """All unicast routes of a family, those of several next hops once for each."""
    request = _BODY.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    routes = []
    for found in netlink.dump_raw(request, RTM_GETROUTE):
        routes += _kernel_routes(found)
    return routes


def dump_main(netlink: Netlink, protocol: int = 0) -> Iterator[bytes]:
    """The messages of the main table's routes, of one protocol or (0) of all. Raises NetlinkError."""
    for family in (AF_INET, AF_INET6):
        request = _BODY.pack(family, 0, 0, 0, _TABLE_MAIN, protocol, 0, 0, 0)
        for message in netlink.dump_raw(request, RTM_GETROUTE):
            # A kernel without IPv6 answers for IPv4 again.
            if message[16] == family and message[20] == _TABLE_MAIN and protocol in (0, message[21]):
                yield message


def _kernel_routes(message: bytes) -> list[KernelRoute]:
    family, length, _, _, table, protocol, _, kind, _ = _BODY.unpack_from(message, 16)
    if kind != _TYPE_UNICAST:
        return []
    shown = attributes_of(message, RTNL_BODY)
    metrics = attributes_of(shown.get(_METRICS, b""))
    dst = shown.get(_DST) or bytes(16 if family == AF_INET6 else 4)
    return [
        KernelRoute(
            dst=f"{unpack(dst)}/{length}",
            via=via,
            link=link,
            priority=_number(shown, _PRIORITY),
            table=_number(shown, _TABLE) or table,
            mtu=_number(metrics, _MTU),
            advmss=_number(metrics, _ADVMSS),
            protocol=protocol,
        )
        for via, link in _hops(shown) or [(_via(shown), _number(shown, _OIF))]
    ]


def _hops(shown: dict[int, bytes]) -> list[tuple[str, int]]:
    """The gateway ("": on the link) and the link of each of several next hops."""
    data, at, hops = shown.get(_MULTIPATH, b""), 0, []
    while at + _HOP.size <= len(data):
        length, _, _, link = _HOP.unpack_from(data, at)
        if length < _HOP.size:
            break
        hops.append((_via(attributes_of(data[at : at + length], _HOP.size)), link))
        at += (length + 3) & ~3
    return hops


def _via(shown: dict[int, bytes]) -> str:
    gateway = shown.get(_GATEWAY, b"")
    return unpack(gateway) if gateway else ""


def _number(shown: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(shown.get(kind, b""), byteorder)

"""Routes by rtnetlink."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from errno import EEXIST
from socket import AF_INET, AF_INET6
from struct import Struct
from sys import byteorder

from linux.netlink.attributes import RTNL_BODY, attribute, attributes_of, nested, number
from linux.netlink.socket import NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, Netlink, NetlinkError
from linux.rtnl import uapi
from spec.addresses import Address, family_of, pack, parse_cidr, unpack
from spec.result import Route

RTMSG = Struct("=BBBBBBBBI")  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_RTNEXTHOP = Struct("=HBBi")  # struct rtnexthop: length, flags, hops, index of the link

FAR = {4: "198.41.0.4", 6: "2001:503:ba3e::2:30"}
"""By IP version an address (of a DNS root server) behind the default route. `look_up` sends nothing."""


@dataclass(frozen=True)
class Choice:
    """How the kernel sends a packet of this node: the `link` (index), the next hop ("": none), the source address."""

    link: int
    via: str
    source: str


@dataclass(frozen=True)
class KernelRoute:
    """A route in the kernel. `via` "": on-link. `mtu`, `advmss` 0: not set. `protocol`: RTPROT_*, its origin."""

    dst: str
    via: str
    link: int
    priority: int
    table: int
    mtu: int
    advmss: int
    protocol: int = 0


def add_route(netlink: Netlink, index: int, route: Route, gateway: str) -> None:
    """Add `route` on a link, via `gateway` ("": the destination is on the link). A route that exists is not an error.

    A route to the same destination via another gateway is added before (IPv4) or beside (IPv6) the existing ones.
    """
    try:
        netlink.send([route_request(netlink, index, route, gateway)])
    except NetlinkError as error:
        if error.errno != EEXIST:
            raise


def route_request(netlink: Netlink, index: int, route: Route, gateway: str) -> bytes:
    """The request of `add_route`, to be sent with others; refused with EEXIST if the route exists."""
    dst = parse_cidr(route.dst)
    on_link = dst.version == 4 and not gateway
    table = uapi.RT_TABLE_MAIN if route.table is None else route.table
    scope = (uapi.RT_SCOPE_LINK if on_link else uapi.RT_SCOPE_UNIVERSE) if route.scope is None else route.scope
    in_body = table if table < 256 else uapi.RT_TABLE_COMPAT
    message = RTMSG.pack(dst.family, dst.prefix, 0, 0, in_body, uapi.RTPROT_BOOT, scope, uapi.RTN_UNICAST, 0)
    message += number(uapi.RTA_OIF, index) + number(uapi.RTA_TABLE, table)
    if dst.prefix:
        message += attribute(uapi.RTA_DST, dst.packed)
    if gateway:
        message += attribute(uapi.RTA_GATEWAY, pack(gateway))
    if route.priority:
        message += number(uapi.RTA_PRIORITY, route.priority)
    metrics = [
        number(kind, value) for kind, value in ((uapi.RTAX_MTU, route.mtu), (uapi.RTAX_ADVMSS, route.advmss)) if value
    ]
    if metrics:
        message += nested(uapi.RTA_METRICS, *metrics)
    return netlink.encode(message, uapi.RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE)


def look_up(netlink: Netlink, address: str, *, link: int = 0) -> Choice:
    """How the kernel would send to an address now, by all rules and tables; only over `link` (index), if given.

    Raises NetlinkError: ENETUNREACH (there is no route), EINVAL (it is a blackhole), EACCES (prohibit), EHOSTUNREACH
    (unreachable).
    """
    destination = pack(address)
    request = RTMSG.pack(family_of(address), 8 * len(destination), 0, 0, 0, 0, 0, 0, 0) + attribute(
        uapi.RTA_DST, destination
    )
    answer = netlink.get(request + (number(uapi.RTA_OIF, link) if link else b""), uapi.RTM_GETROUTE)
    attributes = attributes_of(answer, RTNL_BODY)
    source = attributes.get(uapi.RTA_PREFSRC, b"")
    return Choice(_number(attributes, uapi.RTA_OIF), _via(attributes), unpack(source) if source else "")


def list_routes(netlink: Netlink, family: int) -> list[KernelRoute]:
    """All unicast routes of a family; a multipath route once for each next hop."""
    request = RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    routes = []
    for message in netlink.dump(request, uapi.RTM_GETROUTE):
        routes += _kernel_routes(message)
    return routes


def dump_main(netlink: Netlink, protocol: int = 0) -> Iterator[bytes]:
    """The messages of the main table's routes, of one protocol or (0) of all. Raises NetlinkError."""
    for family in (AF_INET, AF_INET6):
        request = RTMSG.pack(family, 0, 0, 0, uapi.RT_TABLE_MAIN, protocol, 0, 0, 0)
        for message in netlink.dump(request, uapi.RTM_GETROUTE):
            # A kernel without IPv6 answers for IPv4 again.
            if message[16] == family and message[20] == uapi.RT_TABLE_MAIN and protocol in (0, message[21]):
                yield message


def destination_of(message: bytes, attributes: Mapping[int, bytes]) -> Address:
    """The destination of a route message with these attributes."""
    family, length, *_ = RTMSG.unpack_from(message, 16)
    return Address(6 if family == AF_INET6 else 4, int.from_bytes(attributes.get(uapi.RTA_DST, b""), "big"), length)


def _kernel_routes(message: bytes) -> list[KernelRoute]:
    _, _, _, _, table, protocol, _, kind, _ = RTMSG.unpack_from(message, 16)
    if kind != uapi.RTN_UNICAST:
        return []
    attributes = attributes_of(message, RTNL_BODY)
    metrics = attributes_of(attributes.get(uapi.RTA_METRICS, b""))
    return [
        KernelRoute(
            dst=destination_of(message, attributes).cidr,
            via=via,
            link=link,
            priority=_number(attributes, uapi.RTA_PRIORITY),
            table=_number(attributes, uapi.RTA_TABLE) or table,
            mtu=_number(metrics, uapi.RTAX_MTU),
            advmss=_number(metrics, uapi.RTAX_ADVMSS),
            protocol=protocol,
        )
        for via, link in _hops(attributes) or [(_via(attributes), _number(attributes, uapi.RTA_OIF))]
    ]


def _hops(attributes: dict[int, bytes]) -> list[tuple[str, int]]:
    """Gateway ("": on-link) and link of each next hop of a multipath route."""
    data, at, hops = attributes.get(uapi.RTA_MULTIPATH, b""), 0, []
    while at + _RTNEXTHOP.size <= len(data):
        length, _, _, link = _RTNEXTHOP.unpack_from(data, at)
        if length < _RTNEXTHOP.size:
            break
        hops.append((_via(attributes_of(data[at : at + length], _RTNEXTHOP.size)), link))
        at += (length + 3) & ~3
    return hops


def _via(attributes: dict[int, bytes]) -> str:
    gateway = attributes.get(uapi.RTA_GATEWAY, b"")
    return unpack(gateway) if gateway else ""


def _number(attributes: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(attributes.get(kind, b""), byteorder)

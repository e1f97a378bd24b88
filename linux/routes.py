"""Routes by rtnetlink."""

from dataclasses import dataclass
from errno import EEXIST
from socket import AF_INET, AF_INET6

from pyroute2.netlink.rtnl.rtmsg import rtmsg

from linux.addresses import family_of
from linux.netlink import NLM_F_CREATE, Netlink, NetlinkError
from spec.result import Route

RTM_NEWROUTE, RTM_GETROUTE = 24, 26
_TABLE_COMPAT, _TABLE_MAIN = 252, 254  # rtm_table is one byte; a larger number stands in RTA_TABLE alone
_PROTOCOL_BOOT, _TYPE_UNICAST = 3, 1
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253


@dataclass(frozen=True)
class KernelRoute:
    """A route as the kernel has it: `via` "" is on-link; `mtu` and `advmss` 0 are not set."""

    dst: str
    via: str
    link: int
    priority: int
    table: int
    mtu: int
    advmss: int


def add_route(netlink: Netlink, index: int, route: Route, gateway: str) -> None:
    """Install `route` on a link, through `gateway` ("": the destination is on the link). Once more is no error.

    A route to the same destination through another gateway stands before (IPv4) or beside (IPv6) the ones there are.
    """
    dst, _, length = route.dst.partition("/")
    family = family_of(dst)
    on_link = family == AF_INET and not gateway
    table = _TABLE_MAIN if route.table is None else route.table
    attrs = [("RTA_OIF", index), ("RTA_TABLE", table)]
    if int(length):
        attrs.append(("RTA_DST", dst))
    if gateway:
        attrs.append(("RTA_GATEWAY", gateway))
    if route.priority:
        attrs.append(("RTA_PRIORITY", route.priority))
    metrics = [(name, value) for name, value in (("RTAX_MTU", route.mtu), ("RTAX_ADVMSS", route.advmss)) if value]
    if metrics:
        attrs.append(("RTA_METRICS", {"attrs": metrics}))
    message = rtmsg()
    message.update(
        family=family,
        dst_len=int(length),
        table=table if table < 256 else _TABLE_COMPAT,
        proto=_PROTOCOL_BOOT,
        scope=(_SCOPE_LINK if on_link else _SCOPE_UNIVERSE) if route.scope is None else route.scope,
        type=_TYPE_UNICAST,
        attrs=attrs,
    )
    try:
        netlink.change(message, RTM_NEWROUTE, NLM_F_CREATE)
    except NetlinkError as error:
        if error.errno != EEXIST:
            raise


def list_routes(netlink: Netlink, family: int) -> list[KernelRoute]:
    """All unicast routes of a family, those of several next hops once for each."""
    request = rtmsg()
    request.update(family=family, attrs=[])
    routes = []
    for found in netlink.dump(request, RTM_GETROUTE, rtmsg):
        if found["type"] == _TYPE_UNICAST:
            routes += _kernel_routes(found, "::" if family == AF_INET6 else "0.0.0.0")
    return routes


def _kernel_routes(found: rtmsg, unspecified: str) -> list[KernelRoute]:
    metrics = found.get_attr("RTA_METRICS")
    hops = found.get_attr("RTA_MULTIPATH") or ()
    ways = [(hop.get_attr("RTA_GATEWAY") or "", hop["oif"]) for hop in hops]
    return [
        KernelRoute(
            dst=f"{found.get_attr('RTA_DST') or unspecified}/{found['dst_len']}",
            via=via,
            link=link,
            priority=found.get_attr("RTA_PRIORITY") or 0,
            table=found.get_attr("RTA_TABLE") or found["table"],
            mtu=(metrics and metrics.get_attr("RTAX_MTU")) or 0,
            advmss=(metrics and metrics.get_attr("RTAX_ADVMSS")) or 0,
        )
        for via, link in ways or [(found.get_attr("RTA_GATEWAY") or "", found.get_attr("RTA_OIF") or 0)]
    ]

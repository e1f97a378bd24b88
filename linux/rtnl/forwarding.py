"""The ways to the peers of a node: routes, and for a tunnel the neighbours and forwarding entries of its device.

The entries are flannel's: for a peer's subnet S, its VTEP's MAC M and address P a neighbour (network address of S, M),
a forwarding entry (M, P), and a route to S through the network address of S, on link.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from errno import EEXIST

from linux.netlink.socket import Netlink, NetlinkError

_TRIES = 4
_TOLD = 20  # sentences of `missing`: five thousand more would help nobody


@dataclass(frozen=True)
class Way:
    """The way to a subnet of a peer: a direct route, or (`mac` and `underlay` given) one through the tunnel.

    `subnet`: CIDR. `via`: next hop; of a tunnel the network address of `subnet`. `link`: index of the link that leads
    there. `mac`: the peer's VTEP's. `underlay`: the address of the peer's VTEP. All canonical strings.
    """

    subnet: str
    via: str
    link: int
    mac: str = ""
    underlay: str = ""


@dataclass(frozen=True)
class Changes:
    """How many kernel objects (routes, neighbours, forwarding entries) a `sync` wrote and removed."""

    added: int
    removed: int


class RouteRefused(OSError):
    """A peer's subnet has no route: somebody else's leads elsewhere, or the kernel took none. `strerror` names it."""


def sync(netlink: Netlink, ways: Sequence[Way], *, device: int = 0, within: Sequence[str] = ()) -> Changes:
    """Make the routes of protocol 24, and the entries of the VTEP with index `device` (0: none), equal to `ways`.

    `within`: CIDRs; if any are given, routes beyond them are left alone, but for those of the device. In order: new
    neighbours, forwarding entries, changed neighbours, routes; then what is not wanted goes, routes first. So there is
    never a route whose packets the kernel has nobody to send to, also while a peer's address or MAC changes; if an
    entry of the device can not be made, no route is touched. Two callers that want the same do not disturb each other.

    A foreign route (another protocol) to a peer's subnet is accepted if it leads to the same next hop. One that leads
    elsewhere is not touched: all else is done, then RouteRefused raised; and so for routes that the kernel refuses for
    what they are. Raises ValueError for ways that contradict each other, NetlinkError with the object that could not be
    made for another reason.
    """
    from linux.netlink.bulk import change_all
    from linux.rtnl.peer_routes import write_routes

    tunnel = _tunnel(netlink, ways, device) if device else None
    added = change_all(netlink, [write.request for write in tunnel.writes()]) if tunnel else 0
    for _ in range(_TRIES):
        routes = _routes(netlink, ways, device, within)
        written, outrun, refused = write_routes(netlink, [write.request for write in routes.writes()])
        added += written
        if not outrun:
            break
    else:
        raise NetlinkError(EEXIST, "routes to peers are being made by somebody else at the same time")
    removed = routes.remove_unwanted() + (tunnel.remove_unwanted() if tunnel else 0)
    problems = [f"in the way: {_name_all(netlink, routes.refused)}"] if routes.refused else []
    problems += [str(error.strerror) for error in refused[:_TOLD]]
    if problems:
        raise RouteRefused(EEXIST, "; ".join(problems))
    return Changes(added, removed)


def missing(netlink: Netlink, ways: Sequence[Way], *, device: int = 0) -> list[str]:
    """What of `ways` is not there, a sentence each (the first twenty; a last one tells how many more).

    Raises ValueError, NetlinkError. What is there and not wanted does not count.
    """
    from linux.rtnl.describe import describe, describe_route

    routes = _routes(netlink, ways, device, ())
    writes = [*routes.writes(), *(_tunnel(netlink, ways, device).writes() if device else ())]
    sentences = [f"in the way: {describe_route(netlink, message)}" for message in routes.refused[:_TOLD]]
    for write in writes[: _TOLD - len(sentences)]:
        there = f", there is {describe(netlink, write.instead)}" if write.instead else ""
        sentences.append(f"{describe(netlink, write.request)} is missing{there}")
    more = len(routes.refused) + len(writes) - len(sentences)
    return [*sentences, f"{more} more routes, neighbours and forwarding entries are missing"] if more else sentences


def in_place(netlink: Netlink, ways: Sequence[Way], *, device: int = 0) -> set[Way]:
    """Which of these ways the kernel has now, whole. Unlike those of `sync`, they may contradict each other.

    Raises NetlinkError.
    """
    from linux.netlink.bulk import packed
    from linux.rtnl.neighbours import list_forwarding, list_neighbours
    from linux.rtnl.peer_routes import key_of, list_hops

    hops = list_hops(netlink)
    macs = list_neighbours(netlink, device).entries if device else {}
    remotes = list_forwarding(netlink, device).entries if device else {}

    def is_there(way: Way) -> bool:
        if hops.get(key_of(way.subnet)) != (packed(way.via), way.link):
            return False
        if not way.mac:
            return True
        mac = packed(way.mac)
        return macs.get(packed(way.via)) == mac and remotes.get(mac) == packed(way.underlay)

    return {way for way in ways if is_there(way)}


def _tunnel(netlink: Netlink, ways: Sequence[Way], device: int) -> "Tunnel":  # noqa: F821
    from linux.rtnl.neighbours import Tunnel

    through = [way for way in ways if way.mac]
    return Tunnel(netlink, device, [(w.via, w.mac) for w in through], [(w.mac, w.underlay) for w in through])


def _routes(netlink: Netlink, ways: Sequence[Way], device: int, within: Sequence[str]) -> "Routes":  # noqa: F821
    from linux.netlink.bulk import packed
    from linux.rtnl.neighbours import unique
    from linux.rtnl.peer_routes import Routes, key_of

    two_ways = "two ways to the subnet {}"
    hops = unique([(way.subnet, (way.via, way.link)) for way in ways], two_ways.format)
    wanted = {key_of(subnet): (packed(via), link) for subnet, (via, link) in hops.items()}
    return Routes(netlink, wanted, onlink=device, within=[key_of(cidr) for cidr in within] if within else None)


def _name_all(netlink: Netlink, routes: Sequence[bytes]) -> str:
    from linux.rtnl.describe import describe_route

    named = [describe_route(netlink, message) for message in routes[:_TOLD]]
    return "; ".join(named + ([f"and {len(routes) - _TOLD} more"] if len(routes) > _TOLD else []))

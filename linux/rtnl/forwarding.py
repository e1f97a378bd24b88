"""The paths to a node's peers: routes, and for a tunnel the neighbours and FDB entries of its device.

The entries are flannel's: for a peer's subnet S, its VTEP's MAC M and address P a neighbour (network address of S, M),
an FDB entry (M, P), and a route to S via the network address of S, onlink.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from errno import EEXIST, ENOENT, ESRCH

from linux.netlink.socket import NLM_F_EXCL, Netlink, NetlinkError
from spec.addresses import pack, parse_cidr

_TRIES = 4
_LISTED = 20  # objects named in a message, which may be about thousands


@dataclass(frozen=True)
class PeerPath:
    """The path to a subnet of a peer: a direct route, or (`mac` and `underlay` given) one through the tunnel.

    `subnet`: CIDR. `via`: next hop; for a tunnel the network address of `subnet`. `link`: index of the outgoing link.
    `mac`, `underlay`: MAC and address of the peer's VTEP. All strings are canonical.
    """

    subnet: str
    via: str
    link: int
    mac: str = ""
    underlay: str = ""


@dataclass(frozen=True)
class Objects:
    """Objects of paths, packed: of routes (network, prefix length) to (next hop, link), of neighbours next hop to MAC,
    of FDB entries MAC to underlay address.
    """

    routes: Mapping[tuple[bytes, int], tuple[bytes, int]]
    hops: Mapping[bytes, bytes]
    remotes: Mapping[bytes, bytes]


NOTHING = Objects({}, {}, {})


@dataclass(frozen=True)
class Changes:
    """How many kernel objects (routes, neighbours, FDB entries) a `sync` wrote and removed."""

    added: int
    removed: int


class RouteRefused(OSError):
    """A peer's subnet has no route: a foreign one leads elsewhere, or the kernel refused ours. `strerror` names it.

    `sentences`: one for each such subnet (at most forty). `changes`: what was written nevertheless.
    """

    def __init__(self, sentences: Sequence[str], changes: Changes) -> None:
        super().__init__(EEXIST, "; ".join(sentences))
        self.sentences, self.changes = tuple(sentences), changes


def objects_of(paths: Sequence[PeerPath]) -> Objects:
    """The objects that paths need. Raises ValueError if paths contradict each other."""
    from linux.rtnl.links import pack_mac
    from linux.rtnl.neighbours import unique
    from linux.rtnl.peer_routes import key_of

    through = [path for path in paths if path.mac]
    routes = unique([(path.subnet, (path.via, path.link)) for path in paths], "two paths to the subnet {}".format)
    hops = unique([(path.via, path.mac) for path in through], "two VTEP MACs for the next hop {}".format)
    remotes = unique([(p.mac, p.underlay) for p in through], "two underlay addresses for the VTEP MAC {}".format)
    return Objects(
        {key_of(subnet): (pack(via), link) for subnet, (via, link) in routes.items()},
        {pack(hop): pack_mac(mac) for hop, mac in hops.items()},
        {pack_mac(mac): pack(address) for mac, address in remotes.items()},
    )


def sync(
    netlink: Netlink, paths: Sequence[PeerPath] | Objects, *, device: int = 0, within: Sequence[str] = ()
) -> Changes:
    """Make the routes of protocol 24, and the entries of the VTEP with index `device` (0: none), equal to `paths`.

    `within`: CIDRs; if given, only routes inside them, and those of the device, are removed. Writes new neighbours, FDB
    entries, changed neighbours and routes, in this order, then removes what is not wanted, routes first. So a route
    never leads to a next hop without an entry, even while a peer's address or MAC changes; if an entry of the device
    cannot be made, no route is touched. Concurrent callers that want the same do not disturb each other.

    A foreign route (of another protocol) to a peer's subnet is accepted if it has the same next hop. If it leads
    elsewhere, or the kernel refuses a route as invalid, everything else is done and then RouteRefused is raised. Raises
    ValueError if paths contradict each other, NetlinkError with the object that could not be written otherwise.
    """
    from linux.rtnl.bulk import change_all
    from linux.rtnl.peer_routes import write_routes

    wanted = paths if isinstance(paths, Objects) else objects_of(paths)
    tunnel = _tunnel(netlink, wanted, device) if device else None
    added = change_all(netlink, [write.request for write in tunnel.writes()]) if tunnel else 0
    for _ in range(_TRIES):
        routes = _routes(netlink, wanted, device, within)
        written, is_raced, refused = write_routes(netlink, [write.request for write in routes.writes()])
        added += written
        if not is_raced:
            break
    else:
        raise NetlinkError(EEXIST, "another program keeps changing the routes to peers")
    removed = routes.remove_unwanted() + (tunnel.remove_unwanted() if tunnel else 0)
    changes = Changes(added, removed)
    problems = [*_blocking(netlink, routes.blocking), *(str(error.strerror) for error in refused[:_LISTED])]
    if problems:
        raise RouteRefused(problems, changes)
    return changes


def exchange(netlink: Netlink, before: Sequence[PeerPath], after: Sequence[PeerPath], *, device: int = 0) -> Changes:
    """Change the objects of the paths `before`, as an earlier `sync` left them, to those of `after`, reading nothing.

    Takes as long as these paths are many, whatever else there is; no other path may share an object with them. The
    order is that of `sync`. Raises OSError if the kernel does not have what is expected: then `sync` is needed.
    """
    from linux.rtnl.bulk import change_all
    from linux.rtnl.neighbours import TunnelChanges
    from linux.rtnl.peer_routes import is_taken, removal_of

    old, new = objects_of(before), objects_of(after)
    tunnel = TunnelChanges(device, old, new)
    written = change_all(netlink, tunnel.writes())
    routes = dict(new.routes.items() - old.routes.items())
    if any(key in old.routes or is_taken(netlink, key) for key in routes):
        raise OSError(EEXIST, "a subnet has another route")
    written += _add_routes(netlink, routes, device)
    gone = [removal_of(key, hop) for key, hop in old.routes.items() if key not in new.routes]
    removed = change_all(netlink, gone, tolerated=(ESRCH,))
    return Changes(written, removed + change_all(netlink, tunnel.removals(), tolerated=(ENOENT,)))


def _add_routes(netlink: Netlink, routes: Mapping[tuple[bytes, int], tuple[bytes, int]], device: int) -> int:
    """Add routes to which there is none, and return how many; raises OSError."""
    from linux.rtnl.peer_routes import route_template, write_routes

    requests = [
        route_template(len(dst), length, link, NLM_F_EXCL, onlink=link == device) % (dst, via)
        for (dst, length), (via, link) in routes.items()
    ]
    written, is_raced, refused = write_routes(netlink, requests)
    if is_raced or refused:
        raise refused[0] if refused else OSError(EEXIST, "another program has just added a route")
    return written


def restore(netlink: Netlink, lost: Objects, *, device: int = 0) -> int:
    """Write objects that have been deleted, reading nothing; returns how many.

    Raises OSError if a route cannot be as it was: then `sync` is needed.
    """
    from linux.rtnl.bulk import change_all
    from linux.rtnl.neighbours import TunnelChanges

    written = change_all(netlink, TunnelChanges(device, NOTHING, lost).writes())
    return written + _add_routes(netlink, lost.routes, device)


def missing(netlink: Netlink, paths: Sequence[PeerPath], *, device: int = 0) -> list[str]:
    """A sentence for each object of `paths` that is missing: the first twenty, and one with the number of the others.

    Objects that exist but are not wanted do not count. Raises ValueError, NetlinkError.
    """
    from linux.rtnl.describe import describe, describe_route

    wanted = objects_of(paths)
    routes = _routes(netlink, wanted, device, ())
    writes = [*routes.writes(), *(_tunnel(netlink, wanted, device).writes() if device else ())]
    sentences = [f"in the way: {describe_route(netlink, message)}" for message in routes.blocking[:_LISTED]]
    for write in writes[: _LISTED - len(sentences)]:
        there = f", there is {describe(netlink, write.replaced)}" if write.replaced else ""
        sentences.append(f"{describe(netlink, write.request)} is missing{there}")
    more = len(routes.blocking) + len(writes) - len(sentences)
    return [*sentences, f"{more} more routes, neighbours and FDB entries are missing"] if more else sentences


def in_place(netlink: Netlink, paths: Sequence[PeerPath], *, device: int = 0) -> set[PeerPath]:
    """Those of the paths of which the kernel has all objects. They may contradict each other. Raises NetlinkError."""
    from linux.rtnl.links import pack_mac
    from linux.rtnl.neighbours import list_forwarding, list_neighbours
    from linux.rtnl.peer_routes import key_of, list_hops

    hops = list_hops(netlink)
    macs = list_neighbours(netlink, device).entries if device else {}
    remotes = list_forwarding(netlink, device).entries if device else {}

    def is_there(path: PeerPath) -> bool:
        if hops.get(key_of(path.subnet)) != (pack(path.via), path.link):
            return False
        if not path.mac:
            return True
        mac = pack_mac(path.mac)
        return macs.get(pack(path.via)) == mac and remotes.get(mac) == pack(path.underlay)

    return {path for path in paths if is_there(path)}


def _tunnel(netlink: Netlink, wanted: Objects, device: int) -> "TunnelEntries":  # noqa: F821
    from linux.rtnl.neighbours import TunnelEntries

    return TunnelEntries(netlink, device, wanted.hops, wanted.remotes)


def _routes(netlink: Netlink, wanted: Objects, device: int, within: Sequence[str]) -> "PeerRoutes":  # noqa: F821
    from linux.rtnl.peer_routes import PeerRoutes

    networks = [parse_cidr(cidr) for cidr in within] if within else None
    return PeerRoutes(netlink, wanted.routes, onlink=device, within=networks)


def _blocking(netlink: Netlink, routes: Sequence[bytes]) -> list[str]:
    from linux.rtnl.describe import describe_route

    named = [f"in the way: {describe_route(netlink, message)}" for message in routes[:_LISTED]]
    return named + ([f"{len(routes) - _LISTED} more routes are in the way"] if len(routes) > _LISTED else [])

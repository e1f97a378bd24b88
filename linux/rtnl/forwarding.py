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


def sync(netlink: Netlink, paths: Sequence[PeerPath], *, device: int = 0, within: Sequence[str] = ()) -> Changes:
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

    tunnel = _tunnel(netlink, paths, device) if device else None
    added = change_all(netlink, [write.request for write in tunnel.writes()]) if tunnel else 0
    for _ in range(_TRIES):
        routes = _routes(netlink, paths, device, within)
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
    from linux.rtnl.peer_routes import is_taken, key_of, removal_of, route_template, write_routes

    tunnel = TunnelChanges(device, _entries(before), _entries(after))
    old = {path.subnet: (path.via, path.link) for path in before}
    new = {path.subnet: (path.via, path.link) for path in after}
    written = change_all(netlink, tunnel.writes())
    requests, templates = [], {}
    for subnet, (via, link) in new.items() - old.items():
        key = key_of(subnet)
        if subnet in old or is_taken(netlink, key):
            raise OSError(EEXIST, f"there is another route to {subnet}")
        shape = (len(key[0]), key[1], link, NLM_F_EXCL)
        if shape not in templates:
            templates[shape] = route_template(*shape, onlink=link == device)
        requests.append(templates[shape] % (key[0], pack(via)))
    routes, is_raced, refused = write_routes(netlink, requests)
    if is_raced or refused:
        raise refused[0] if refused else OSError(EEXIST, "another program has just added a route")
    gone = [removal_of(key_of(subnet), (pack(old[subnet][0]), old[subnet][1])) for subnet in old if subnet not in new]
    removed = change_all(netlink, gone, tolerated=(ESRCH,))
    return Changes(written + routes, removed + change_all(netlink, tunnel.removals(), tolerated=(ENOENT,)))


def _entries(paths: Sequence[PeerPath]) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Next hop to MAC, and MAC to underlay address, of the paths through the tunnel, packed."""
    from linux.rtnl.links import pack_mac

    through = [(pack(path.via), pack_mac(path.mac), pack(path.underlay)) for path in paths if path.mac]
    return {via: mac for via, mac, _ in through}, {mac: underlay for _, mac, underlay in through}


def restore(netlink: Netlink, lost: Objects, *, device: int = 0) -> int:
    """Write objects that have been deleted, reading nothing; returns how many.

    Raises OSError if a route cannot be as it was: then `sync` is needed.
    """
    from linux.rtnl.bulk import change_all
    from linux.rtnl.neighbours import TunnelChanges
    from linux.rtnl.peer_routes import route_template, write_routes

    entries = TunnelChanges(device, ({}, {}), (lost.hops, lost.remotes)).writes()
    requests = [
        route_template(len(dst), length, link, NLM_F_EXCL, onlink=link == device) % (dst, via)
        for (dst, length), (via, link) in lost.routes.items()
    ]
    written = change_all(netlink, entries)
    routes, is_raced, refused = write_routes(netlink, requests)
    if is_raced or refused:
        raise refused[0] if refused else OSError(EEXIST, "another program has added a route")
    return written + routes


def missing(netlink: Netlink, paths: Sequence[PeerPath], *, device: int = 0) -> list[str]:
    """A sentence for each object of `paths` that is missing: the first twenty, and one with the number of the others.

    Objects that exist but are not wanted do not count. Raises ValueError, NetlinkError.
    """
    from linux.rtnl.describe import describe, describe_route

    routes = _routes(netlink, paths, device, ())
    writes = [*routes.writes(), *(_tunnel(netlink, paths, device).writes() if device else ())]
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


def _tunnel(netlink: Netlink, paths: Sequence[PeerPath], device: int) -> "TunnelEntries":  # noqa: F821
    from linux.rtnl.neighbours import TunnelEntries

    through = [path for path in paths if path.mac]
    return TunnelEntries(netlink, device, [(w.via, w.mac) for w in through], [(w.mac, w.underlay) for w in through])


def _routes(netlink: Netlink, paths: Sequence[PeerPath], device: int, within: Sequence[str]) -> "PeerRoutes":  # noqa: F821
    from linux.rtnl.neighbours import unique
    from linux.rtnl.peer_routes import PeerRoutes, key_of

    two_paths = "two paths to the subnet {}"
    hops = unique([(path.subnet, (path.via, path.link)) for path in paths], two_paths.format)
    wanted = {key_of(subnet): (pack(via), link) for subnet, (via, link) in hops.items()}
    return PeerRoutes(netlink, wanted, onlink=device, within=[parse_cidr(cidr) for cidr in within] if within else None)


def _blocking(netlink: Netlink, routes: Sequence[bytes]) -> list[str]:
    from linux.rtnl.describe import describe_route

    named = [f"in the way: {describe_route(netlink, message)}" for message in routes[:_LISTED]]
    return named + ([f"{len(routes) - _LISTED} more routes are in the way"] if len(routes) > _LISTED else [])

"""Which announcements of the kernel say nothing new: of our own changes, and of what is as it should be. Pure."""

from collections.abc import Iterable
from dataclasses import replace

from linux.rtnl.forwarding import Objects, PeerPath
from linux.rtnl.links import pack_mac
from linux.rtnl.monitor import FORWARDING, NEIGHBOUR, ROUTE, Change
from linux.rtnl.peer_routes import PROTOCOL
from spec.addresses import pack

_Key = tuple[bytes, int]  # of a route: destination, prefix length; of other entries 0 in place of it


class Expected:
    """The routes, neighbours and FDB entries of some paths, as announcements describe them."""

    def __init__(self) -> None:
        self._routes: dict[_Key, tuple[bytes, int]] = {}
        self._entries: dict[str, dict[bytes, bytes]] = {NEIGHBOUR: {}, FORWARDING: {}}

    def replace(self, paths: Iterable[PeerPath]) -> None:
        """These are all paths."""
        self.__init__()
        self.add(paths)

    def add(self, paths: Iterable[PeerPath]) -> None:
        """These paths are wanted too."""
        neighbours, forwarding = self._entries[NEIGHBOUR], self._entries[FORWARDING]
        for path in paths:
            via = pack(path.via)
            self._routes[_key(path)] = (via, path.link)
            if path.mac:
                mac = pack_mac(path.mac)
                neighbours[via] = mac
                forwarding[mac] = pack(path.underlay)

    def remove(self, paths: Iterable[PeerPath]) -> None:
        """These paths are no longer wanted; to be called before `add` of what replaces them."""
        for path in paths:
            self._routes.pop(_key(path), None)
            if path.mac:
                self._entries[NEIGHBOUR].pop(pack(path.via), None)
                self._entries[FORWARDING].pop(pack_mac(path.mac), None)

    def lost(self, changes: Iterable[Change]) -> Objects | None:
        """What of this the changes, in order, have deleted; None if they have left something else that is not wanted.

        Only for changes of routes, neighbours and FDB entries.
        """
        state: dict[object, Change] = {}
        for change in changes:
            if change.kind != ROUTE and change.kind not in self._entries:
                return None
            # Several routes may have one destination. A neighbour that is gone is announced without its MAC.
            is_route = change.kind == ROUTE
            state[replace(change, is_gone=False) if is_route else (change.kind, change.key)] = change
        lost = [change for change in state.values() if not self.covers(change)]
        if not all(change.is_gone for change in lost):
            return None
        routes, hops, remotes = ([one for one in lost if one.kind == kind] for kind in (ROUTE, NEIGHBOUR, FORWARDING))
        neighbours, forwarding = self._entries[NEIGHBOUR], self._entries[FORWARDING]
        return Objects(
            routes={(one.key, one.prefix): self._routes[one.key, one.prefix] for one in routes},
            hops={one.key: neighbours[one.key] for one in hops},
            remotes={one.key: forwarding[one.key] for one in remotes},
        )

    def covers(self, change: Change) -> bool:
        """Whether the change leaves everything as wanted. False for other kinds, which have to be looked at."""
        if change.kind == ROUTE:
            return self._covers_route(change)
        if change.kind in self._entries:
            wanted = self._entries[change.kind].get(change.key)
            if wanted is None:
                return change.is_gone or not change.value
            return not change.is_gone and change.value == wanted
        return False

    def _covers_route(self, change: Change) -> bool:
        wanted = self._routes.get((change.key, change.prefix))
        is_ours = change.protocol == PROTOCOL
        if wanted is None:
            return change.prefix > 0 and (change.is_gone or not is_ours)
        is_wanted = is_ours and (change.value, change.link) == wanted
        return is_wanted != change.is_gone


def _key(path: PeerPath) -> _Key:
    network, _, length = path.subnet.partition("/")
    return pack(network), int(length)

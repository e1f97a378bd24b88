"""Which announcements of the kernel say nothing new: of our own changes, and of what is as it should be. Pure."""

from collections.abc import Iterable
from dataclasses import replace

from linux.rtnl.forwarding import NOTHING, Objects, PeerPath, objects_of
from linux.rtnl.monitor import FORWARDING, NEIGHBOUR, ROUTE, Change
from linux.rtnl.peer_routes import PROTOCOL

_Key = tuple[bytes, int]  # of a route: destination, prefix length; of other entries 0 in place of it


class Expected:
    """The routes, neighbours and FDB entries of some paths, as announcements describe them."""

    def __init__(self, objects: Objects = NOTHING) -> None:
        self._routes: dict[_Key, tuple[bytes, int]] = dict(objects.routes)
        self._entries: dict[str, dict[bytes, bytes]] = {
            NEIGHBOUR: dict(objects.hops),
            FORWARDING: dict(objects.remotes),
        }

    def exchange(self, gone: Iterable[PeerPath], new: Iterable[PeerPath]) -> None:
        """Some paths are no longer wanted, and others are."""
        old, objects = objects_of(list(gone)), objects_of(list(new))
        for have, before, after in (
            (self._routes, old.routes, objects.routes),
            (self._entries[NEIGHBOUR], old.hops, objects.hops),
            (self._entries[FORWARDING], old.remotes, objects.remotes),
        ):
            for key in before:
                have.pop(key, None)
            have.update(after)

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
        is_wanted = (change.value, change.link) == wanted
        # Another program's route may have been in the way of ours, or have served in its place.
        return is_ours and is_wanted != change.is_gone

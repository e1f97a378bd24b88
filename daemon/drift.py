"""What others have changed on this node, as far as it concerns its network."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from linux.netlink.socket import Netlink
from linux.nftables.messages import INET
from linux.nftables.monitor import TableMonitor
from linux.nftables.static_table import table_name
from linux.rtnl.links import find_link, find_link_by_index
from linux.rtnl.monitor import ADDRESS, DOWN, FORWARDING, LINK, NEIGHBOUR, ROUTE, Change, Lost, Monitor
from spec.addresses import unpack

_FEATURES = ("egress", "vtep", "untracked", "dedup")
"""The nftables tables that belong to a node, and not to its pods."""


_TOLD = 5
"""Changes that are named in a list."""

_MOST = 256
"""Changes that are kept; with more of them everything is compared."""


@dataclass(frozen=True)
class Found:
    """What has changed: single `changes`; or `is_any`: anything may have, because there are too many, or rules have.

    `is_own_affected`: this node's addresses, links or default routes may have.
    """

    is_own_affected: bool = False
    is_any: bool = False
    changes: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return self.is_any or bool(self.changes)

    def __add__(self, later: "Found") -> "Found":
        changes = {_place(change): change for change in (*self.changes, *later.changes)}
        return Found(
            self.is_own_affected or later.is_own_affected,
            self.is_any or later.is_any or len(changes) > _MOST,
            tuple(changes.values())[:_MOST],
        )

    def sentences(self) -> tuple[str, ...]:
        """What of ours others have damaged, in a few words each. Other changes, as of an address, may be harmless."""
        damage = [_words(change) for change in self.changes if _is_damage(change)]
        named = damage[:_TOLD]
        named += [f"{len(damage) - _TOLD} more"] if len(damage) > _TOLD else []
        return (*named, *(["rules were changed, or too much at once"] if self.is_any else []))


class Drift:
    """Receives the announcements of the kernel, in the network namespace of the calling thread."""

    def __init__(self, network: str, cluster: Sequence[str], names: Collection[str], device: str = "") -> None:
        """`network`: its name. `cluster`: networks of pods (CIDRs). `names`: of the links that are ours.

        `device`: the name of the tunnel's device, "" without one.
        """
        self._names, self._device = tuple(names), device
        tables = [table_name(INET, feature, network).name.encode() + b"\0" for feature in _FEATURES]
        self._monitor, self._tables = Monitor(cluster), TableMonitor(tables)

    def filenos(self) -> tuple[int, ...]:
        """What to poll."""
        return self._monitor.fileno(), self._tables.fileno()

    def close(self) -> None:
        """Close the sockets."""
        self._monitor.close()
        self._tables.close()

    def watch(self, host: Netlink, links: Sequence[int]) -> None:
        """Watch our links as they are now, and those (by index) that lead to the other nodes. Raises NetlinkError."""
        ours = [link for name in self._names if (link := find_link(host, name))]
        others = [link for index in links if (link := find_link_by_index(host, index))]
        device = next((link.index for link in ours if link.name == self._device), 0)
        self._monitor.watch([*ours, *others], self._names, device)

    def read(self, is_expected: Callable[[Change], bool]) -> Found:
        """What has been announced since the last call, except what `is_expected`, as our own changes are."""
        is_any, is_own_affected, changes = self._tables.has_changed(), False, {}
        try:
            for change in self._monitor.changes():
                place = _place(change)
                if is_expected(change):
                    if place in changes and changes[place].is_gone and not change.is_gone:
                        del changes[place]  # it is back
                    continue
                is_own_affected = is_own_affected or _concerns_this_node(change)
                is_any = is_any or len(changes) >= _MOST
                if not is_any:
                    changes[place] = change
        except Lost:
            is_any = is_own_affected = True
        return Found(is_own_affected, is_any, tuple(changes.values()))


def _place(change: Change) -> tuple[object, ...]:
    return change.kind, change.key, change.prefix


def _words(change: Change) -> str:
    where = f"{_text(change.key)}/{change.prefix}"
    what = {
        LINK: f"link {change.key.decode(errors='replace')}",
        ADDRESS: f"address {where}",
        ROUTE: f"route {where}",
        NEIGHBOUR: f"neighbour {_text(change.key)}",
        FORWARDING: f"FDB entry {change.key.hex(':')}",
    }
    done = "deleted" if change.is_gone else "set down" if change.kind == LINK else "changed"
    return f"{what[change.kind]} was {done}"


def _is_damage(change: Change) -> bool:
    if change.kind == ROUTE:
        return change.prefix > 0
    return change.is_gone or change.value == DOWN or change.kind in (NEIGHBOUR, FORWARDING)


def _text(packed: bytes) -> str:
    return unpack(packed) if len(packed) in (4, 16) else packed.hex(":")


def _concerns_this_node(change: Change) -> bool:
    return change.kind in (LINK, ADDRESS) or (change.kind == ROUTE and not change.prefix)

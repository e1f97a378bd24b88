"""The records that the registry has: what `Registry.watch` passes, kept for the thread that reconciles."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import Lock

from nodes.registry import Entry
from plugins.node.records import Node

_TOLD = 20  # sentences about records that cannot be used


@dataclass(frozen=True)
class Changes:
    """The records of the other nodes by name, and the names of those that have changed since the last `Store.take`.

    `is_whole`: any may have changed. `own`: this node's record, None if there is none.
    """

    nodes: dict[str, Node]
    names: frozenset[str] = frozenset()
    is_whole: bool = True
    own: Node | None = None


@dataclass(frozen=True)
class Counts:
    """What the store holds: `known` records; `wrong_count` others, about some of which `wrong` has sentences.

    `lost_seconds`: for how long the registry cannot be reached, 0 if it can; `why` not. `received`: since the start.
    """

    known: int = 0
    wrong: tuple[str, ...] = ()
    wrong_count: int = 0
    lost_seconds: float = 0.0
    why: str = ""
    received: int = 0


@dataclass
class _Pending:
    """The names of records that changed, not yet taken; `is_whole`: all of them."""

    names: set[str] = field(default_factory=set)
    is_whole: bool = False


class Store:
    """One record per node, of one cluster; a Sink. Its methods may be called by any thread.

    `is_complete` is false until the first complete list: before, a node that is missing may exist.
    """

    def __init__(
        self,
        node: str,
        cluster: str,
        wake: Callable[[], None],
        on_own: Callable[[Node | None], None] = lambda _own: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`node`: this node's name. `cluster`: records of other clusters are ignored, "": none are.

        `wake` is called when there is something to take, `on_own` when this node's own record has changed, or was put
        again: what was there in between may have been missed.
        """
        self._node, self._cluster, self._wake, self._on_own, self._clock = node, cluster, wake, on_own, clock
        self._lock = Lock()
        self._by_key: dict[str, Node] = {}
        self._by_name: dict[str, str] = {}  # name to key
        self._wrong: dict[str, str] = {}  # key to sentence
        self._pending = _Pending()
        self._lost_at: float | None = None
        self._why = ""
        self._received = 0
        self.is_complete = False

    def replace(self, entries: Iterable[Entry]) -> None:
        """See Sink."""
        entries = list(entries)
        with self._lock:
            before, own = {name: self._by_key[key] for name, key in self._by_name.items()}, self._own()
            self._by_key, self._by_name, self._wrong = {}, {}, {}
            for entry in sorted(entries, key=lambda entry: entry.key):
                self._keep(entry)
            after = {name: self._by_key[key] for name, key in self._by_name.items()}
            changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
            self._pending.is_whole = self._pending.is_whole or not self.is_complete
            is_news = bool(changed) or not self.is_complete
            self._received += len(entries)
            self.is_complete, self._lost_at = True, None
            self._pending.names |= changed
        self._announce(own, is_news=is_news, is_own=True)

    def put(self, entry: Entry) -> None:
        """See Sink."""
        with self._lock:
            own, wrong, self._lost_at = self._own(), self._wrong.get(entry.key), None
            self._received += 1
            if entry.node is not None and self._by_key.get(entry.key) == entry.node:
                self._explain(entry)
                names: set[str] = set()
            else:
                names = self._drop(entry.key) | self._keep(entry)
            self._pending.names |= names
            is_told = self._wrong.get(entry.key) == wrong
            is_own = self._by_name.get(self._node) == entry.key
        self._announce(own, is_news=bool(names) or not is_told, is_own=is_own)

    def remove(self, key: str) -> None:
        """See Sink."""
        with self._lock:
            own, self._lost_at = self._own(), None
            self._received += 1
            names = self._drop(key)
            self._pending.names |= names
        self._announce(own, is_news=bool(names))

    def lost(self, why: str) -> None:
        """See Sink."""
        with self._lock:
            self._why = why
            if self._lost_at is None:
                self._lost_at = self._clock()

    def alive(self) -> None:
        """See Sink."""
        with self._lock:
            self._lost_at = None

    def take(self) -> Changes:
        """What has changed since the last call, and all records as they are now."""
        with self._lock:
            pending, self._pending = self._pending, _Pending()
            nodes = {name: self._by_key[key] for name, key in self._by_name.items() if name != self._node}
            return Changes(nodes, frozenset(pending.names - {self._node}), pending.is_whole, self._own())

    def has_news(self) -> int:
        """How many changes there are to take."""
        return len(self._pending.names) + self._pending.is_whole

    def counts(self) -> Counts:
        """What the store holds now."""
        with self._lock:
            lost = 0.0 if self._lost_at is None else max(self._clock() - self._lost_at, 0.001)
            wrong = tuple(sorted(self._wrong.values())[:_TOLD])
            return Counts(len(self._by_name), wrong, len(self._wrong), lost, self._why if lost else "", self._received)

    def _own(self) -> Node | None:
        key = self._by_name.get(self._node)
        return None if key is None else self._by_key[key]

    def _announce(self, own: Node | None, *, is_news: bool, is_own: bool = False) -> None:
        with self._lock:
            now = self._own()
        if now != own or is_own:
            self._on_own(now)
        if is_news:
            self._wake()

    def _keep(self, entry: Entry) -> set[str]:
        """Keep an entry whose key is not known; the names that this changes."""
        node = entry.node
        if node is None:
            self._wrong[entry.key] = f"record {entry.key}: {entry.problem}"
            return set()
        if self._cluster and node.cluster and node.cluster != self._cluster:
            return set()
        self._explain(entry)
        name = node.name or entry.key
        other = self._by_name.setdefault(name, entry.key)
        self._by_key[entry.key] = node
        if other == entry.key:
            return {name}
        self._wrong[entry.key] = f'record {entry.key}: record {other} has the name "{name}" too'
        return set()

    def _explain(self, entry: Entry) -> None:
        """Note what is wrong with a record that is used nevertheless, or that nothing is any more."""
        if entry.problem:
            self._wrong[entry.key] = f"record {entry.key}: {entry.problem}"
        else:
            self._wrong.pop(entry.key, None)

    def _drop(self, key: str) -> set[str]:
        """Forget an entry; the names that this changes. Another record of the same name takes its place."""
        self._wrong.pop(key, None)
        node = self._by_key.pop(key, None)
        name = node and (node.name or key)
        if node is None or self._by_name.get(name) != key:
            return set()
        del self._by_name[name]
        if len(self._by_key) == len(self._by_name):  # as nearly always: no two have one name
            return {name}
        others = [other for other, one in self._by_key.items() if (one.name or other) == name]
        if others:
            self._by_name[name] = min(others)
            self._wrong.pop(min(others), None)
        return {name}

"""What a source of policies has said, kept for the thread that programs them: a Sink (policy/sources/sink.py)."""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from threading import Lock

from policy.objects import ClusterNode, Namespace, Pod, Policy

Object = Pod | Namespace | ClusterNode | Policy
Key = tuple[str, str, str]
"""Kind, namespace ("" for what is in none), name."""

_TOLD = 20  # sentences about documents that cannot be used
_PEERS_A_CHANGE = 5
"""So many peers of a policy take as long as another change."""


@dataclass(frozen=True)
class Batch:
    """A part of what has changed. `whole`: all objects there are, None if it is only `changes`; None in it: gone."""

    whole: tuple[Object, ...] | None = None
    changes: Mapping[Key, Object | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.whole is not None or bool(self.changes)


@dataclass(frozen=True)
class Counts:
    """What the inbox holds: `known` objects by kind; documents that are `wrong`, with sentences about some of them.

    `lost_seconds`: for how long the source cannot be reached, 0 if it can; `why` not. `waiting`: changes not yet taken.
    """

    known: Mapping[str, int] = field(default_factory=dict)
    wrong: tuple[str, ...] = ()
    wrong_count: int = 0
    lost_seconds: float = 0.0
    why: str = ""
    waiting: int = 0


def key_of(one: Object) -> Key:
    """What identifies an object."""
    match one:
        case Policy():
            return one.key
        case Pod():
            return "Pod", one.namespace, one.name
        case Namespace():
            return "Namespace", "", one.name
    return "Node", "", one.name


def text_of(key: Key) -> str:
    """A key as a text: "NetworkPolicy/default/web", "Namespace/default"."""
    return "/".join(filter(None, key))


def digest_of(one: Object) -> str:
    """16 hex digits that change with what an object says; the order of labels makes no difference."""
    same = one if isinstance(one, Policy) else replace(one, labels=dict(sorted(one.labels.items())))
    return hashlib.sha256(repr(same).encode()).hexdigest()[:16]


class Inbox:
    """All objects of the source, and those that have changed. Any thread may call its methods.

    `is_complete` is false until the first complete list.
    """

    def __init__(self, node: str, wake: Callable[[], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        """`node`: the name of this node. `wake` is called when there is something to take, or something is wrong."""
        self._node, self._wake, self._clock = node, wake, clock
        self._lock = Lock()
        self._known: dict[Key, Object] = {}
        self._counts: dict[str, int] = {}
        self._here: dict[Key, Pod] = {}
        self._urgent: dict[Key, None] = {}
        self._others: dict[Key, None] = {}
        self._is_whole = False
        self._wrong: dict[str, str] = {}
        self._lost_at: float | None = None
        self._why = ""
        self.is_complete = False

    def replace(self, objects: Iterable[Object]) -> None:
        """As Sink. Only the first list is taken as a whole: later ones are compared here, in the source's thread."""
        new = {key_of(one): one for one in objects}
        with self._lock:
            old = self._known
        changed = [key for key, one in new.items() if old.get(key) != one] if self.is_complete else new
        gone = [key for key in old if key not in new]
        with self._lock:
            if not self.is_complete:
                self._is_whole = self.is_complete = True
            for key in gone:
                self._forget(key)
            for key in changed:
                self._keep(key, new[key])
        self._wake()

    def put(self, one: Object) -> None:
        """As Sink."""
        key = key_of(one)
        with self._lock:
            is_news = self._known.get(key) != one
            if is_news:
                self._keep(key, one)
        if is_news:
            self._wake()

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """As Sink."""
        key = (kind, namespace, name)
        with self._lock:
            is_news = key in self._known
            if is_news:
                self._forget(key)
        if is_news:
            self._wake()

    def lost(self, why: str) -> None:
        """As Sink."""
        with self._lock:
            self._why = why
            if self._lost_at is None:
                self._lost_at = self._clock()
        self._wake()

    def alive(self) -> None:
        """As Sink."""
        with self._lock:
            self._lost_at = None

    def wrong(self, key: str, sentence: str | None) -> None:
        """As Sink."""
        with self._lock:
            if sentence is None:
                is_news = self._wrong.pop(key, None) is not None
            else:
                is_news = self._wrong.get(key) != sentence
                self._wrong[key] = sentence
        if is_news:
            self._wake()

    def take(self, most: int) -> Batch:
        """Up to `most` changes, or all objects once. Of changes, first those that a new pod of this node may wait for.

        A policy with many peers counts as many. Nothing before the first complete list.
        """
        with self._lock:
            if not self.is_complete:
                return Batch()
            if self._is_whole:
                self._is_whole, self._urgent, self._others = False, {}, {}
                return Batch(tuple(self._known.values()))
            changes: dict[Key, Object | None] = {}
            for keys in (self._urgent, self._others):
                while keys and most > 0:
                    key = next(iter(keys))  # the oldest
                    del keys[key]
                    one = changes[key] = self._known.get(key)
                    most -= _weight(one)
            return Batch(None, changes)

    def has_news(self) -> bool:
        """Whether there is anything to take."""
        return self._is_whole or bool(self._urgent or self._others)

    def objects(self) -> tuple[Object, ...]:
        """All objects that the source has."""
        with self._lock:
            return tuple(self._known.values())

    def pods_here(self) -> tuple[Pod, ...]:
        """The pods of this node, and those of which no node is known."""
        with self._lock:
            return tuple(self._here.values())

    def counts(self) -> Counts:
        """What it holds now."""
        with self._lock:
            known = dict(self._counts)
            lost = 0.0 if self._lost_at is None else max(self._clock() - self._lost_at, 0.001)
            wrong, waiting = tuple(sorted(self._wrong.values())[:_TOLD]), len(self._urgent) + len(self._others)
            return Counts(known, wrong, len(self._wrong), lost, self._why if lost else "", waiting)

    def _keep(self, key: Key, one: Object) -> None:
        before = self._known.get(key)
        self._note(key, before)
        self._note(key, one)
        if before is None:
            self._counts[key[0]] = self._counts.get(key[0], 0) + 1
        self._known[key] = one
        self._here.pop(key, None)
        if isinstance(one, Pod) and not one.is_host_network and one.node in ("", self._node):
            self._here[key] = one

    def _forget(self, key: Key) -> None:
        before = self._known.pop(key, None)
        self._note(key, before)
        if before is not None:
            self._counts[key[0]] -= 1
        self._here.pop(key, None)

    def _note(self, key: Key, one: Object | None) -> None:
        """That it has changed. Pods of other nodes and nodes are the many, for which no pod of this node waits."""
        if self._is_whole or one is None:
            return
        is_urgent = isinstance(one, Namespace | Policy) or (isinstance(one, Pod) and one.node == self._node)
        if is_urgent:
            self._others.pop(key, None)
            self._urgent[key] = None
        elif key not in self._urgent:
            self._others[key] = None


def _weight(one: Object | None) -> int:
    """As how many changes it counts."""
    if not isinstance(one, Policy):
        return 1
    rules = (*(one.ingress or ()), *(one.egress or ()))
    return 1 + sum(len(rule.peers or ()) for rule in rules) // _PEERS_A_CHANGE

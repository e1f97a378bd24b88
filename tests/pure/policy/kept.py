"""A sink that keeps what a source passes to it, and checks that the source keeps its promises."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from policy.documents import Identity, identity_of
from policy.sources.sink import ClusterObject, Source

PATIENCE = 30.0
"""Seconds after which a test fails."""


class Kept:
    """The objects of a source, and what was said of it."""

    def __init__(self) -> None:
        self.objects: dict[Identity, ClusterObject] | None = None
        self.problems: dict[str, str] = {}
        self.calls: list[tuple] = []
        self.why = ""
        self.broken: list[str] = []
        self._changed = threading.Condition()

    @property
    def names(self) -> set[str]:
        """The names of all objects."""
        return {name for _, _, name in self.objects or ()}

    def replace(self, objects: Iterable[ClusterObject]) -> None:
        """As in Sink."""
        with self._note("replace", ""):
            if self.objects is not None:
                self.broken.append("a second replace")
            self.objects = {identity_of(item): item for item in objects}

    def put(self, item: ClusterObject) -> None:
        """As in Sink."""
        with self._note("put", identity_of(item)):
            if self.objects is None or self.objects.get(identity_of(item)) == item:
                self.broken.append(f"put of nothing new: {item}")
            self.objects[identity_of(item)] = item

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """As in Sink."""
        with self._note("remove", (kind, namespace, name)):
            if self.objects.pop((kind, namespace, name), None) is None:
                self.broken.append(f"remove of {name}, which was not there")

    def lost(self, why: str) -> None:
        """As in Sink."""
        with self._note("lost", why):
            self.why = why

    def alive(self) -> None:
        """As in Sink."""
        with self._note("alive", ""):
            self.why = ""

    def wrong(self, key: str, sentence: str | None) -> None:
        """As in Sink."""
        with self._note("wrong", key):
            if sentence is None:
                del self.problems[key]
            else:
                self.problems[key] = sentence

    @contextmanager
    def _note(self, call: str, about: object) -> Iterator[None]:
        with self._changed:
            yield
            self.calls.append((call, about))
            self._changed.notify_all()

    def wait(self, done: Callable[[], object]) -> None:
        """Wait until a condition about this sink holds."""
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            while not done():
                left = deadline - time.monotonic()
                assert self._changed.wait(left), (self.objects, self.problems, self.calls[-10:], self.why)


@contextmanager
def running(source: Source) -> Iterator[Kept]:
    """A sink that the source fills, in a thread of its own, while the body runs."""
    kept = Kept()
    thread = threading.Thread(target=source.run, args=(kept,))
    thread.start()
    try:
        yield kept
    finally:
        source.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert kept.broken == []

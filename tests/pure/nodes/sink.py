"""A sink that keeps what a registry passes to it."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from nodes.registry import Entry, Registry
from plugins.node.records import Node

PATIENCE = 30.0
"""Seconds after which a test fails."""


class Kept:
    """The entries of a registry by key, and what was said of the registry."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.calls: list[str] = []
        self.why = ""
        self._changed = threading.Condition()

    @property
    def nodes(self) -> dict[str, Node]:
        """The usable records by key."""
        return {key: entry.node for key, entry in self.entries.items() if entry.node}

    def replace(self, entries: Iterable[Entry]) -> None:
        """As in Sink."""
        self._note("replace", {entry.key: entry for entry in entries})

    def put(self, entry: Entry) -> None:
        """As in Sink."""
        self._note("put", {**self.entries, entry.key: entry})

    def remove(self, key: str) -> None:
        """As in Sink."""
        self._note("remove", {other: entry for other, entry in self.entries.items() if other != key})

    def lost(self, why: str) -> None:
        """As in Sink."""
        self._note("lost", self.entries, why)

    def alive(self) -> None:
        """As in Sink."""
        self._note("alive", self.entries)

    def _note(self, call: str, entries: dict[str, Entry], why: str = "") -> None:
        with self._changed:
            self.entries, self.why = entries, why
            self.calls.append(call)
            self._changed.notify_all()

    def wait(self, done: Callable[[], object]) -> None:
        """Wait until a condition about this sink holds."""
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            while not done():
                assert self._changed.wait(deadline - time.monotonic()), (self.entries, self.calls[-10:], self.why)


@contextmanager
def watching(registry: Registry) -> Iterator[Kept]:
    """A sink that the registry fills, in a thread of its own, while the body runs."""
    kept = Kept()
    thread = threading.Thread(target=registry.watch, args=(kept,))
    thread.start()
    try:
        yield kept
    finally:
        registry.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()

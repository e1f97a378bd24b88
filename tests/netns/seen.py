"""A sink that remembers what a registry has passed to it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Thread

from nodes.registry import Entry, Registry
from tests.netns.node import wait_until


class Seen:
    """`entries`: the current ones by their keys. `calls`: the names of the methods in order."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.calls: list[str] = []
        self.reasons: list[str] = []

    def replace(self, entries: Iterable[Entry]) -> None:
        """See Sink."""
        self.entries = {entry.key: entry for entry in entries}
        self.calls.append("replace")

    def put(self, entry: Entry) -> None:
        """See Sink."""
        self.entries[entry.key] = entry
        self.calls.append("put")

    def remove(self, key: str) -> None:
        """See Sink."""
        self.entries.pop(key, None)
        self.calls.append("remove")

    def lost(self, why: str) -> None:
        """See Sink."""
        self.reasons.append(why)
        self.calls.append("lost")

    def alive(self) -> None:
        """See Sink."""
        self.calls.append("alive")

    @property
    def nodes(self) -> dict[str, tuple[str, ...]]:
        """The subnets of each valid record."""
        return {key: entry.node.subnets for key, entry in self.entries.items() if entry.node}

    def becomes(self, is_reached: Callable[["Seen"], bool], timeout: float = 20) -> bool:
        """Whether a state is reached in time."""
        return wait_until(lambda: is_reached(self), timeout=timeout)


@contextmanager
def watching(registry: Registry) -> Iterator[Seen]:
    """What the registry passes meanwhile, from its first complete list on."""
    seen = Seen()
    thread = Thread(target=registry.watch, args=(seen,))
    thread.start()
    try:
        assert seen.becomes(lambda seen: bool(seen.calls))
        yield seen
    finally:
        registry.close()
        thread.join(20)
        assert not thread.is_alive(), "the watch has not ended"

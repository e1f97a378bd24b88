"""What a source of objects does, and what it is given: a sink for what it reads."""

from collections.abc import Iterable
from typing import Protocol

from policy.objects import ClusterNode, Namespace, Pod, Policy

ClusterObject = Pod | Namespace | ClusterNode | Policy


class Sink(Protocol):
    """Receives the objects. It is called by one thread at a time, not always by the same."""

    def replace(self, objects: Iterable[ClusterObject]) -> None:
        """The first complete list; passed once, before any other object."""

    def put(self, item: ClusterObject) -> None:
        """An object is new, or differs from the one with this kind, namespace and name that was passed before."""

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """An object is gone; one that was passed. `kind`: as in `documents.KINDS`. `namespace`: "" for cluster-wide."""

    def lost(self, why: str) -> None:
        """Something cannot be reached, `why` is a sentence; what was received stays valid. Ends with `alive`."""

    def alive(self) -> None:
        """Everything can be reached; also passed when there is nothing new."""

    def wrong(self, key: str, sentence: str | None) -> None:
        """Something has to be told to an operator: an object or file cannot be used, or only in part; None: no longer.

        `key` identifies it, and stays the same while the sentence changes.
        """


class Source(Protocol):
    """Reads objects; the methods may be called by different threads."""

    def run(self, sink: Sink) -> None:
        """Pass all objects, then every change; returns after `close`. Reconnects by itself; never raises."""

    def close(self) -> None:
        """End `run`."""

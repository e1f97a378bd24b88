"""Undo: every step of an ADD leaves its way back here; a failure walks them all, last first."""

from collections.abc import Callable
from types import TracebackType

from spec.errors import CNIError


class Undo:
    """A context: what was pushed is done on the way out, unless `keep` was called.

    A way back that fails does not stop the others and does not hide the failure that began it: it is told in the
    error's details, because a DEL will have to finish it.
    """

    def __init__(self) -> None:
        self._ways_back: list[Callable[[], object]] = []

    def push(self, way_back: Callable[[], object]) -> None:
        """Remember how to undo what was just done."""
        self._ways_back.append(way_back)

    def keep(self) -> None:
        """All went well: undo nothing."""
        self._ways_back.clear()

    def __enter__(self) -> "Undo":
        return self

    def __exit__(self, kind: type | None, failure: BaseException | None, trace: TracebackType | None) -> None:
        left = []
        for way_back in reversed(self._ways_back):
            try:
                way_back()
            except (OSError, CNIError) as error:
                left.append(str(error))
        if left and isinstance(failure, CNIError):
            failure.details = "; ".join(filter(None, [failure.details, "left behind: " + ", ".join(left)]))

"""Undo: every step of an ADD leaves its way back here; a failure walks them all, last first."""

from collections.abc import Callable
from types import TracebackType

from linux.waiting import wait_until
from spec.errors import CNIError, as_cni_error, came_of_shortage

_PATIENCE_SECONDS = 5


class Undo:
    """A context: what was pushed is done on the way out, unless `keep` was called.

    A way back that fails, however it does, does not stop the others and does not hide the failure that began it. The
    error's details name it, because a DEL will have to finish it.
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
                _insist(way_back)
            except Exception as error:  # noqa: BLE001  (a fault in one must not keep the others from being done)
                left.append(str(error if isinstance(error, OSError) else as_cni_error(error)))
        if left and isinstance(failure, CNIError):
            failure.details = "; ".join(filter(None, [failure.details, "left behind: " + ", ".join(left)]))


def _insist(way_back: Callable[[], object]) -> None:
    """Take a way back, again and again for some seconds while the node lacks descriptors or memory for it.

    Other calls of the same process have what is lacking, and give it back when they end. A lease that is left here
    stays until a GC.
    """
    shortage: Exception | None = None

    def is_taken() -> bool:
        nonlocal shortage
        try:
            way_back()
        except Exception as error:
            if not came_of_shortage(error):
                raise
            shortage = error
            return False
        return True

    if not wait_until(is_taken, seconds=_PATIENCE_SECONDS):
        raise shortage

"""What a failing step means: an ADD undoes the steps before it, a DEL or GC goes on with the next one."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import TracebackType

from linux.errors import step
from spec.errors import CNIError, as_cni_error, came_of_shortage

_RETRY_SECONDS = 5


class Undo(ExitStack):
    """The undo steps of an ADD, registered with `callback`; `pop_all` discards them once the ADD has succeeded.

    A step that fails neither prevents the others nor replaces the error that is being handled. If that is a CNIError,
    its details name what was left behind for a DEL to remove.
    """

    def __init__(self) -> None:
        super().__init__()
        self._left: list[str] = []

    def callback(self, undo: Callable, /, *args: object, **kwargs: object) -> Callable:
        """Register an undo step; the steps run in reverse order."""
        return super().callback(self._run, partial(undo, *args, **kwargs))

    def __exit__(self, kind: type | None, failure: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, failure, trace)
        if self._left and isinstance(failure, CNIError):
            left = f"left behind: {', '.join(self._left)}"
            failure.details = f"{failure.details}; {left}" if failure.details else left

    def _run(self, undo: Callable[[], object]) -> None:
        try:
            _retry_on_shortage(undo)
        except Exception as error:  # noqa: BLE001  (a bug in one step must not prevent the others)
            self._left.append(str(error if isinstance(error, OSError) else as_cni_error(error)))


class Attempts:
    """The steps of a DEL or GC. All of them run; `finish` raises the first failure."""

    def __init__(self) -> None:
        self._failures: list[CNIError] = []

    def run(self, what: str, action: Callable, *args: object) -> bool:
        """Run a step; returns whether it was done. Never raises: a bug in one must not prevent the next ones either."""
        try:
            with step(what):
                action(*args)
        except Exception as error:  # noqa: BLE001  (see above)
            self._failures.append(as_cni_error(error))
            return False
        return True

    def finish(self) -> None:
        """Raise the first failure, if any, with the others in its details."""
        if self._failures:
            first, *others = self._failures
            first.details = "; ".join(filter(None, [first.details, *map(str, others)]))
            raise first


def _retry_on_shortage(undo: Callable[[], object]) -> None:
    """Run an undo step, retrying for some seconds while the node is out of descriptors or memory.

    Other calls of the same process release theirs when they end. A lease left behind here would stay until a GC.
    """
    from linux.waiting import wait_until

    shortage: Exception | None = None

    def is_done() -> bool:
        nonlocal shortage
        try:
            undo()
        except Exception as error:
            if not came_of_shortage(error):
                raise
            shortage = error
            return False
        return True

    if not wait_until(is_done, seconds=_RETRY_SECONDS):
        raise shortage

"""The lock on a folder of leases: flock on its file `lock`, as the reference plugin takes it.

flock can only be asked for again and again. Threads of one process (the agent has many) therefore take turns by a lock
of their own before they ask: who is next need not find out.
"""

import os
import time
from _thread import allocate_lock
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock

from spec.errors import CNIError, Code

_turns: "dict[str, _Turn]" = {}  # of the folders that are in use right now
_turns_lock = allocate_lock()


class _Turn:
    """Whose turn it is among the threads of this process, and how many there are."""

    def __init__(self) -> None:
        self.lock, self.users = allocate_lock(), 0


@contextmanager
def locked(path: str, patience: float) -> Iterator[None]:
    """Hold the lock, waiting at most `patience` seconds for it.

    Raises CNIError 11 then, OSError if the file can not be opened.
    """
    deadline = time.monotonic() + patience
    with _turn(path, patience):
        yield from _hold(path, deadline, patience)


def _hold(path: str, deadline: float, patience: float) -> Iterator[None]:
    while True:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o750)
        try:
            _wait_for(descriptor, path, deadline, patience)
            # A lock on a file that was removed meanwhile, perhaps with its folder, keeps nobody out.
            if _is_at(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)


def _wait_for(descriptor: int, path: str, deadline: float, patience: float) -> None:
    # flock has no deadline, and a signal to interrupt it reaches the main thread only: so ask again and again.
    pause = 0.001
    while True:
        try:
            return flock(descriptor, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                text = f"the leases are locked by another process: waited {patience:g} s"
                raise CNIError(Code.TRY_AGAIN_LATER, text, path) from error
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def _turn(path: str, patience: float) -> Iterator[None]:
    with _turns_lock:
        turn = _turns.setdefault(path, _Turn())
        turn.users += 1
    try:
        if not turn.lock.acquire(timeout=patience):
            text = f"the leases are locked by other calls: waited {patience:g} s"
            raise CNIError(Code.TRY_AGAIN_LATER, text, path)
        try:
            yield
        finally:
            turn.lock.release()
    finally:
        with _turns_lock:
            turn.users -= 1
            if not turn.users:
                del _turns[path]

"""The lock on a folder of leases: flock on its file `lock`, as the reference plugin takes it.

The kernel has a line for it, and serves in order; but it knows no deadline, and only the main thread can be called away
by a signal. So a plugin that is a process of its own stands in that line: hundreds of them that asked again and again
would leave little of the processors for who has the lock. Threads of one process (the agent has many) take turns by a
lock of their own, and who is next asks again and again.
"""

import os
import time
from _thread import allocate_lock
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o750)
        try:
            _wait_for(descriptor, path, deadline, patience)
            # A lock on a file that was removed meanwhile, perhaps with its folder, keeps nobody out.
            if _is_at(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)


def _wait_for(descriptor: int, path: str, deadline: float, patience: float) -> None:
    with suppress(BlockingIOError):
        return flock(descriptor, LOCK_EX | LOCK_NB)
    from threading import current_thread, main_thread

    wait = _stand_in_line if current_thread() is main_thread() else _ask_again
    try:
        wait(descriptor, deadline)
    except TimeoutError:
        text = f"the leases are locked by another process: waited {patience:g} s"
        raise CNIError(Code.TRY_AGAIN_LATER, text, path) from None


def _stand_in_line(descriptor: int, deadline: float) -> None:
    import signal

    is_waiting = True

    def call_away(*_: object) -> None:
        if is_waiting:
            raise TimeoutError

    before = signal.signal(signal.SIGALRM, call_away)
    try:
        try:
            # Every second again, should the first alarm come just before the waiting.
            signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 0.001), 1)
            flock(descriptor, LOCK_EX)
        finally:
            is_waiting = False
    finally:
        # Here no alarm raises any more, not even one that came just before the line above was done.
        is_waiting = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _ask_again(descriptor: int, deadline: float) -> None:
    pause = 0.001
    while True:
        time.sleep(pause)
        with suppress(BlockingIOError):
            return flock(descriptor, LOCK_EX | LOCK_NB)
        if time.monotonic() >= deadline:
            raise TimeoutError
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

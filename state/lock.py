"""A lock between processes: flock(2) on a file, as the reference plugin locks a folder of leases.

flock() queues waiters in order but has no timeout, and a signal can only interrupt it in the main thread. A plugin that
runs as a process waits in that queue, with an alarm as its timeout; if hundreds of processes polled instead, they would
leave little CPU time to the holder. Threads of one process (the agent) queue for a mutex; the first of them polls.
"""

import os
import time
from _thread import allocate_lock
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock

from spec.errors import CNIError, Code

_mutexes = {}  # by path; they stay, as there are as many as networks


@contextmanager
def locked(path: str, patience: float) -> Iterator[None]:
    """Hold the lock, after waiting at most `patience` seconds for it.

    Raises CNIError 11 on timeout, OSError if the file cannot be opened.
    """
    deadline = time.monotonic() + patience
    mutex = _mutexes.setdefault(path, allocate_lock())
    if not mutex.acquire(timeout=patience):
        raise _timeout(path, patience)
    try:
        while True:
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o750)
            try:
                if not _lock(descriptor, deadline):
                    raise _timeout(path, patience)
                # A lock on a file that was deleted while we waited, perhaps with its folder, excludes no other process.
                if _is_at(descriptor, path):
                    yield
                    return
            finally:
                os.close(descriptor)
    finally:
        mutex.release()


def _lock(descriptor: int, deadline: float) -> bool:
    """Wait for the lock until the deadline; return whether it is held."""
    with suppress(BlockingIOError):
        flock(descriptor, LOCK_EX | LOCK_NB)
        return True
    from threading import current_thread, main_thread

    wait = _wait_in_queue if current_thread() is main_thread() else _poll
    return wait(descriptor, deadline)


def _wait_in_queue(descriptor: int, deadline: float) -> bool:
    import signal

    is_waiting = True

    def interrupt(*_: object) -> None:
        nonlocal is_waiting
        if is_waiting:
            is_waiting = False  # only once: nothing may interrupt the cleanup below
            raise TimeoutError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        # Repeated every second, as the first alarm may come just before flock() blocks.
        signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 0.001), 1)
        flock(descriptor, LOCK_EX)
    except TimeoutError:
        return False
    finally:
        is_waiting = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return True


def _poll(descriptor: int, deadline: float) -> bool:
    pause = 0.001
    while time.monotonic() < deadline:
        time.sleep(pause)
        with suppress(BlockingIOError):
            flock(descriptor, LOCK_EX | LOCK_NB)
            return True
        pause = min(2 * pause, 0.02)
    return False


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _timeout(path: str, patience: float) -> CNIError:
    text = f"timed out after {patience:g} s waiting for the lock {path}"
    return CNIError(Code.TRY_AGAIN_LATER, text, "another call holds it; `fuser` shows the process")

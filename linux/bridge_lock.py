"""A lock for each network namespace: no ADD undoes its changes to a bridge while another one adds a port to it.

Ports are added under a shared lock. A failed ADD deletes the bridge, its settings or its gateway under the exclusive
one: it either sees the ports of all ADDs that rely on them, or is done before they look. The lock is flock(2) on the
namespace's file in /proc: there is no lock file to keep, and the kernel releases it when the process ends.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from errno import EAGAIN
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock

from linux.netns import OWN
from linux.waiting import wait_until

_PATIENCE_SECONDS = 10


def joining() -> AbstractContextManager[None]:
    """A context in which the calling thread relies on a bridge of its namespace and adds a port to it.

    Raises OSError (EAGAIN: another ADD has held the exclusive lock for ten seconds).
    """
    return _held(LOCK_SH)


def undoing() -> AbstractContextManager[None]:
    """A context in which no other call adds ports to bridges. Raises OSError (EAGAIN: not within ten seconds)."""
    return _held(LOCK_EX)


@contextmanager
def _held(kind: int) -> Iterator[None]:
    descriptor = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not wait_until(lambda: _try(descriptor, kind), seconds=_PATIENCE_SECONDS):
            raise OSError(EAGAIN, f"other calls have been changing bridges for {_PATIENCE_SECONDS} seconds")
        yield
    finally:
        os.close(descriptor)


def _try(descriptor: int, kind: int) -> bool:
    with suppress(BlockingIOError):
        flock(descriptor, kind | LOCK_NB)
        return True
    return False

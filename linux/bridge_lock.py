"""One lock a network namespace: what was made of a bridge is not taken back while a pod is joining it.

Many join at the same time. A failed ADD that wants to take a bridge, its settings or its gateway back does so alone: it
finds the port of everybody who has seen them, or it is done before they look. The lock is flock(2) on the namespace
itself, as /proc shows it: there is no file to keep, and the kernel releases it with the process.
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
    """A context: the calling thread looks at a bridge of its namespace, relies on it, and makes a link a port of it.

    Raises OSError (EAGAIN: somebody has been taking something back for ten seconds).
    """
    return _held(LOCK_SH)


def taking_back() -> AbstractContextManager[None]:
    """A context: nobody is joining a bridge meanwhile. Raises OSError (EAGAIN: somebody has been for ten seconds)."""
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

"""Only one daemon runs on a node: it holds a lock on a file that has its process ID."""

import os
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock

from linux.waiting import wait_until
from plugins.daemon import PID_FILE as PATH

_PATIENCE_SECONDS = 0.5


class AlreadyRunning(Exception):
    """Another daemon runs; the text is a sentence with its process ID."""


def hold(path: str = PATH) -> int:
    """Lock the file until the descriptor that is returned, or the process, ends. Raises AlreadyRunning, OSError."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    # For root alone: whoever can open the file can lock it.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    # Plugins, which look whether a daemon runs, have a shared lock for an instant.
    if not wait_until(lambda: _try(descriptor), seconds=_PATIENCE_SECONDS):
        pid = os.read(descriptor, 20).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise AlreadyRunning(f"another slash24-node runs on this node, with process ID {pid}; end it first")
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor


def _try(descriptor: int) -> bool:
    with suppress(BlockingIOError):
        flock(descriptor, LOCK_EX | LOCK_NB)
        return True
    return False

"""Only one daemon runs on a node: it holds a lock on a file that has its process ID."""

import os
from fcntl import LOCK_EX, LOCK_NB, flock

from plugins.node.host_rules import FOLDER

PATH = os.path.join(FOLDER, "slash24-node.pid")


class AlreadyRunning(Exception):
    """Another daemon runs; the text is a sentence with its process ID."""


def hold(path: str = PATH) -> int:
    """Lock the file until the descriptor that is returned, or the process, ends. Raises AlreadyRunning, OSError."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    # For root alone: whoever can open the file can lock it.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        pid = os.read(descriptor, 20).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise AlreadyRunning(f"another slash24-node runs on this node, with process ID {pid}; end it first") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor

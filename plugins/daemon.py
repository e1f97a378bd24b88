"""What a plugin knows of the daemon `slash24-node`: the folder that they share, and whether it runs."""

import os
from fcntl import LOCK_NB, LOCK_SH, flock

FOLDER = "/run/slash24"
PID_FILE = os.path.join(FOLDER, "slash24-node.pid")
"""The daemon holds an exclusive flock(2) on it, whatever network it keeps; see daemon/single.py."""

POD_FILES = os.path.join(FOLDER, "pods")
"""The folder of plugins/pod/pod_files.py. An ADD makes it before it holds a pod: without it, no pod has policies."""


def is_running(path: str = PID_FILE) -> bool:
    """Whether a daemon runs on this node. False if that cannot be told."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        flock(descriptor, LOCK_SH | LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False

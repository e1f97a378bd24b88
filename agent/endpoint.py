"""The socket file: put in place so that there is always one to connect to, also while an agent replaces another."""

import os
import socket
from contextlib import suppress
from fcntl import LOCK_EX, flock

from ipam.files import make_folders

_BACKLOG = 1024


class Endpoint:
    """A listening socket at `path`. `mark` tells whether the path still leads to it."""

    def __init__(self, listener: socket.socket, path: str, *, is_lent: bool = False) -> None:
        """`is_lent`: somebody else made it and keeps it (systemd)."""
        self.listener, self.path, self.is_lent = listener, path, is_lent
        self._mark = _mark(path)
        listener.settimeout(0)

    def is_superseded(self) -> bool:
        """Whether there is another socket in its place now: connections go there."""
        return _mark(self.path) not in (None, self._mark)

    def is_lost(self) -> bool:
        """Whether the file is gone, so that nobody can connect."""
        return _mark(self.path) is None

    def close(self) -> None:
        """Stop listening. The file stays: it may be another's by now, and at a dead one launchers know what to do."""
        self.listener.close()


def bind(path: str) -> Endpoint:
    """Listen at `path`, which only root can connect to; whatever is there is replaced in one step. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Before bind(), or for a moment others could connect; and not by umask, which all threads share.
        os.fchmod(listener.fileno(), 0o600)
        make_folders(os.path.dirname(os.path.abspath(path)), 0o755)
        lock = os.open(f"{path}.lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            flock(lock, LOCK_EX)
            temporary = f"{path}.new"
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            listener.bind(temporary)
            listener.listen(_BACKLOG)
            os.rename(temporary, path)
            return Endpoint(listener, path)
        finally:
            os.close(lock)
    except BaseException:
        listener.close()
        raise


def _mark(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino

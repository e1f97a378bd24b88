"""The socket file: put in place so that there is always one to connect to, also while an agent replaces another."""

import os
import socket
import time
from contextlib import suppress
from enum import Enum
from errno import EAGAIN
from fcntl import LOCK_EX, LOCK_NB, flock

from agent import wire
from state.files import make_folders

_BACKLOG = 1024
_GREETING_SECONDS = 1.0
_LOCK_SECONDS, _LOCK_PAUSE_SECONDS = 2.0, 0.02
_CREDENTIALS = socket.SOL_SOCKET, socket.SO_PEERCRED, 12


class Reached(Enum):
    """What a connection to the path leads to."""

    THIS = "this agent"
    ANOTHER = "another agent"
    NOBODY = "nothing that is an agent"
    UNKNOWN = "a listener whose queue is full"


class Endpoint:
    """A listening socket at `path`."""

    def __init__(self, listener: socket.socket, path: str, mark: tuple[int, int] | None = None) -> None:
        """`mark`: that of the socket file where that is known to lead to the listener."""
        self.listener, self.path = listener, path
        self._mark = mark
        listener.settimeout(0)

    def is_in_place(self) -> bool:
        """Whether the path leads to the listener, as far as can be told by a look."""
        return self._mark is not None and _mark(self.path) == self._mark

    def whom_reached(self) -> Reached:
        """What a connection to the path leads to, by trying one; that may take a second."""
        mark = _mark(self.path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            try:
                caller.settimeout(0)
                caller.connect(self.path)
                if self._is_reached_by(caller):
                    self._mark = mark
                    return Reached.THIS
                caller.settimeout(_GREETING_SECONDS)
                is_agent = caller.recv(len(wire.MAGIC), socket.MSG_WAITALL) == wire.MAGIC
            except BlockingIOError:
                return Reached.UNKNOWN
            except OSError:
                return Reached.NOBODY
        return Reached.ANOTHER if is_agent else Reached.NOBODY

    def _is_reached_by(self, _caller: socket.socket) -> bool:
        """Whether a connection has come to the listener though the file is not the one that was made for it."""
        return False

    def close(self) -> None:
        """Stop listening. The file stays: it may be another's by now, and at a dead one launchers know what to do."""
        self.listener.close()


class Lent(Endpoint):
    """One that somebody else has made, and keeps (systemd): it outlives this process.

    Only its maker knows which file was made for it, so whether the path leads to it has to be tried.
    """

    def _is_reached_by(self, caller: socket.socket) -> bool:
        # Both are the credentials of the process that called listen(2).
        return caller.getsockopt(*_CREDENTIALS) == self.listener.getsockopt(*_CREDENTIALS)


def bind(path: str) -> Endpoint:
    """Listen at `path`, which only root can connect to; whatever is there is replaced in one step. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Before bind(), or for a moment others could connect; and not by umask, which all threads share.
        os.fchmod(listener.fileno(), 0o600)
        make_folders(os.path.dirname(os.path.abspath(path)), 0o755)
        lock = os.open(f"{path}.lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(lock)
            temporary = f"{path}.new"
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            listener.bind(temporary)
            listener.listen(_BACKLOG)
            mark = _mark(temporary)
            os.rename(temporary, path)
            return Endpoint(listener, path, mark)
        finally:
            os.close(lock)
    except BaseException:
        listener.close()
        raise


def _lock(descriptor: int) -> None:
    """Wait until no other agent is binding, or until none can be: one that was stopped meanwhile is not waited for."""
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            flock(descriptor, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise OSError(EAGAIN, "another agent has been making its socket for too long") from None
            time.sleep(_LOCK_PAUSE_SECONDS)
        else:
            return


def _mark(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a socket without a file
        return None
    return found.st_dev, found.st_ino

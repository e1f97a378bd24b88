"""The listening socket: bound so that there is always one to connect to, also while an agent replaces another."""

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
_LOCK_PAUSE_SECONDS = 0.02
_CREDENTIALS = socket.SOL_SOCKET, socket.SO_PEERCRED, 12


class Reached(Enum):
    """What a connection to the path reaches."""

    THIS = "this agent"
    ANOTHER = "another agent"
    NOBODY = "no agent"
    UNKNOWN = "a listener whose queue is full"


class Listener:
    """A listening `socket` at `path`."""

    def __init__(self, listening: socket.socket, path: str, file: tuple[int, int] | None = None) -> None:
        """`file`: device and inode of the socket file, if that is known to belong to the socket."""
        self.socket, self.path = listening, path
        self._file = file
        listening.settimeout(0)

    def is_in_place(self) -> bool:
        """Whether the path still leads to the socket's own file."""
        return self._file is not None and _identity(self.path) == self._file

    def probe(self) -> Reached:
        """What a connection to the path reaches; tries one, which may take a second."""
        file = _identity(self.path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            try:
                caller.settimeout(0)
                caller.connect(self.path)
                if self._is_reached_by(caller):
                    self._file = file
                    return Reached.THIS
                caller.settimeout(_GREETING_SECONDS)
                is_agent = caller.recv(len(wire.MAGIC), socket.MSG_WAITALL) == wire.MAGIC
            except BlockingIOError:
                return Reached.UNKNOWN
            except OSError:
                return Reached.NOBODY
        return Reached.ANOTHER if is_agent else Reached.NOBODY

    def _is_reached_by(self, _caller: socket.socket) -> bool:
        """Whether the connection has reached this socket, though the file at the path is not its own."""
        return False

    def close(self) -> None:
        """Stop listening. The file stays: it may be another agent's by now, and launchers can handle a dead socket."""
        self.socket.close()


class InheritedListener(Listener):
    """A socket that systemd made, and keeps when this process ends.

    Only systemd knows which file belongs to it, so `probe` has to find out.
    """

    def _is_reached_by(self, caller: socket.socket) -> bool:
        # Both are the credentials of the process that called listen(2).
        return caller.getsockopt(*_CREDENTIALS) == self.socket.getsockopt(*_CREDENTIALS)


def bind(path: str, *, patience: float = 2.0) -> Listener:
    """Listen at `path`, for root only; atomically replaces what is there. Raises OSError.

    `patience`: seconds to wait for another agent that is binding.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Before bind(), or others could connect for a moment; and not by umask, which all threads share.
        os.fchmod(listening.fileno(), 0o600)
        make_folders(os.path.dirname(os.path.abspath(path)), 0o755)
        lock = os.open(f"{path}.lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(lock, patience)
            temporary = f"{path}.new"
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            listening.bind(temporary)
            listening.listen(_BACKLOG)
            file = _identity(temporary)
            os.rename(temporary, path)
            return Listener(listening, path, file)
        finally:
            os.close(lock)
    except BaseException:
        listening.close()
        raise


def _lock(descriptor: int, patience: float) -> None:
    """Wait while another agent is binding, but not for one that was stopped meanwhile."""
    end = time.monotonic() + patience
    while True:
        try:
            flock(descriptor, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise OSError(EAGAIN, "another agent has been making its socket for too long") from None
            time.sleep(_LOCK_PAUSE_SECONDS)
        else:
            return


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: an abstract socket
        return None
    return status.st_dev, status.st_ino

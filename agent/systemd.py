"""The two things that systemd and a service say to each other: sd_listen_fds(3) and sd_notify(3)."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

_FIRST = 3


def given_listener(environ: Mapping[str, str]) -> socket.socket | None:
    """The listening unix socket that systemd passed to this process, or None. Raises ValueError for any other."""
    if environ.get("LISTEN_PID") != str(os.getpid()) or environ.get("LISTEN_FDS", "0") == "0":
        return None
    if environ["LISTEN_FDS"] != "1":
        raise ValueError(f"{environ['LISTEN_FDS']} sockets were passed, one is expected")
    listener = socket.socket(fileno=_FIRST)
    listener.set_inheritable(False)
    if (listener.family, listener.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        raise ValueError("the socket that was passed is no unix stream socket")
    return listener


class Notifier:
    """Where systemd wants to be notified of states ("READY=1"), if it does.

    The socket is opened at once: the path that the environment names may not lead there later (agent/hostroot.py).
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._socket: socket.socket | None = None
        address = environ.get("NOTIFY_SOCKET", "")
        if address[:1] in ("/", "@"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            with suppress(OSError):
                self._socket.connect("\0" + address[1:] if address[0] == "@" else address)

    def notify(self, state: str) -> None:
        """Never raises."""
        if self._socket:
            with suppress(OSError):
                self._socket.send(state.encode())

    def close(self) -> None:
        """Notify no more."""
        if self._socket:
            self._socket.close()

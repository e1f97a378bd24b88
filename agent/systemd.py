"""Sockets passed by systemd, and notifications to it: sd_listen_fds(3) and sd_notify(3)."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

_FIRST = 3


def inherited_socket(environ: Mapping[str, str]) -> socket.socket | None:
    """The listening Unix socket that systemd passed to this process, or None. Raises ValueError for any other."""
    if environ.get("LISTEN_PID") != str(os.getpid()) or environ.get("LISTEN_FDS", "0") == "0":
        return None
    if environ["LISTEN_FDS"] != "1":
        raise ValueError(f"systemd passed {environ['LISTEN_FDS']} sockets, expected one")
    listening = socket.socket(fileno=_FIRST)
    listening.set_inheritable(False)
    if (listening.family, listening.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        raise ValueError("the socket that systemd passed is not a Unix stream socket")
    return listening


class Notifier:
    """Notifies systemd of states ("READY=1"), if it wants to be notified.

    The socket is connected at once: later its path may lead elsewhere (agent/hostroot.py).
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
        """Close the socket; later notifications are dropped."""
        if self._socket:
            self._socket.close()

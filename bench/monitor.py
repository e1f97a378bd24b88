"""The kernel's notifications of routes, neighbours and FDB entries, each with the time at which it was received."""

import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from linux.netlink.attributes import attributes_of

_GROUPS = (1 << 2) | (1 << 6) | (1 << 10)  # RTNLGRP_NEIGH, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE
_KINDS = {24: "+route", 25: "-route", 28: "+neighbour", 29: "-neighbour"}
_RTA_DST, _NDA_DST, _NDA_LLADDR = 1, 1, 2
_BODY, _AF_BRIDGE, _PERMANENT, _PROTOCOL = 12, 7, 0x80, 24
_SO_RCVBUFFORCE = 33


@dataclass(frozen=True)
class News:
    """A notification: when (time.perf_counter), what ("+route", "-forwarding", ...), and about which address (packed).

    `about` of an FDB entry is the remote address.
    """

    at: float
    what: str
    about: bytes


class Monitor:
    """Receives notifications in a thread, in the network namespace of the thread that creates it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 27)
        self._socket.bind((0, _GROUPS))
        self._changed = threading.Condition()
        self._news: list[News] = []
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        while True:
            data = self._socket.recv(1 << 18)
            now = time.perf_counter()
            found = list(filter(None, (_read(message, now) for message in _split(data))))
            with self._changed:
                self._news += found
                self._changed.notify_all()

    def forget(self) -> None:
        """Forget what was received so far."""
        with self._changed:
            self._news.clear()

    def read(self) -> list[News]:
        """All since `forget`."""
        with self._changed:
            return list(self._news)

    def wait_for(self, is_it: Callable[[News], bool], *, seconds: float = 10) -> News:
        """The first notification since `forget` that `is_it` accepts; raises TimeoutError."""
        end, seen = time.monotonic() + seconds, 0
        with self._changed:
            while True:
                for news in self._news[seen:]:
                    if is_it(news):
                        return news
                seen = len(self._news)
                if not self._changed.wait(end - time.monotonic()):
                    raise TimeoutError("bench: the kernel did not announce it")


def _split(data: bytes) -> list[tuple[int, bytes]]:
    messages = []
    while data:
        length, kind = struct.unpack_from("=IH", data)
        messages.append((kind, data[16:length]))
        data = data[(length + 3) & ~3 :]
    return messages


def _read(message: tuple[int, bytes], now: float) -> News | None:
    kind, body = message
    if kind not in _KINDS:
        return None
    what, attributes = _KINDS[kind], attributes_of(body, _BODY)
    if "route" in what:
        return News(now, what, attributes.get(_RTA_DST, b"")) if body[5] == _PROTOCOL else None
    if body[0] == _AF_BRIDGE:
        return News(now, what[0] + "forwarding", attributes.get(_NDA_DST, b""))
    (state,) = struct.unpack_from("=H", body, 8)
    return News(now, what, attributes.get(_NDA_DST, b"")) if state & _PERMANENT or what[0] == "-" else None

"""A connection whose request is still coming in: read without waiting, so that a slow sender costs nobody else."""

import os
import socket
import time
from array import array
from contextlib import suppress
from dataclasses import dataclass
from fcntl import ioctl
from struct import Struct

from agent import wire
from agent.wire import Malformed

_CHUNK, _LARGE_CHUNK = 1 << 14, 1 << 18
"""Bytes to make room for: nearly every request is smaller than the first."""
_DESCRIPTOR = Struct("i")
_CREDENTIALS = Struct("3i")
_SIOCGSKNS = 0x894C  # since Linux 4.10
_OWN_NETNS = "/proc/self/ns/net"


class Incoming:
    """An accepted connection, greeted. `netns`: the descriptor that came with the request, or None.

    `is_watched`: whether the server is told when more comes.
    """

    def __init__(self, connection: socket.socket, pid: int, hello: bytes) -> None:
        """Sends the greeting to process `pid`; raises OSError if nobody is there any more."""
        self.connection, self.pid = connection, pid
        self.since = time.monotonic()
        self.announced = 0
        self.netns: int | None = None
        self.refused = ""
        self.is_watched = False
        self._data = bytearray()
        self._received = 0
        connection.settimeout(0)
        connection.sendall(hello)

    @property
    def is_silent(self) -> bool:
        """Whether nothing has come yet: somebody only wanted to see whether the agent is there."""
        return self._received == 0

    def refuse(self, reason: str) -> None:
        """Take the rest of the request in, but keep nothing of it: who sends can not yet read that it is declined."""
        self.refused = self.refused or reason
        self._data = self._data[: wire.HEADER.size]

    def receive(self) -> bool:
        """Take in what is there; whether the request is whole. Raises Malformed, OSError."""
        # Room for one descriptor exactly: of more, the kernel closes the others and says so.
        data, ancillary, flags, _ = self.connection.recvmsg(
            _LARGE_CHUNK if self._received else _CHUNK, socket.CMSG_LEN(_DESCRIPTOR.size), socket.MSG_CMSG_CLOEXEC
        )
        self._received += len(data)
        self._keep_descriptor(ancillary)
        if flags & socket.MSG_CTRUNC:
            raise Malformed("more descriptors than one, or no room for it")
        if not data:
            raise Malformed(f"ends after {self._received} bytes")
        if not self.refused or len(self._data) < wire.HEADER.size:
            self._data += data
        if not self.announced and len(self._data) >= wire.HEADER.size:
            self.announced = wire.announced(self._data)
        if self.announced and self._received > self.announced:
            raise Malformed(f"goes on after the {self.announced} bytes announced")
        return self._received == self.announced

    def request(self) -> wire.Request:
        """The whole request. Raises Malformed."""
        return wire.parse(self._data)

    def decline(self) -> None:
        """Have the launcher do it otherwise; nothing was begun, and the pod's namespace is no longer held."""
        self._close_netns()
        with suppress(OSError):
            self.connection.sendall(wire.reply(wire.DECLINED))
        self.connection.close()

    def close(self) -> None:
        """Let go of the connection and the descriptor."""
        self.connection.close()
        self._close_netns()

    def _close_netns(self) -> None:
        if self.netns is not None:
            os.close(self.netns)
            self.netns = None

    def _keep_descriptor(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if (level, kind) != (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                continue
            descriptors = array("i", data[: len(data) - len(data) % _DESCRIPTOR.size]).tolist()
            if self.netns is None and descriptors:
                self.netns = descriptors.pop(0)
                if not descriptors:
                    continue
            for descriptor in descriptors:
                os.close(descriptor)
            raise Malformed("more descriptors than one")


@dataclass(frozen=True)
class Peer:
    """The other end of a connection. `pid` is as seen from here, or 0; `is_elsewhere`: in another network namespace."""

    pid: int
    uid: int
    is_elsewhere: bool = False


def peer(connection: socket.socket) -> Peer:
    """The process that has connected, as the kernel knows it. Raises OSError."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    # An accepted connection belongs to the namespace of the socket that connected, not to the listener's.
    netns = ioctl(connection, _SIOCGSKNS)
    try:
        return Peer(pid, uid, is_elsewhere=not os.path.samestat(os.fstat(netns), os.stat(_OWN_NETNS)))
    finally:
        os.close(netns)

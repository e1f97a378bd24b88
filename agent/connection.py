"""A connection whose request is being received, without blocking: a slow sender does not delay other calls."""

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
"""Sizes of receive buffers: nearly every request fits into the first."""

_DESCRIPTOR = Struct("i")
_CREDENTIALS = Struct("3i")
_SIOCGSKNS = 0x894C  # since Linux 4.10
_OWN_NETNS = "/proc/self/ns/net"


class Connection:
    """An accepted connection, greeted. `netns`: the descriptor that came with the request, or None.

    `refused`: why the request is declined, "" if it is not. `is_watched`: whether the server polls it.
    """

    def __init__(self, connected: socket.socket, pid: int, hello: bytes) -> None:
        """Sends the greeting; raises OSError if the caller, process `pid`, has gone."""
        self.socket, self.pid = connected, pid
        self.since = time.monotonic()
        self.announced = 0
        self.netns: int | None = None
        self.refused = ""
        self.is_watched = False
        self._data = bytearray()
        self._received = 0
        connected.settimeout(0)
        connected.sendall(hello)

    @property
    def is_silent(self) -> bool:
        """Whether nothing has been received: the caller may only have checked that an agent is there."""
        return self._received == 0

    def refuse(self, reason: str) -> None:
        """Discard the request, but receive the rest of it: the launcher reads no reply before it has sent all."""
        self.refused = self.refused or reason
        self._data = self._data[: wire.HEADER.size]

    def receive(self) -> bool:
        """Receive what is there; whether the request is complete. Raises Malformed, OSError."""
        # Room for exactly one descriptor: of more, the kernel closes the others and sets MSG_CTRUNC.
        data, ancillary, flags, _ = self.socket.recvmsg(
            _LARGE_CHUNK if self._received else _CHUNK, socket.CMSG_LEN(_DESCRIPTOR.size), socket.MSG_CMSG_CLOEXEC
        )
        self._received += len(data)
        self._keep_descriptor(ancillary)
        if flags & socket.MSG_CTRUNC:
            raise Malformed("more than one descriptor, or no room for it")
        if not data:
            raise Malformed(f"ends after {self._received} bytes")
        if not self.refused or len(self._data) < wire.HEADER.size:
            self._data += data
        if not self.announced and len(self._data) >= wire.HEADER.size:
            self.announced = wire.announced(self._data)
        if self.announced and self._received > self.announced:
            raise Malformed(f"continues after the {self.announced} bytes announced")
        return self._received == self.announced

    def request(self) -> wire.Request:
        """The complete request. Raises Malformed."""
        return wire.parse(self._data)

    def decline(self) -> None:
        """Have the launcher run the plugin itself. The pod's namespace is closed first, and nothing was begun."""
        self._close_netns()
        with suppress(OSError):
            self.socket.sendall(wire.reply(wire.DECLINED))
        self.socket.close()

    def close(self) -> None:
        """Close the connection and the descriptor."""
        self.socket.close()
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
            raise Malformed("more than one descriptor")


@dataclass(frozen=True)
class Peer:
    """The process at the other end. `pid`: in the agent's PID namespace, or 0; `is_elsewhere`: has another netns."""

    pid: int
    uid: int
    is_elsewhere: bool = False


def peer(connected: socket.socket) -> Peer:
    """The process that has connected, as the kernel knows it. Raises OSError."""
    data = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    # An accepted connection is in the namespace of the socket that connected, not in the listener's.
    netns = ioctl(connected, _SIOCGSKNS)
    try:
        return Peer(pid, uid, is_elsewhere=not os.path.samestat(os.fstat(netns), os.stat(_OWN_NETNS)))
    finally:
        os.close(netns)

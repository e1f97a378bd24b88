"""Netlink without a kernel: one that records requests and lists given objects, and a socket for the real one."""

import struct
from collections.abc import Sequence

from linux.netlink.socket import Netlink, NetlinkError


class FakeSocket:
    """A socket that receives these datagrams. `sent`: the datagrams that were sent."""

    def __init__(self, *datagrams: bytes) -> None:
        self.datagrams, self.sent = list(datagrams), []

    def setsockopt(self, *_: object) -> None:
        """Accept any option."""

    def send(self, data: bytes) -> None:
        """Record the datagram."""
        self.sent.append(data)

    def recv(self, _: int) -> bytes:
        """Return the next datagram."""
        return self.datagrams.pop(0)


class FakeNetlink(Netlink):
    """Records the requests that are sent, and lists `objects`, or else these requests.

    `refused`: errno by sequence number for requests of `change_many`, whose datagrams are recorded too.
    """

    def __init__(self, *objects: bytes, refused: dict[int, int] | None = None) -> None:
        super().__init__(wire=FakeSocket())
        self._objects, self._refused = list(objects), refused or {}
        self.sent: list[bytes] = []
        self.datagrams: list[list[bytes]] = []

    def send(self, requests: Sequence[bytes], *, tolerated: Sequence[int] = ()) -> list[bytes]:
        """Record the requests."""
        self.sent += requests
        return []

    def dump(self, message: bytes, kind: int) -> list[bytes]:
        """Return the objects."""
        return self._objects or self.sent

    def transact(
        self, requests: Sequence[bytes], *, first_error_suffices: bool = False
    ) -> list[tuple[int, NetlinkError | None]]:
        """Answer as rtnetlink does without NLM_F_ACK: only errors."""
        self.datagrams.append(list(requests))
        numbers = [struct.unpack_from("=I", request, 8)[0] for request in requests]
        return [(number, NetlinkError(self._refused[number], "no")) for number in numbers if number in self._refused]

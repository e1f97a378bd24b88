"""The wire: one netlink socket, requests out, acknowledgements and dumps in.

Messages are pyroute2's (encoded and decoded by it), or bytes where every call has them
(linux/netlink/attributes.py). The socket is ours, because pyroute2's own is built on asyncio, whose import alone costs
a third of a cold ADD. A socket belongs to the network namespace in which it was opened.
"""

import os
import select
import socket
import struct
import sys
from collections.abc import Collection, Sequence
from errno import EAGAIN, EPROTO

from linux.netlink.attributes import attributes_of
from linux.waiting import wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyroute2.netlink import nlmsg

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_ECHO = 0x8
NLM_F_DUMP_INTR = 0x10
NLM_F_EXCL = 0x200
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800

NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE = 1, 2, 3
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLMSGERR_ATTR_MSG = 1
_HEADER = struct.Struct("=IHHII")
_RECEIVE_BYTES = 1 << 16  # twice what the kernel puts into one datagram; to set aside more costs more than to receive
_SEND_BYTES = 1 << 16
_SO_SNDBUFFORCE = 32
_SO_NETNS_COOKIE = 71  # socket(7), since Linux 5.14
_BATCH = 128  # so many answers fit into the socket's buffer, should all be refused
_DUMP_SECONDS = 2
_TIMEOUT_SECONDS = 30


class NetlinkError(OSError):
    """The kernel refused a request: `errno`, and in `strerror` the kernel's own words where it gave any.

    `place`: which of several requests sent together it was, from 0.
    """

    place = 0


class Netlink:
    """A netlink socket in the network namespace of the calling thread; a context manager.

    `protocol`: NETLINK_ROUTE or NETLINK_NETFILTER.
    """

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        # Not blocking: the answer is there when the request is sent, and a timeout would ask for it before each look.
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        self._sequence = 0
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)

    def __enter__(self) -> "Netlink":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    @property
    def namespace(self) -> int:
        """A number of the socket's network namespace that no other has had since boot; 0 if the kernel has none.

        Unlike the inode number, which the kernel gives to the next namespace once this one is gone.
        """
        try:
            return int.from_bytes(self._socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError:
            return 0

    def fileno(self) -> int:
        """The socket's descriptor, to wait for what it receives."""
        return self._socket.fileno()

    def encode(self, message: "nlmsg | bytes", kind: int, flags: int) -> bytes:
        """The bytes of one request, numbered with the next sequence number; `message` as bytes is without header."""
        self._sequence += 1
        if isinstance(message, bytes):
            return _HEADER.pack(_HEADER.size + len(message), kind, flags, self._sequence, 0) + message
        message["header"] = {"type": kind, "flags": flags, "sequence_number": self._sequence, "pid": 0}
        message.encode()
        return bytes(message.data)

    def change(self, message: "nlmsg | bytes", kind: int, flags: int = 0) -> None:
        """Send one change and wait until the kernel has acknowledged it; raises NetlinkError."""
        self.send([self.encode(message, kind, NLM_F_REQUEST | NLM_F_ACK | flags)])

    def get(self, message: "nlmsg", kind: int, answer: "type[nlmsg]") -> "nlmsg":
        """Ask for one object, decoded as `answer`; raises NetlinkError (ENOENT or ENODEV: there is none)."""
        return decode(answer, self.get_raw(message, kind))

    def get_raw(self, message: "nlmsg | bytes", kind: int) -> bytes:
        """The same undecoded: a whole netlink message."""
        request = self.encode(message, kind, NLM_F_REQUEST)
        self._socket.send(request)
        while True:
            for answer_kind, _, body in self._receive({_number_of(request)}):
                if answer_kind not in (NLMSG_ERROR, NLMSG_DONE):
                    return body
                raise error_of(body) or NetlinkError(EPROTO, "the kernel did not answer")

    def dump(self, message: "nlmsg", kind: int, answer: "type[nlmsg]", *, containing: bytes = b"") -> "list[nlmsg]":
        """All objects of a kind, decoded as `answer`; with `containing`, only those whose bytes hold that text.

        A dump that the kernel says was disturbed is taken again, for two seconds; then NetlinkError (EAGAIN) is raised,
        for who is not shown an object must be able to rely on its absence.
        """
        return [decode(answer, body) for body in self.dump_raw(message, kind) if containing in body]

    def dump_raw(self, message: "nlmsg | bytes", kind: int) -> list[bytes]:
        """The same undecoded: a list of whole netlink messages."""
        found: list[bytes] = []

        def is_whole() -> bool:
            nonlocal found
            found, disturbed = self._dump_once(self.encode(message, kind, NLM_F_REQUEST | NLM_F_DUMP))
            return not disturbed

        if not wait_until(is_whole, seconds=_DUMP_SECONDS):
            raise NetlinkError(EAGAIN, "what the kernel lists kept changing while it was read")
        return found

    def _dump_once(self, request: bytes) -> tuple[list[bytes], bool]:
        """What the kernel lists, and whether it changed meanwhile (NLM_F_DUMP_INTR).

        A list that came in one piece is one moment's, whatever has changed when the kernel says that there is no more.
        """
        found: list[bytes] = []
        pieces, disturbed = 0, False
        self._socket.send(request)
        while True:
            messages = self._receive({_number_of(request)})
            pieces += any(kind not in (NLMSG_ERROR, NLMSG_DONE) for kind, _, _ in messages)
            for kind, flags, body in messages:
                if kind not in (NLMSG_ERROR, NLMSG_DONE):
                    found.append(body)
                elif failure := error_of(body):
                    raise failure
                disturbed = disturbed or bool(flags & NLM_F_DUMP_INTR and pieces > 1)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    return found, disturbed

    def send(self, requests: Sequence[bytes], *, tolerated: Collection[int] = ()) -> list[bytes]:
        """Send one or more changes, encoded with NLM_F_ACK, in one datagram, and wait until the kernel has done them.

        Returns the objects that it showed meanwhile (NLM_F_ECHO), whole messages. Raises the first NetlinkError that is
        not of the errnos `tolerated`, when all is read: the socket stays usable, and what came after the refused
        request was tried.
        """
        *others, last = requests
        numbers = [_number_of(request) for request in requests]
        self._socket.send(b"".join([*map(_unacknowledged, others), last]))
        failure: NetlinkError | None = None
        shown, is_done = [], False
        while not is_done:
            for kind, _, body in self._receive(numbers):
                if kind != NLMSG_ERROR:
                    shown.append(body)
                    continue
                error = error_of(body)
                if error and not failure and error.errno not in tolerated:
                    failure = error
                    failure.place = numbers.index(_number_of(body))
                is_done = is_done or _number_of(body) == numbers[-1]
        if failure:
            raise failure
        return shown

    def transact(self, requests: Sequence[bytes]) -> list[tuple[int, NetlinkError | None]]:
        """Send encoded requests in one datagram which the kernel answers while it takes it in, as nfnetlink does.

        Returns (sequence number of the request, its error or None) for each acknowledgement, in order: how many there
        will be depends on what the kernel meets.
        """
        data = b"".join(requests)
        numbers = {_number_of(request) for request in requests}
        if len(data) > _SEND_BYTES:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(data))
        self._socket.send(data)
        answers = []
        try:
            while True:
                answers += [
                    (struct.unpack_from("=I", body, 8)[0], error_of(body))
                    for kind, _, body in self._receive(numbers, wait=False)
                    if kind == NLMSG_ERROR
                ]
        except BlockingIOError:
            return answers

    def change_many(self, requests: Sequence[bytes]) -> list[tuple[int, NetlinkError]]:
        """Send many encoded changes in few datagrams; (place in `requests`, error) of each that the kernel refused.

        For rtnetlink, which works while it takes a datagram in, goes on after an error, and need not acknowledge:
        requests without NLM_F_ACK are answered only if refused. They are numbered here.
        """
        refused = []
        first = self._sequence + 1
        self._sequence += len(requests)
        for start in range(0, len(requests), _BATCH):
            batch = enumerate(requests[start : start + _BATCH], first + start)
            numbered = [request[:8] + struct.pack("=I", number) + request[12:] for number, request in batch]
            refused += [(number - first, error) for number, error in self.transact(numbered) if error]
        return refused

    def _receive(self, numbers: Collection[bytes], *, wait: bool = True) -> list[tuple[int, int, bytes]]:
        """(type, flags, whole message) of each message in the next datagram that answers a request of these numbers.

        What answers an earlier request, of which nobody waits for the answer any more, is passed over. BlockingIOError
        if `wait` is False and there is no datagram; NetlinkError (EAGAIN) if none comes in time.
        """
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            if not wait:
                raise
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            if not poll.poll(_TIMEOUT_SECONDS * 1000):
                raise NetlinkError(EAGAIN, f"the kernel did not answer in {_TIMEOUT_SECONDS} seconds") from None
            data = self._socket.recv(_RECEIVE_BYTES)
        messages, at = [], 0
        while at + _HEADER.size <= len(data):
            length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
            if length < _HEADER.size:
                break
            if kind != NLMSG_NOOP and data[at + 8 : at + 12] in numbers:
                messages.append((kind, flags, data[at : at + length]))
            at += (length + 3) & ~3
        return messages


def _number_of(message: bytes) -> bytes:
    return message[8:12]


def _unacknowledged(request: bytes) -> bytes:
    """A request of which the kernel says something only if it refuses it."""
    (flags,) = struct.unpack_from("=H", request, 6)
    return request[:6] + struct.pack("=H", flags & ~NLM_F_ACK) + request[8:]


def decode(answer: "type[nlmsg]", body: bytes) -> "nlmsg":
    """One whole netlink message as an object of pyroute2's class `answer`."""
    message = answer(body)
    message.decode()
    return message


def error_of(body: bytes) -> NetlinkError | None:
    """The error in an NLMSG_ERROR or NLMSG_DONE message, or None if it says that all went well (errno 0)."""
    (negative,) = struct.unpack_from("=i", body, _HEADER.size)
    if negative >= 0:
        return None
    text = os.strerror(-negative)
    said = _extended_text(body)
    return NetlinkError(-negative, f"{text} ({said})" if said else text)


def _extended_text(body: bytes) -> str:
    """The kernel's sentence of an extended acknowledgement (NLMSGERR_ATTR_MSG), or ""."""
    flags = struct.unpack_from("=H", body, 6)[0]
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    at = _HEADER.size + 4 + _HEADER.size
    if not flags & _NLM_F_CAPPED:
        (request_bytes,) = struct.unpack_from("=I", body, _HEADER.size + 4)
        at += request_bytes - _HEADER.size
    return attributes_of(body, at).get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode("utf-8", "replace")

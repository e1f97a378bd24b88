"""A netlink socket: sends requests, receives acknowledgements and dumps, all as bytes (linux/netlink/attributes.py).

Not pyroute2's socket: that is built on asyncio, whose import alone takes a third of a cold ADD. A socket belongs to the
network namespace in which it was opened.
"""

import os
import select
import socket
import struct
import sys
from collections.abc import Collection, Iterator, Sequence
from errno import EAGAIN, ENOBUFS, ENOENT, EPROTO

from linux.netlink.attributes import MESSAGE_HEADER, attributes_of
from linux.waiting import wait_until

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
_RECEIVE_BYTES = 1 << 16  # twice what the kernel puts into one datagram; allocating more costs more than receiving
_SEND_BYTES = 1 << 16
_SO_SNDBUFFORCE = 32
_SO_NETNS_COOKIE = 71  # socket(7), since Linux 5.14
_BATCH = 128  # so many errors fit into the socket's buffer, should all be refused
_DUMP_SECONDS = 2
_ERRNO = struct.Struct("=i")  # negative, in struct nlmsgerr
_TIMEOUT_SECONDS = 30


class NetlinkError(OSError):
    """The kernel refused a request: `errno`, and `strerror` with the kernel's own message if it sent one.

    `place`: the index of the request among those sent together.
    """

    place = 0


class Netlink:
    """A netlink socket in the network namespace of the calling thread; a context manager.

    `protocol`: NETLINK_ROUTE or NETLINK_NETFILTER. `wire`: a socket to use instead of a new one, for tests.
    """

    def __init__(self, protocol: int = NETLINK_ROUTE, wire: socket.socket | None = None) -> None:
        # Not blocking: the answer is there when send() returns, and a timeout would poll before each recv().
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = wire or socket.socket(socket.AF_NETLINK, kind, protocol)
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
        """The cookie of the socket's network namespace, unique since boot; 0 if the kernel has none (before 5.14).

        Unlike the inode number, which the kernel reuses once the namespace is deleted.
        """
        try:
            return int.from_bytes(self._socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError:
            return 0

    def fileno(self) -> int:
        """The socket's descriptor, for poll()."""
        return self._socket.fileno()

    def encode(self, message: bytes, kind: int, flags: int) -> bytes:
        """One request: a header with the next sequence number, and `message`."""
        self._sequence += 1
        return MESSAGE_HEADER.pack(MESSAGE_HEADER.size + len(message), kind, flags, self._sequence, 0) + message

    def change(self, message: bytes, kind: int, flags: int = 0) -> None:
        """Send one change and wait for the acknowledgement; raises NetlinkError."""
        self.send([self.encode(message, kind, NLM_F_REQUEST | NLM_F_ACK | flags)])

    def get(self, message: bytes, kind: int) -> bytes:
        """Request one object; returns a message with its header. Raises NetlinkError (ENOENT or ENODEV: not found)."""
        request = self.encode(message, kind, NLM_F_REQUEST)
        self._socket.send(request)
        while True:
            for answer_kind, _, body in self._receive({_number_of(request)}):
                if answer_kind not in (NLMSG_ERROR, NLMSG_DONE):
                    return body
                raise error_of(body) or NetlinkError(EPROTO, "the kernel did not answer")

    def get_many(self, messages: Sequence[bytes], kind: int) -> list[bytes | None]:
        """Request many objects in one datagram that the kernel answers before send() returns, as nfnetlink does.

        Returns a message with its header for each, None for one that does not exist (ENOENT). Raises NetlinkError.
        """
        requests = [self.encode(message, kind, NLM_F_REQUEST) for message in messages]
        found: dict[bytes, bytes | None] = {}
        for start in range(0, len(requests), _BATCH):
            batch = requests[start : start + _BATCH]
            numbers = {_number_of(request) for request in batch}
            self._socket.send(b"".join(batch))
            while not numbers <= found.keys():
                for answer_kind, _, body in self._receive(numbers):
                    is_missing = answer_kind == NLMSG_ERROR
                    if is_missing and _ERRNO.unpack_from(body, MESSAGE_HEADER.size)[0] != -ENOENT:
                        raise error_of(body) or NetlinkError(EPROTO, "the kernel did not answer")
                    found[_number_of(body)] = None if is_missing else body
        return [found[_number_of(request)] for request in requests]

    def dump(self, message: bytes, kind: int) -> list[bytes]:
        """List all objects of a kind; returns messages with their headers.

        A dump that was interrupted (NLM_F_DUMP_INTR) is repeated for two seconds. Then NetlinkError (EAGAIN) is raised,
        because callers rely on the absence of what is not listed.
        """
        objects: list[bytes] = []

        def is_whole() -> bool:
            nonlocal objects
            objects, disturbed = self._dump_once(self.encode(message, kind, NLM_F_REQUEST | NLM_F_DUMP))
            return not disturbed

        if not wait_until(is_whole, seconds=_DUMP_SECONDS):
            raise NetlinkError(EAGAIN, "the kernel's objects kept changing while they were listed; try again")
        return objects

    def _dump_once(self, request: bytes) -> tuple[list[bytes], bool]:
        """The objects, and whether they changed meanwhile (NLM_F_DUMP_INTR).

        A dump in a single datagram is consistent, even if the message that ends it has the flag.
        """
        objects: list[bytes] = []
        pieces, disturbed = 0, False
        self._socket.send(request)
        while True:
            messages = self._receive({_number_of(request)})
            pieces += any(kind not in (NLMSG_ERROR, NLMSG_DONE) for kind, _, _ in messages)
            for kind, flags, body in messages:
                if kind not in (NLMSG_ERROR, NLMSG_DONE):
                    objects.append(body)
                elif failure := error_of(body):
                    raise failure
                disturbed = disturbed or bool(flags & NLM_F_DUMP_INTR and pieces > 1)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    return objects, disturbed

    def stream(self, message: bytes, kind: int) -> Iterator[bytes]:
        """The objects of a kind, with their headers, while the kernel lists them; for those too many to keep.

        What changes meanwhile may be missing. Take all of them before the socket is used again. Raises NetlinkError.
        """
        request = self.encode(message, kind, NLM_F_REQUEST | NLM_F_DUMP)
        self._socket.send(request)
        while True:
            for answer_kind, _, body in self._receive({_number_of(request)}):
                if answer_kind not in (NLMSG_ERROR, NLMSG_DONE):
                    yield body
                    continue
                if failure := error_of(body):
                    raise failure
                return

    def send(self, requests: Sequence[bytes], *, tolerated: Collection[int] = ()) -> list[bytes]:
        """Send changes, encoded with NLM_F_ACK, in one datagram, and wait until the kernel has processed all of them.

        Returns the messages of objects that it echoed (NLM_F_ECHO). Raises the first NetlinkError whose errno is not
        `tolerated` when everything is read: the socket stays usable, and requests after the refused one were tried.
        """
        *others, last = requests
        numbers = [_number_of(request) for request in requests]
        self._socket.send(b"".join([*map(_unacknowledged, others), last]))
        failure: NetlinkError | None = None
        echoed, is_done = [], False
        while not is_done:
            for kind, _, body in self._receive(numbers):
                if kind != NLMSG_ERROR:
                    echoed.append(body)
                    continue
                error = error_of(body)
                if error and not failure and error.errno not in tolerated:
                    failure = error
                    failure.place = numbers.index(_number_of(body))
                is_done = is_done or _number_of(body) == numbers[-1]
        if failure:
            raise failure
        return echoed

    def transact(
        self, requests: Sequence[bytes], *, first_error_suffices: bool = False
    ) -> list[tuple[int, NetlinkError | None]]:
        """Send encoded requests in one datagram that the kernel answers before send() returns, as nfnetlink does.

        Returns (sequence number of the request, its error or None) for each acknowledgement, in order. How many there
        are depends on the errors; if they are too many for the socket's buffer, OSError (ENOBUFS) is raised, unless the
        first ones suffice.
        """
        data = b"".join(requests)
        numbers = {_number_of(request) for request in requests}
        if len(data) > _SEND_BYTES:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(data))
        self._socket.send(data)
        answers: list[tuple[int, NetlinkError | None]] = []
        lost: OSError | None = None
        while True:
            try:
                received = self._receive(numbers, wait=False)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != ENOBUFS:
                    raise
                lost = error
                continue
            acknowledged = (body for kind, _, body in received if kind == NLMSG_ERROR)
            answers += [(struct.unpack_from("=I", body, 8)[0], error_of(body)) for body in acknowledged]
        if lost and not (first_error_suffices and any(error for _, error in answers)):
            raise lost
        return answers

    def change_many(self, requests: Sequence[bytes]) -> list[tuple[int, NetlinkError]]:
        """Send many encoded changes in few datagrams; returns (index in `requests`, error) of each refused one.

        For rtnetlink, which processes a datagram before send() returns, goes on after an error, and answers requests
        without NLM_F_ACK only if it refuses them. Sequence numbers are set here.
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
        """(type, flags, message with header) of each answer in the next datagram to a request with these numbers.

        Late answers to earlier requests are dropped. Raises BlockingIOError if `wait` is False and there is no
        datagram, NetlinkError (EAGAIN) if none arrives in time.
        """
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            if not wait:
                raise
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            if not poll.poll(_TIMEOUT_SECONDS * 1000):
                raise NetlinkError(EAGAIN, f"the kernel did not answer within {_TIMEOUT_SECONDS} seconds") from None
            data = self._socket.recv(_RECEIVE_BYTES)
        messages, at = [], 0
        while at + MESSAGE_HEADER.size <= len(data):
            length, kind, flags, _, _ = MESSAGE_HEADER.unpack_from(data, at)
            if length < MESSAGE_HEADER.size:
                break
            if kind != NLMSG_NOOP and data[at + 8 : at + 12] in numbers:
                messages.append((kind, flags, data[at : at + length]))
            at += (length + 3) & ~3
        return messages


def _number_of(message: bytes) -> bytes:
    return message[8:12]


def _unacknowledged(request: bytes) -> bytes:
    """The request without NLM_F_ACK: the kernel answers only if it refuses it."""
    (flags,) = struct.unpack_from("=H", request, 6)
    return request[:6] + struct.pack("=H", flags & ~NLM_F_ACK) + request[8:]


def error_of(body: bytes) -> NetlinkError | None:
    """The error in an NLMSG_ERROR or NLMSG_DONE message, None for success (errno 0)."""
    (negative,) = _ERRNO.unpack_from(body, MESSAGE_HEADER.size)
    if negative >= 0:
        return None
    text = os.strerror(-negative)
    detail = _extended_text(body)
    return NetlinkError(-negative, f"{text} ({detail})" if detail else text)


def _extended_text(body: bytes) -> str:
    """The kernel's message in an extended acknowledgement (NLMSGERR_ATTR_MSG), or ""."""
    flags = struct.unpack_from("=H", body, 6)[0]
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    at = MESSAGE_HEADER.size + 4 + MESSAGE_HEADER.size
    if not flags & _NLM_F_CAPPED:
        (request_bytes,) = struct.unpack_from("=I", body, MESSAGE_HEADER.size + 4)
        at += request_bytes - MESSAGE_HEADER.size
    return attributes_of(body, at).get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode("utf-8", "replace")

"""A program that runs in a pod from before its ADD: it sends to every address there is, and hears what arrives.

`policy_talker.py NAME FILE SECONDS ADDRESS...`: once in so many SECONDS it sends to each of the addresses, from as soon
as it can until it gets SIGTERM. Each message says who sent it, how, which it is, and when (monotonic, in ns). FILE gets
a line for each event; its first word says what happened, the next when:

* `S TIME HOW ADDRESS PORT NUMBER`: sent a datagram; or began to open a connection
* `R TIME FROM HOW VERSION PORT NUMBER SENT`: a message has arrived at this port
* `D TIME NUMBER`: the connection that began with this number is open, and its first message was answered
* `B TIME NUMBER SENT WHY`: it has ended without this program's doing; its last message was sent then

HOW: "new", a datagram from a port of its own; "kept", from a socket that is kept, and answered; "tcp", a connection for
one message; "long", a connection that is kept.
"""

import errno
import itertools
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

PORTS = (8001, 8002)
OPENING_SECONDS = 3
"""For so long a connection may take to open, and its first message to be answered."""
STALLED_SECONDS = 10
"""A kept connection whose messages were not answered for so long has stalled."""
_HASTE_SECONDS = 0.01  # between two datagrams until the first can be sent
_ROOM, _SO_RCVBUFFORCE = 1 << 20, 33  # bytes of a socket's buffer
_TCP_EVERY = 3  # rounds


def version_of(address: str) -> int:
    """The IP version of an address."""
    return 6 if ":" in address else 4


class Connection:
    """A connection to somebody. `since`: when it was begun, or its last message was sent or answered (ns)."""

    def __init__(self, sock: socket.socket, how: str, number: int) -> None:
        self.sock, self.how, self.number = sock, how, number
        self.since = self.last_sent = time.monotonic_ns()
        self.is_open = self.is_waiting = False


class Talker:
    """The sockets, and the file of what happened."""

    def __init__(self, name: str, file: str, seconds: float, addresses: Sequence[str]) -> None:
        self._name, self._addresses = name, addresses
        self._tick = seconds / len(addresses)
        self._log = open(file, "w", buffering=1 << 16)  # noqa: SIM115 (until the end)
        self._numbers = itertools.count(1)
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._opening: dict[int, Connection] = {}
        self._long: dict[str, Connection] = {}
        self._kept: dict[int, socket.socket] = {}
        self.is_ending, self._is_up = False, False
        for family in (socket.AF_INET, socket.AF_INET6):
            for port in PORTS:
                self._serve(family, port)
            self._kept[6 if family == socket.AF_INET6 else 4] = self._bound(family, socket.SOCK_DGRAM, 0)

    def run(self) -> None:
        """Until the end."""
        due, turns = time.monotonic(), self._turns()
        while not self.is_ending:
            for descriptor, _ in self._poll.poll(max(0, due - time.monotonic())):
                handler = self._handlers.get(descriptor)
                if handler:
                    handler()
            if time.monotonic() >= due:
                self._send(*next(turns))
                due = max(due, time.monotonic() - 1) + (self._tick if self._is_up else _HASTE_SECONDS)
        self._log.close()

    def _turns(self) -> Iterator[tuple[int, str]]:
        """Which of its turns, so that those of some addresses are odd and those of others even; and the address."""
        for number in itertools.count():
            yield from ((number + place, address) for place, address in enumerate(self._addresses))

    def _tell(self, *words: object) -> None:
        self._log.write(" ".join(map(str, words)) + "\n")

    def _watch(self, sock: socket.socket, handler: Callable[[], None], mask: int = select.EPOLLIN) -> None:
        self._handlers[sock.fileno()] = handler
        self._poll.register(sock, mask)

    def _drop(self, sock: socket.socket) -> None:
        self._handlers.pop(sock.fileno(), None)
        sock.close()  # epoll forgets it

    # Hearing

    def _bound(self, family: int, kind: int, port: int) -> socket.socket:
        sock = socket.socket(family, kind)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if port or kind == socket.SOCK_DGRAM:
            sock.bind(("", port))
        return sock

    def _serve(self, family: int, port: int) -> None:
        version = 6 if family == socket.AF_INET6 else 4
        datagrams, listener = (self._bound(family, kind, port) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
        listener.listen(512)
        self._watch(datagrams, lambda: self._hear_datagrams(datagrams, version, port))
        self._watch(listener, lambda: self._accept(listener, version, port))

    def _heard(self, line: bytes, version: int, port: int) -> str:
        sender, how, number, sent = line.decode().split()
        self._tell("R", time.monotonic_ns(), sender, how, version, port, number, sent)
        return how

    def _hear_datagrams(self, sock: socket.socket, version: int, port: int) -> None:
        with suppress(BlockingIOError):
            for _ in range(64):
                data, source = sock.recvfrom(200)
                if self._heard(data, version, port) == "kept":
                    with suppress(OSError):
                        sock.sendto(data, source)

    def _accept(self, listener: socket.socket, version: int, port: int) -> None:
        with suppress(OSError):
            for _ in range(64):
                sock, _ = listener.accept()
                sock.setblocking(False)
                self._watch(sock, lambda sock=sock: self._hear_stream(sock, version, port))

    def _hear_stream(self, sock: socket.socket, version: int, port: int) -> None:
        """Messages are short, and awaited one by one: each arrives whole."""
        try:
            data = sock.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(sock)
            return
        for line in data.splitlines():
            self._heard(line, version, port)
        with suppress(OSError):
            sock.send(data)

    # Sending

    def _message(self, how: str, number: int) -> bytes:
        return f"{self._name} {how} {number} {time.monotonic_ns()}\n".encode()

    def _send(self, turn: int, address: str) -> None:
        with suppress(OSError):
            port = PORTS[turn % len(PORTS)]
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                self._send_datagram(sock, "new", address, port)
            self._is_up = True
            self._send_datagram(self._kept[version_of(address)], "kept", address, PORTS[0])
        with suppress(BlockingIOError):
            while True:
                self._kept[version_of(address)].recv(200)  # answers, and their errors
        if self._is_up:
            self._look_after(turn, address)

    def _send_datagram(self, sock: socket.socket, how: str, address: str, port: int) -> None:
        number, now = next(self._numbers), time.monotonic_ns()
        sock.sendto(self._message(how, number), (address, port))
        self._tell("S", now, how, address, port, number)

    def _look_after(self, turn: int, address: str) -> None:
        """The connections to an address."""
        now = time.monotonic_ns()
        for one in [one for one in self._opening.values() if now - one.since > OPENING_SECONDS * 10**9]:
            self._end(one)
        if turn % _TCP_EVERY == 0:
            self._open("tcp", address, PORTS[turn % len(PORTS)])
        kept = self._long.get(address)
        if kept is None:
            self._open("long", address, PORTS[0])
        elif kept.is_open and not kept.is_waiting:
            self._write(kept)
        elif kept.is_open and now - kept.since > STALLED_SECONDS * 10**9:
            self._tell("B", now, kept.number, kept.last_sent, "stalled")
            self._end(kept)

    def _open(self, how: str, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        number = next(self._numbers)
        self._tell("S", time.monotonic_ns(), how, address, port, number)
        one = Connection(sock, how, number)
        self._opening[number] = one
        if how == "long":
            self._long[address] = one
        self._watch(sock, lambda: self._on_stream(one), select.EPOLLOUT)
        error = sock.connect_ex((address, port))
        if error not in (0, errno.EINPROGRESS):
            self._end(one)

    def _write(self, one: Connection) -> None:
        one.last_sent = one.since = time.monotonic_ns()
        one.is_waiting = True
        with suppress(OSError):
            one.sock.send(self._message(one.how, one.number))

    def _on_stream(self, one: Connection) -> None:
        error = one.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not error and not one.is_open and not one.is_waiting:
            self._poll.modify(one.sock, select.EPOLLIN)
            self._write(one)
            return
        try:
            data = b"" if error else one.sock.recv(4096)
        except BlockingIOError:
            return
        except OSError as failure:
            data, error = b"", failure.errno
        now = time.monotonic_ns()
        if data:
            one.is_waiting, one.since = False, now
            if not one.is_open:
                one.is_open = True
                self._opening.pop(one.number, None)
                self._tell("D", now, one.number)
            if one.how == "tcp":
                self._end(one)
            return
        if one.is_open:
            self._tell("B", now, one.number, one.last_sent, errno.errorcode.get(error, "closed"))
        self._end(one)

    def _end(self, one: Connection) -> None:
        self._opening.pop(one.number, None)
        for address in [address for address, kept in self._long.items() if kept is one]:
            del self._long[address]
        self._drop(one.sock)


def main() -> None:
    """Talk until SIGTERM, or until the test has ended."""
    name, file, seconds, *addresses = sys.argv[1:]
    talker, parent = Talker(name, file, float(seconds), addresses), os.getppid()

    def end(*_: object) -> None:
        talker.is_ending = True

    signal.signal(signal.SIGTERM, end)
    signal.setitimer(signal.ITIMER_REAL, 2, 2)
    signal.signal(signal.SIGALRM, lambda *_: end() if os.getppid() != parent else None)
    talker.run()


if __name__ == "__main__":
    main()

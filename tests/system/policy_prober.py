"""A program that runs in the network namespace of a pod: it serves, and sends probes to others like it.

`policy_prober.py PORTS ADDRESS...`: serves TCP, UDP and SCTP on the ports (such as 80,81) of its addresses. Its
commands are lines of JSON on stdin, each answered by a line on stdout:

* `{"probes": [[TOKEN, KIND, ADDRESS, PORT], ...], "seconds": S}`: send them all, and return the tokens of those that
  were answered within S seconds of the last one. KIND: "TCP", "UDP", "SCTP", "ICMP" (PORT is ignored).
* `{"arrived": true}`: the tokens of the UDP, SCTP and ICMP probes that have arrived here since it was asked last.
* `{"sources": [ADDRESS, ...]}`: the address that would be used as the source for each.

It speaks SCTP through raw sockets, as the kernel may not know it: an INIT is answered by an INIT ACK.
"""

import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

_SCTP = 132
_MAGIC = b"slash24 probe "
_INIT, _INIT_ACK = 1, 2
_ECHO = {(4, 8): "request", (4, 0): "reply", (6, 128): "request", (6, 129): "reply"}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_TURNS = 16  # probes that are sent before others are served


def _crc_table() -> list[int]:
    table = []
    for number in range(256):
        rest = number
        for _ in range(8):
            rest = rest >> 1 ^ (0x82F63B78 if rest & 1 else 0)
        table.append(rest)
    return table


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """The checksum of SCTP (RFC 9260, appendix A)."""
    rest = 0xFFFFFFFF
    for byte in data:
        rest = rest >> 8 ^ _TABLE[(rest ^ byte) & 0xFF]
    return rest ^ 0xFFFFFFFF


def sctp_packet(source: int, destination: int, tag: int, chunk: int, token: int) -> bytes:
    """A packet with an INIT or INIT ACK, whose initiate tag is the token."""
    body = struct.pack("!BBHIIHHI", chunk, 0, 20, token, 65536, 1, 1, token)
    head = struct.pack("!HHI", source, destination, tag)
    return head + struct.pack("<I", crc32c(head + bytes(4) + body)) + body


class Prober:
    """The sockets of the program, and what has come in."""

    def __init__(self, ports: Sequence[int], addresses: Sequence[str]) -> None:
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._kept: dict[int, socket.socket] = {}
        self._ports = set(ports)
        self._waiting: dict[int, socket.socket | None] = {}  # token -> its socket, None for raw ones
        self._answered: list[int] = []
        self._arrived: list[int] = []
        for address in addresses:
            for port in ports:
                self._serve(address, port)
        icmp = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
        self._sctp = {version: self._open_raw(version, _SCTP, self._take_sctp) for version in _FAMILIES}
        self._icmp = {version: self._open_raw(version, icmp[version], self._take_echo) for version in _FAMILIES}

    # Serving

    def _serve(self, address: str, port: int) -> None:
        version = 6 if ":" in address else 4
        listener, datagrams = (_bound(version, kind, address, port) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM))
        listener.listen(512)
        self._watch(listener, lambda: _accept_all(listener))
        self._watch(datagrams, lambda: self._echo_all(datagrams))

    def _echo_all(self, sock: socket.socket) -> None:
        for data, source in _received(sock):
            if data.startswith(_MAGIC):
                self._arrived.append(int(data[len(_MAGIC) :]))
                with suppress(OSError):
                    sock.sendto(data, source)

    def _open_raw(self, version: int, protocol: int, take: Callable) -> socket.socket:
        sock = socket.socket(_FAMILIES[version], socket.SOCK_RAW, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.setblocking(False)
        self._watch(sock, lambda: take(version, sock))
        return sock

    def _take_sctp(self, version: int, sock: socket.socket) -> None:
        for data, source in _received(sock):
            packet = _payload(version, data)
            if len(packet) < 20:
                continue
            from_port, to_port = struct.unpack_from("!HH", packet)
            chunk, token = packet[12], struct.unpack_from("!I", packet, 16)[0]
            if chunk == _INIT and to_port in self._ports:
                self._arrived.append(token)
                with suppress(OSError):
                    sock.sendto(sctp_packet(to_port, from_port, token, _INIT_ACK, token), (source[0], 0))
            elif chunk == _INIT_ACK:
                self._answer(token)

    def _take_echo(self, version: int, sock: socket.socket) -> None:
        for data, _ in _received(sock):
            packet = _payload(version, data)
            what, text = _ECHO.get((version, packet[0])), packet[8:]
            if what and text.startswith(_MAGIC):
                token = int(text[len(_MAGIC) :])
                if what == "request":
                    self._arrived.append(token)
                else:
                    self._answer(token)

    # Probing

    def probe(self, probes: Sequence[tuple[int, str, str, int]], seconds: float) -> list[int]:
        """Send the probes; the tokens of those that were answered."""
        self._waiting, self._answered = {}, []
        for number, probe in enumerate(probes):
            self._send(*probe)
            if number % _TURNS == 0:
                self._turn(0)
        end = time.monotonic() + seconds
        while self._waiting and (left := end - time.monotonic()) > 0:
            self._turn(left)
        for sock in [one for one in self._waiting.values() if one]:
            self._forget(sock)
        self._waiting = {}
        return self._answered

    def _send(self, token: int, kind: str, address: str, port: int) -> None:
        version, text = 6 if ":" in address else 4, _MAGIC + str(token).encode()
        if kind in ("TCP", "UDP"):
            stream = kind == "TCP"
            sock = socket.socket(_FAMILIES[version], socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
            sock.setblocking(False)
            self._waiting[token] = sock
            with suppress(BlockingIOError, OSError):
                if stream:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.connect((address, port))
                if not stream:
                    sock.send(text)
            events = select.EPOLLOUT if stream else select.EPOLLIN
            self._watch(sock, lambda: self._take_answer(token, sock, is_stream=stream), events)
            return
        self._waiting[token] = None
        if kind == "SCTP":
            packet = sctp_packet(20000 + token % 40000, port, 0, _INIT, token)
        else:
            packet = struct.pack("!BBHHH", 8 if version == 4 else 128, 0, 0, token & 0xFFFF, 1) + text
            if version == 4:
                packet = packet[:2] + struct.pack("!H", _checksum(packet)) + packet[4:]
        with suppress(OSError):
            (self._sctp if kind == "SCTP" else self._icmp)[version].sendto(packet, (address, 0))

    def _take_answer(self, token: int, sock: socket.socket, *, is_stream: bool) -> None:
        if is_stream:
            is_answer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        else:
            try:
                is_answer = sock.recv(64) == _MAGIC + str(token).encode()
            except OSError:
                is_answer = False
        self._forget(sock)
        if is_answer:
            self._answer(token)
        self._waiting.pop(token, None)

    def _answer(self, token: int) -> None:
        if token in self._waiting:
            del self._waiting[token]
            self._answered.append(token)

    # The loop

    def _watch(self, sock: socket.socket, handler: Callable[[], None], events: int = select.EPOLLIN) -> None:
        self._poll.register(sock, events)
        self._handlers[sock.fileno()], self._kept[sock.fileno()] = handler, sock

    def _forget(self, sock: socket.socket) -> None:
        if sock.fileno() >= 0:
            self._poll.unregister(sock)
            self._handlers.pop(sock.fileno())
            self._kept.pop(sock.fileno()).close()

    def _turn(self, seconds: float) -> None:
        """Handle what comes in, until the first of it or the time is over."""
        for number, _ in self._poll.poll(seconds):
            handler = self._handlers.get(number)
            if handler:
                handler()

    def run(self) -> None:
        """Serve, and obey commands, until stdin is closed."""
        lines: list[bytes] = []
        self._poll.register(0, select.EPOLLIN)
        self._handlers[0] = lambda: lines.append(_read_line())
        _say("ready")
        while True:
            self._turn(-1)
            while lines:
                line = lines.pop(0)
                if not line:
                    return
                _say(self._obey(json.loads(line)))

    def _obey(self, command: dict) -> list:
        if "probes" in command:
            return self.probe([tuple(one) for one in command["probes"]], command["seconds"])
        if "sources" in command:
            return [_source(address) for address in command["sources"]]
        arrived, self._arrived = self._arrived, []
        return arrived


def _read_line() -> bytes:
    """One command; the rest of a line is waited for. b"": stdin is closed."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 1 << 20)
        if not part:
            return b""
        line += part
    return line


def _say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _bound(version: int, kind: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(_FAMILIES[version], kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    if version == 4:
        sock.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND: an address may be tentative
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND
    sock.bind((address, port))
    sock.setblocking(False)
    return sock


def _accept_all(listener: socket.socket) -> None:
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return
        except OSError:
            continue  # the client has given up


def _received(sock: socket.socket) -> list[tuple[bytes, tuple]]:
    found = []
    while True:
        try:
            found.append(sock.recvfrom(2048))
        except BlockingIOError:
            return found
        except OSError:
            continue  # an error that an earlier packet has caused


def _payload(version: int, data: bytes) -> bytes:
    """What follows the IP header, which raw sockets of IPv4 receive, too."""
    return data[(data[0] & 15) * 4 :] if version == 4 else data


def _checksum(packet: bytes) -> int:
    padded = packet + bytes(len(packet) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def _source(address: str) -> str:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, 9))
        return sock.getsockname()[0]


if __name__ == "__main__":
    Prober([int(port) for port in sys.argv[1].split(",")], sys.argv[2:]).run()

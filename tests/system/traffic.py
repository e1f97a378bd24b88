"""Datagrams and TCP streams between pods while something happens to the network, and what was lost meanwhile."""

import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations
from queue import Queue
from threading import Event, Thread

from tests.netns.node import Pod

INTERVAL = 0.005  # seconds between two datagrams of a flow
_UNDER_WAY = 0.2  # seconds in which the last datagrams of a report arrive
_PORT = 7000


@dataclass
class _Flow:
    """Numbered datagrams, or the bytes of a stream, from `source` to `target`."""

    name: str
    source: socket.socket
    target: socket.socket
    is_stream: bool
    sent: int = 0
    received: int = 0
    last: float = 0.0  # when something was received
    gap: float = 0.0  # the longest time without
    problem: str = ""


@dataclass(frozen=True)
class Report:
    """Of the worst flow: `lost` datagrams and the longest `pause` of datagrams and streams in seconds.

    `total`: the datagrams that all flows have lost. `broken`: what happened to streams that did not survive.
    """

    lost: int
    pause: float
    stream_pause: float
    total: int
    broken: tuple[str, ...] = field(default=())


class Traffic:
    """A flow of datagrams from every pod to every other, and a TCP stream as well, until `close`."""

    def __init__(self, pods: Sequence[tuple[Pod, str]]) -> None:
        """`pods`: with their addresses. Raises OSError if a pod does not reach another."""
        self._flows: list[_Flow] = []
        self._is_asked, self._stop = Event(), Event()
        self._reports: Queue[Report] = Queue()
        for number, ((client, own), (server, address)) in enumerate(permutations(pods, 2)):
            name, port = f"{own} to {address}", _PORT + number
            self._flows += [_datagrams(name, client, server, (address, port)), _stream(name, client, server, port)]
        self._thread = Thread(target=self._run)
        self._thread.start()

    def report(self) -> Report:
        """What has happened since the last report, and for a second from now."""
        time.sleep(1)
        self._is_asked.set()
        return self._reports.get(timeout=10)

    def close(self) -> None:
        """End all of it."""
        self._stop.set()
        self._thread.join()
        for flow in self._flows:
            flow.source.close()
            flow.target.close()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            is_asked = self._is_asked.is_set()
            for flow in self._flows:
                _send(flow)
            due = max(due, time.monotonic()) + INTERVAL
            self._receive(due + (_UNDER_WAY if is_asked else 0))
            if is_asked:
                self._is_asked.clear()
                self._reports.put(self._report())

    def _report(self) -> Report:
        flows, streams = ([flow for flow in self._flows if flow.is_stream is kind] for kind in (False, True))
        lost = [flow.sent - flow.received for flow in flows]
        made = Report(
            lost=max(lost),
            pause=max(flow.gap for flow in flows),
            stream_pause=max(flow.gap for flow in streams),
            total=sum(lost),
            broken=tuple(f"{flow.name}: {flow.problem}" for flow in streams if flow.problem),
        )
        for flow in self._flows:
            flow.sent = flow.received = 0
            flow.gap = flow.last = 0.0
        return made

    def _receive(self, until: float) -> None:
        """Everything that arrives until then."""
        poll = select.poll()
        by_number = {flow.target.fileno(): flow for flow in self._flows if not flow.problem}
        for number in by_number:
            poll.register(number, select.POLLIN)
        while (left := until - time.monotonic()) > 0:
            for number, _ in poll.poll(left * 1000):
                _take(by_number[number])
                if by_number[number].problem:
                    poll.unregister(number)


def _datagrams(name: str, client: Pod, server: Pod, address: tuple[str, int]) -> _Flow:
    target, source = server.socket(address[0], "udp"), client.socket(address[0], "udp")
    target.bind(address)
    source.connect(address)
    for each in (source, target):
        each.setblocking(False)
    return _Flow(name, source, target, is_stream=False)


def _stream(name: str, client: Pod, server: Pod, port: int) -> _Flow:
    address = name.rpartition(" ")[2]
    source = client.socket(address, "tcp")
    with server.socket(address, "tcp") as listener:
        listener.bind((address, port))
        listener.listen()
        source.connect((address, port))
        target = listener.accept()[0]
    for each in (source, target):
        each.setblocking(False)
    return _Flow(name, source, target, is_stream=True)


def _send(flow: _Flow) -> None:
    if flow.problem:
        return
    try:
        flow.source.send(b"x")
    except BlockingIOError:
        return
    except OSError as error:
        # Of a datagram it may be the answer to an earlier one, such as "unreachable".
        flow.problem = str(error) if flow.is_stream else ""
    flow.sent += 1


def _take(flow: _Flow) -> None:
    """Count what has arrived."""
    try:
        size = len(flow.target.recv(65536))
    except BlockingIOError:
        return
    except OSError as error:
        flow.problem = str(error)
        return
    if flow.is_stream and not size:
        flow.problem = "closed"
    now = time.monotonic()
    flow.gap = max(flow.gap, now - flow.last if flow.last else 0.0)
    flow.last = now
    flow.received += size

"""A TCP connection between two pods that is in use while something happens to the network."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from tests.netns.node import Host

_PORT, _INTERVAL, _PATIENCE = 9000, 0.01, 20.0  # of both: seconds


@dataclass
class Stream:
    """Words sent and returned so far; `longest`: seconds until one was returned."""

    words: int = 0
    longest: float = 0.0


@contextmanager
def streaming(client: Host, server: Host, address: str) -> Iterator[Stream]:
    """A connection on which a word goes back and forth every 10 ms meanwhile. Raises OSError if it breaks."""
    stream, is_over = Stream(), threading.Event()
    with server.socket(address, "tcp") as listener, client.socket(address, "tcp") as caller:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, _PORT))
        listener.listen()
        caller.connect((address, _PORT))
        with listener.accept()[0] as connection, ThreadPoolExecutor(2) as pool:
            for one in (caller, connection):
                one.settimeout(_PATIENCE)
            running = [pool.submit(_echo, connection), pool.submit(_talk, caller, stream, is_over)]
            try:
                yield stream
            finally:
                is_over.set()
            for one in reversed(running):
                one.result()


def _talk(caller: socket.socket, stream: Stream, is_over: threading.Event) -> None:
    while not is_over.wait(_INTERVAL):
        before = time.monotonic()
        caller.sendall(b"word")
        if caller.recv(16) != b"word":
            raise ConnectionError("the connection has ended")
        stream.words += 1
        stream.longest = max(stream.longest, time.monotonic() - before)
    caller.shutdown(socket.SHUT_WR)


def _echo(connection: socket.socket) -> None:
    while received := connection.recv(16):
        connection.sendall(received)

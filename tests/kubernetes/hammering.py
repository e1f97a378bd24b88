"""Datagrams to every address of a subnet, without a pause: whether anybody there can be reached is seen at once."""

import ipaddress
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.netns.node import Host

_IP_RECVERR, _PORT_UNREACHABLE = 11, (3, 3)
_PAUSE = 0.01  # seconds between two rounds
_FIRST = 2
"""The number of the first address of a node's subnet that a pod may have."""


@dataclass
class Hammered:
    """`rounds`: how often each address was sent to; `reached`: the addresses that have shown that they were reached."""

    rounds: int = 0
    reached: set[str] = field(default_factory=set)


@contextmanager
def hammering(client: Host, subnet: str, port: int) -> Iterator[Hammered]:
    """Send datagrams to all pods that a node may have (IPv4) meanwhile.

    Reached is who answers, and who says that nothing listens there: the kernel of a pod whose program has not started.
    """
    hosts = [str(one) for one in ipaddress.ip_network(subnet).hosts()][_FIRST - 1 :]
    seen, is_over = Hammered(), threading.Event()
    with client.socket(hosts[0], "udp") as sender:
        sender.setsockopt(socket.SOL_IP, _IP_RECVERR, 1)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sender.setblocking(False)
        thread = threading.Thread(target=_hammer, args=(sender, hosts, port, seen, is_over))
        thread.start()
        try:
            yield seen
        finally:
            is_over.set()
            thread.join()


def _hammer(sender: socket.socket, hosts: list[str], port: int, seen: Hammered, is_over: threading.Event) -> None:
    while not is_over.is_set():
        for number, host in enumerate(hosts):
            with suppress(OSError):  # an error that an earlier datagram has caused
                sender.sendto(b"hostname", (host, port))
            if number % 32 == 0:
                _receive(sender, seen)
        seen.rounds += 1
        select.select([sender], [], [], _PAUSE)
        is_over.wait(_PAUSE)
        _receive(sender, seen)


def _receive(sender: socket.socket, seen: Hammered) -> None:
    with suppress(BlockingIOError):
        while True:
            _, data, _, _ = sender.recvmsg(256, 256, socket.MSG_ERRQUEUE)
            _take_error(data, seen)
    while True:
        try:
            seen.reached.add(sender.recvfrom(256)[1][0])
        except BlockingIOError:
            return
        except OSError:
            continue  # as above


def _take_error(data: list[tuple[int, int, bytes]], seen: Hammered) -> None:
    """An ICMP error: only "port unreachable" is of the host itself."""
    for level, kind, content in data:
        if (level, kind) == (socket.SOL_IP, _IP_RECVERR):
            what, offender = content[5:7], content[16:]
            if tuple(what) == _PORT_UNREACHABLE and len(offender) >= 8:
                seen.reached.add(socket.inet_ntoa(struct.unpack_from("!4s", offender, 4)[0]))

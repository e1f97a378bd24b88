"""ICMP echo requests, by sockets of our own: a node need not have a program for that."""

import os
import select
import socket
import time
from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from errno import EMSGSIZE
from struct import pack, unpack_from

from linux.netns import entered
from spec.addresses import is_ipv6

_REQUEST, _REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
_HEADERS = {4: 28, 6: 48}  # bytes of the IP header and that of ICMP
_PROTOCOLS = {4: (socket.AF_INET, socket.IPPROTO_ICMP), 6: (socket.AF_INET6, socket.IPPROTO_ICMPV6)}
_IP_MTU_DISCOVER, _IP_MTU, _IPV6_MTU_DISCOVER, _IPV6_MTU, _DO = 10, 14, 23, 24, 2  # ip(7), ipv6(7)
_AGAIN_SECONDS = 0.4
_SMALL = 84  # bytes: ping's default


@dataclass(frozen=True)
class Target:
    """An address, and the bytes of the whole packet. It is never fragmented on its way."""

    address: str
    size: int = _SMALL

    @property
    def version(self) -> int:
        """Of IP."""
        return 6 if is_ipv6(self.address) else 4


@dataclass
class Answers:
    """The targets that have answered; and for those too large for a link on the way, what it lets through (bytes)."""

    answered: set[Target] = field(default_factory=set)
    limits: dict[Target, int] = field(default_factory=dict)


def ask(targets: Collection[Target], *, seconds: float, netns: int | None = None) -> Answers:
    """Send echo requests to all targets, again and again, until all have answered or the time is over.

    `netns`: a descriptor of the namespace to send from, None for the calling thread's. Raises OSError if there can be
    no sockets; an address that cannot be sent to has not answered.
    """
    found, sockets = Answers(), {}
    numbers = dict(enumerate(dict.fromkeys(targets)))
    identifier = int.from_bytes(os.urandom(2), "big")
    try:
        for version in {target.version for target in numbers.values()}:
            sockets[version] = _opened(version, netns)
        end = time.monotonic() + seconds
        while (left := _left(numbers.values(), found)) and (now := time.monotonic()) < end:
            for number, target in numbers.items():
                if target in left:
                    _send(sockets[target.version], target, identifier, number, found, netns)
            _receive(sockets, identifier, numbers, found, min(end, now + _AGAIN_SECONDS))
    finally:
        for each in sockets.values():
            each.close()
    return found


def _left(targets: Iterable[Target], found: Answers) -> set[Target]:
    return {target for target in targets if target not in found.answered and target not in found.limits}


def _opened(version: int, netns: int | None) -> socket.socket:
    family, protocol = _PROTOCOLS[version]
    with _in(netns):
        made = socket.socket(family, socket.SOCK_RAW, protocol)
    made.setblocking(False)  # noqa: FBT003
    if version == 4:
        made.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _DO)
    else:
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _DO)
    return made


def _send(by: socket.socket, target: Target, identifier: int, number: int, found: Answers, netns: int | None) -> None:
    data = bytes(max(0, target.size - _HEADERS[target.version]))
    head = pack("!BBHHH", _REQUEST[target.version], 0, 0, identifier, number)
    if target.version == 4:  # the kernel computes that of ICMPv6
        head = head[:2] + _checksum(head + data).to_bytes(2, "big") + head[4:]
    try:
        by.sendto(head + data, (target.address, 0))
    except OSError as error:
        if error.errno == EMSGSIZE:
            found.limits[target] = _limit(target, netns)


def _limit(target: Target, netns: int | None) -> int:
    """The path MTU that the kernel knows, 0 if it does not tell."""
    family = _PROTOCOLS[target.version][0]
    option = (socket.IPPROTO_IP, _IP_MTU) if target.version == 4 else (socket.IPPROTO_IPV6, _IPV6_MTU)
    try:
        with _in(netns), socket.socket(family, socket.SOCK_DGRAM) as asked:
            asked.connect((target.address, 9))
            return asked.getsockopt(*option)
    except OSError:
        return 0


def _in(netns: int | None) -> AbstractContextManager[None]:
    return nullcontext() if netns is None else entered(netns)


def _receive(
    sockets: dict[int, socket.socket], identifier: int, numbers: dict[int, Target], found: Answers, end: float
) -> None:
    """Take replies until `end`, or all have come."""
    versions = {each: version for version, each in sockets.items()}
    while _left(numbers.values(), found) and (rest := end - time.monotonic()) > 0:
        for each in select.select(list(versions), [], [], rest)[0]:
            try:
                data = each.recv(1 << 16)
            except OSError:  # an error that the kernel has got for an earlier request
                continue
            version = versions[each]
            body = data[(data[0] & 15) * 4 :] if version == 4 and data else data
            if len(body) < 8 or body[0] != _REPLY[version]:
                continue
            theirs, number = unpack_from("!HH", body, 4)
            target = numbers.get(number)
            if theirs == identifier and target and target.version == version:
                found.answered.add(target)


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + bytes(len(data) % 2)
    total = sum(unpack_from(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

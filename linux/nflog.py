"""Packets that rules log to a group (nfnetlink_log): what they are, as values.

The kernel copies the beginning of each packet. It has passed no check but those of the rules before, so whatever
bytes it has, reading it raises nothing. Numbers are those of <linux/netfilter/nfnetlink_log.h>.
"""

import select
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from errno import ENOBUFS

from linux.connection import WITH_PORTS
from linux.netlink.attributes import MESSAGE_HEADER, attribute, attributes_of
from linux.netlink.socket import NETLINK_NETFILTER, Netlink
from spec.addresses import unpack

NFNL_SUBSYS_ULOG = 4
NFULNL_MSG_PACKET, NFULNL_MSG_CONFIG = 0, 1
_PACKET = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET
_CONFIG = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG
NFULA_PACKET_HDR, NFULA_PAYLOAD, NFULA_PREFIX = 1, 9, 10
NFULA_CFG_CMD, NFULA_CFG_MODE, NFULA_CFG_TIMEOUT = 1, 2, 4
NFULNL_CFG_CMD_BIND, NFULNL_COPY_PACKET = 1, 2

_BODY = 20  # bytes of the netlink and nfnetlink headers before the attributes
_COPIED = 128  # bytes: an IPv6 header, its usual extensions, and ports
_DELAY = 10  # hundredths of a second for which the kernel collects packets
_LARGEST = 1 << 16
_MOST_EXTENSIONS = 8
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AH, _DESTINATION_OPTIONS, _MOBILITY = 0, 43, 44, 51, 60, 135
_EXTENSIONS = frozenset({_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AH, _DESTINATION_OPTIONS, _MOBILITY})
_PORTS = struct.Struct("!HH")


@dataclass(frozen=True, slots=True)
class LoggedPacket:
    """A packet that a rule has logged, with the rule's `prefix`. Addresses are packed.

    `protocol`: IPPROTO_*. Ports are 0 if the protocol has none, or if they are not in what was copied.
    """

    prefix: str
    source: bytes
    destination: bytes
    protocol: int
    source_port: int = 0
    port: int = 0

    def __str__(self) -> str:
        """For people."""
        return f"{self.prefix}protocol {self.protocol} from {unpack(self.source)} to {unpack(self.destination)}"


class Nflog:
    """A socket that receives what is logged to a group, in the network namespace of the calling thread.

    A context manager. `lost`: how often the kernel had to drop packets because they were not read in time.
    """

    def __init__(self, group: int) -> None:
        """Bind to the group, 0 to 65535. Raises OSError: EPERM also if another program has it."""
        self.lost = 0
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        try:
            netlink, head = Netlink(wire=self._socket), struct.pack("!BBH", socket.AF_UNSPEC, 0, group)
            netlink.change(head + attribute(NFULA_CFG_CMD, bytes([NFULNL_CFG_CMD_BIND])), _CONFIG)
            mode = attribute(NFULA_CFG_MODE, struct.pack("!IBB", _COPIED, NFULNL_COPY_PACKET, 0))
            netlink.change(head + mode + attribute(NFULA_CFG_TIMEOUT, _DELAY.to_bytes(4, "big")), _CONFIG)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> "Nflog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; the kernel forgets the group."""
        self._socket.close()

    def fileno(self) -> int:
        """What to poll."""
        return self._socket.fileno()

    def receive(self, *, seconds: float) -> list[LoggedPacket]:
        """What was logged, at most one datagram of it; [] if nothing comes within `seconds`. Raises OSError."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return []
        return list(packets_in(self._take()))

    def _take(self) -> bytes:
        """The next datagram of the kernel, b"" if there is none."""
        try:
            data, (sender, _) = self._socket.recvfrom(_LARGEST)
        except BlockingIOError:
            return b""
        except OSError as error:
            if error.errno != ENOBUFS:
                raise
            self.lost += 1
            return b""
        return data if sender == 0 else b""


def packets_in(data: bytes) -> Iterator[LoggedPacket]:
    """The packets of IP in a datagram of the kernel; what cannot be read is left out."""
    for kind, message in _messages(data):
        if kind == _PACKET:
            attributes = attributes_of(message, _BODY)
            prefix = attributes.get(NFULA_PREFIX, b"").partition(b"\0")[0].decode("ascii", "replace")
            packet = read_packet(prefix, attributes.get(NFULA_PAYLOAD, b""))
            if packet:
                yield packet


def read_packet(prefix: str, data: bytes) -> LoggedPacket | None:
    """The packet that begins with these bytes, None if it is not one of IP."""
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= 20:
        at, is_first = (data[0] & 15) * 4, not (data[6] & 0x1F or data[7])
        return _packet(prefix, data[12:16], data[16:20], data[9], data[at:] if at >= 20 and is_first else b"")
    if version == 6 and len(data) >= 40:
        protocol, rest = _after_extensions(data[6], data[40:])
        return _packet(prefix, data[8:24], data[24:40], protocol, rest)
    return None


def _packet(prefix: str, source: bytes, destination: bytes, protocol: int, payload: bytes) -> LoggedPacket:
    has_ports = protocol in WITH_PORTS and len(payload) >= _PORTS.size
    source_port, port = _PORTS.unpack_from(payload) if has_ports else (0, 0)
    return LoggedPacket(prefix, source, destination, protocol, source_port, port)


def _after_extensions(kind: int, data: bytes) -> tuple[int, bytes]:
    """The protocol after IPv6 extension headers, and what is left of `data`; b"" in fragments after the first."""
    for _ in range(_MOST_EXTENSIONS):
        if kind not in _EXTENSIONS or len(data) < 8:
            break
        if kind == _FRAGMENT and (data[2] or data[3] & 0xF8):
            return data[0], b""
        size = 8 if kind == _FRAGMENT else (data[1] + 2) * 4 if kind == _AH else (data[1] + 1) * 8
        kind, data = data[0], data[size:]
    return kind, data


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, message with its header) of each message of a datagram."""
    at = 0
    while at + MESSAGE_HEADER.size <= len(data):
        length, kind, *_ = MESSAGE_HEADER.unpack_from(data, at)
        if length < MESSAGE_HEADER.size or at + length > len(data):
            return
        yield kind, data[at : at + length]
        at += (length + 3) & ~3

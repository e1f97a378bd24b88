"""What nftables does with packets whose trace bit is set (`meta nftrace set 1`), as the kernel tells it.

For each base chain that such a packet meets there is a message for each rule that matched, and one for what is done at
its end. The first of them has the packet's headers. Messages may be about packets that others trace.
"""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from errno import ENOBUFS
from struct import Struct

from linux.netlink.attributes import MESSAGE_HEADER, attributes_of
from linux.netlink.socket import NETLINK_NETFILTER
from linux.nftables import uapi
from linux.nftables.messages import BODY, FAMILY_NAMES, TableName, message_type

_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER_BYTES = 1 << 20
_LARGEST = 1 << 16
_FAMILY_AT = 16
_AT_ONCE = 2000
_SIGNED = Struct("!i")
_TRACE = message_type(uapi.NFT_MSG_TRACE)

VERDICTS = {
    uapi.NF_DROP: "drop",
    uapi.NF_ACCEPT: "accept",
    2: "stolen",
    3: "queue",
    4: "repeat",
    -1: "continue",
    -2: "break",
    uapi.NFT_JUMP: "jump",
    uapi.NFT_GOTO: "goto",
    uapi.NFT_RETURN: "return",
}
"""The words of nft for what a rule, or the end of a chain, has done."""


@dataclass(frozen=True)
class Step:
    """What a rule has done with a packet, or the end of a base chain (`rule`: 0).

    `rule`: the handle. `verdict`: of VERDICTS, or "verdict N". `target`: the chain to which it jumps or goes, or "".
    `packet`: the network and the transport header, in the first step of a base chain; else b"". `number`: the same for
    all steps of a packet in a hook. `iif`, `oif`: indices of links, 0 if there is none. `mark`: the packet's.
    """

    table: TableName
    chain: str
    rule: int
    verdict: str
    target: str
    packet: bytes
    number: int
    iif: int
    oif: int
    mark: int

    @property
    def is_dropped(self) -> bool:
        """Whether the packet ended here."""
        return self.verdict == "drop"


class Tracer:
    """A socket that receives the steps of the network namespace of the calling thread; a context manager.

    `lost`: how often the kernel had to drop messages because they were not read in time.
    """

    def __init__(self) -> None:
        """Raises OSError (EPERM: not root)."""
        self.lost = 0
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, uapi.NFNLGRP_NFTRACE)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> "Tracer":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """What to poll."""
        return self._socket.fileno()

    def read(self) -> list[Step]:
        """The steps that have been told since, in order, some of them if they are very many. Raises OSError."""
        steps: list[Step] = []
        for _ in range(_AT_ONCE):
            try:
                data, (sender, _) = self._socket.recvfrom(_LARGEST)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != ENOBUFS:
                    raise
                self.lost += 1
                continue
            if sender == 0:
                steps += steps_in(data)
        return steps


def steps_in(data: bytes) -> Iterator[Step]:
    """The steps in a datagram of the kernel; what cannot be read is left out."""
    at = 0
    while at + MESSAGE_HEADER.size <= len(data):
        length, kind, *_ = MESSAGE_HEADER.unpack_from(data, at)
        if length < MESSAGE_HEADER.size or at + length > len(data):
            return
        if kind == _TRACE and length >= BODY and data[at + _FAMILY_AT] in FAMILY_NAMES:
            yield _step(data[at : at + length])
        at += (length + 3) & ~3


def _step(message: bytes) -> Step:
    found = attributes_of(message, BODY)
    verdict = attributes_of(found.get(uapi.NFTA_TRACE_VERDICT, b""))
    code = verdict.get(uapi.NFTA_VERDICT_CODE, b"")
    if not code and _big(found.get(uapi.NFTA_TRACE_TYPE)) == uapi.NFT_TRACETYPE_POLICY:
        code = found.get(uapi.NFTA_TRACE_POLICY, b"")
    number = _SIGNED.unpack(code)[0] if len(code) == _SIGNED.size else -1
    return Step(
        TableName(message[_FAMILY_AT], _text(found.get(uapi.NFTA_TRACE_TABLE))),
        _text(found.get(uapi.NFTA_TRACE_CHAIN)),
        _big(found.get(uapi.NFTA_TRACE_RULE_HANDLE)),
        VERDICTS.get(number if number < 0 else number & 0xFF, f"verdict {number}"),
        _text(verdict.get(uapi.NFTA_VERDICT_CHAIN)),
        found.get(uapi.NFTA_TRACE_NETWORK_HEADER, b"") + found.get(uapi.NFTA_TRACE_TRANSPORT_HEADER, b""),
        _big(found.get(uapi.NFTA_TRACE_ID)),
        _big(found.get(uapi.NFTA_TRACE_IIF)),
        _big(found.get(uapi.NFTA_TRACE_OIF)),
        _big(found.get(uapi.NFTA_TRACE_MARK)),
    )


def _big(data: bytes | None) -> int:
    return int.from_bytes(data or b"", "big")


def _text(data: bytes | None) -> str:
    return (data or b"").split(b"\0", 1)[0].decode("utf-8", "replace")

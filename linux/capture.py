"""Short packets that pass the links of a network namespace, as packet sockets show them."""

import ctypes
import socket
from dataclasses import dataclass
from errno import ENETDOWN, ENOBUFS
from struct import Struct

_ETH_P_ALL = 3
_SO_ATTACH_FILTER = 26
_INSTRUCTION = Struct("=HBBI")  # struct sock_filter: code, jump if true, jump if false, operand
_PROGRAM = Struct("@HP")  # struct sock_fprog: number of instructions, their address
_LOAD_LENGTH, _JUMP_IF_GREATER, _RETURN = 0x80, 0x25, 0x06  # BPF_LD | BPF_W | BPF_LEN, BPF_JMP | BPF_JGT | BPF_K, ...
_LONGEST = 300  # bytes
_OTHERHOST, _OUTGOING = 3, 4  # PACKET_*


@dataclass(frozen=True)
class Sight:
    """A packet on a link (its name), from its network header on.

    `is_outgoing`: it left by the link. `is_for_other`: it came in, and its MAC is not that of the link.
    """

    link: str
    is_outgoing: bool
    is_for_other: bool
    packet: bytes


class Tap:
    """Sees packets of up to 300 bytes on all links of the calling thread's network namespace; a context manager."""

    def __init__(self) -> None:
        """Raises OSError (EPERM: not root)."""
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_ALL))
        try:
            _attach_filter(self._socket)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> "Tap":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """What to poll."""
        return self._socket.fileno()

    def read(self, *, containing: bytes) -> list[Sight]:
        """The packets with these bytes that were seen since, in order. Raises OSError."""
        seen = []
        while True:
            try:
                data, (link, _, kind, *_) = self._socket.recvfrom(_LONGEST)
            except BlockingIOError:
                return seen
            except OSError as error:
                if error.errno not in (ENOBUFS, ENETDOWN):
                    raise
                continue
            if containing in data:
                seen.append(Sight(link, kind == _OUTGOING, kind == _OTHERHOST, data))


def _attach_filter(of: socket.socket) -> None:
    """Have the kernel drop long packets: of a busy node those are most."""
    steps = (
        _INSTRUCTION.pack(_LOAD_LENGTH, 0, 0, 0),
        _INSTRUCTION.pack(_JUMP_IF_GREATER, 0, 1, _LONGEST),
        _INSTRUCTION.pack(_RETURN, 0, 0, 0),
        _INSTRUCTION.pack(_RETURN, 0, 0, _LONGEST),
    )
    program = ctypes.create_string_buffer(b"".join(steps))
    of.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(len(steps), ctypes.addressof(program)))

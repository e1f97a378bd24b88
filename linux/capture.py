"""One packet on all links of a network namespace, recognized by four bytes of it, as packet sockets show it."""

import ctypes
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from errno import ENETDOWN, ENOBUFS
from struct import Struct

_ETH_P_ALL = 3
_SO_ATTACH_FILTER = 26
_INSTRUCTION = Struct("=HBBI")  # struct sock_filter: code, jump if true, jump if false, operand
_PROGRAM = Struct("@HP")  # struct sock_fprog: number of instructions, their address
_LONGEST = 2048  # bytes
_OTHERHOST, _OUTGOING = 3, 4  # PACKET_*
_IPV6_HEADER = 40

# Codes of instructions: A and X are the registers, k the operand
_LOAD_BYTE = 0x30  # A = the byte at k (BPF_LD | BPF_B | BPF_ABS)
_SHIFT_RIGHT = 0x74  # A >>= k (BPF_ALU | BPF_RSH | BPF_K)
_JUMP_IF_EQUAL = 0x15  # if A == k (BPF_JMP | BPF_JEQ | BPF_K)
_LOAD_HEADER_LENGTH = 0xB1  # X = the length of the IPv4 header at k (BPF_LDX | BPF_B | BPF_MSH)
_JUMP = 0x05  # over k instructions (BPF_JMP | BPF_JA)
_LOAD_X = 0x01  # X = k (BPF_LDX | BPF_W | BPF_IMM)
_LOAD_WORD = (
    0x40  # A = the four bytes at X + k; outside of the packet the program ends with 0 (BPF_LD | BPF_W | BPF_IND)
)
_RETURN = 0x06  # k bytes are to be received (BPF_RET | BPF_K)


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
    """Sees some packets of IP on all links of the calling thread's network namespace; a context manager.

    It is the kernel that chooses them, so it makes no difference how many others there are.
    """

    def __init__(self, wanted: bytes, places: Sequence[int]) -> None:
        """`wanted`: four bytes that they have at one of the `places`, in ascending order, after their IP header.

        Raises OSError (EPERM: not root).
        """
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_ALL))
        try:
            steps = list(_program(wanted, places))
            code = ctypes.create_string_buffer(b"".join(steps))
            program = _PROGRAM.pack(len(steps), ctypes.addressof(code))
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
            self._drain()
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

    def read(self) -> list[Sight]:
        """The packets that were seen since, in order. Raises OSError."""
        return [Sight(link, kind == _OUTGOING, kind == _OTHERHOST, data) for data, link, kind in self._received()]

    def _received(self) -> Iterator[tuple[bytes, str, int]]:
        while True:
            try:
                data, (link, _, kind, *_) = self._socket.recvfrom(_LONGEST)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in (ENOBUFS, ENETDOWN):
                    raise
                continue
            yield data, link, kind

    def _drain(self) -> None:
        """Forget what came before the filter."""
        for _ in self._received():
            pass


def _program(wanted: bytes, places: Sequence[int]) -> Iterator[bytes]:
    """The filter: the packets begin with their IP headers."""
    value, left = int.from_bytes(wanted, "big"), 2 * len(places)
    yield _INSTRUCTION.pack(_LOAD_BYTE, 0, 0, 0)
    yield _INSTRUCTION.pack(_SHIFT_RIGHT, 0, 0, 4)
    yield _INSTRUCTION.pack(_JUMP_IF_EQUAL, 2, 0, 6)
    yield _INSTRUCTION.pack(_LOAD_HEADER_LENGTH, 0, 0, 0)
    yield _INSTRUCTION.pack(_JUMP, 0, 0, 1)
    yield _INSTRUCTION.pack(_LOAD_X, 0, 0, _IPV6_HEADER)
    for place in places:
        left -= 2
        yield _INSTRUCTION.pack(_LOAD_WORD, 0, 0, place)
        yield _INSTRUCTION.pack(_JUMP_IF_EQUAL, left + 1, 0, value)
    yield _INSTRUCTION.pack(_RETURN, 0, 0, 0)
    yield _INSTRUCTION.pack(_RETURN, 0, 0, _LONGEST)

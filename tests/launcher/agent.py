"""An agent for the launcher's tests: each test decides how it speaks the protocol, and it records its requests."""

import array
import os
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROTOCOL = 2
HELLO = b"S24A" + struct.pack("<2I", PROTOCOL, 60)
DECLINED = 0xFFFFFFFF
RESULT = b'{"cniVersion": "1.1.0", "dns": {}}'


def reply(status: int = 0, stdout: bytes = b"", stderr: bytes = b"", *, version: int = PROTOCOL) -> bytes:
    """A complete reply in wire format."""
    return b"S24R" + struct.pack("<4I", version, status, len(stdout), len(stderr)) + stdout + stderr


@dataclass(frozen=True)
class Asked:
    """One request as received; `netns` are (device, inode) of each descriptor that came with its first byte.

    `root` is the (device, inode) of the launcher's root directory.
    """

    kind: str
    variables: tuple[str, ...]
    stdin: bytes
    netns: tuple[tuple[int, int], ...]
    root: tuple[int, int]

    @property
    def environ(self) -> dict[str, str]:
        """The variables as a mapping."""
        return dict(variable.split("=", 1) for variable in self.variables)


def read_exactly(connection: socket.socket, length: int) -> bytes:
    """Read exactly `length` bytes; raises EOFError if the launcher closes the connection before."""
    data = bytearray()
    while len(data) < length:
        part, ancillary, _, _ = connection.recvmsg(min(length - len(data), 1 << 20), 64)
        assert not ancillary, "a descriptor where none belongs"
        if not part:
            raise EOFError(f"{len(data)} bytes instead of {length}")
        data += part
    return bytes(data)


def read_request(connection: socket.socket) -> Asked:
    """Read the launcher's request and check it against the protocol."""
    first, ancillary, flags, _ = connection.recvmsg(1, socket.CMSG_LEN(16))
    if not first:
        raise EOFError("no request")
    fds = array.array("i")
    for level, kind, data in ancillary:
        assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        fds.frombytes(data)
    assert not flags & socket.MSG_CTRUNC
    found = tuple((os.fstat(fd).st_dev, os.fstat(fd).st_ino) for fd in fds)
    for fd in fds:
        os.close(fd)
    header = first + read_exactly(connection, 35)
    magic, version, *lengths, device, inode = struct.unpack("<4s4I2Q", header)
    assert (magic, version) == (b"S24Q", PROTOCOL)
    kind, variables, stdin = (read_exactly(connection, length) for length in lengths)
    assert not variables or variables.endswith(b"\0")
    assert b"\0" not in kind
    names = tuple(variable.decode(errors="surrogateescape") for variable in variables.split(b"\0")[:-1])
    names = tuple(name for name in names if not name.startswith("SLASH24_SOCKET="))  # which every test sets
    return Asked(kind.decode(), names, stdin, found, (device, inode))


class Agent:
    """Listens until closed; `behave` handles each connection in its own thread, after which the socket is closed.

    `asked` are the requests that were read, `troubles` the exceptions raised by `behave`: protocol violations.
    """

    def __init__(self, behave: "Callable[[Agent, socket.socket], None]", *, backlog: int = 256) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="agent-"))  # pytest's folders are too long for a socket's address
        self.path = self.folder / "cni.sock"
        self.asked: list[Asked] = []
        self.troubles: list[BaseException] = []
        self.connections = 0
        self._behave = behave
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(self.path))
        self._socket.listen(backlog)

    def start(self) -> "Agent":
        """Begin to accept; until then launchers queue."""
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def read(self, connection: socket.socket) -> Asked:
        """Read the request and record it."""
        asked = read_request(connection)
        self.asked.append(asked)
        return asked

    def close(self) -> None:
        """Stop listening, and raise what `behave` raised."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        shutil.rmtree(self.folder)
        for trouble in self.troubles:
            raise trouble

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._behave(self, connection)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the launcher closed the connection: the test checks what it does then
            except BaseException as trouble:  # noqa: BLE001  (a thread has nobody to raise to)
                self.troubles.append(trouble)


def answering(data: bytes) -> Callable[[Agent, socket.socket], None]:
    """The course of a successful call: send the greeting, read the request, send `data`."""

    def behave(agent: Agent, connection: socket.socket) -> None:
        connection.sendall(HELLO)
        agent.read(connection)
        connection.sendall(data)

    return behave


def saying(data: bytes) -> Callable[[Agent, socket.socket], None]:
    """Send `data`, whatever the launcher sends, and close the connection."""

    def behave(_agent: Agent, connection: socket.socket) -> None:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass

    return behave

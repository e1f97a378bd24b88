"""A launcher in Python, for tests, that implements the protocol: calls the agent, else executes the plugin if safe.

python launcher.py SOCKET FOLDER TYPE     as a runtime would run FOLDER/TYPE
"""

import array
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

VERSION = 2
HEADER, HELLO, REPLY = struct.Struct("<4s4I2Q"), struct.Struct("<4s2I"), struct.Struct("<4s4I")
DECLINED = 0xFFFFFFFF


@dataclass(frozen=True)
class Answer:
    """What a runtime gets; `way` is "agent", "alone" (the plugin was executed) or "lost" (the agent died)."""

    returncode: int
    stdout: str
    stderr: str
    way: str


def request(kind: str, environ: Mapping[str, str], stdin: bytes) -> bytes:
    """A request as a launcher sends it."""
    variables = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in environ.items())
    lengths = (len(kind.encode()), len(variables), len(stdin))
    root = os.stat("/")
    return HEADER.pack(b"S24Q", VERSION, *lengths, root.st_dev, root.st_ino) + kind.encode() + variables + stdin


def connect(path: str) -> socket.socket | None:
    """A connection to an agent that has sent its greeting; None if there is no such agent."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(60)
    try:
        connection.connect(path)
        magic, version, seconds = HELLO.unpack(connection.recv(HELLO.size, socket.MSG_WAITALL))
        if (magic, version) == (b"S24A", VERSION) and seconds:
            return connection
    except (OSError, struct.error):
        pass
    connection.close()
    return None


def send(connection: socket.socket, data: bytes, netns: int | None = None) -> None:
    """Send a request; the descriptor goes with the first byte."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [netns]))] if netns is not None else []
    sent = connection.sendmsg([data], rights)
    if data[sent:]:
        connection.sendall(data[sent:])


def receive(connection: socket.socket) -> tuple[int, bytes, bytes] | None:
    """Status, stdout and stderr of the reply; None if the reply is missing or incomplete."""
    try:
        header = connection.recv(REPLY.size, socket.MSG_WAITALL)
        magic, version, status, out, err = REPLY.unpack(header)
        body = connection.recv(out + err, socket.MSG_WAITALL) if out + err else b""
    except (OSError, struct.error):
        return None
    return (status, body[:out], body[out:]) if (magic, version, len(body)) == (b"S24R", VERSION, out + err) else None


def launch(
    path: str,
    kind: str,
    environ: Mapping[str, str],
    stdin: str,
    alone: Callable[[], subprocess.CompletedProcess],
    *,
    root: str = "",
) -> Answer:
    """Make one call through the agent at `path`, else with `alone`, which executes the plugin.

    `root` is prepended to CNI_NETNS.
    """
    connection, netns = connect(path), environ.get("CNI_NETNS", "")
    if connection is not None:
        with connection:
            reply = _ask(connection, request(kind, environ, stdin.encode()), netns and root + netns)
        if reply is None:
            return Answer(1, '{"cniVersion": "1.1.0", "code": 11, "msg": "the agent went away"}', "", "lost")
        if reply[0] != DECLINED:
            return Answer(reply[0], reply[1].decode(), reply[2].decode(), "agent")
    done = alone()
    return Answer(done.returncode, done.stdout, done.stderr, "alone")


def _ask(connection: socket.socket, data: bytes, netns: str) -> tuple[int, bytes, bytes] | None:
    descriptor = None
    with suppress(OSError):
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC) if netns else None
    try:
        with suppress(OSError):  # the agent may have replied already
            send(connection, data, descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return receive(connection)


def main() -> int:
    """Run as the module's docstring describes."""
    path, folder, kind = sys.argv[1:4]
    stdin = sys.stdin.read()

    def alone() -> subprocess.CompletedProcess:
        return subprocess.run([os.path.join(folder, kind)], input=stdin, text=True, capture_output=True)

    answer = launch(path, kind, os.environ, stdin, alone)
    sys.stdout.write(answer.stdout)
    sys.stderr.write(answer.stderr)
    return answer.returncode


if __name__ == "__main__":
    sys.exit(main())

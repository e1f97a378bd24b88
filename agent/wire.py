"""The protocol between launcher and agent, version 2: encoding and decoding. Pure.

One connection is one call. The agent sends a greeting before it reads; the launcher sends its request without waiting
for that. A launcher that gets no such greeting closes the connection and runs the plugin itself, which is safe: nothing
was begun, since an agent that cannot send its greeting does not read. The agent's reply follows the request.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct

from spec.request import STDIN_LIMIT

VERSION = 2
MAGIC = b"S24A"
DECLINED = 0xFFFFFFFF
"""The status of a call that was not begun: the launcher runs the plugin itself."""

TYPE_LIMIT, ENVIRON_LIMIT = 64, 256 << 10  # bytes
HEADER = Struct("<4s4I2Q")
_HELLO, _ANSWER = Struct("<4s2I"), Struct("<4s4I")
_REQUEST, _REPLY = b"S24Q", b"S24R"
_STDERR_LIMIT = 1 << 20


class Malformed(Exception):
    """Not a request of this version."""


@dataclass(frozen=True)
class Request:
    """A call as a launcher sends it: the plugin's type, its environment and stdin, both complete.

    `root`: device and inode of the launcher's root directory.
    """

    kind: str
    environ: Mapping[str, str]
    stdin: bytes
    root: tuple[int, int] = (0, 0)


def hello(seconds: float) -> bytes:
    """The greeting; a launcher waits for its reply for that long, and a second more."""
    return _HELLO.pack(MAGIC, VERSION, min(math.ceil(seconds) + 1, 0xFFFFFFFF))


def announced(data: bytes | bytearray) -> int:
    """The length in bytes of the request that begins with `data`, which holds at least a header. Raises Malformed."""
    magic, version, kind, environ, stdin, _, _ = HEADER.unpack_from(data)
    if magic != _REQUEST:
        raise Malformed(f"begins with {bytes(magic)!r}")
    if version != VERSION:
        raise Malformed(f"version {version}")
    for name, length, limit in (
        ("type", kind, TYPE_LIMIT),
        ("environment", environ, ENVIRON_LIMIT),
        ("stdin", stdin, STDIN_LIMIT),
    ):
        if length > limit:
            raise Malformed(f"{name} of {length} bytes, {limit} are allowed")
    return HEADER.size + kind + environ + stdin


def parse(data: bytes | bytearray) -> Request:
    """A complete request. Raises Malformed."""
    if len(data) < HEADER.size or len(data) != announced(data):
        raise Malformed(f"{len(data)} bytes, not the length that its header announces")
    _, _, kind_length, environ_length, _, *root = HEADER.unpack_from(data)
    environ_at = HEADER.size + kind_length
    stdin_at = environ_at + environ_length
    with memoryview(data) as view:
        kind = bytes(view[HEADER.size : environ_at])
        environ = bytes(view[environ_at:stdin_at])
        stdin = bytes(view[stdin_at:])
    return Request(_parse_kind(kind), _parse_environ(environ), stdin, tuple(root))


def request(call: Request) -> bytes:
    """The bytes of a request, as a launcher sends them."""
    kind = call.kind.encode()
    environ = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in call.environ.items())
    lengths = (len(kind), len(environ), len(call.stdin))
    return HEADER.pack(_REQUEST, VERSION, *lengths, *call.root) + kind + environ + call.stdin


def reply(status: int, stdout: bytes = b"", stderr: bytes = b"") -> bytes:
    """The bytes of a reply; of a long stderr, only the end is sent."""
    stderr = stderr[-_STDERR_LIMIT:]
    return _ANSWER.pack(_REPLY, VERSION, status, len(stdout), len(stderr)) + stdout + stderr


def _parse_kind(text: bytes) -> str:
    if not text or not text.isascii() or not text.replace(b"-", b"").isalnum():
        raise Malformed(f"type {text!r}")
    return text.decode()


def _parse_environ(data: bytes) -> dict[str, str]:
    if not data:
        return {}
    if data[-1:] != b"\0":
        raise Malformed("unterminated environment")
    environ = {}
    for entry in os.fsdecode(data[:-1]).split("\0"):
        name, equals, value = entry.partition("=")
        if not equals or not name:
            raise Malformed(f"environment variable {entry[:80]!r}")
        environ.setdefault(name, value)  # getenv(3) finds the first of equal names
    return environ

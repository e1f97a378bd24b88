"""The protocol between launcher and agent: all that a launcher sends is read, and nothing else."""

import io
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import wire
from agent.connection import Connection
from agent.wire import HEADER, Malformed

KINDS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
NAMES = st.one_of(st.from_regex(r"[^=\x00\ud800-\udfff]{1,10}", fullmatch=True), st.just("CNI_COMMAND"))
VALUES = st.binary(max_size=40).map(lambda value: value.replace(b"\0", b"").decode("utf-8", "surrogateescape"))
ROOTS = st.tuples(*[st.integers(0, 2**64 - 1)] * 2)
REQUESTS = st.builds(wire.Request, KINDS, st.dictionaries(NAMES, VALUES, max_size=6), st.binary(max_size=200), ROOTS)


@given(REQUESTS)
def test_a_request_is_received_as_it_was_sent(request: wire.Request) -> None:
    """Type, variables (values may have any bytes) and stdin."""
    assert wire.parse(wire.request(request)) == request


@given(st.binary(max_size=400))
def test_any_bytes_are_a_request_or_malformed(data: bytes) -> None:
    """Parsing raises no other exception."""
    try:
        wire.parse(data)
    except Malformed:
        return


@given(REQUESTS, st.integers(0, 200), st.binary(min_size=1, max_size=4))
def test_a_damaged_request_is_a_request_or_malformed(request: wire.Request, at: int, other: bytes) -> None:
    """Wrong lengths, invalid names, truncation."""
    data = wire.request(request)
    at %= len(data)
    try:
        wire.parse(data[:at] + other + data[at + len(other) :])
    except Malformed:
        return


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((65, 0, 0), "type of 65 bytes"),
        ((1, 262145, 0), "environment of 262145 bytes"),
        ((1, 0, (16 << 20) + 1), "stdin of 16777217 bytes"),
        ((1, 0, 0xFFFFFFFF), "stdin of 4294967295 bytes"),
    ],
)
def test_a_request_that_is_too_long_is_refused_by_its_header(lengths: tuple[int, int, int], message: str) -> None:
    """Nothing after the header is read."""
    with pytest.raises(Malformed, match=message):
        wire.announced(HEADER.pack(b"S24Q", wire.VERSION, *lengths, 0, 0))


@pytest.mark.parametrize(
    ("kind", "environ"),
    [
        (b"", b""),
        (b"../bridge", b""),
        (b"bri\0dge", b""),
        ("br\u00fcge".encode(), b""),
        (b"bridge", b"CNI_COMMAND=ADD"),
        (b"bridge", b"CNI_COMMAND\0"),
        (b"bridge", b"\0"),
        (b"bridge", b"=x\0"),
    ],
)
def test_invalid_types_and_variables_are_malformed(kind: bytes, environ: bytes) -> None:
    """A type must be a plugin's name, a variable must have a name, "=" and its terminator."""
    with pytest.raises(Malformed):
        wire.parse(HEADER.pack(b"S24Q", wire.VERSION, len(kind), len(environ), 0, 0, 0) + kind + environ)


@pytest.mark.parametrize("start", [b"S24A\2\0\0\0", b"S24Q\1\0\0\0", b"S24Q\3\0\0\0", b"GET / HT", b"\0" * 8])
def test_other_protocols_and_versions_are_malformed(start: bytes) -> None:
    """The first bytes identify protocol and version."""
    with pytest.raises(Malformed):
        wire.announced(start + bytes(28))


def test_a_reply_has_the_lengths_of_its_parts() -> None:
    """Little-endian, as the launcher reads them; a long stderr loses its beginning."""
    data = wire.reply(1, b"{}", b"x" * 2_000_000 + b"end")
    assert struct.unpack("<4sIIII", data[:20]) == (b"S24R", wire.VERSION, 1, 2, 1 << 20)
    assert data[20:22] == b"{}"
    assert data.endswith(b"xend")
    assert len(data) == 22 + (1 << 20)


@given(st.binary(max_size=300), st.lists(st.integers(1, 50), max_size=8))
def test_a_request_may_arrive_in_pieces(stdin: bytes, cuts: list[int]) -> None:
    """Byte by byte even; it is complete with its last byte and not earlier."""
    request = wire.Request("bridge", {"CNI_COMMAND": "ADD"}, stdin)
    data = io.BytesIO(wire.request(request))
    ours, theirs = socket.socketpair()
    with theirs:
        connection = Connection(ours, 0, wire.hello(250.0))
        assert theirs.recv(12) == b"S24A\2\0\0\0\xfb\0\0\0"
        for piece in [*map(data.read, cuts), data.read()]:
            whole = False
            if piece:
                theirs.sendall(piece)
                whole = connection.receive()
            if whole:
                break
        assert connection.request() == request
        connection.close()

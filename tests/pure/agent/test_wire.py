"""What is on the wire: nothing is read that a launcher would not send, and everything that it would."""

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
def test_a_request_arrives_as_it_was_sent(request: wire.Request) -> None:
    """Type, variables (any bytes in their values) and stdin."""
    assert wire.parse(wire.request(request)) == request


@given(st.binary(max_size=400))
def test_any_bytes_are_a_request_or_malformed(data: bytes) -> None:
    """There is no other exception."""
    try:
        wire.parse(data)
    except Malformed:
        return


@given(REQUESTS, st.integers(0, 200), st.binary(min_size=1, max_size=4))
def test_a_request_with_other_bytes_in_it_is_a_request_or_malformed(
    request: wire.Request, at: int, other: bytes
) -> None:
    """Lengths that do not fit, names that are none, an end in the middle."""
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
def test_nothing_longer_than_allowed_is_even_read(lengths: tuple[int, int, int], message: str) -> None:
    """The header alone is enough to refuse it."""
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
def test_no_other_types_and_variables(kind: bytes, environ: bytes) -> None:
    """Only the names of plugins, only variables that are some, each with its end."""
    with pytest.raises(Malformed):
        wire.parse(HEADER.pack(b"S24Q", wire.VERSION, len(kind), len(environ), 0, 0, 0) + kind + environ)


@pytest.mark.parametrize("start", [b"S24A\2\0\0\0", b"S24Q\1\0\0\0", b"S24Q\3\0\0\0", b"GET / HT", b"\0" * 8])
def test_other_protocols_and_versions_are_malformed(start: bytes) -> None:
    """They are known by their first bytes."""
    with pytest.raises(Malformed):
        wire.announced(start + bytes(28))


def test_a_reply_says_how_long_its_parts_are() -> None:
    """Little-endian, as the launcher reads it; a flood on stderr is cut from its front."""
    data = wire.reply(1, b"{}", b"x" * 2_000_000 + b"end")
    assert struct.unpack("<4sIIII", data[:20]) == (b"S24R", wire.VERSION, 1, 2, 1 << 20)
    assert data[20:22] == b"{}"
    assert data.endswith(b"xend")
    assert len(data) == 22 + (1 << 20)


@given(st.binary(max_size=300), st.lists(st.integers(1, 50), max_size=8))
def test_however_it_is_cut_in_pieces_it_is_whole_at_its_end(stdin: bytes, cuts: list[int]) -> None:
    """A request may come byte by byte; that it is whole is known with its last byte and no earlier."""
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

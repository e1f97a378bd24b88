"""Tracked connections as the kernel describes them: the quick way to read and the thorough one agree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linux import connection, conntrack
from linux.connection import WITH_PORTS, Connection
from linux.netlink.attributes import MESSAGE_HEADER, NLA_F_NESTED, attribute, nested
from spec.addresses import FAMILIES

_GET, _ZONE = 1 << 8, 18


def message(family: int, *attributes: bytes) -> bytes:
    """A message of ctnetlink."""
    body = bytes([family, 0, 0, 0]) + b"".join(attributes)
    return MESSAGE_HEADER.pack(MESSAGE_HEADER.size + len(body), _GET, 0, 1, 0) + body


def tuple_of(kind: int, version: int, ends: tuple[bytes, bytes], protocol: int, ports: tuple[int, int]) -> bytes:
    """One direction of a connection, with ports or as those of ICMP."""
    source, to = ((1, 2), (3, 4))[version == 6]
    ip = nested(1 | NLA_F_NESTED, attribute(source, ends[0]), attribute(to, ends[1]))
    if protocol in WITH_PORTS:
        more = [attribute(2, ports[0].to_bytes(2, "big")), attribute(3, ports[1].to_bytes(2, "big"))]
    else:
        more = [attribute(4, b"\0\1"), attribute(5, b"\x08"), attribute(6, b"\0")]
    return nested(kind | NLA_F_NESTED, ip, nested(2 | NLA_F_NESTED, attribute(1, bytes([protocol])), *more))


@st.composite
def connections(draw: st.DrawFn) -> tuple[bytes, Connection]:
    """A message of the kernel, with what it says."""
    version, protocol = draw(st.sampled_from([4, 6])), draw(st.sampled_from([1, 6, 17, 47, 58, 132]))
    size = 4 if version == 4 else 16
    ends = [draw(st.binary(min_size=size, max_size=size)) for _ in range(4)]
    ports = [draw(st.integers(0, 65535)) for _ in range(4)]
    there = tuple_of(1, version, (ends[0], ends[1]), protocol, (ports[0], ports[1]))
    back = tuple_of(2, version, (ends[2], ends[3]), protocol, (ports[2], ports[3]))
    extra = draw(st.sampled_from([[], [attribute(_ZONE, b"\0\7")], [attribute(3, bytes(4)), attribute(12, b"abcd")]]))
    order = [there, back, *extra] if draw(st.booleans()) else [*extra, there, back]
    data = message(FAMILIES[version], *order)
    numbers = [ports[0], ports[1], ports[2]] if protocol in WITH_PORTS else [0, 0, 0]
    expected = Connection(
        version, protocol, ends[0], numbers[0], ends[1], numbers[1], ends[2], numbers[2], ends[3], data
    )
    return data, expected


@given(connections())
def test_a_connection_is_read_as_it_was_written(given_: tuple[bytes, Connection]) -> None:
    """Of any protocol, in any order of the attributes; its addresses are found without parsing, too."""
    data, expected = given_
    assert connection.read(data) == expected
    ends = (expected.source, expected.to, expected.answered_by, expected.answers_go_to)
    assert connection.ends_of(data) == ends
    assert expected.master == b""
    assert expected.is_closed is False


@given(connections())
def test_reading_quickly_and_thoroughly_agree(given_: tuple[bytes, Connection]) -> None:
    """Whichever way is taken, the result is the same."""
    data, expected = given_
    assert connection._read_slowly(data, expected.version) == connection.read(data)


@given(st.binary(max_size=200), st.sampled_from([2, 10, 7]))
def test_arbitrary_bytes_raise_nothing(data: bytes, family: int) -> None:
    """What is not a connection is none."""
    for one in (data, message(family, data)):
        connection.ends_of(one)
        connection.identity_of(one)
        found = connection.read(one)
        if found:
            assert (found.master, found.is_closed) is not None


@given(connections(), st.integers(0, 300), st.binary(min_size=1, max_size=3))
def test_damaged_messages_raise_nothing(given_: tuple[bytes, Connection], at: int, damage: bytes) -> None:
    """Lengths and kinds of attributes that are wrong, and messages that end early."""
    data = given_[0]
    for one in (data[:at], data[:at] + damage + data[at + len(damage) :]):
        connection.ends_of(one)
        connection.identity_of(one)
        found = connection.read(one)
        if found:
            assert len(found.source) == len(found.answered_by) == (4 if found.version == 4 else 16)


def test_a_node_that_does_not_say_how_many_there_are_is_asked_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc/sys lacks them; but a node that says there is none is not asked."""
    counts = {"netfilter/nf_conntrack_buckets": "", "netfilter/nf_conntrack_count": ""}
    monkeypatch.setattr(conntrack.sysctls, "read_if_there", counts.__getitem__)
    assert conntrack._requests(frozenset([b"abcd"]), conntrack.PARTIES) == [bytes(4)]
    counts["netfilter/nf_conntrack_count"] = "0"
    assert conntrack._requests(frozenset([b"abcd"]), conntrack.PARTIES) == []


@pytest.mark.parametrize("family", [0, 1, 7, 255])
def test_other_families_are_left_out(family: int) -> None:
    """There are no connections but those of IP."""
    data = message(family, tuple_of(1, 4, (b"abcd", b"efgh"), 6, (1, 2)), tuple_of(2, 4, (b"efgh", b"abcd"), 6, (2, 1)))
    assert connection.read(data) is None
    assert connection.ends_of(data) == ()

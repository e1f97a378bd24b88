"""The packet of a trace: its bytes, and what is recognized as itself, its answer, or a tunnel's datagram around it."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.trace.probe import (
    BACK,
    OUTER,
    THERE,
    Probe,
    Reply,
    direction_of,
    new_mark,
    reply_in,
    segment,
    transport_of,
)
from spec.addresses import pack

V4, V6 = ("10.1.2.2", "10.1.2.3"), ("fd00:1::2", "fd00:1::3")
PROBES = [
    Probe(protocol, *ends, 80, 40000, new_mark(protocol)) for protocol in ("tcp", "udp", "icmp") for ends in (V4, V6)
]


def ip(source: str, destination: str, protocol: int, body: bytes) -> bytes:
    """An IP packet."""
    ends = pack(source) + pack(destination)
    if ":" in source:
        return struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + ends + body
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0) + ends + body


def sent(probe: Probe) -> bytes:
    """The probe as it is on the way."""
    return ip(probe.source, probe.destination, probe.number, segment(probe))


def answer(probe: Probe, flags: int = 0x12) -> bytes:
    """What a server answers, without the IP header."""
    if probe.protocol == "tcp":
        return struct.pack("!HHI4sBBHHH", 80, 40000, 1, probe.answers_mark, 5 << 4, flags, 0, 0, 0)
    if probe.protocol == "udp":
        return struct.pack("!HHHH", 80, 40000, 12, 0) + b"word"
    return bytes([0 if probe.version == 4 else 129, *segment(probe)[1:]])


def error(probe: Probe, kind: int, code: int, *, cut: int = 1000) -> bytes:
    """An ICMP error that quotes the probe, or its first bytes."""
    return bytes([kind, code, 0, 0, 0, 0, 0, 0]) + sent(probe)[:cut]


def icmp(probe: Probe) -> int:
    """ICMP's number."""
    return 1 if probe.version == 4 else 58


@pytest.mark.parametrize("probe", PROBES, ids=lambda one: f"{one.protocol} IPv{one.version}")
def test_directions(probe: Probe) -> None:
    """Translations of addresses and ports do not matter; packets of other connections are something else."""
    assert direction_of(probe, sent(probe)) == THERE
    translated = replace(probe, source=probe.destination, destination=probe.source, source_port=3, port=4)
    assert direction_of(probe, sent(translated)) == THERE
    assert direction_of(probe, ip(probe.destination, probe.source, probe.number, answer(probe))) == BACK
    kind = 3 if probe.version == 4 else 1
    assert direction_of(probe, ip(probe.destination, probe.source, icmp(probe), error(probe, kind, 3))) == BACK
    vxlan = struct.pack("!HHHH", 1, 4789, 0, 0) + b"\x08\0\0\0\0\0\1\0" + bytes(14) + sent(probe)
    assert direction_of(probe, ip("192.0.2.1", "192.0.2.2", 17, vxlan)) == OUTER
    stranger = replace(probe, mark=new_mark(probe.protocol), source_port=50000)
    assert direction_of(probe, sent(stranger)) == ""
    assert direction_of(probe, ip(probe.destination, probe.source, 47, answer(probe))) == ""


@pytest.mark.parametrize("probe", PROBES, ids=lambda one: f"{one.protocol} IPv{one.version}")
def test_answers(probe: Probe) -> None:
    """Of the target, and of others by ICMP; not those to other packets."""
    kinds = {"tcp": "SYN-ACK", "udp": "a datagram of 4 bytes", "icmp": "echo reply"}
    wanted = Reply(kinds[probe.protocol], probe.destination, is_from_target=True)
    assert reply_in(probe, probe.number, answer(probe), probe.destination) == wanted
    if probe.protocol == "tcp":
        assert reply_in(probe, 6, answer(probe, 0x14), "x").kind == "RST"
    stranger = replace(probe, mark=new_mark(probe.protocol), source_port=50000)
    assert reply_in(stranger, probe.number, answer(probe), probe.destination) is None
    unreachable, host = (3, 1) if probe.version == 4 else (1, 3)
    found = reply_in(probe, icmp(probe), error(probe, unreachable, host), "router")
    assert found == Reply(f"ICMP {'host' if probe.version == 4 else 'address'} unreachable", "router", False)
    closed = reply_in(probe, icmp(probe), error(probe, unreachable, 3 if probe.version == 4 else 4), probe.destination)
    assert closed == Reply("ICMP port unreachable", probe.destination, is_from_target=True)
    assert reply_in(stranger, icmp(probe), error(probe, unreachable, host), "router") is None
    expired = reply_in(probe, icmp(probe), error(probe, 11 if probe.version == 4 else 3, 0), "router")
    assert expired.kind == "ICMP time exceeded"


def test_an_error_that_quotes_eight_bytes_is_recognized_by_ports() -> None:
    """As old routers send it."""
    probe = PROBES[2]
    assert reply_in(probe, 1, error(probe, 3, 1, cut=28), "router").kind == "ICMP host unreachable"


@pytest.mark.parametrize("probe", PROBES, ids=lambda one: f"{one.protocol} IPv{one.version}")
def test_checksums(probe: Probe) -> None:
    """Over all of it the sum is 0, but for ICMPv6, which the kernel completes."""
    body = segment(probe)
    pseudo = pack(probe.source) + pack(probe.destination) + struct.pack("!II", len(body), probe.number)
    words = body if probe.protocol == "icmp" else pseudo + body
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF or (probe.protocol, probe.version) == ("icmp", 6)


@given(st.binary(max_size=100), st.sampled_from(PROBES), st.integers(0, 255))
def test_any_bytes(data: bytes, probe: Probe, protocol: int) -> None:
    """Whatever others send raises nothing."""
    assert direction_of(probe, data) in ("", OUTER, BACK)
    assert reply_in(probe, protocol, transport_of(data), "x") is None or data

"""The parts of forwarding to peers that need no kernel: MACs, requests, attributes, and contradictions."""

import struct

import pytest
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from linux.netlink.attributes import RTNL_BODY, attributes_of
from linux.rtnl.bulk import request_about
from linux.rtnl.links import pack_mac
from linux.rtnl.neighbours import entry_template, unique
from linux.rtnl.peer_routes import key_of, route_template
from linux.rtnl.vxlan import overhead, vtep_mac
from spec.addresses import pack
from tests.pure.fake_netlink import FakeNetlink

AF_INET, AF_INET6, AF_BRIDGE = 2, 10, 7
NO_SUCH_DEVICE, BUSY = 19, 16


@pytest.mark.parametrize(
    ("subnets", "mac"),
    [
        (["10.244.1.0/24"], "02:24:0a:f4:01:00"),
        (["10.244.1.0/24", "fd00:244:0:1::/64"], "02:24:0a:f4:01:00"),
        (["fd00:244:0:1::/64", "10.244.1.0/24"], "02:24:0a:f4:01:00"),
        (["fd00:244:0:1::/64"], "02:26:b0:6c:b9:39"),
    ],
)
def test_the_mac_of_a_vtep_is_derived_from_its_subnets(subnets: list[str], mac: str) -> None:
    """Every node derives the same MAC, whatever the order of the IP versions."""
    assert vtep_mac(subnets) == mac


def test_the_tunnel_s_overhead() -> None:
    """Ethernet 14, VXLAN 8, UDP 8, and IP 20 or 40."""
    assert (overhead("192.0.2.1"), overhead("2001:db8::1")) == (50, 70)


def encoded(message: ndmsg | rtmsg, kind: int, flags: int) -> bytes:
    """A request as pyroute2 encodes it, without a sequence number."""
    message["header"] = {"type": kind, "flags": flags, "sequence_number": 0, "pid": 0}
    message.encode()
    return bytes(message.data)


# The link's index and a part of each address consist of percent signs.
PERCENT, MAC = int.from_bytes(b"%%%b", "little"), "02:24:0a:f4:25:00"
BOTH = pytest.mark.parametrize(
    ("family", "dst", "via"), [(AF_INET, "10.244.37.0", "192.0.2.37"), (AF_INET6, "fd00:25::", "2001:db8::25")]
)


@BOTH
def test_neighbours_are_encoded_as_by_pyroute2(family: int, dst: str, via: str) -> None:
    """FDB entries too; percent signs in the message are harmless."""
    for own, flags in ((family, 0), (AF_BRIDGE, 0x02)):
        message = ndmsg()
        attrs = [("NDA_DST", dst), ("NDA_LLADDR", MAC)]
        message.update(family=own, ifindex=PERCENT, state=0x80, flags=flags, attrs=attrs)
        filled = entry_template(PERCENT, own, len(pack(dst)), flags) % (pack(dst), pack_mac(MAC))
        assert filled == encoded(message, 28, 0x501)


@BOTH
@pytest.mark.parametrize(("onlink", "flags"), [(False, 0), (True, 4)])
def test_routes_are_encoded_as_by_pyroute2(family: int, dst: str, via: str, flags: int, *, onlink: bool) -> None:
    """Protocol 24, main table, with a gateway; onlink through a tunnel."""
    message = rtmsg()
    attrs = [("RTA_DST", dst), ("RTA_GATEWAY", via), ("RTA_OIF", PERCENT)]
    usual = {"table": 254, "proto": 24, "scope": 0, "type": 1}
    message.update(family=family, dst_len=24, **usual, flags=flags, attrs=attrs)
    filled = route_template(len(pack(dst)), 24, PERCENT, 0x200, onlink=onlink) % (pack(dst), pack(via))
    assert filled == encoded(message, 24, 0x601)


def route(**fields: object) -> bytes:
    """A route message made by pyroute2."""
    message = rtmsg()
    message.update({"family": AF_INET6, "dst_len": 64, "table": 254, "proto": 24, "type": 1, "flags": 5} | fields)
    return encoded(message, 24, 0)


def test_attributes_are_those_that_pyroute2_encodes() -> None:
    """By number, without padding."""
    attrs = [("RTA_DST", "fd00::"), ("RTA_PRIORITY", 1024), ("RTA_PREF", 0), ("RTA_OIF", 7)]
    found = attributes_of(route(attrs=attrs), RTNL_BODY)
    assert found == {1: pack("fd00::"), 6: struct.pack("=I", 1024), 20: b"\0", 4: struct.pack("=I", 7)}


@pytest.mark.parametrize("tail", [b"\0\0\0\0", b"\3\0\1\0", b"\1\0"])
def test_garbage_after_the_attributes_is_ignored(tail: bytes) -> None:
    """An impossible length ends the parsing, and so does a truncated header."""
    assert 1 in attributes_of(route(attrs=[("RTA_DST", "fd00::")]) + tail, RTNL_BODY)


def test_a_request_has_only_the_attributes_that_identify_the_object() -> None:
    """It is made from a dump's message: its header, and the attributes that identify the object."""
    shown = route(attrs=[("RTA_DST", "fd00::"), ("RTA_PREF", 0), ("RTA_OIF", 7)])
    message = rtmsg(request_about(shown, 25, (1, 4)))
    message.decode()
    assert message["header"]["type"] == 25
    assert (message["dst_len"], message["proto"], message["type"]) == (64, 24, 1)
    assert dict(message["attrs"]) == {"RTA_DST": "fd00::", "RTA_OIF": 7}


def test_many_changes_need_few_datagrams_and_errors_have_their_index() -> None:
    """300 requests, of which two are refused: three datagrams, and a sequence number for each request."""
    wire = FakeNetlink(refused={6: BUSY, 300: NO_SUCH_DEVICE})  # by sequence number: the first request has 1
    refused = wire.change_many([route(attrs=[("RTA_OIF", index)]) for index in range(300)])
    assert [(place, error.errno) for place, error in refused] == [(5, BUSY), (299, NO_SUCH_DEVICE)]
    assert [len(datagram) for datagram in wire.datagrams] == [128, 128, 44]
    assert attributes_of(wire.datagrams[2][43], RTNL_BODY)[4] == struct.pack("=I", 299)


def test_a_key_with_two_values_is_an_error() -> None:
    """Duplicates of a pair are merged."""
    assert unique([("a", 1), ("b", 2), ("a", 1)], "two {}".format) == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match="two a"):
        unique([("a", 1), ("a", 2)], "two {}".format)


def test_the_key_of_a_route() -> None:
    """The network's address and its prefix length, for both IP versions."""
    assert key_of("10.244.2.0/24") == (bytes([10, 244, 2, 0]), 24)
    assert key_of("fd00::/8") == (b"\xfd" + bytes(15), 8)

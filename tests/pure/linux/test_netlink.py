"""Netlink messages, in cases where this machine's kernel cannot show that the bytes are right."""

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from linux.netlink import socket
from linux.netlink.attributes import attribute, nested
from linux.netlink.socket import Netlink, NetlinkError, error_of
from linux.rtnl import addresses, links, routes, uapi
from spec.errors import is_shortage
from spec.result import Route
from tests.pure.fake_netlink import FakeNetlink, FakeSocket

IFLA_AF_SPEC, IFLA_BRIDGE_VLAN_INFO = 26, 2


# Sent by iproute2 for `bridge vlan add dev PORT vid 5 pvid untagged master`, without the header; PORT has index 4.
NATIVE_VLAN = "07000000040000000000000000000000" + "14001a00" + "0600000001000000" + "0800020006000500"
TAGGED_VLAN = "07000000040000000000000000000000" + "14001a00" + "0600000001000000" + "0800020000000500"
# And for `ip link set BRIDGE type bridge vlan_filtering 1` with index 4; the kind includes its NUL.
KIND, ON = "0b0001006272696467650000", "0c0002000500070001000000"
FILTERING = "00000000040000000000000000000000" + "1c001200" + KIND + ON


@pytest.mark.parametrize(
    ("change", "kind", "body"),
    [
        (lambda wire: links.add_vlan(wire, 4, 5, native=True), uapi.RTM_SETLINK, NATIVE_VLAN),
        (lambda wire: links.add_vlan(wire, 4, 5, native=False), uapi.RTM_SETLINK, TAGGED_VLAN),
        (lambda wire: links.delete_vlan(wire, 4, 5), uapi.RTM_DELLINK, TAGGED_VLAN),
    ],
)
def test_vlan_requests_are_those_of_iproute2(change: object, kind: int, body: str) -> None:
    """Adding a VLAN to a port and deleting it use the same bytes as iproute2's `bridge vlan`."""
    wire = FakeNetlink()
    change(wire)
    (sent,) = wire.sent
    length, sent_kind, flags = struct.unpack_from("=IHH", sent)
    assert (length, sent_kind, flags) == (len(sent), kind, 0x5)
    assert sent[16:].hex() == body


def test_the_vlan_filtering_request_has_the_content_of_iproute2_s() -> None:
    """It sets IFLA_BR_VLAN_FILTERING of a link of kind bridge."""
    wire = FakeNetlink()
    links.set_vlan_filtering(wire, 4, on=True)
    (sent,) = wire.sent
    assert struct.unpack_from("=H", sent, 4) == (uapi.RTM_NEWLINK,)
    assert sent[16:].hex() == FILTERING


UP, MAC, PEER_MAC = 1, "02:00:00:00:00:01", "02:00:00:00:00:02"
_QUEUES = [("IFLA_NUM_TX_QUEUES", 1), ("IFLA_NUM_RX_QUEUES", 1)]
_PEER = {
    "attrs": [("IFLA_IFNAME", "eth0"), ("IFLA_ADDRESS", PEER_MAC), ("IFLA_MTU", 1400), *_QUEUES, ("IFLA_NET_NS_FD", 7)]
}
_VETH = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", _PEER)]})]}
_PORT = {"attrs": [("IFLA_BRPORT_MODE", 1), ("IFLA_BRPORT_ISOLATED", 0)]}
_METRICS = {"attrs": [("RTAX_MTU", 1300), ("RTAX_ADVMSS", 1200)]}
# Our requests, and the objects from which pyroute2 should make the same bytes: class, fields, attributes.
SENT = {
    "create a bridge": (
        lambda wire: links.create_bridge(wire, "b0", mtu=1400),
        [(ifinfmsg, {}, [("IFLA_IFNAME", "b0"), ("IFLA_ADDRESS", MAC),
                         ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "bridge")]}), ("IFLA_MTU", 1400)])],
    ),
    "create a pair": (
        lambda wire: links.create_veth(wire, "v0", "eth0", peer_netns=7, peer_mac=PEER_MAC, mtu=1400, group=9),
        [(ifinfmsg, {}, [("IFLA_IFNAME", "v0"), ("IFLA_ADDRESS", MAC), ("IFLA_GROUP", 9), ("IFLA_MTU", 1400), *_QUEUES,
                         ("IFLA_LINKINFO", _VETH)])],
    ),
    "attach a port": (
        lambda wire: links.attach_port(wire, 4, 2, alias="v1:a", hairpin=False, isolated=False),
        [(ifinfmsg, {"index": 4}, [("IFLA_MASTER", 2), ("IFLA_IFALIAS", "v1:a")]),
         (ifinfmsg, {"index": 4, "flags": UP, "change": UP}, [])],
    ),
    "attach a hairpin port": (
        lambda wire: links.attach_port(wire, 4, 2, alias="v1:a", hairpin=True, isolated=False),
        [(ifinfmsg, {"index": 4}, [("IFLA_MASTER", 2), ("IFLA_IFALIAS", "v1:a")]),
         (ifinfmsg, {"index": 4, "family": 7}, [("IFLA_PROTINFO", _PORT, 0x8000)]),
         (ifinfmsg, {"index": 4, "flags": UP, "change": UP}, [])],
    ),
    "set a MAC": (
        lambda wire: links.set_mac(wire, 4, MAC), [(ifinfmsg, {"index": 4}, [("IFLA_ADDRESS", MAC)])],
    ),
    "delete a link": (lambda wire: links.delete_link(wire, 4), [(ifinfmsg, {"index": 4}, [])]),
    "add an IPv4 address": (
        lambda wire: addresses.add_address(wire, 4, "10.1.2.3/20"),
        [(ifaddrmsg, {"family": 2, "prefixlen": 20, "index": 4},
          [("IFA_LOCAL", "10.1.2.3"), ("IFA_ADDRESS", "10.1.2.3"), ("IFA_BROADCAST", "10.1.15.255")])],
    ),
    "add an IPv6 address": (
        lambda wire: addresses.add_address(wire, 4, "fd00::3/64", dad=False),
        [(ifaddrmsg, {"family": 10, "prefixlen": 64, "index": 4},
          [("IFA_LOCAL", "fd00::3"), ("IFA_ADDRESS", "fd00::3"), ("IFA_FLAGS", 2)])],
    ),
    "add a default route": (
        lambda wire: routes.add_route(wire, 4, Route(dst="0.0.0.0/0"), "10.1.2.1"),
        [(rtmsg, {"family": 2, "dst_len": 0, "table": 254, "proto": 3, "scope": 0, "type": 1},
          [("RTA_OIF", 4), ("RTA_TABLE", 254), ("RTA_GATEWAY", "10.1.2.1")])],
    ),
    "add a route with everything": (
        lambda wire: routes.add_route(
            wire, 4, Route(dst="fd01::/48", mtu=1300, advmss=1200, priority=5, table=1000), "fd00::1"
        ),
        [(rtmsg, {"family": 10, "dst_len": 48, "table": 252, "proto": 3, "scope": 0, "type": 1},
          [("RTA_OIF", 4), ("RTA_TABLE", 1000), ("RTA_DST", "fd01::"), ("RTA_GATEWAY", "fd00::1"),
           ("RTA_PRIORITY", 5), ("RTA_METRICS", _METRICS)])],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SENT)
def test_requests_are_encoded_as_by_pyroute2(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our requests are byte for byte those that pyroute2, which knows all of rtnetlink, would send."""
    monkeypatch.setattr(links, "random_mac", lambda: MAC)
    send, objects = SENT[what]
    wire = FakeNetlink()
    send(wire)
    assert [one[16:].hex() for one in wire.sent] == [_encoded(*wanted).hex() for wanted in objects]


def _encoded(kind: Callable, fields: dict, attrs: list) -> bytes:
    message = kind()
    message.update({"family": 0, **fields}, attrs=attrs)
    message.encode()
    return bytes(message.data)[16:]


def _shown(**fields: object) -> bytes:
    attrs = fields.pop("attrs")
    return bytes(16) + _encoded(ifinfmsg, fields, attrs)


def read(message: bytes) -> links.Link:
    """The link that a kernel's message describes."""
    (link,) = links.list_links(FakeNetlink(message))
    return link


def test_a_link_encoded_by_pyroute2_is_parsed() -> None:
    """All fields of a Link, for a bridge's port."""
    slave = {"attrs": [("IFLA_BRPORT_MODE", 1), ("IFLA_BRPORT_ISOLATED", 1)]}
    info = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", slave)]
    attrs = [("IFLA_IFNAME", "v0"), ("IFLA_ADDRESS", MAC), ("IFLA_MTU", 1400), ("IFLA_OPERSTATE", "UP")]
    attrs += [("IFLA_IFALIAS", "v1:a:b:c"), ("IFLA_MASTER", 2), ("IFLA_LINK", 5), ("IFLA_LINK_NETNSID", 0)]
    attrs += [("IFLA_GROUP", 9), ("IFLA_TXQLEN", 1000), ("IFLA_LINKINFO", {"attrs": info})]
    link = read(_shown(index=4, flags=0x1103, attrs=attrs))
    assert link == links.Link(
        index=4, name="v0", kind="veth", mac=MAC, mtu=1400, flags=0x1103, operstate="UP", alias="v1:a:b:c", master=2,
        peer=5, peer_netns=0, group=9, queue_length=1000, own_settings=b"", port_settings=b"",
    )  # fmt: skip
    assert (link.up, link.promiscuous, link.all_multicast) == (True, True, False)
    assert (link.hairpin, link.isolated, link.vlan_filtering) == (True, True, False)


def test_a_link_without_attributes_is_parsed() -> None:
    """Missing attributes give "", 0, False or the state UNKNOWN; a text that is not UTF-8 is not an error."""
    link = read(_shown(index=1, attrs=[]) + bytes.fromhex("0600140066ff0000"))
    assert (link.name, link.kind, link.mac, link.master, link.operstate) == ("", "", "", 0, "UNKNOWN")
    assert link.alias == "f\udcff"


def test_vlan_filtering_of_a_bridge_is_parsed() -> None:
    """IFLA_BR_VLAN_FILTERING counts only for a link of kind bridge."""
    data = {"attrs": [("IFLA_BR_VLAN_FILTERING", 1)]}
    info = {"attrs": [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", data)]}
    assert read(_shown(index=1, attrs=[("IFLA_LINKINFO", info)])).vlan_filtering


def test_the_default_vlan_of_a_bridge_and_the_vlan_of_a_device_are_parsed() -> None:
    """IFLA_BR_VLAN_DEFAULT_PVID of a bridge, IFLA_VLAN_ID of an 802.1Q device; 0 for any other link."""
    pvid, vid = (struct.pack("=HHHxx", 6, kind, 5) for kind in (39, 1))
    links_ = [
        read(_shown(index=1, attrs=[("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind)]})]))
        for kind in ("bridge", "vlan", "dummy")
    ]
    found = [replace(link, own_settings=pvid + vid) for link in links_]
    assert [(link.default_vlan, link.vlan) for link in found] == [(5, 0), (0, 5), (0, 0)]


def test_ranges_of_vlans_are_expanded() -> None:
    """A range is listed as its first and last VLAN; other entries are single VLANs."""
    begin, end = 0x8, 0x10
    listed = [(0x6, 1), (begin, 10), (end, 13), (0, 20), (begin | 0x4, 30), (end | 0x4, 31)]
    entries = [attribute(IFLA_BRIDGE_VLAN_INFO, struct.pack("=HH", *entry)) for entry in listed]
    message = _shown(index=4, attrs=[]) + nested(IFLA_AF_SPEC, *entries)
    assert links.list_vlans(FakeNetlink(message)) == {4: {1: 0x6, 10: 0, 11: 0, 12: 0, 13: 0, 20: 0, 30: 0x4, 31: 0x4}}


@pytest.mark.parametrize(
    ("has", "wanted", "does"),
    [
        ({"10.1.2.1/24"}, "10.1.2.1/24", True),
        ({"10.1.2.1/16"}, "10.1.2.1/24", False),
        ({"fd00:1::1/64"}, "fd00:1::1/80", True),
        ({"fd00:1::1/80"}, "fd00:1::1/64", False),
        ({"fd00:1::11/64"}, "fd00:1::1/80", False),
        (set(), "fd00:1::1/80", False),
    ],
)
def test_an_ipv6_address_in_a_larger_subnet_is_sufficient(has: set[str], wanted: str, *, does: bool) -> None:
    """The kernel allows an IPv6 address once on a link, and an IPv4 address once in each subnet."""
    assert addresses.carries(has, wanted) is does


def test_the_first_error_that_is_not_tolerated_is_raised_with_its_index() -> None:
    """Among requests sent together; objects that the kernel sends meanwhile are not acknowledgements."""
    requests = [struct.pack("=IHHII", 16, 16, 0x605, number, 0) for number in (7, 8, 9, 10)]
    shown = struct.pack("=IHHII", 16, 16, 0, 8, 0)
    refusals = [_refusal(errno, flags=0x100, number=number) for errno, number in ((17, 8), (113, 9), (22, 10))]
    kernel = Netlink(wire=FakeSocket(refusals[0], shown, *refusals[1:]))
    with pytest.raises(NetlinkError) as caught:
        kernel.send(requests, tolerated=(17,))
    assert (caught.value.errno, caught.value.place) == (113, 2)
    assert Netlink(wire=FakeSocket(shown, refusals[0])).send(requests[1:2], tolerated=(17,)) == [shown]


def test_only_the_last_of_several_requests_is_acknowledged() -> None:
    """The others are answered only with an error; their other flags are unchanged."""
    requests = [struct.pack("=IHHII", 16, 16, 0x605, number, 0) for number in (7, 8, 9)]
    kernel = FakeSocket(_refusal(0, flags=0x100, number=9))
    Netlink(wire=kernel).send(requests)
    assert [struct.unpack_from("=H", kernel.sent[0], at + 6)[0] for at in (0, 16, 32)] == [0x601, 0x601, 0x605]


GET, ENTRY, DONE, INTERRUPTED = 18, 16, 3, 0x10


def _answer(number: int, name: int = 0, *, kind: int = ENTRY, flags: int = 0) -> bytes:
    return struct.pack("=IHHIII", 20, kind, flags, number, 0, name)


def _kernel(*datagrams: bytes) -> Netlink:
    """A Netlink that has sent six requests, so that the next has sequence number 7."""
    kernel = Netlink(wire=FakeSocket(*datagrams))
    for _ in range(6):
        kernel.encode(b"", GET, 0)
    return kernel


def test_late_replies_to_earlier_requests_are_skipped() -> None:
    """Of any form: nobody waits for the replies to those requests any more."""
    late = [_answer(6, 1), _refusal(0, flags=0x100, number=6), _refusal(1, flags=0x100, number=6)]
    assert _kernel(*late, _answer(7, 2)).get(b"", GET) == _answer(7, 2)
    assert _kernel(*late, _answer(7, 2), _answer(7, kind=DONE)).dump(b"", GET) == [_answer(7, 2)]
    request = struct.pack("=IHHII", 16, 16, 0x605, 7, 0)
    assert _kernel(*late, _answer(7, 2), _refusal(0, flags=0x100, number=7)).send([request]) == [_answer(7, 2)]


def test_an_interrupted_dump_is_repeated() -> None:
    """If objects changed between its datagrams, the whole dump is repeated."""
    disturbed = [_answer(7, 1), _answer(7, 2, flags=INTERRUPTED), _answer(7, kind=DONE)]
    kernel = _kernel(*disturbed, _answer(8, 3), _answer(8, 4), _answer(8, kind=DONE))
    assert kernel.dump(b"", GET) == [_answer(8, 3), _answer(8, 4)]


def test_a_dump_in_a_single_datagram_is_consistent() -> None:
    """A change between that datagram and the end of the dump does not matter."""
    kernel = _kernel(_answer(7, 1), _answer(7, kind=DONE, flags=INTERRUPTED))
    assert kernel.dump(b"", GET) == [_answer(7, 1)]


@pytest.mark.parametrize("end", [(0, INTERRUPTED), (INTERRUPTED, 0)])
def test_a_dump_that_stays_interrupted_is_a_temporary_error(monkeypatch: pytest.MonkeyPatch, end: tuple) -> None:
    """An error is better than a list in which objects may be missing; it counts as a shortage."""
    monkeypatch.setattr(socket, "_DUMP_SECONDS", 0)
    entry, done = end
    kernel = _kernel(_answer(7, 1), _answer(7, 2, flags=entry), _answer(7, kind=DONE, flags=done))
    with pytest.raises(NetlinkError, match="kept changing") as caught:
        kernel.dump(b"", GET)
    assert is_shortage(caught.value)


def test_a_stream_passes_objects_on_as_they_arrive() -> None:
    """Up to the end of the list; the error of a refused one is raised after what came before it."""
    datagrams = [_answer(7, 1) + _answer(7, 2, flags=INTERRUPTED), _answer(6, 9), _answer(7, 3) + _answer(7, kind=DONE)]
    assert list(_kernel(*datagrams).stream(b"", GET)) == [
        _answer(7, 1),
        _answer(7, 2, flags=INTERRUPTED),
        _answer(7, 3),
    ]
    stream = _kernel(_answer(7, 1), _refusal(1, flags=0x100, number=7)).stream(b"", GET)
    assert next(stream) == _answer(7, 1)
    with pytest.raises(NetlinkError, match="not permitted"):
        next(stream)


def _refusal(errno: int, *, flags: int, attributes: bytes = b"", number: int = 1) -> bytes:
    request = struct.pack("=IHHII", 16, 16, 5, number, 0)
    body = struct.pack("=i", -errno) + request + attributes
    return struct.pack("=IHHII", 16 + len(body), 2, flags, number, 0) + body


def test_an_acknowledgement_is_not_an_error() -> None:
    """Its error number is 0."""
    assert error_of(_refusal(0, flags=0x100)) is None


def test_the_kernel_s_error_message_is_kept() -> None:
    """The text of the extended acknowledgement follows the name of the error number."""
    text = b"RTNETLINK says no\0"
    attribute = struct.pack("=HH", 4 + len(text), 1) + text
    error = error_of(_refusal(22, flags=0x300, attributes=attribute))
    assert isinstance(error, NetlinkError)
    assert (error.errno, error.strerror) == (22, "Invalid argument (RTNETLINK says no)")


def test_garbage_in_an_extended_acknowledgement_is_ignored() -> None:
    """An attribute that is too short ends the parsing; the error number is still reported."""
    error = error_of(_refusal(22, flags=0x300, attributes=b"\0\0\0\0"))
    assert error.strerror == "Invalid argument"


def test_random_macs_are_unicast_and_locally_administered() -> None:
    """The two lowest bits of the first byte are 10."""
    for _ in range(200):
        first = int(links.random_mac()[:2], 16)
        assert first & 0b11 == 0b10

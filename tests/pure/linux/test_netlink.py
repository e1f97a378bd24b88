"""The bytes that go to the kernel and come from it, where this machine's kernel can not show that they are right."""

import struct

import pytest

from linux import links
from linux.netlink import Netlink, NetlinkError, error_of


class Wire(Netlink):
    """A socket to nowhere that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self._sequence = 0

    def send(self, requests: list[bytes], *, acks: int) -> None:
        """Keep the requests."""
        self.sent += requests
        assert acks == len(requests)


# What `bridge vlan add dev PORT vid 5 pvid untagged master` of iproute2 sends, after the header; PORT has index 4.
NATIVE_VLAN = "07000000040000000000000000000000" + "14001a00" + "0600000001000000" + "0800020006000500"
TAGGED_VLAN = "07000000040000000000000000000000" + "14001a00" + "0600000001000000" + "0800020000000500"
# And `ip link set BRIDGE type bridge vlan_filtering 1`, for index 4; the kind with its NUL.
KIND, ON = "0b0001006272696467650000", "0c0002000500070001000000"
FILTERING = "00000000040000000000000000000000" + "1c001200" + KIND + ON


@pytest.mark.parametrize(
    ("change", "kind", "body"),
    [
        (lambda wire: links.add_vlan(wire, 4, 5, native=True), links.RTM_SETLINK, NATIVE_VLAN),
        (lambda wire: links.add_vlan(wire, 4, 5, native=False), links.RTM_SETLINK, TAGGED_VLAN),
        (lambda wire: links.delete_vlan(wire, 4, 5), links.RTM_DELLINK, TAGGED_VLAN),
    ],
)
def test_vlan_requests_are_those_of_iproute2(change: object, kind: int, body: str) -> None:
    """A VLAN is added to a port, and taken from it, by the same bytes as iproute2's `bridge vlan` sends."""
    wire = Wire()
    change(wire)
    (sent,) = wire.sent
    length, sent_kind, flags = struct.unpack_from("=IHH", sent)
    assert (length, sent_kind, flags) == (len(sent), kind, 0x5)
    assert sent[16:].hex() == body


def test_vlan_filtering_request_says_what_iproute2_says() -> None:
    """VLAN filtering is switched by IFLA_BR_VLAN_FILTERING of a link of kind bridge."""
    wire = Wire()
    links.set_vlan_filtering(wire, 4, on=True)
    (sent,) = wire.sent
    assert struct.unpack_from("=H", sent, 4) == (links.RTM_NEWLINK,)
    assert sent[16:].hex() == FILTERING


def _refusal(errno: int, *, flags: int, attributes: bytes = b"") -> bytes:
    request = struct.pack("=IHHII", 16, 16, 5, 1, 0)
    body = struct.pack("=i", -errno) + request + attributes
    return struct.pack("=IHHII", 16 + len(body), 2, flags, 1, 0) + body


def test_an_acknowledgement_is_no_error() -> None:
    """Error number 0 is the kernel's "done"."""
    assert error_of(_refusal(0, flags=0x100)) is None


def test_the_kernels_own_words_are_kept() -> None:
    """An extended acknowledgement's sentence stands in the error beside the name of the error number."""
    text = b"RTNETLINK says no\0"
    attribute = struct.pack("=HH", 4 + len(text), 1) + text
    error = error_of(_refusal(22, flags=0x300, attributes=attribute))
    assert isinstance(error, NetlinkError)
    assert (error.errno, error.strerror) == (22, "Invalid argument (RTNETLINK says no)")


def test_garbage_in_an_extended_acknowledgement_is_survived() -> None:
    """An attribute that is too short ends the search for words; the error number is told all the same."""
    error = error_of(_refusal(22, flags=0x300, attributes=b"\0\0\0\0"))
    assert error.strerror == "Invalid argument"


def test_random_macs_are_unicast_and_local() -> None:
    """A MAC of our own making is locally administered and no group address."""
    for _ in range(200):
        first = int(links.random_mac()[:2], 16)
        assert first & 0b11 == 0b10

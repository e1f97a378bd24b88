"""Which announcements are those of our own changes."""

import pytest

from linux.rtnl.forwarding import Objects, PeerPath, objects_of
from linux.rtnl.links import pack_mac
from linux.rtnl.monitor import ADDRESS, FORWARDING, NEIGHBOUR, ROUTE, Change
from nodes.expected import Expected
from spec.addresses import pack

DEVICE, BIRD, OURS = 7, 12, 24
PATHS = [PeerPath(f"10.244.{n}.0/24", f"10.244.{n}.0", DEVICE, f"02:00:00:00:00:0{n}", f"192.0.2.{n}") for n in (2, 3)]
MAC = pack_mac("02:00:00:00:00:02")


def route(subnet: str, via: str, *, link: int = DEVICE, protocol: int = OURS, gone: bool = False) -> Change:
    """The announcement of a route."""
    network, _, length = subnet.partition("/")
    return Change(ROUTE, link, pack(network), int(length), pack(via), protocol, gone)


@pytest.fixture(name="expected")
def expected_of_two() -> Expected:
    """What is wanted for two nodes."""
    return Expected(objects_of(PATHS))


@pytest.mark.parametrize(
    "change",
    [
        route("10.244.2.0/24", "10.244.2.0"),
        route("10.244.2.0/24", "10.244.9.0", gone=True),
        route("10.244.9.0/24", "10.244.9.0", gone=True),
        route("10.244.9.0/24", "192.0.2.2", protocol=BIRD),
        Change(NEIGHBOUR, DEVICE, pack("10.244.2.0"), value=MAC),
        Change(NEIGHBOUR, DEVICE, pack("10.244.9.0"), value=MAC, is_gone=True),
        Change(NEIGHBOUR, DEVICE, pack("fe80::1")),
        Change(FORWARDING, DEVICE, MAC, value=pack("192.0.2.2")),
        Change(FORWARDING, DEVICE, bytes(6), value=pack("192.0.2.2"), is_gone=True),
    ],
)
def test_what_is_as_wanted_is_expected(expected: Expected, change: Change) -> None:
    """Whoever has changed it."""
    assert expected.covers(change)


@pytest.mark.parametrize(
    "change",
    [
        route("10.244.2.0/24", "10.244.2.0", gone=True),
        route("10.244.2.0/24", "10.244.9.0"),
        route("10.244.2.0/24", "10.244.2.0", link=8),
        route("10.244.2.0/24", "192.0.2.2", protocol=BIRD),
        route("10.244.2.0/24", "192.0.2.2", protocol=BIRD, gone=True),
        route("10.244.9.0/24", "10.244.9.0"),
        route("0.0.0.0/0", "192.0.2.254", protocol=BIRD),
        Change(NEIGHBOUR, DEVICE, pack("10.244.2.0"), value=MAC, is_gone=True),
        Change(NEIGHBOUR, DEVICE, pack("10.244.2.0")),
        Change(NEIGHBOUR, DEVICE, pack("10.244.9.0"), value=MAC),
        Change(FORWARDING, DEVICE, MAC, value=pack("192.0.2.9")),
        Change(FORWARDING, DEVICE, bytes(6), value=pack("192.0.2.2")),
        Change(ADDRESS, DEVICE, pack("10.244.1.0"), 32),
    ],
)
def test_everything_else_is_drift(expected: Expected, change: Change) -> None:
    """Something of ours is gone or different, or there is something that we do not want."""
    assert not expected.covers(change)


def test_paths_can_be_exchanged(expected: Expected) -> None:
    """As when a node has another address."""
    moved = PeerPath("10.244.2.0/24", "10.244.2.0", DEVICE, "02:00:00:00:00:02", "192.0.2.9")
    expected.exchange(PATHS[:1], [moved])
    assert not expected.covers(Change(FORWARDING, DEVICE, MAC, value=pack("192.0.2.2")))
    assert expected.covers(Change(FORWARDING, DEVICE, MAC, value=pack("192.0.2.9")))
    assert expected.covers(route("10.244.2.0/24", "10.244.2.0"))


def test_what_is_deleted_is_known(expected: Expected) -> None:
    """With the values that it had."""
    gone = [
        route("10.244.2.0/24", "10.244.2.0", gone=True),
        Change(NEIGHBOUR, DEVICE, pack("10.244.2.0"), is_gone=True),
        Change(FORWARDING, DEVICE, MAC, value=pack("192.0.2.2"), is_gone=True),
        Change(NEIGHBOUR, DEVICE, pack("10.244.9.0"), is_gone=True),
    ]
    lost = expected.lost(gone)
    assert lost.routes == {(pack("10.244.2.0"), 24): (pack("10.244.2.0"), DEVICE)}
    assert lost.hops == {pack("10.244.2.0"): MAC}
    assert lost.remotes == {MAC: pack("192.0.2.2")}


def test_what_is_there_again_is_not_lost(expected: Expected) -> None:
    """As when this node's own changes are announced; and another program's route takes nothing away."""
    again = [
        route("10.244.2.0/24", "10.244.2.0", gone=True),
        Change(NEIGHBOUR, DEVICE, pack("10.244.2.0"), is_gone=True),
        Change(NEIGHBOUR, DEVICE, pack("10.244.2.0"), value=MAC),
        route("10.244.2.0/24", "10.244.2.0"),
    ]
    assert expected.lost(again) == Objects({}, {}, {})
    elsewhere = route("10.244.2.0/24", "192.0.2.2", protocol=BIRD, gone=True)
    assert expected.lost([again[0], elsewhere]).routes


@pytest.mark.parametrize(
    "change",
    [route("10.244.2.0/24", "10.244.9.0"), route("10.244.9.0/24", "10.244.9.0"), Change(ADDRESS, DEVICE, b"", 32)],
)
def test_what_is_not_just_deleted_has_to_be_looked_at(expected: Expected, change: Change) -> None:
    """Something unwanted is there, or it is about something else."""
    assert expected.lost([route("10.244.2.0/24", "10.244.2.0", gone=True), change]) is None

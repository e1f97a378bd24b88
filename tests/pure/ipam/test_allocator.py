"""Allocation: which address an attachment gets, and the error if it gets none."""

import pytest

from ipam.allocator import allocate, is_exhausted
from spec.addresses import parse_ip
from spec.errors import CNIError, Code
from tests.pure.ipam.support import BOOT, NEXT_BOOT, MemoryStore, at, owner, range_sets

TWO = [{"subnet": "10.0.0.0/30"}, {"subnet": "10.0.1.0/30"}]
THREE = [*TWO, {"subnet": "10.0.2.0/30"}]


def store(taken=(), last: str = "", **options) -> MemoryStore:
    leases = MemoryStore(BOOT, **options)
    leases.held = {address: (owner("other"), BOOT.id) for address in taken}
    leases.pointers = {0: last} if last else {}
    return leases


def add(leases: MemoryStore, sets, *requested: str, container_id: str = "cid") -> list[str]:
    addresses = [parse_ip(text) for text in requested]
    return [grant.cidr for grant in allocate(sets, addresses, owner(container_id), leases)]


def refused(leases: MemoryStore, sets, *requested: str) -> CNIError:
    before = dict(leases.held), dict(leases.pointers)
    with pytest.raises(CNIError) as caught:
        add(leases, sets, *requested)
    assert (leases.held, leases.pointers) == before
    return caught.value


@pytest.mark.parametrize(
    ("ranges", "taken", "last", "chosen"),
    [
        ("10.0.0.0/29", [], "", "10.0.0.2"),
        ("2001:db8:1::/64", [], "", "2001:db8:1::2"),
        ("10.0.0.0/30", [], "", "10.0.0.2"),
        ("10.0.0.0/29", [2], "", "10.0.0.3"),
        ("10.0.0.0/29", [], "10.0.0.5", "10.0.0.6"),
        ("10.0.0.0/29", [4, 5], "10.0.0.3", "10.0.0.6"),
        ("10.0.0.0/29", [6], "10.0.0.5", "10.0.0.2"),
        ("10.0.0.0/29", [2], "10.0.0.128", "10.0.0.3"),
        ("10.0.0.0/29", [2, 4, 5, 6], "10.0.0.3", "10.0.0.3"),
        ("10.0.0.0/29", [], "junk", "10.0.0.2"),
        (TWO, [], "", "10.0.0.2"),
        (TWO, [], "10.0.0.2", "10.0.1.2"),
        (THREE, [], "10.0.2.2", "10.0.0.2"),
    ],
)
def test_the_next_address(ranges, taken, last, chosen):
    """The next address is the one that the reference plugin would give."""
    leases = store([f"10.0.0.{number}" for number in taken], last)
    assert add(leases, range_sets(ranges)) == [
        f"{chosen}/{ranges.partition('/')[2] if isinstance(ranges, str) else 30}"
    ]
    assert leases.last_reserved(0) == chosen


def test_a_pool_from_end_to_end():
    """A /29 has .2 to .6; released addresses are assigned again, in order."""
    leases, sets = store(), range_sets("10.0.0.0/29")
    given = [add(leases, sets, container_id=f"c{number}") for number in range(5)]
    assert given == [[f"10.0.0.{number}/29"] for number in range(2, 7)]
    error = refused(leases, sets)
    text = "failed to allocate for range 0: no IP addresses available in range set: 10.0.0.1-10.0.0.6"
    assert (error.code, error.msg) == (Code.INTERNAL, text)
    leases.release(owner("c0"))
    leases.release(owner("c1"))
    assert [add(leases, sets, container_id=f"d{number}") for number in range(2)] == [["10.0.0.2/29"], ["10.0.0.3/29"]]


def test_a_released_address_waits_for_its_turn():
    """A released address is reused only after all others."""
    leases, sets = store(), range_sets("10.0.0.0/29")
    given = []
    for number in range(7):
        given += add(leases, sets, container_id=f"c{number}")
        leases.release(owner(f"c{number}"))
    assert given == [f"10.0.0.{number}/29" for number in (2, 3, 4, 5, 6, 2, 3)]


def test_one_address_of_each_set():
    """Each range set gives one address, with its own prefix, gateway and pointer."""
    leases = store()
    grants = allocate(range_sets("10.0.0.0/29", "fd00::/64"), (), owner("cid"), leases)
    assert [(grant.cidr, grant.gateway) for grant in grants] == [("10.0.0.2/29", "10.0.0.1"), ("fd00::2/64", "fd00::1")]
    assert leases.pointers == {0: "10.0.0.2", 1: "fd00::2"}


def test_all_sets_or_none():
    """If one set is full, the attachment gets no address of the others, and no pointer moves."""
    leases = store(["10.0.1.2"])
    assert refused(leases, range_sets("10.0.0.0/30", "10.0.1.0/30")).msg == (
        "failed to allocate for range 1: no IP addresses available in range set: 10.0.1.1-10.0.1.2"
    )


def test_no_second_address_of_a_set():
    """An owner of an address of a set gets no second one, unless it requests one."""
    leases, sets = store(), range_sets("10.0.0.0/29")
    add(leases, sets)
    assert refused(leases, sets).msg == (
        "failed to allocate for range 0: 10.0.0.2 has been allocated to cid, duplicate allocation is not allowed"
    )
    assert add(leases, sets, "10.0.0.5") == ["10.0.0.5/29"]
    assert sorted(leases.held_by(owner("cid"))) == ["10.0.0.2", "10.0.0.5"]


def test_leases_elsewhere_do_not_count():
    """An address outside the set, left after the ranges changed, does not count."""
    leases = store()
    add(leases, range_sets("10.9.0.0/29"))
    assert add(leases, range_sets("10.0.0.0/29")) == ["10.0.0.2/29"]


def test_requested_addresses():
    """Each set takes the first requested address that it contains, whatever the order, and moves its pointer."""
    leases, sets = store(), range_sets("10.0.0.0/29", "fd00::/64")
    assert add(leases, sets, "fd00::9", "10.0.0.4") == ["10.0.0.4/29", "fd00::9/64"]
    assert leases.pointers == {0: "10.0.0.4", 1: "fd00::9"}


def test_requested_twice():
    """An address requested in two places is one request."""
    assert add(store(), range_sets("10.0.0.0/29"), "10.0.0.4", "10.0.0.4") == ["10.0.0.4/29"]


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        (["10.0.0.1"], "requested ip 10.0.0.1 is subnet's gateway"),
        (
            ["10.0.0.3"],
            "requested IP address 10.0.0.3 is not available in range set 10.0.0.1-10.0.0.6",
        ),
        (["10.0.0.4", "10.0.0.5"], "failed to allocate all requested IPs: 10.0.0.5"),
        (["10.9.0.4", "fd00::1", "10.0.0.4"], "failed to allocate all requested IPs: 10.9.0.4 fd00::1"),
        (["10.0.0.0"], "failed to allocate all requested IPs: 10.0.0.0"),
    ],
)
def test_requests_that_can_not_be_met(requested, message):
    """If one request cannot be met, the call fails and nothing changes."""
    error = refused(store(["10.0.0.3"]), range_sets("10.0.0.0/29"), *requested)
    assert (error.code, error.msg.removeprefix("failed to allocate for range 0: ")) == (Code.INTERNAL, message)


def test_reclaimed_last():
    """Leases of an earlier boot are reclaimed if no address is free, one at a time."""
    leases, sets = store(), range_sets("10.0.0.0/29")
    for number in range(4):
        add(leases, sets, container_id=f"c{number}")
    after = at(leases, NEXT_BOOT)
    assert add(after, sets, container_id="d0") == ["10.0.0.6/29"]
    assert add(after, sets, container_id="d1") == ["10.0.0.2/29"]
    assert {address for address, (_, boot) in after.held.items() if boot == BOOT.id} == {
        "10.0.0.3",
        "10.0.0.4",
        "10.0.0.5",
    }


def test_requested_of_an_earlier_boot():
    """A requested address with a lease of an earlier boot is assigned."""
    leases = at(store(["10.0.0.3"]), NEXT_BOOT)
    assert add(leases, range_sets("10.0.0.0/29"), "10.0.0.3") == ["10.0.0.3/29"]


def test_the_own_lease_of_an_earlier_boot():
    """An attachment whose name and netns path are the same after a reboot is not told that it has an address
    already.
    """
    leases, sets = store(), range_sets("10.0.0.0/29")
    add(leases, sets)
    assert add(at(leases, NEXT_BOOT), sets) == ["10.0.0.3/29"]


def test_cooling():
    """A released address is left alone for the cooldown; if only such are left,
    the runtime is told to try again later.
    """
    leases, sets = store(["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"], cooldown=30), range_sets("10.0.0.0/29")
    add(leases, sets)
    leases.release(owner("cid"))
    assert refused(leases, sets).code == Code.TRY_AGAIN_LATER
    assert "(1 released, still cooling down)" in refused(leases, sets).msg
    assert refused(leases, sets, "10.0.0.2").code == Code.TRY_AGAIN_LATER
    assert is_exhausted(sets[0], leases)


@pytest.mark.parametrize(("taken", "exhausted"), [(["10.0.0.2"], True), ([], False), (["10.0.0.1"], False)])
def test_exhausted(taken, exhausted):
    """A set is exhausted if all its addresses but the gateway are leased."""
    assert is_exhausted(range_sets("10.0.0.0/30")[0], store(taken)) is exhausted


def test_not_exhausted_by_an_earlier_boot():
    """Leases that can be reclaimed count as free."""
    assert not is_exhausted(range_sets("10.0.0.0/30")[0], at(store(["10.0.0.2"]), NEXT_BOOT))


class Contested(MemoryStore):
    """A store in whose folder somebody who ignores the lock writes a lease at the worst moment."""

    def take(self, owner_, addresses):
        if "10.0.0.2" not in self.held:
            self.held["10.0.0.2"] = (owner("rude"), self.boot.id)
            return False
        return super().take(owner_, addresses)


def test_somebody_was_faster():
    """If an address is taken at the last moment, the next one is chosen."""
    assert add(Contested(BOOT), range_sets("10.0.0.0/29")) == ["10.0.0.3/29"]

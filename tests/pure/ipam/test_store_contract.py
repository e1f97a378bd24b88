"""The contract of lease stores: the one on disk, and the one in memory that other tests use."""

from dataclasses import replace

import pytest

from ipam.store import State
from tests.pure.ipam.support import BOOT, NEXT_BOOT, MemoryStore, at, disk_store, owner

A, B, A_ETH1 = owner("a"), owner("b"), owner("a", "eth1")
GRANTS = [(0, "10.0.0.2"), (1, "fd00::2")]


@pytest.fixture(params=["disk", "memory"])
def store(request, tmp_path):
    """An empty store with a cooldown of 30 seconds."""
    made = MemoryStore(BOOT, 30) if request.param == "memory" else disk_store(str(tmp_path / "net"), BOOT, 30)
    made.create()
    return made


def later(seconds: float):
    return replace(BOOT, uptime=BOOT.uptime + seconds)


def take(store, owner_, *grants) -> bool:
    with store.locked(writable=True) as leases:
        return leases.take(owner_, grants)


def release(store, owner_) -> set[str]:
    with store.locked(writable=True) as leases:
        return set(leases.release(owner_))


def retain(store, *valid) -> set[str]:
    with store.locked(writable=True) as leases:
        return set(leases.retain(frozenset(valid)))


def held(store, owner_) -> set[str]:
    with store.locked(writable=False) as leases:
        return set(leases.held_by(owner_))


def states(store, *addresses) -> list[str]:
    with store.locked(writable=False) as leases:
        return [leases.state(address) for address in addresses]


def test_empty(store):
    """In an empty store every address is free, nobody holds any, and none was assigned last."""
    assert states(store, "10.0.0.2", "fd00::2") == [State.FREE, State.FREE]
    assert held(store, A) == set()
    with store.locked(writable=False) as leases:
        assert leases.last_reserved(0) == ""


def test_taken(store):
    """A taken address is TAKEN, held by its owner only, and the last one of its range set."""
    assert take(store, A, *GRANTS)
    assert states(store, "10.0.0.2", "fd00::2", "10.0.0.3") == [State.TAKEN, State.TAKEN, State.FREE]
    assert held(store, A) == {"10.0.0.2", "fd00::2"}
    assert held(store, A_ETH1) == held(store, B) == set()
    with store.locked(writable=False) as leases:
        assert (leases.last_reserved(0), leases.last_reserved(1)) == ("10.0.0.2", "fd00::2")


def test_free_in_their_order(store):
    """`free` returns the addresses that are neither taken nor cooling, in their order."""
    take(store, A, *GRANTS)
    take(store, B, (0, "10.0.0.4"))
    release(store, B)
    with store.locked(writable=False) as leases:
        asked = ["10.0.0.9", "10.0.0.4", "10.0.0.2", "10.0.0.3", "fd00::2", "fd00::1"]
        assert list(leases.free(iter(asked))) == ["10.0.0.9", "10.0.0.3", "fd00::1"]


def test_never_twice(store):
    """If one of the addresses is taken, none is leased."""
    take(store, A, (0, "10.0.0.2"))
    with store.locked(writable=True) as leases:
        assert not leases.take(B, [(0, "10.0.0.3"), (1, "10.0.0.2")])
        assert leases.state("10.0.0.2") == State.TAKEN
    assert held(store, A) == {"10.0.0.2"}
    assert held(store, B) == set()


def test_release(store):
    """A release frees all leases of the owner and no others; repeating it does nothing."""
    take(store, A, *GRANTS)
    take(store, A_ETH1, (0, "10.0.0.3"))
    take(store, B, (0, "10.0.0.4"))
    assert release(store, A) == {"10.0.0.2", "fd00::2"}
    assert release(store, A) == set()
    assert held(store, A_ETH1) == {"10.0.0.3"}
    assert held(store, B) == {"10.0.0.4"}


def test_release_within_one_session(store):
    """A released address can be taken in the same session, without a cooldown."""
    store = replace(store, cooldown=0)
    take(store, A, *GRANTS)
    with store.locked(writable=True) as leases:
        leases.release(A)
        assert leases.held_by(A) == ()
        assert leases.take(B, GRANTS)
    assert held(store, B) == {"10.0.0.2", "fd00::2"}


def test_retain(store):
    """`retain` releases the leases of all others."""
    take(store, A, *GRANTS)
    take(store, A_ETH1, (0, "10.0.0.3"))
    take(store, B, (0, "10.0.0.4"))
    assert retain(store, A, owner("unknown")) == {"10.0.0.3", "10.0.0.4"}
    assert held(store, A) == {"10.0.0.2", "fd00::2"}
    assert held(store, A_ETH1) == held(store, B) == set()


def test_retain_nothing(store):
    """If nothing is valid, everything is released."""
    take(store, A, *GRANTS)
    assert retain(store) == {"10.0.0.2", "fd00::2"}


def test_reboot(store):
    """After a reboot nobody holds an address; all can be reclaimed, or released by their old owners."""
    take(store, A, *GRANTS)
    take(store, B, (0, "10.0.0.4"))
    after = at(store, NEXT_BOOT)
    assert states(after, "10.0.0.2", "fd00::2", "10.0.0.4") == [State.RECLAIMABLE] * 3
    assert held(after, A) == set()
    assert take(after, owner("new"), (0, "10.0.0.2"))
    assert states(after, "10.0.0.2", "10.0.0.4") == [State.TAKEN, State.RECLAIMABLE]
    assert held(after, owner("new")) == {"10.0.0.2"}
    assert release(after, A) == {"fd00::2"}
    assert states(after, "fd00::2") == [State.FREE]


def test_a_lease_of_this_boot_stays_one(store):
    """Neither time nor other calls make a lease of this boot reclaimable."""
    take(store, A, *GRANTS)
    much_later = at(store, later(10**8))
    take(much_later, B, (0, "10.0.0.4"))
    assert states(much_later, "10.0.0.2", "fd00::2") == [State.TAKEN, State.TAKEN]


def test_cooldown(store):
    """A released address cools down for the configured time, and is free afterwards."""
    take(store, A, *GRANTS)
    release(store, A)
    assert states(at(store, later(29)), "10.0.0.2") == [State.COOLING]
    assert states(at(store, later(30)), "10.0.0.2") == [State.FREE]


def test_cooldown_of_collected_leases(store):
    """Addresses released by GC cool down too."""
    take(store, A, *GRANTS)
    retain(store)
    assert states(at(store, later(29)), "10.0.0.2", "fd00::2") == [State.COOLING] * 2


def test_no_cooldown(store):
    """Without a cooldown a released address is free at once."""
    store = replace(store, cooldown=0)
    take(store, A, *GRANTS)
    release(store, A)
    assert states(store, "10.0.0.2") == [State.FREE]


def test_no_cooldown_of_what_was_not_in_use(store):
    """Leases of an earlier boot do not cool down: nobody used them since."""
    take(store, A, *GRANTS)
    after = at(store, NEXT_BOOT)
    release(after, A)
    assert states(after, "10.0.0.2") == [State.FREE]

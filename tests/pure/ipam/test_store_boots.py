"""Boots and cooldown: which leases can be reclaimed, and which addresses are not assigned for a while."""

import fcntl
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ipam.cooldown import note_released, read_cooling
from ipam.store import State
from state.boot import Boot
from tests.pure.ipam.support import (
    BOOT,
    NEXT_BOOT,
    at,
    held,
    leases_in,
    owner,
    reference_add,
    release,
    state,
    take,
    text_of,
)

A, B = owner("a"), owner("b")
GRANTS = [(0, "10.0.0.2"), (1, "fd00:1::2")]


def test_what_the_reference_wrote_in_this_boot_stays(store, folder):
    """If a node switches from the Go plugin, none of its leases can be reclaimed in this boot, whatever their times."""
    for number, moment in ((2, 0), (3, 10**9), (4, 2 * 10**9)):
        reference_add(folder, owner(f"c{number}"), f"10.0.0.{number}")
        os.utime(folder / f"10.0.0.{number}", (moment, moment))
    take(store, A, (0, "10.0.0.5"))
    assert [state(store, f"10.0.0.{number}") for number in (2, 3, 4, 5)] == [State.TAKEN] * 4


def test_what_the_reference_wrote_between_two_boots_of_ours(store, folder):
    """If the reference plugin is called before ours after a reboot, its new leases stay."""
    take(store, A, (0, "10.0.0.2"))
    reference_add(folder, owner("old"), "10.0.0.3")
    take(store, B, (0, "10.0.0.4"))
    after = at(store, NEXT_BOOT)
    reference_add(folder, owner("new"), "10.0.0.5")
    expected = dict.fromkeys(["10.0.0.2", "10.0.0.3", "10.0.0.4"], State.RECLAIMABLE) | {"10.0.0.5": State.TAKEN}
    assert {address: state(after, address) for address in expected} == expected
    take(after, owner("c"), (0, "10.0.0.2"))
    assert state(after, "10.0.0.5") == State.TAKEN


def test_seen_once_is_enough(store, folder):
    """What the reference plugin left is reclaimed after the first boot in which we were called."""
    reference_add(folder, A, "10.0.0.2")
    take(store, B, (0, "10.0.0.3"))
    assert state(at(store, NEXT_BOOT), "10.0.0.2") == State.RECLAIMABLE


def test_another_machine(store):
    """A boot of one machine says nothing about the leases of another that shares the folder."""
    take(store, A, (0, "10.0.0.2"))
    assert state(at(store, Boot("other", "33333333", 5.0)), "10.0.0.2") == State.TAKEN


@pytest.mark.parametrize(("here", "there"), [("", "2"), ("1", ""), ("", "")])
def test_an_unknown_boot(store, here, there):
    """Without a boot ID nothing is reclaimed."""
    take(at(store, Boot("node", here)), A, (0, "10.0.0.2"))
    assert state(at(store, Boot("node", there)), "10.0.0.2") == State.TAKEN


def test_emptied_boots_are_swept(store, folder):
    """When the last lease of an earlier boot is gone, so is its folder."""
    take(store, A, (0, "10.0.0.2"))
    after = at(store, NEXT_BOOT)
    release(after, A)
    take(after, B, (0, "10.0.0.2"))
    assert [path.name for path in (folder / ".slash24").iterdir()] == [NEXT_BOOT.label]


def test_the_old_owner_releases_after_a_reboot(store, folder):
    """A late DEL finds a lease of an earlier boot by its owner."""
    take(store, B, (0, "10.0.0.9"))
    after = at(store, NEXT_BOOT)
    assert held(after, B) == set()
    take(after, A, (0, "10.0.0.2"))
    assert release(after, B) == {"10.0.0.9"}
    assert set(leases_in(folder)) == {"10.0.0.2"}


def test_a_lease_that_is_replaced_while_it_is_reclaimed(store, folder):
    """If somebody without the lock replaces a lease of an earlier boot, it is not reclaimed, and TAKEN."""
    take(store, A, (0, "10.0.0.2"))
    with at(store, NEXT_BOOT).locked(writable=True) as leases:
        assert leases.state("10.0.0.2") == State.RECLAIMABLE
        (folder / "10.0.0.2").unlink()
        reference_add(folder, B, "10.0.0.2")
        assert not leases.take(owner("c"), [(0, "10.0.0.2")])
        assert leases.state("10.0.0.2") == State.TAKEN
    assert leases_in(folder) == {"10.0.0.2": text_of(B)}


def test_a_lease_entered_in_two_boots(store, folder):
    """If a lease has an entry in this boot too, this boot counts."""
    take(store, A, (0, "10.0.0.2"))
    after = at(store, NEXT_BOOT)
    take(after, B, (0, "10.0.0.3"))
    os.link(folder / "10.0.0.2", folder / ".slash24" / NEXT_BOOT.label / "a:eth0:0")
    assert state(after, "10.0.0.2") == State.TAKEN


def test_the_boot_that_runs():
    """The boot is the kernel's, and its time goes on."""
    first, second = Boot.read(), Boot.read()
    assert (first.node, first.id) == (second.node, second.id) == (os.uname().nodename, first.id)
    assert len(first.id) == 36
    assert 0 < first.uptime <= second.uptime


def test_cooldown_over_a_reboot(store):
    """An address released in an earlier boot has been out of use since this boot began, at least."""
    cooling = replace(store, cooldown=30)
    take(cooling, A, (0, "10.0.0.2"))
    release(cooling, A)
    booted = [at(cooling, replace(NEXT_BOOT, uptime=uptime)) for uptime in (29.0, 30.0)]
    assert [state(each, "10.0.0.2") for each in booted] == [State.COOLING, State.FREE]


def test_the_note_of_released_addresses_does_not_grow(store, folder):
    """Addresses that have cooled down are dropped from the file with the next release."""
    for number, uptime in ((2, 1000.0), (3, 1020.0), (4, 1040.0)):
        moment = at(replace(store, cooldown=30), replace(BOOT, uptime=uptime))
        take(moment, A, (0, f"10.0.0.{number}"))
        release(moment, A)
    assert [line.split()[0] for line in (folder / ".slash24" / "released").read_text().splitlines()] == [
        "10.0.0.3",
        "10.0.0.4",
    ]


@pytest.mark.parametrize("content", [b"\0\0", b"10.0.0.2\n", b"10.0.0.2 x y\n", b"\xff \xff 1\n"])
def test_a_garbled_note_of_released_addresses(store, folder, content):
    """Garbled lines are ignored."""
    cooling = replace(store, cooldown=30)
    take(cooling, A, (0, "10.0.0.3"))
    (folder / ".slash24" / "released").write_bytes(content)
    assert state(cooling, "10.0.0.2") == State.FREE
    release(cooling, A)
    assert state(cooling, "10.0.0.3") == State.COOLING


def test_a_clock_from_elsewhere(store):
    """A time in the future is of another clock, and ignored."""
    cooling = replace(store, cooldown=30)
    take(cooling, A, (0, "10.0.0.2"))
    release(at(cooling, replace(BOOT, uptime=9e9)), A)
    assert state(cooling, "10.0.0.2") == State.FREE


def test_the_time_is_read_under_the_lock(store):
    """After waiting for the lock, an address released meanwhile was not released in the future."""
    now = [BOOT]
    cooling = replace(store, cooldown=30, read_boot=lambda: now[0])
    seen = []
    with open(Path(store.folder) / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiter = threading.Thread(target=lambda: seen.append(state(cooling, "10.0.0.2")))
        waiter.start()
        waiter.join(0.05)
        (Path(store.folder) / ".slash24").mkdir()
        (Path(store.folder) / ".slash24" / "released").write_text(f"10.0.0.2 {BOOT.id} {BOOT.uptime + 5}\n")
        now[0] = replace(BOOT, uptime=BOOT.uptime + 6)
    waiter.join()
    assert seen == [State.COOLING]


def test_cooldown_begins_at_once(tmp_path):
    """An address released just now is cooling, although the time in the file is rounded up."""
    boot = Boot("node", "boot", 8148.5006)
    note_released(str(tmp_path), boot, 30, ["10.0.0.2"])
    assert read_cooling(str(tmp_path), boot, 30) == {"10.0.0.2": 0.0}

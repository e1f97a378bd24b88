"""What a call costs: it opens no lease but its own, however many there are."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from ipam.allocator import allocate
from state.boot import Boot
from tests.pure.ipam.support import BOOT, calls_of, held, leases_in, owner, range_sets, release, take

A = owner("a")


def fill(folder: Path, boot: Boot, number: int) -> None:
    """Leases of ours in a /16 from 10.1.0.2 on, written quickly."""
    (folder / ".slash24" / boot.label).mkdir(parents=True)
    for each in range(2, 2 + number):
        entry = folder / ".slash24" / boot.label / f"c{each}:eth0:0"
        entry.write_bytes(f"c{each}\r\neth0".encode())
        os.link(entry, folder / f"10.1.{each >> 8}.{each & 255}")


def add_one(store, ranges) -> None:
    with store.locked(writable=True) as leases:
        allocate([ranges], (), A, leases)


def test_system_calls_do_not_grow_with_the_leases(store, tmp_path):
    """ADD, DEL and CHECK make as many system calls with a thousand leases as with ten (listings apart)."""
    (ranges,) = range_sets("10.1.0.0/16")
    costs = []
    for number in (10, 1000):
        many = replace(store, folder=str(tmp_path / str(number)))
        many.create()
        fill(Path(many.folder), BOOT, number)
        works = (partial(add_one, many, ranges), partial(held, many, A), partial(release, many, A))
        costs.append([calls_of(work) for work in works])
        assert len(leases_in(Path(many.folder))) == number
    assert costs[0] == costs[1]
    assert 0 < max(costs[0]) < 40


def test_no_more_system_calls_than_needed(store):
    """A lease and a release cost about a dozen: a change here is meant, or a mistake."""
    take(store, owner("b"), (0, "10.0.0.9"))
    assert calls_of(partial(take, store, A, (0, "10.0.0.2"))) <= 14
    assert calls_of(partial(release, store, A)) <= 12

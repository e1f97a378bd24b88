"""The mark on a folder: what is not read while it is there, and who takes it away."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from ipam import remembered
from ipam.allocator import allocate
from ipam.mark import is_marked, mark
from spec.errors import CNIError
from tests.pure.ipam.support import (
    NEXT_BOOT,
    at,
    calls_of,
    entries,
    held,
    killed_at,
    leases_in,
    owner,
    range_sets,
    reference_add,
    reference_delete,
    release,
    take,
)

A, B = owner("a"), owner("b")


@pytest.fixture
def marked(store, folder):
    """A store with a lease of B, that a call of ours has left."""
    take(store, B, (0, "10.0.0.9"))
    assert is_marked(folder)
    return store


@pytest.fixture
def unread(monkeypatch, folder):
    """Reading the folder of leases fails the test."""
    real = os.scandir

    def scandir(path):
        assert Path(path) != folder, "the folder was read"
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_who_leases_and_releases_reads_no_folder(marked, folder, unread):
    """Neither the process that leased, nor another that is told where the lease may be."""
    take(marked, A, (0, "10.0.0.2"), (1, "fd00::2"))
    assert release(marked, A) == {"10.0.0.2", "fd00::2"}
    take(marked, A, (0, "10.0.0.3"))
    remembered._addresses.clear()
    assert release(replace(marked, likely=("10.0.0.9", "../x", "10.0.0.3")), A) == {"10.0.0.3"}
    assert (list(leases_in(folder)), entries(folder)) == (["10.0.0.9"], ["b:eth0:0"])


def test_who_releases_without_a_hint_finds_it_all_the_same(marked, folder):
    """By reading the folder."""
    remembered._addresses.clear()
    assert release(marked, B) == {"10.0.0.9"}


def test_wrong_hints_do_no_harm(marked, folder):
    """An address of somebody else is not given back."""
    take(marked, A, (0, "10.0.0.2"))
    remembered._addresses.clear()
    assert release(replace(marked, likely=("10.0.0.9",)), A) == {"10.0.0.2"}
    assert release(replace(marked, likely=("10.0.0.9",)), A) == set()
    assert list(leases_in(folder)) == ["10.0.0.9"]


@pytest.mark.parametrize("change", ["add", "delete", "by hand", "its register"])
def test_who_else_was_there_takes_it_away(marked, folder, change):
    """The reference plugin, or a person."""
    if change == "add":
        reference_add(folder, A, "10.0.0.2")
    elif change == "delete":
        reference_delete(folder, B)
    elif change == "by hand":
        (folder / "10.0.0.9").unlink()
    else:
        (folder / ".slash24").rename(folder / "elsewhere")
    assert not is_marked(folder)
    take(marked, owner("c"), (0, "10.0.0.4"))
    assert is_marked(folder)
    assert len(entries(folder)) == len(leases_in(folder))


@pytest.mark.parametrize("step", range(1, 30))
def test_who_dies_leaves_no_mark_on_what_is_unfinished(marked, folder, step):
    """With the mark there are as many entries as leases."""
    killed_at(step, partial(take, marked, A, (0, "10.0.0.2"), (1, "fd00::2")))
    assert not is_marked(folder) or len(entries(folder)) == len(leases_in(folder))
    killed_at(step, partial(release, marked, A))
    assert not is_marked(folder) or len(entries(folder)) == len(leases_in(folder))


def test_an_owner_has_no_second_lease(marked):
    """With or without the mark."""
    (ranges,) = range_sets("10.0.0.0/24")
    with marked.locked(writable=True) as leases, pytest.raises(CNIError, match="duplicate allocation"):
        allocate([ranges], (), B, leases)


def test_many_taken_in_a_row(marked, folder):
    """Where one look after the other would be too many, the folder is read."""
    (ranges,) = range_sets("10.0.0.0/24")
    for number in range(2, 100):
        if number != 9:
            take(marked, owner(f"c{number}"), (0, f"10.0.0.{number}"))
    (folder / "last_reserved_ip.0").write_text("10.0.0.1")
    with marked.locked(writable=True) as leases:
        assert str(allocate([ranges], (), A, leases)[0].address) == "10.0.0.100"


def test_after_a_reboot_the_leases_of_before_are_known_for_what_they_are(marked, folder):
    """And folders of boots that are over go with their last lease."""
    after = at(marked, NEXT_BOOT)
    assert held(after, B) == set()
    take(after, A, (0, "10.0.0.2"))
    assert release(after, B) == {"10.0.0.9"}
    take(after, B, (0, "10.0.0.9"))
    assert [path.name for path in (folder / ".slash24").iterdir()] == [NEXT_BOOT.label]


def test_entries_with_a_gap_are_no_state_for_a_mark(marked, folder):
    """Where one of an owner's leases was removed by hand, all are read: its first entry is missing."""
    take(marked, A, (0, "10.0.0.2"), (1, "fd00::2"))
    (folder / "10.0.0.2").unlink()
    take(marked, owner("c"), (0, "10.0.0.4"))
    assert entries(folder) == ["a:eth0:1", "b:eth0:0", "c:eth0:0"]
    assert not is_marked(folder)
    assert held(marked, A) == {"fd00::2"}


def test_a_shorter_address_in_the_pointer(store, folder):
    """Nothing of a longer one stays behind it."""
    take(store, A, (0, "10.0.0.200"))
    take(store, B, (0, "10.0.0.3"))
    assert (folder / "last_reserved_ip.0").read_bytes() == b"10.0.0.3"


def test_no_more_calls_of_the_system_than_needed(marked, folder):
    """A lease and a release cost some dozen: a change here is meant, or a mistake."""
    assert calls_of(partial(take, marked, A, (0, "10.0.0.2"))) <= 14
    assert calls_of(partial(release, replace(marked, likely=("10.0.0.2",)), A)) <= 12


def test_the_folder_s_time_stays_true_to_the_second(folder):
    """People see when somebody was last there."""
    folder.mkdir(parents=True)
    before = int(folder.stat().st_mtime)
    mark(folder)
    assert 0 <= int(folder.stat().st_mtime) - before <= 2

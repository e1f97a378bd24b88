"""Calls that are killed or fail at any step: no lease is lost, and none is incomplete."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from ipam.store import State
from tests.pure.ipam.support import (
    NEXT_BOOT,
    at,
    entries,
    failing_at,
    held,
    killed_at,
    leases_in,
    others,
    owner,
    reference_add,
    release,
    state,
    take,
    text_of,
)

A, B = owner("a"), owner("b")
GRANTS = [(0, "10.0.0.2"), (1, "fd00:1::2")]
LAST_STEP = 28
"""More than any call below makes system calls, which `kill` checks."""


def kill(step: int, work: Callable[[], object]) -> None:
    """Do the work in a process that dies before that system call."""
    assert not killed_at(step, work) or step < LAST_STEP, "LAST_STEP is too small"


@pytest.mark.parametrize("step", range(1, LAST_STEP + 1))
def test_killed_while_taking(store, folder, step):
    """An ADD that is killed leaves complete leases or none; the next call sweeps the rest, and everything works."""
    take(store, B, (0, "10.0.0.9"))
    kill(step, lambda: take(store, A, *GRANTS))
    found = leases_in(folder)
    assert found.pop("10.0.0.9") == text_of(B)
    assert set(found.values()) <= {text_of(A)}
    release(store, A)
    assert leases_in(folder) == {"10.0.0.9": text_of(B)}
    take(store, A, *GRANTS)
    assert entries(folder) == ["a:eth0:0", "a:eth0:1", "b:eth0:0"]
    release(store, A)
    assert others(folder) <= {"lock", "last_reserved_ip.0", "last_reserved_ip.1"}


@pytest.mark.parametrize("step", range(1, LAST_STEP + 1))
def test_killed_while_releasing(store, folder, step):
    """A release that is killed leaves complete leases of its owner at most; a second one removes them."""
    cooling = replace(store, cooldown=30)
    take(cooling, A, *GRANTS)
    take(cooling, B, (0, "10.0.0.9"))
    kill(step, lambda: release(cooling, A))
    assert set(leases_in(folder).values()) <= {text_of(A), text_of(B)}
    release(cooling, A)
    assert leases_in(folder) == {"10.0.0.9": text_of(B)}
    assert [state(cooling, address) for _, address in GRANTS] == [State.COOLING] * 2
    assert entries(folder) == ["b:eth0:0"]


@pytest.mark.parametrize("step", range(1, LAST_STEP + 1))
def test_killed_while_taking_over(store, folder, step):
    """If a call is killed while it reclaims addresses of an earlier boot, no other lease is lost."""
    take(store, A, *GRANTS)
    after = at(store, NEXT_BOOT)
    take(after, B, (0, "10.0.0.9"))
    kill(step, lambda: take(after, owner("c"), *GRANTS))
    found = leases_in(folder)
    assert found.pop("10.0.0.9") == text_of(B)
    assert set(found.values()) <= {text_of(A), text_of(owner("c"))}
    release(after, owner("c"))
    assert {state(after, address) for _, address in GRANTS} <= {State.FREE, State.RECLAIMABLE}
    take(after, owner("c"), *GRANTS)
    assert held(after, owner("c")) == {address for _, address in GRANTS}


@pytest.mark.parametrize("step", range(1, LAST_STEP + 1))
def test_killed_while_indexing(store, folder, step):
    """If a call is killed while it indexes leases of the reference, none of this boot can be reclaimed."""
    for number in (2, 3):
        reference_add(folder, owner(f"c{number}"), f"10.0.0.{number}")
    kill(step, lambda: take(store, A, (0, "10.0.0.4")))
    take(store, B, (0, "10.0.0.5"))
    assert [state(store, f"10.0.0.{number}") for number in (2, 3)] == [State.TAKEN] * 2
    assert entries(folder)[-2:] == ["c2:eth0:0", "c3:eth0:0"]


def test_killing_does_kill(store):
    """The tests above do interrupt calls."""
    assert killed_at(5, lambda: take(store, A, *GRANTS))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("step", range(1, 20))
def test_a_failing_disk(store, folder, monkeypatch, step, code):
    """An ADD that fails releases what it took, and leaves neither incomplete files nor an empty pointer."""
    take(store, B, (0, "10.0.0.9"))
    with monkeypatch.context() as patch:
        failing_at(patch.setattr, step, code)
        try:
            take(store, A, *GRANTS)
            failed = False
        except OSError:
            failed = True
    assert leases_in(folder) == {"10.0.0.9": text_of(B)} | (
        {} if failed else {address: text_of(A) for _, address in GRANTS}
    )
    pointer = (folder / "last_reserved_ip.0").read_text()
    assert pointer in ("10.0.0.9", "10.0.0.2")
    assert entries(folder) == (["b:eth0:0"] if failed else ["a:eth0:0", "a:eth0:1", "b:eth0:0"])
    assert others(folder) <= {"lock", "last_reserved_ip.0", "last_reserved_ip.1"}


def test_a_failing_disk_does_fail(store, monkeypatch):
    """The tests above do see failures."""
    with monkeypatch.context() as patch:
        failing_at(patch.setattr, 3)
        with pytest.raises(OSError, match="No space left"):
            take(store, A, *GRANTS)


@pytest.mark.parametrize("step", range(2, 12))
def test_a_full_disk_does_not_keep_from_releasing(store, folder, monkeypatch, step):
    """A release works on a full disk, cooldown or not."""
    cooling = replace(store, cooldown=30)
    take(cooling, A, *GRANTS)
    with monkeypatch.context() as patch:
        failing_at(patch.setattr, step)
        with suppress(OSError):
            release(cooling, A)
    release(cooling, A)
    assert leases_in(folder) == {}


def test_a_release_finishes_everything(store, folder, monkeypatch):
    """If one lease cannot be removed, the others are, and the error is raised."""
    take(store, A, (0, "10.0.0.2"), (1, "10.0.1.2"), (2, "10.0.2.2"))
    real = os.unlink

    def unlink(path, *rest):
        if os.path.basename(path) == "10.0.1.2":
            raise PermissionError(errno.EPERM, "Operation not permitted", path)
        real(path, *rest)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(PermissionError):
        release(store, A)
    assert list(leases_in(folder)) == ["10.0.1.2"]

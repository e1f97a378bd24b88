"""The lock, and what is done under it: how long it is waited for, and that the work does not grow with the leases."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from ipam.allocator import allocate
from spec.errors import CNIError, Code
from state import lock
from state.boot import Boot
from tests.conftest import ROOT
from tests.pure.agent.support import wait_until
from tests.pure.ipam.support import BOOT, calls_of, held, leases_in, owner, range_sets, release, take

A, B = owner("a"), owner("b")
GRANTS = [(0, "10.0.0.2"), (1, "fd00:1::2")]


def test_the_lock_excludes(store):
    """Whoever holds the lock, of either implementation, keeps others out; they say whom they waited for,
    and how long.
    """
    impatient = replace(store, patience=0.05)
    with open(Path(store.folder) / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CNIError) as caught:
            take(impatient, A, *GRANTS)
    assert (caught.value.code, caught.value.details) == (Code.TRY_AGAIN_LATER, f"{store.folder}/lock")
    take(impatient, A, *GRANTS)


def test_the_lock_is_waited_for(store):
    """A lock that is given up while we wait is taken."""
    waited = threading.Event()
    with open(Path(store.folder) / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=lambda: (take(store, A, *GRANTS), waited.set()))
        thread.start()
        assert not waited.wait(0.1)
    thread.join()
    assert waited.is_set()


def test_processes_have_the_lock_in_the_order_in_which_they_came(tmp_path):
    """Who waits in its main thread, as every plugin does that is a process of its own."""
    path, came = tmp_path / "lock", tmp_path / "came"
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from state.lock import locked
with locked({str(path)!r}, 60):
    with open({str(came)!r}, "a") as file:
        file.write(sys.argv[1])
"""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        inode = f":{os.fstat(file.fileno()).st_ino} "
        started = []
        for number in range(6):
            started.append(subprocess.Popen([sys.executable, "-I", "-S", "-c", program, str(number)]))
            assert wait_until(lambda: _waiting_for(inode) == len(started))
    assert [process.wait(60) for process in started] == [0] * 6
    assert came.read_text() == "012345"


def _waiting_for(inode: str) -> int:
    """How many stand in the kernel's line for the lock."""
    return sum("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def test_nothing_is_left_of_the_waiting(store):
    """Neither an alarm nor who would hear it, whether the lock was had or not."""
    before = signal.getsignal(signal.SIGALRM)
    with open(Path(store.folder) / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for _ in range(2):
            with pytest.raises(CNIError, match=r"waited 0\.05 s"):
                take(replace(store, patience=0.05), A, *GRANTS)
        timer = threading.Timer(0.05, file.close)
        timer.start()
        take(store, A, *GRANTS)
        timer.join()
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_an_alarm_at_the_end_of_the_waiting_is_no_error(store, monkeypatch):
    """One that comes between the lock and the end of the timer hits nothing, and leaves no timer behind."""
    real, before = signal.setitimer, signal.getsignal(signal.SIGALRM)

    def ring_first(which: int, seconds: float, interval: float = 0.0) -> None:
        if not seconds:
            signal.raise_signal(signal.SIGALRM)
        real(which, seconds, interval)

    monkeypatch.setattr(signal, "setitimer", ring_first)
    with open(Path(store.folder) / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        timer = threading.Timer(0.05, file.close)
        timer.start()
        take(store, A, *GRANTS)
        timer.join()
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_lock_that_was_removed(store, folder):
    """A folder that was removed and made again while somebody waited for its lock:
    the new lock is the one that counts.
    """
    release_it = threading.Event()
    holding = threading.Event()

    def hold():
        with open(folder / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            holding.set()
            release_it.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait()
    waiter = threading.Thread(target=lambda: take(store, A, *GRANTS))
    waiter.start()
    waiter.join(0.1)  # it has the file open by now
    (folder / "lock").unlink()
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        release_it.set()
        holder.join()
        waiter.join(0.2)
        assert leases_in(folder) == {}
    waiter.join()
    assert set(leases_in(folder)) == {"10.0.0.2", "fd00:1::2"}


def test_threads_of_one_process_take_turns(store, folder):
    """Each waits for those before it, none for longer than it may, and nothing of that is kept."""
    impatient = replace(store, patience=0.05)
    with store.locked(writable=True):
        with pytest.raises(CNIError, match="locked by other calls: waited 0.05 s"), impatient.locked(writable=True):
            pass
        threads = [
            threading.Thread(target=take, args=(store, owner(f"c{n}"), (0, f"10.0.0.{n}"))) for n in range(2, 30)
        ]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    assert len(leases_in(folder)) == 28
    assert lock._turns == {}


# The cost


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


def test_the_cost_does_not_grow_with_the_leases(store, tmp_path):
    """The calls of the system that ADD, DEL and CHECK make are as many with a thousand leases as with ten."""
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

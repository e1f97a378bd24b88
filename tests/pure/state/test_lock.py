"""The lock between processes: it excludes, queues, times out, and leaves nothing behind."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spec.errors import CNIError, Code
from state.lock import locked
from tests.conftest import ROOT
from tests.pure.agent.support import wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@contextmanager
def held(path: Path) -> Iterator[int]:
    """Somebody else holds the lock, as the reference plugin does: its file's descriptor."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def lock_and_note(path: Path, notes: list, note: object, patience: float = 60) -> None:
    """Write the note while holding the lock."""
    with locked(str(path), patience):
        notes.append(note)


def in_thread(work, *arguments) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments)
    thread.start()
    return thread


def test_it_excludes(path):
    """While somebody holds the lock, others time out: error 11 with the time and the path."""
    with held(path), pytest.raises(CNIError, match=f"timed out after 0.05 s waiting for the lock {path}") as caught:
        lock_and_note(path, [], 1, 0.05)
    assert caught.value.code == Code.TRY_AGAIN_LATER
    with locked(str(path), 0.05):
        assert not is_free(path)
    assert is_free(path)


def test_a_thread_times_out(path):
    """So does a thread that is not the main one, which no signal can interrupt."""
    failures = []

    def attempt() -> None:
        try:
            lock_and_note(path, [], 1, 0.05)
        except CNIError as error:
            failures.append(error.code)

    with held(path):
        in_thread(attempt).join()
    assert failures == [Code.TRY_AGAIN_LATER]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_releases_it(path, error):
    """The lock is released however its holder ends."""
    with pytest.raises(error), locked(str(path), 1):
        raise error
    assert is_free(path)
    lock_and_note(path, [], 1, 0.05)


def test_it_is_waited_for(path):
    """A lock that is released while a thread waits for it is taken."""
    notes = []
    with held(path):
        thread = in_thread(lock_and_note, path, notes, 1)
        thread.join(0.1)
        assert notes == []
    thread.join()
    assert notes == [1]


def test_processes_get_it_in_the_order_in_which_they_came(path, tmp_path):
    """They wait in their main thread, as every plugin does that runs as a process."""
    came = tmp_path / "came"
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from state.lock import locked
with locked({str(path)!r}, 60):
    with open({str(came)!r}, "a") as file:
        file.write(sys.argv[1])
"""
    with held(path) as descriptor:
        inode = f":{os.fstat(descriptor).st_ino} "
        started = []
        for number in range(6):
            started.append(subprocess.Popen([sys.executable, "-I", "-S", "-c", program, str(number)]))
            assert wait_until(lambda: _waiting_for(inode) == len(started))
    assert [process.wait(60) for process in started] == [0] * 6
    assert came.read_text() == "012345"


def _waiting_for(inode: str) -> int:
    """How many wait in the kernel's queue for the lock."""
    return sum("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def test_nothing_is_left_of_the_waiting(path):
    """Neither the timer nor the handler of the alarm, after a timeout or a success."""
    before, notes = signal.getsignal(signal.SIGALRM), []
    with held(path):
        for _ in range(2):
            with pytest.raises(CNIError, match=r"timed out after 0\.05 s"):
                lock_and_note(path, notes, 1, 0.05)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        timer = threading.Timer(0.05, file.close)
        timer.start()
        lock_and_note(path, notes, 2)
        timer.join()
    assert notes == [2]
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize("patience", [60, 0.05])
def test_an_alarm_during_the_cleanup_is_no_error(path, monkeypatch, patience):
    """An alarm between the end of the waiting and that of the timer has no effect, and leaves no timer behind."""
    real, before, notes = signal.setitimer, signal.getsignal(signal.SIGALRM), []

    def ring_first(which: int, seconds: float, interval: float = 0.0) -> None:
        if not seconds:
            signal.raise_signal(signal.SIGALRM)
        real(which, seconds, interval)

    monkeypatch.setattr(signal, "setitimer", ring_first)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        timer = threading.Timer(0.05 if patience == 60 else 0.2, file.close)
        timer.start()
        try:
            lock_and_note(path, notes, 1, patience)
        except CNIError:
            notes.append("timeout")
        timer.join()
    assert notes == [1 if patience == 60 else "timeout"]
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_lock_file_that_was_deleted(path):
    """If the file was deleted and made again while somebody waited for it, the new file counts."""
    notes = []
    with held(path):
        waiter = in_thread(lock_and_note, path, notes, 1)
        waiter.join(0.1)  # it has opened the file by now
        path.unlink()
        new = open(path, "w")  # noqa: SIM115  (held beyond the old one)
        fcntl.flock(new, fcntl.LOCK_EX)
    waiter.join(0.2)
    assert notes == []
    new.close()
    waiter.join()
    assert notes == [1]


def test_threads_of_one_process_take_turns(path):
    """They exclude each other, time out, and wait at a mutex, so that only one of them polls the file."""
    notes, begin = [], time.monotonic()
    with locked(str(path), 1):
        with pytest.raises(CNIError, match="timed out after 0.05 s"):
            lock_and_note(path, notes, 0, 0.05)
        threads = [in_thread(lock_and_note, path, notes, number) for number in range(28)]
        time.sleep(0.05)  # as pollers, they would have reached their longest pause
    for thread in threads:
        thread.join()
    assert sorted(notes) == [*range(28)]
    assert time.monotonic() - begin < 10

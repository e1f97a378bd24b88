"""Runs calls one at a time; a call gives up its turn while it waits for the kernel, a lock or another process.

Threads of Python run one at a time anyway, and contend for the interpreter lock at every system call: a hundred calls
side by side take longer than one after the other. A call that blocks without giving up its turn is overtaken.

The agent has as many threads as calls that wait, not as calls that are queued.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, get_ident
from typing import Generic, TypeVar

from agent.calls import Call
from agent.threads import Threads

Job = TypeVar("Job")

_STALL_SECONDS = 0.025
"""How long a thread waits for its turn to come back before it resumes regardless: it may hold a lock that the thread
with the turn needs. And how long a turn lasts before others overtake: the call most likely blocks on something."""

_NO_TURN = -1
_PATIENCE_SECONDS = 2.0  # longer than a burst of pods takes
_HUNG_SECONDS = 30.0
_MAX_GENERATIONS = 64
_PROC = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
"""The /proc of the agent's own PID namespace, whatever its root is later (agent/hostroot.py)."""


class Turns(Generic[Job]):
    """Runs jobs in the order of their submission, one at a time except for those that wait or stall."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._lock = Lock()
        self._queue: deque[tuple[float, Callable[[Job], object], Job]] = deque()
        self._returning: deque[SimpleQueue[int]] = deque()
        self._running = 0
        self._round = 0  # of turns; when the running threads stall, the next begins, and they no longer count
        self._granted_at = 0.0
        self._turns: dict[int, int] = {}  # by thread, the round of its turn

    @property
    def is_behind(self) -> bool:
        """Whether jobs are queued."""
        return bool(self._queue)

    def submit(self, run: Callable[[Job], object], job: Job) -> None:
        """Have a thread call `run(job)`, which must not raise, when its turn comes."""
        with self._lock:
            self._queue.append((time.monotonic(), run, job))
            self._grant()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Give up the calling thread's turn while the body waits, and wait for it to come back afterwards."""
        thread = get_ident()
        turn = self._turns.pop(thread, None)
        if turn is None:  # the thread runs no job, or has given up its turn already
            yield
            return
        with self._lock:
            self._end_turn(turn)
            self._grant()
        try:
            yield
        finally:
            self._turns[thread] = self._wait_for_turn()

    def overtake(self) -> None:
        """If jobs are queued and the running threads stall, let others run; the more have stalled, the more of them."""
        with self._lock:
            if self._queue and self._running and time.monotonic() - self._granted_at > _STALL_SECONDS:
                self._round += 1
                self._running = 0
                for _ in range(1 + len(self._turns) // 4):
                    self._grant(self._threads.limit)
            self._grant()

    def take_back(self, seconds: float) -> list[Job]:
        """Remove the jobs that have been queued for longer than that, and return them."""
        before, overdue = time.monotonic() - seconds, []
        with self._lock:
            while self._queue and self._queue[0][0] < before:
                overdue.append(self._queue.popleft()[2])
        return overdue

    def _grant(self, most: int = 1) -> None:
        """If fewer than `most` threads run, resume one or begin a job. Returning threads come first."""
        if self._running >= most:
            return
        if self._returning:
            self._begin_turn()
            self._returning.popleft().put(self._round)
        elif self._queue and self._threads.submit(partial(self._work, *self._queue[0][1:], self._round)):
            self._begin_turn()
            self._queue.popleft()

    def _begin_turn(self) -> None:
        self._running += 1
        self._granted_at = time.monotonic()

    def _end_turn(self, turn: int) -> None:
        self._running -= turn == self._round

    def _work(self, run: Callable[[Job], object], job: Job, turn: int) -> None:
        """Run the job, and then those that can begin in the same thread."""
        thread = get_ident()
        while True:
            self._turns[thread] = turn
            run(job)
            with self._lock:
                self._end_turn(self._turns.pop(thread))
                if self._running or self._returning or not self._queue:
                    self._grant()
                    return
                self._begin_turn()
                _, run, job = self._queue.popleft()
                turn = self._round

    def _wait_for_turn(self) -> int:
        turn: SimpleQueue[int] = SimpleQueue()
        with self._lock:
            self._returning.append(turn)
            self._grant()
        try:
            return turn.get(timeout=_STALL_SECONDS)
        except Empty:
            with self._lock:
                if turn in self._returning:
                    self._returning.remove(turn)
                    return _NO_TURN
        return turn.get()


class Scheduler:
    """Keeps calls for one attachment in order, and every call within its time. `perform(call)` must not raise."""

    def __init__(self, turns: Turns[Call], perform: Callable[[Call], object]) -> None:
        self._turns, self._perform = turns, perform
        self._lock = Lock()
        self._calls: set[Call] = set()
        self._ordered: dict[tuple[str, str], deque[Call]] = {}  # by attachment that has a call running: those that wait

    @property
    def under_way(self) -> int:
        """The number of calls that are not finished."""
        return len(self._calls)

    def is_awaited(self, now: float) -> bool:
        """Whether an agent that ends should wait for calls; not for calls that hang long after their deadline."""
        with self._lock:
            return any(now < call.last + _HUNG_SECONDS for call in self._calls)

    def submit(self, call: Call, pid: int) -> None:
        """Have the call performed when its turn comes; `pid` is the caller's."""
        with self._lock:
            self._calls.add(call)
            waiting = self._ordered.get(call.attachment) if call.attachment else None
            # A plugin executed by a call may make another for the same attachment (an IPAM plugin that wraps ours):
            # that one cannot wait for the first to finish.
            if waiting is not None and not _is_descendant(pid):
                waiting.append(call)
                return
            if call.attachment and waiting is None:
                self._ordered[call.attachment] = deque()
                call.in_order = True
        self._turns.submit(self._run, call)

    def keep_up(self) -> bool:
        """Overtake calls that stall if others are queued; whether to be called again soon."""
        if not self._turns.is_behind:
            return False
        self._turns.overtake()
        return True

    def expire(self, now: float) -> list[Call]:
        """Decline the calls that have been queued for too long, fail those past their deadline; returns them all."""
        overdue = self._turns.take_back(_PATIENCE_SECONDS)
        for call in overdue:
            call.decline()
            self._finish(call)
        with self._lock:
            late = [call for call in self._calls if not call.answered and now > _end_of(call)]
        for call in late:
            call.fail(f"not done within {call.deadline - call.arrived:g} s")
        return overdue + late

    def _run(self, call: Call) -> None:
        self._perform(call)
        self._finish(call)

    def _finish(self, call: Call) -> None:
        call.dispose()
        with self._lock:
            self._calls.discard(call)
            following = self._following(call)
        if following:
            self._turns.submit(self._run, following)

    def _following(self, call: Call) -> Call | None:
        """The next call for the same attachment."""
        if not call.in_order:
            return None
        waiting = self._ordered[call.attachment]
        while waiting:
            following = waiting.popleft()
            if not following.answered:
                following.in_order = True
                return following
            following.dispose()
            self._calls.discard(following)
        del self._ordered[call.attachment]
        return None


def _end_of(call: Call) -> float:
    return call.last if call.begun else call.deadline


def _is_descendant(pid: int) -> bool:
    """Whether the process is the agent or a descendant of it."""
    for _ in range(_MAX_GENERATIONS):
        if pid == os.getpid():
            return True
        if pid <= 1:
            return False
        try:
            with open(os.open(f"{pid}/stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=_PROC), "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return False
    return False

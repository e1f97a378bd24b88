"""Threads that work: started when there is work, no more than a limit, gone again when there is none.

Python lets one thread run at a time, and threads that want to at the same time hinder each other at every call of the
kernel. So of calls that arrive together few are worked at, and the next begins when one of those ends, or says that it
waits (`aside`). Where those at work stand still without a word, others begin all the same (`relieve`).
"""

import time
from _thread import allocate_lock, get_ident, start_new_thread
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

from linux.errors import insisting
from linux.netns import go_home

Job = TypeVar("Job")

_LONGEST_RETURN = 0.025
"""Seconds for which who has waited lets others work, before it goes on beside them: it may hold what they need."""


class _Seat(Generic[Job]):
    """A thread, and where it waits until it is called."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.called = allocate_lock()
        self.called.acquire()


class Pool(Generic[Job]):
    """At most `limit` threads that do `work` on jobs in the order they come; one that idles for `idle` seconds ends.

    `work` returns whether its thread is fit for more. `ready`: so many are at work at a time, those left out that wait
    or stand still.
    """

    def __init__(
        self, limit: int, work: Callable[[Job], bool], *, ready: int | None = None, idle: float = 10.0
    ) -> None:
        self.limit = limit
        self._ready = limit if ready is None else min(ready, limit)
        self._work = work
        self._idle_seconds = idle
        self._lock = allocate_lock()
        self._jobs: deque[tuple[float, Job]] = deque()
        self._threads = 0
        self._members: dict[int, _Seat] = {}  # by thread; not those that stand aside
        self._at_work: dict[_Seat, float] = {}  # or called to it, and since when
        self._still: set[_Seat] = set()
        self._idle: list[_Seat] = []
        self._returning: deque[_Seat] = deque()

    @property
    def busy(self) -> int:
        """How many threads have a job, at work or waiting."""
        return self._threads - len(self._idle)

    @property
    def is_behind(self) -> bool:
        """Whether jobs wait for a thread."""
        return bool(self._jobs)

    def submit(self, job: Job) -> None:
        """Have the job done when its turn comes."""
        with self._lock:
            self._jobs.append((time.monotonic(), job))
            self._call_up(self._ready)

    def relieve(self, seconds: float) -> None:
        """If jobs wait, no longer count who has been at work for so long; the more stand still, the more take over."""
        before = time.monotonic() - seconds
        with self._lock:
            if not self._jobs:
                return
            still = [seat for seat, since in self._at_work.items() if since < before]
            for seat in still:
                self._still.add(seat)
                del self._at_work[seat]
            self._call_up(self._ready)
            for _ in range(len(self._still) // 4 if still else 0):
                self._call_up(self.limit)

    def take_back(self, seconds: float) -> list[Job]:
        """The jobs that have waited longer than that for a thread; they are not done."""
        before, overdue = time.monotonic() - seconds, []
        with self._lock:
            while self._jobs and self._jobs[0][0] < before:
                overdue.append(self._jobs.popleft()[1])
        return overdue

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While a thread of the pool waits for something, have others work; then it goes on when its turn comes."""
        thread = get_ident()
        seat = self._members.pop(thread, None)
        if seat is None:
            yield
            return
        with self._lock:
            self._uncount(seat)
            self._call_up(self._ready)
        try:
            yield
        finally:
            self._return(seat)
            self._members[thread] = seat

    @insisting
    def _return(self, seat: _Seat) -> None:
        with self._lock:
            waits = len(self._at_work) >= self._ready
            if waits:
                self._returning.append(seat)
            else:
                self._count(seat)
        if waits and not seat.called.acquire(timeout=_LONGEST_RETURN):
            with self._lock:
                is_called = seat not in self._returning
                if not is_called:
                    self._returning.remove(seat)
            if is_called:
                seat.called.acquire()

    def _call_up(self, most: int) -> None:
        """If fewer than `most` are at work, have one thread more go on, or take up a job."""
        if len(self._at_work) >= most:
            return
        if self._returning:
            self._call(self._returning.popleft())
        elif self._jobs and self._idle:
            self._idle[-1].job = self._jobs.popleft()[1]
            self._call(self._idle.pop())  # who was at work last
        elif self._jobs and self._threads < self.limit:
            self._start()

    def _call(self, seat: _Seat) -> None:
        seat.called.release()
        self._count(seat)

    def _start(self) -> None:
        try:
            seat: _Seat[Job] = _Seat()
            start_new_thread(self._run, (seat,))
        except (RuntimeError, MemoryError):
            return  # no more threads to be had: the job waits for one of those that there are, or is taken back
        self._threads += 1
        self._count(seat)

    def _run(self, seat: _Seat) -> None:
        fit = True
        try:
            go_home()  # who has started it may be in a pod's namespace, which an idle thread would keep
            self._members[get_ident()] = seat
            while fit and (job := self._next(seat)) is not None:
                fit = self._work(job)
                del job  # or the last call's configuration stays in memory for as long as this thread idles
        finally:
            self._leave(seat)

    def _next(self, seat: _Seat) -> Job | None:
        """The next job; None, and the seat is gone, if none has come for long enough."""
        with self._lock:
            self._uncount(seat)
            if self._jobs and not self._returning and len(self._at_work) < self._ready:
                self._count(seat)
                return self._jobs.popleft()[1]
            self._idle.append(seat)
            self._call_up(self._ready)
        if not seat.called.acquire(timeout=self._idle_seconds):
            with self._lock:
                if seat in self._idle:
                    self._idle.remove(seat)
                    return None
            seat.called.acquire()
        job, seat.job = seat.job, None
        return job

    def _count(self, seat: _Seat) -> None:
        with suppress(MemoryError):  # then there is one more at work than `ready`
            self._at_work[seat] = time.monotonic()

    def _uncount(self, seat: _Seat) -> None:
        self._at_work.pop(seat, None)
        self._still.discard(seat)

    @insisting
    def _leave(self, seat: _Seat) -> None:
        self._members.pop(get_ident(), None)
        with self._lock:
            self._uncount(seat)
            self._call_up(self._ready)
            self._threads -= 1

"""Threads that work: started when there is work, no more than a limit, gone again when there is none.

Python lets one thread run at a time. Of calls that arrive together, some are worked at together, so that there is one
to go on with while another waits for the kernel; more would only keep each other awake. They get threads all the same
where those at work stand still: where all wait for something slow.
"""

import time
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import Generic, TypeVar

Job = TypeVar("Job")


class Pool(Generic[Job]):
    """At most `limit` threads that do `work` on jobs in the order they come; one that idles for `idle` seconds ends.

    `work` returns whether its thread is fit for more. More than `ready` threads there are only by `relieve`.
    """

    def __init__(
        self, limit: int, work: Callable[[Job], bool], *, ready: int | None = None, idle: float = 10.0
    ) -> None:
        self.limit = limit
        self._ready = limit if ready is None else min(ready, limit)
        self._taken = 0.0  # when a job was last taken up
        self._work = work
        self._idle_seconds = idle
        self._jobs: deque[tuple[float, Job]] = deque()
        self._condition = Condition()
        self._threads = self._idle = 0

    @property
    def busy(self) -> int:
        """How many threads are at work."""
        return self._threads - self._idle

    def submit(self, job: Job) -> None:
        """Have the job done by the next thread that is free."""
        with self._condition:
            self._jobs.append((time.monotonic(), job))
            if len(self._jobs) <= self._idle:
                self._condition.notify()
            elif self._threads < self._ready:
                self._start()

    @property
    def is_behind(self) -> bool:
        """Whether jobs wait for a thread."""
        return bool(self._jobs)

    def relieve(self, seconds: float) -> None:
        """Start more threads if jobs wait and none was taken up for so long."""
        before = time.monotonic() - seconds
        with self._condition:
            if not self._jobs or self._jobs[0][0] > before or self._taken > before:
                return
            self._taken = before + seconds
            for _ in range(min(len(self._jobs), self.limit - self._threads, 1 + self._threads // 4)):
                self._start()

    def take_back(self, seconds: float) -> list[Job]:
        """The jobs that have waited longer than that for a thread; they are not done."""
        before, overdue = time.monotonic() - seconds, []
        with self._condition:
            while self._jobs and self._jobs[0][0] < before:
                overdue.append(self._jobs.popleft()[1])
        return overdue

    def _start(self) -> None:
        self._threads += 1
        try:
            Thread(target=self._run, daemon=True).start()
        except RuntimeError:
            # No more threads to be had: the job waits for one of those that there are, or is taken back.
            self._threads -= 1

    def _run(self) -> None:
        fit = True
        try:
            while fit and (job := self._next()) is not None:
                fit = self._work(job)
                del job  # or the last call's configuration stays in memory for as long as this thread idles
        finally:
            with self._condition:
                self._threads -= 1
                if self._jobs and self._idle < len(self._jobs) and self._threads < self._ready:
                    self._start()

    def _next(self) -> Job | None:
        with self._condition:
            self._idle += 1
            try:
                if self._condition.wait_for(lambda: self._jobs, self._idle_seconds):
                    self._taken = time.monotonic()
                    return self._jobs.popleft()[1]
                return None
            finally:
                self._idle -= 1

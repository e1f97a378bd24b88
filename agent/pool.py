"""Threads that work: started when there is work, no more than a limit, gone again when there is none."""

import time
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import Generic, TypeVar

Job = TypeVar("Job")


class Pool(Generic[Job]):
    """At most `limit` threads that do `work` on jobs in the order they come; one that idles for `idle` seconds ends.

    `work` returns whether its thread is fit for more.
    """

    def __init__(self, limit: int, work: Callable[[Job], bool], *, idle: float = 10.0) -> None:
        self.limit = limit
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
            elif self._threads < self.limit:
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
                if self._jobs and self._idle < len(self._jobs):
                    self._start()

    def _next(self) -> Job | None:
        with self._condition:
            self._idle += 1
            try:
                if self._condition.wait_for(lambda: self._jobs, self._idle_seconds):
                    return self._jobs.popleft()[1]
                return None
            finally:
                self._idle -= 1

"""Threads that are started when there is work and end when there is none.

Those of concurrent.futures.ThreadPoolExecutor never exit. To start a thread for every function takes 0.1 ms, and more
on a busy node, where the kernel prefers a thread that wakes up to one that is new.
"""

from _thread import start_new_thread
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock

from linux.netns import return_home


class Threads:
    """Threads for functions that must not raise. At most `limit`; one that has been idle for `idle` seconds exits."""

    def __init__(self, limit: int, *, idle: float = 10.0) -> None:
        self.limit = limit
        self._idle_seconds = idle
        self._lock = Lock()
        self._functions: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._threads = self._idle = 0

    @property
    def busy(self) -> int:
        """The number of threads that are not idle."""
        return self._threads - self._idle

    def submit(self, function: Callable[[], object]) -> bool:
        """Call the function in a thread; False if all threads are busy, or no more can be started."""
        with self._lock:
            if not self._idle and not self._start():
                return False
            self._idle -= 1
        self._functions.put(function)
        return True

    def _start(self) -> bool:
        if self._threads >= self.limit:
            return False
        try:
            start_new_thread(self._run, ())
        except RuntimeError:
            return False
        self._threads += 1
        self._idle += 1
        return True

    def _run(self) -> None:
        with suppress(OSError):
            return_home()  # from the network namespace of the thread that started this one, which may be a pod's
        while function := self._next():
            function()
            del function  # or an idle thread would keep the last call's configuration in memory
            with self._lock:
                self._idle += 1

    def _next(self) -> Callable[[], object] | None:
        try:
            return self._functions.get(timeout=self._idle_seconds)
        except Empty:
            with self._lock:
                if self._idle:
                    self._idle -= 1
                    self._threads -= 1
                    return None
        return self._functions.get()  # it was submitted just now

"""Which call is done when: many at once, those for one attachment in the order they came, none beyond its time."""

import os
from collections import deque
from collections.abc import Callable
from threading import Lock

from agent.call import Call
from agent.pool import Pool

_PATIENCE_SECONDS = 2.0
"""How long a call waits for a free worker: longer than a burst of pods, shorter than anybody minds."""

_TOGETHER = 1
_STANDSTILL_SECONDS = 0.025
"""Who has been at work for longer waits for something, most likely."""

_GENERATIONS = 64
_PROC = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
"""That of the process ids which this process sees, whatever its root is later (agent/hostroot.py)."""

_HUNG_SECONDS = 30.0


class Dispatcher:
    """Hands calls to workers. `perform` does one call, in a worker, and returns whether that thread can go on."""

    def __init__(self, perform: Callable[[Call], bool], *, workers: int) -> None:
        self.pool: Pool[Call] = Pool(workers, self._work, ready=_TOGETHER)
        self._perform = perform
        self._lock = Lock()
        self._calls: set[Call] = set()
        self._ordered: dict[tuple[str, str], deque[Call]] = {}  # of each attachment being worked for: what follows

    @property
    def under_way(self) -> int:
        """How many calls are not yet answered and done with."""
        return len(self._calls)

    def is_awaited(self, now: float) -> bool:
        """Whether an end should wait for any call: not for one that hangs although its time is long over."""
        with self._lock:
            return any(now < call.last + _HUNG_SECONDS for call in self._calls)

    def take(self, call: Call, pid: int) -> None:
        """Do the call when its turn comes; `pid` asks for it."""
        with self._lock:
            self._calls.add(call)
            follows = self._ordered.get(call.attachment) if call.attachment else None
            # Asked for by what another call executes, for the same attachment (an IPAM plugin that uses ours): it can
            # not wait for its own end.
            if follows is not None and not _is_descendant(pid):
                follows.append(call)
                return
            if call.attachment and follows is None:
                self._ordered[call.attachment] = deque()
                call.in_order = True
        self.pool.submit(call)

    def keep_up(self) -> bool:
        """See that calls which wait for a worker get one, if all stand still; whether to see to it again soon."""
        if not self.pool.is_behind:
            return False
        self.pool.relieve(_STANDSTILL_SECONDS)
        return True

    def look_after(self, now: float) -> list[Call]:
        """Decline what waited too long for a worker, and fail what has run out of time; returns all those."""
        overdue = self.pool.take_back(_PATIENCE_SECONDS)
        for call in overdue:
            call.decline()
            following = self._finish(call)
            if following:
                self.pool.submit(following)
        with self._lock:
            late = [call for call in self._calls if not call.answered and now > self._end_of(call)]
        for call in late:
            call.fail(f"not done within {call.deadline - call.arrived:g} s")
        return overdue + late

    def _work(self, first: Call) -> bool:
        call: Call | None = first
        fit = True
        while call and fit:
            try:
                fit = self._perform(call)
            finally:
                call = self._finish(call)
        if call:
            self.pool.submit(call)
        return fit

    def _finish(self, call: Call) -> Call | None:
        """Forget the call; the next one for its attachment."""
        call.dispose()
        with self._lock:
            self._calls.discard(call)
            if not call.in_order:
                return None
            follows = self._ordered[call.attachment]
            while follows:
                following = follows.popleft()
                if not following.answered:
                    following.in_order = True
                    return following
                following.dispose()
                self._calls.discard(following)
            del self._ordered[call.attachment]
            return None

    @staticmethod
    def _end_of(call: Call) -> float:
        return call.last if call.begun else call.deadline


def _is_descendant(pid: int) -> bool:
    """Whether the process was started by this one, or by one that was."""
    for _ in range(_GENERATIONS):
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

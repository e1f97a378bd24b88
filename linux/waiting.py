"""Waiting for the kernel, with a name and a deadline."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

_FIRST_PAUSE, _LONGEST_PAUSE = 0.0002, 0.05  # seconds


aside: Callable[[], AbstractContextManager[None]] = nullcontext
"""Around what waits: in a process that does many calls, lets others go on meanwhile (`use`)."""


def use(stand_aside: Callable[[], AbstractContextManager[None]]) -> None:
    """From now on, have that as `aside`."""
    global aside
    aside = stand_aside


def wait_until(done: Callable[[], bool], *, seconds: float) -> bool:
    """Ask `done` at once and then at growing pauses until it is true or `seconds` are over; the last answer."""
    if done():
        return True
    if seconds <= 0:
        return False
    with aside():
        return _ask_again(done, time.monotonic() + seconds)


def _ask_again(done: Callable[[], bool], deadline: float) -> bool:
    pause = _FIRST_PAUSE
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        if done():
            return True
        pause = min(pause * 2, _LONGEST_PAUSE)
    return False

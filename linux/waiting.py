"""Waiting for the kernel, with a deadline. A call that an agent serves gives up its turn meanwhile."""

import time
from collections.abc import Callable

from spec import suite

_FIRST_PAUSE, _LONGEST_PAUSE = 0.0002, 0.05  # seconds


def wait_until(done: Callable[[], bool], *, seconds: float) -> bool:
    """Call `done` at once, then at growing intervals, until it returns True or `seconds` are over; its last result."""
    if done():
        return True
    if seconds <= 0:
        return False
    with suite.current().released():
        return _poll(done, time.monotonic() + seconds)


def _poll(done: Callable[[], bool], deadline: float) -> bool:
    pause = _FIRST_PAUSE
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        if done():
            return True
        pause = min(pause * 2, _LONGEST_PAUSE)
    return False

"""Waiting for the kernel, with a name and a deadline."""

import time
from collections.abc import Callable

_FIRST_PAUSE, _LONGEST_PAUSE = 0.0002, 0.05  # seconds


def wait_until(done: Callable[[], bool], *, seconds: float) -> bool:
    """Ask `done` at once and then at growing pauses until it is true or `seconds` are over; the last answer."""
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    while not done():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)
    return True

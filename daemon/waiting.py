"""Waiting for what wakes a loop of the daemon."""

import select
from collections.abc import Collection

_GATHER_SECONDS = 0.02


def wait_for(urgent: Collection[int], announcements: Collection[int], seconds: float) -> None:
    """Wait until one of these descriptors can be read, for so many seconds at most.

    Announcements of the kernel are left to gather for a moment: each call of a plugin causes a dozen, and waits for
    this process then (for its pod's policies), or for a CPU.
    """
    first, every = select.poll(), select.poll()
    for descriptor in urgent:
        first.register(descriptor, select.POLLIN)
    for descriptor in (*urgent, *announcements):
        every.register(descriptor, select.POLLIN)
    ready = every.poll(seconds * 1000)
    if ready and not any(descriptor in urgent for descriptor, _ in ready):
        first.poll(min(_GATHER_SECONDS, seconds) * 1000)

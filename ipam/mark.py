"""Whether a folder of leases is just as a call of ours left it: a mark in the folder's own time of modification.

Who adds or removes a file there, be it the reference plugin or a person, makes the kernel write the time anew and the
mark is gone; so it is while a call of ours has begun something. With the mark there, every lease is registered and
every entry has its lease, and a call need not read the folder to see that. The mark is the fraction of the second:
what the folder's time tells people stays true. Where times have no fractions, there is never a mark.
"""

import os
import time

_SECOND = 10**9
_MARK = 424_242_424  # nanoseconds; that the kernel writes just these by chance is one of a thousand million


def is_marked(folder: str) -> bool:
    """Whether the mark is there. Raises OSError."""
    return os.stat(folder).st_mtime_ns % _SECOND == _MARK


def mark(folder: str) -> None:
    """Set it. Raises OSError."""
    now = time.time_ns()
    os.utime(folder, ns=(now, now - now % _SECOND + _MARK))


def unmark(folder: str) -> None:
    """Take it away. Raises OSError."""
    os.utime(folder)

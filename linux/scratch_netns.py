"""Network namespaces without a name: the kernel deletes them with all in them when this process ends, however it does.

A thread makes one, since unshare(2) and setns(2) are per thread.
"""

import os
from collections.abc import Callable
from ctypes import CDLL, get_errno
from threading import Thread

from linux.netns import CLONE_NEWNET, OWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    Value = TypeVar("Value")

_libc = CDLL(None, use_errno=True)


def in_empty_netns(action: "Callable[[], Value]") -> "Value":
    """What `action` returns in a new, empty network namespace, which is gone afterwards. Raises what it raises."""
    outcome: list[Value] = []
    failure: list[Exception] = []

    def run() -> None:
        try:
            if _libc.unshare(CLONE_NEWNET) != 0:
                raise OSError(get_errno(), f"unshare: {os.strerror(get_errno())}")
            outcome.append(action())
        except Exception as error:  # noqa: BLE001  (raised again by the caller's thread)
            failure.append(error)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def new_netns() -> int:
    """A descriptor (close it) of a new, empty network namespace. Raises OSError."""
    return in_empty_netns(lambda: os.open(OWN, os.O_RDONLY | os.O_CLOEXEC))

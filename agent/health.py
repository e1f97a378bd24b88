"""Health and readiness: whether the socket greets, and how the last calls ended."""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from agent import wire
from agent.calls import Outcome
from spec.errors import Code

_GREETING_SECONDS = 2.0

# All other codes concern one pod or one configuration: an address or port that is taken, a key that is wrong.
_NODE_FAILURES = frozenset({Code.IO_FAILURE, Code.TRY_AGAIN_LATER, Code.PLUGIN_NOT_AVAILABLE})
_VERBS = ("ADD", "DEL", "GC", "STATUS")
"""Not CHECK: what it finds concerns one pod."""

_REMEMBERED_SECONDS = 300.0
"""An older failure says nothing about the present. By default no call lasts longer."""


@dataclass(frozen=True)
class Last:
    """How the last call of a verb ended; `at` is of time.monotonic()."""

    plugin: str
    code: int
    message: str
    at: float


class Health:
    """The last call of each verb whose outcome depends on the node: a success, or a failure of the node itself."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._last: dict[str, Last] = {}
        self._lock = Lock()
        self._clock = clock

    def on_outcome(self, outcome: Outcome) -> None:
        """Take a call into account."""
        if outcome.verb in _VERBS and (outcome.code == 0 or outcome.code in _NODE_FAILURES):
            with self._lock:
                self._last[outcome.verb] = Last(outcome.plugin, outcome.code, outcome.message, self._clock())

    def failing(self) -> list[str]:
        """The verbs whose last call failed, within the last five minutes."""
        since = self._clock() - _REMEMBERED_SECONDS
        with self._lock:
            return [verb for verb, last in self._last.items() if last.code and last.at > since]

    def describe(self) -> dict[str, dict]:
        """The last call of each verb, for people."""
        now = self._clock()
        with self._lock:
            return {
                verb: {
                    "plugin": last.plugin,
                    "outcome": last.code,
                    "seconds_ago": round(now - last.at, 1),
                    **({"msg": last.message} if last.message else {}),
                }
                for verb, last in self._last.items()
            }


def greeting_problem(path: str) -> str:
    """Why connections to the socket at `path` get no greeting, "" if they do."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(_GREETING_SECONDS)
        try:
            caller.connect(path)
            magic = caller.recv(len(wire.MAGIC), socket.MSG_WAITALL)
        except OSError as error:
            return f"{path}: {error.strerror or error}"
    return "" if magic == wire.MAGIC else f"{path}: no greeting"

"""How the last real calls ended: what readiness is judged by."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from agent.record import Outcome
from spec.errors import Code

# All else is about one pod or one configuration: a taken address or port, a key that is wrong, a link that exists.
_NODE_S_FAULT = frozenset({Code.IO_FAILURE, Code.TRY_AGAIN_LATER, Code.PLUGIN_NOT_AVAILABLE})
_VERBS = ("ADD", "DEL", "GC", "STATUS")
"""Not CHECK: what it finds wrong is wrong with one pod."""

_REMEMBERED_SECONDS = 300.0
"""A failure that nothing has confirmed for so long says nothing about now. By default no call lasts longer."""


@dataclass(frozen=True)
class Last:
    """The end of the last call of a verb; `at` is of time.monotonic()."""

    plugin: str
    code: int
    message: str
    at: float


class Results:
    """The last call of each verb whose end says something about the node: a success, or a failure of the node's."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._last: dict[str, Last] = {}
        self._lock = Lock()
        self._clock = clock

    def note(self, outcome: Outcome) -> None:
        """Take a call into account."""
        if outcome.verb in _VERBS and (outcome.code == 0 or outcome.code in _NODE_S_FAULT):
            with self._lock:
                self._last[outcome.verb] = Last(outcome.plugin, outcome.code, outcome.message, self._clock())

    def failing(self) -> list[str]:
        """The verbs whose last call failed, not long ago."""
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

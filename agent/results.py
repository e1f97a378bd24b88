"""How the last real calls ended: what readiness is judged by."""

import time
from dataclasses import dataclass
from threading import Lock

from agent.record import Outcome
from spec.errors import Code

# Whoever asked wrongly gets these; they say nothing about the node.
_CALLERS_FAULT = frozenset(
    {
        Code.INCOMPATIBLE_VERSION,
        Code.UNSUPPORTED_FIELD,
        Code.UNKNOWN_CONTAINER,
        Code.INVALID_ENVIRONMENT,
        Code.DECODING_FAILURE,
        Code.INVALID_NETWORK_CONFIG,
        Code.INVALID_NETNS,
    }
)
_VERBS = ("ADD", "DEL", "CHECK", "GC", "STATUS")


@dataclass(frozen=True)
class Last:
    """The end of the last call of a verb; `at` is of time.monotonic()."""

    plugin: str
    code: int
    message: str
    at: float


class Results:
    """The last call of each verb whose end says something about the node."""

    def __init__(self) -> None:
        self._last: dict[str, Last] = {}
        self._lock = Lock()

    def note(self, outcome: Outcome) -> None:
        """Take a call into account."""
        if outcome.verb in _VERBS and outcome.code not in _CALLERS_FAULT:
            with self._lock:
                self._last[outcome.verb] = Last(outcome.plugin, outcome.code, outcome.message, time.monotonic())

    def failing(self) -> list[str]:
        """The verbs whose last call failed."""
        with self._lock:
            return [verb for verb, last in self._last.items() if last.code]

    def describe(self) -> dict[str, dict]:
        """The last call of each verb, for people."""
        now = time.monotonic()
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

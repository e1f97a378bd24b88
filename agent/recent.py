"""The last warnings that were logged, for a page."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from threading import Lock

from agent.log import WARNING, Log

_MOST = 10
_BRIEF_SECONDS = 10.0
_MAX_VALUE = 500  # characters


class Recent:
    """Keeps the last ten warnings, except problems that were solved within seconds, as at the start.

    Its methods may be called by any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept: deque[tuple[float, Mapping[str, object]]] = deque(maxlen=_MOST)
        self._lock, self._clock = Lock(), clock

    def watch(self, log: Log) -> Log:
        """The same log, whose warnings are kept from now on."""

        def also_keep(priority: int, fields: Mapping[str, object]) -> None:
            log(priority, fields)
            with self._lock:
                if priority <= WARNING:
                    self._kept.append((self._clock(), dict(fields)))
                elif fields.get("event") == "solved":
                    self._forget(fields.get("msg"))

        return also_keep

    def _forget(self, problem: object) -> None:
        since = self._clock() - _BRIEF_SECONDS
        for entry in [one for one in self._kept if one[0] > since and one[1].get("msg") == problem]:
            self._kept.remove(entry)

    def describe(self) -> list[dict[str, object]]:
        """Their fields, as texts, and `seconds_ago`; the newest first."""
        now = self._clock()
        with self._lock:
            kept = list(self._kept)
        return [
            {"seconds_ago": round(now - at, 1), **{name: str(value)[:_MAX_VALUE] for name, value in fields.items()}}
            for at, fields in reversed(kept)
        ]

"""The last warnings that were logged, for a page."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from threading import Lock

from agent.log import WARNING, Log

_MOST = 10
_MAX_VALUE = 500  # characters


class Recent:
    """Keeps the last ten warnings. Its methods may be called by any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept: deque[tuple[float, Mapping[str, object]]] = deque(maxlen=_MOST)
        self._lock, self._clock = Lock(), clock

    def watch(self, log: Log) -> Log:
        """The same log, whose warnings are kept from now on."""

        def also_keep(priority: int, fields: Mapping[str, object]) -> None:
            log(priority, fields)
            if priority <= WARNING:
                with self._lock:
                    self._kept.append((self._clock(), dict(fields)))

        return also_keep

    def describe(self) -> list[dict[str, object]]:
        """Their fields, as texts, and `seconds_ago`; the newest first."""
        now = self._clock()
        with self._lock:
            kept = list(self._kept)
        return [
            {"seconds_ago": round(now - at, 1), **{name: str(value)[:_MAX_VALUE] for name, value in fields.items()}}
            for at, fields in reversed(kept)
        ]

"""Sentences that are logged once when they become true, and again at growing intervals while they stay so."""

import time
from collections.abc import Callable, Iterable

from agent.log import NOTICE, WARNING, Log

_FIRST_PAUSE, _LONGEST_PAUSE = 60.0, 3600.0  # seconds
_MOST = 20
"""Sentences that are logged at a time: a mistake in a network may concern thousands of nodes."""


class Sentences:
    """Logs what is wrong, given all that is wrong now."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._told: dict[str, tuple[float, float]] = {}  # sentence to (when to repeat, pause in seconds)

    def tell(self, sentences: Iterable[str]) -> None:
        """Log those that are new or due again, and how many are no longer true."""
        now, current = self._clock(), dict.fromkeys(sentences)
        due = [one for one in current if one not in self._told or self._told[one][0] <= now]
        for sentence in due[:_MOST]:
            self._log(WARNING, {"event": "problem", "msg": sentence})
        if len(due) > _MOST:
            self._log(WARNING, {"event": "problem", "msg": f"{len(due) - _MOST} more; /readyz lists all"})
        for sentence in due:
            pause = min(2 * self._told[sentence][1], _LONGEST_PAUSE) if sentence in self._told else _FIRST_PAUSE
            self._told[sentence] = (now + pause, pause)
        over = [sentence for sentence in self._told if sentence not in current]
        for sentence in over:
            del self._told[sentence]
        for sentence in over[:_MOST]:
            self._log(NOTICE, {"event": "solved", "msg": sentence})

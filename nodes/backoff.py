"""Pauses between attempts to reach a server that does not answer."""

from random import uniform


class Backoff:
    """The pauses in seconds: each up to twice as long as the one before, from `first` to `longest`.

    They are random, so that nodes which lost a server at the same time do not all return at the same time.
    """

    def __init__(self, first: float = 0.2, longest: float = 30.0) -> None:
        self._first, self._longest = first, longest
        self._next = first

    def next(self) -> float:
        """The pause before the next attempt."""
        most = self._next
        self._next = min(most * 2, self._longest)
        return uniform(most / 2, most)

    def reset(self) -> None:
        """Begin with the first again, after an attempt that succeeded."""
        self._next = self._first

"""How many changes go to the kernel in one operation, told to whoever counts that."""

from collections.abc import Callable

_listeners: list[Callable[[str, int], None]] = []
"""Who listens in this process: none but in one that lives on and shows numbers (the agent's metrics)."""


def listen(hear: Callable[[str, int], None]) -> None:
    """From now on, have `hear` called with the kind and the size of every operation, in the thread that did it."""
    _listeners.append(hear)


def tell(kind: str, size: int) -> None:
    """One operation on that many things: "links" deleted together, "nft" changes in one transaction."""
    for hear in _listeners:
        hear(kind, size)

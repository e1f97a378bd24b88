"""What takes long, in a thread of its own: cutting connections that are no longer allowed, and those of pods gone."""

import time
from collections.abc import Callable, Collection
from threading import Condition, Thread

from linux import conntrack
from policy import connections
from policy.compiled import Compiled
from policy.connections import Programmer
from rules import policy as tables

_GATHER_SECONDS = 1.0
"""Pods that are deleted together are flushed together: to go through the kernel's table takes 10 ms, if it is empty."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds


class Cuts:
    """`request`, `flush` and `stop` may be called by any thread, and do not wait."""

    def __init__(self, programmer: Programmer, on_cut: Callable[[int], None]) -> None:
        """`on_cut` is told how many connections were cut."""
        self._programmer, self._on_cut = programmer, on_cut
        self._changed = Condition()
        self._compiled = Compiled()
        self._addresses: set[str] | None = set()
        self._has_left, self._is_stopping = False, False
        self._pause = 0.0
        self.problem = ""
        self.is_cutting = False
        """Whether there are connections of which it is not known yet whether they are still allowed."""

    def start(self) -> None:
        """Begin, in a thread that ends with the process."""
        Thread(target=self.run, name="cuts", daemon=True).start()

    def stop(self) -> None:
        """Begin nothing more."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()

    def request(self, compiled: Compiled, addresses: Collection[str] | None) -> None:
        """Cut what `compiled` does not allow, of these pods of this node; None: of all."""
        with self._changed:
            self._compiled, self.is_cutting = compiled, True
            self._add(addresses)
            self._changed.notify()

    def flush(self) -> None:
        """Flush the connections of pods that are gone."""
        with self._changed:
            self._has_left = True
            self._changed.notify()

    def run(self) -> None:
        """Do what is asked for, until `stop`."""
        while self._wait():
            with self._changed:
                compiled, addresses, self._addresses = self._compiled, self._addresses, set()
                has_left, self._has_left = self._has_left, False
            try:
                self._work(compiled, addresses, has_left=has_left)
            except Exception as error:  # noqa: BLE001  (a mistake here must not end the thread)
                self.problem = f"connections that policies no longer allow cannot be cut: {error}"
                self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
                with self._changed:
                    self._add(addresses)
                    self._has_left = self._has_left or has_left
            else:
                self.problem, self._pause = "", 0.0
                with self._changed:
                    self.is_cutting = bool(self._addresses is None or self._addresses)

    def _add(self, addresses: Collection[str] | None) -> None:
        if addresses is None or self._addresses is None:
            self._addresses = None
        else:
            self._addresses.update(addresses)

    def _work(self, compiled: Compiled, addresses: Collection[str] | None, *, has_left: bool) -> None:
        if addresses is None or addresses:
            chosen = None if addresses is None else frozenset(addresses)
            self._on_cut(connections.cut(compiled, chosen, self._programmer))
        if has_left:
            gone = tables.list_left()
            if gone:
                conntrack.flush_addresses(gone)
                tables.forget_listed(gone)

    def _wait(self) -> bool:
        """Until there is something to do, and a moment more; False: end."""
        end = time.monotonic() + self._pause
        with self._changed:
            while not self._is_stopping:
                left = end - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                elif self._addresses is None or self._addresses or self._has_left:
                    break
                else:
                    self._changed.wait()
            is_quiet = not (self._addresses is None or self._addresses)
        if is_quiet and not self._is_stopping:
            time.sleep(_GATHER_SECONDS)
        return not self._is_stopping

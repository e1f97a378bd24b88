"""DEL and GC: every step is tried, also after one has failed."""

from collections.abc import Callable

from linux.errors import step
from spec.errors import CNIError, as_cni_error


class Attempts:
    """Does steps one after the other, and keeps what went wrong until `finish`."""

    def __init__(self) -> None:
        self._failures: list[CNIError] = []

    def make(self, what: str, action: Callable[[], object]) -> None:
        """Try a step. Whatever it raises, a fault of ours too, does not keep the next ones from being tried."""
        try:
            with step(what):
                action()
        except Exception as error:  # noqa: BLE001  (see above)
            self._failures.append(as_cni_error(error))

    def finish(self) -> None:
        """Raise the first failure, if there was one, with the others in its details."""
        if self._failures:
            first, *others = self._failures
            first.details = "; ".join(filter(None, [first.details, *map(str, others)]))
            raise first

"""What tells plugins and runtimes that this node's network is kept: the lock of the network, and the conflist."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from plugins.node.maintained import maintaining, was_maintained
from spec.config import Section


class Service:
    """Begins with the first synchronisation that has succeeded, or where an earlier daemon has ended; ends with us."""

    def __init__(
        self, network: str, plugin: Mapping[str, object], ensure_conflist: Callable[[], Sequence[str]]
    ) -> None:
        """`plugin`: the main plugin's part of the conflist; `ensure_conflist` writes it, if it is not there as it is to
        be, and returns sentences about what keeps runtimes from reading it. It raises CNIError, OSError.
        """
        self._network, self._plugin, self._ensure_conflist = network, plugin, ensure_conflist
        self._held = ExitStack()
        self.is_on = False
        self.warnings: Sequence[str] = ()

    def resume(self) -> None:
        """Take the lock if an earlier daemon had it, with the same configuration. Raises CNIError, OSError."""
        if was_maintained(self._network, Section(self._plugin)):
            self._take()

    def keep(self) -> None:
        """Take the lock, then write the conflist: last, since runtimes start pods then. Raises CNIError, OSError."""
        if not self.is_on:
            self._take()
        self.warnings = self._ensure_conflist()

    def _take(self) -> None:
        self._held.enter_context(maintaining(self._network, Section(self._plugin)))
        self.is_on = True

    def end(self) -> None:
        """Release the lock. The conflist stays: plugins do everything themselves now."""
        self._held.close()
        self.is_on = False

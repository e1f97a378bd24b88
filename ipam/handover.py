"""Hands the leases of one network over to another, so that pods keep their addresses when a network gets a new name.

Both folders are locked meanwhile. A lease is first in both, and leaves the old folder last: a call that still has the
old configuration cannot lease the address again, and neither can one that has the new.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from errno import EEXIST, EXDEV

from ipam.lease_files import read_owner
from ipam.store import Leases, LeaseStore
from state.files import delete_file, read_start, write_file

_POINTER = "last_reserved_ip."
_LONGEST = 8192  # bytes of a lease, which has an owner of at most half as many


class Handover:
    """From the folder `old` to the folder `new`, which is made if it is missing. `old` need not exist."""

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = LeaseStore(old), LeaseStore(new)
        self._shared: set[str] = set()

    @property
    def old(self) -> str:
        """The folder that the leases leave."""
        return self._old.folder

    @property
    def new(self) -> str:
        """The folder that they go to."""
        return self._new.folder

    def addresses(self) -> list[str]:
        """The leased addresses that are to be handed over. Raises CNIError 11 (timeout), OSError."""
        if not self._old.exists():
            return []
        with self._old.locked(writable=False) as leases:
            return sorted(leases.taken())

    def share(self, meanwhile: Callable[[], None]) -> None:
        """Put all leases into the new folder, too, and call `meanwhile`, all while no ADD or DEL can run.

        If that raises, or an address is leased to different owners, nothing has changed. Raises CNIError 11, OSError.
        """
        if not self._old.exists():
            meanwhile()
            return
        self._new.create()
        with self._locked() as (old, _), ExitStack() as undo:
            for name in old.taken():
                if self._copy(name):
                    undo.callback(delete_file, os.path.join(self._new.folder, name))
            for name in os.listdir(self._old.folder):
                if name.startswith(_POINTER) and not os.path.lexists(os.path.join(self._new.folder, name)):
                    shutil.copyfile(os.path.join(self._old.folder, name), os.path.join(self._new.folder, name))
                    undo.callback(delete_file, os.path.join(self._new.folder, name))
            meanwhile()
            self._shared = set(old.taken())
            undo.pop_all()

    def finish(self) -> None:
        """Delete the old folder, after handing over what was leased there since `share`. Raises CNIError 11, OSError.

        What was released there since then is released in the new folder, too.
        """
        if not self._old.exists():
            return
        self._new.create()
        with self._locked() as (old, new):
            there = set(old.taken())
            for name in there:
                self._copy(name)
            for name in (self._shared - there) & set(new.taken()):
                delete_file(os.path.join(self._new.folder, name))
            shutil.rmtree(self._old.folder)

    @contextmanager
    def _locked(self) -> Iterator[tuple[Leases, Leases]]:
        """Both, always in the same order, so that two that do this never wait for each other."""
        with ExitStack() as locks:
            stores = sorted((self._old, self._new), key=lambda store: store.folder)
            leases = [locks.enter_context(store.locked(writable=False)) for store in stores]
            yield (leases[0], leases[1]) if stores[0] is self._old else (leases[1], leases[0])

    def _copy(self, name: str) -> bool:
        """Put one lease into the new folder, too; False if it is there. Raises OSError."""
        source, target = (os.path.join(store.folder, name) for store in (self._old, self._new))
        try:
            os.link(source, target)
        except FileExistsError:
            if read_owner(source) != read_owner(target):
                where = os.path.dirname(target)
                raise OSError(EEXIST, f"address {name} is leased to another container in {where}") from None
            return False
        except OSError as error:
            if error.errno != EXDEV:
                raise
            with suppress(FileExistsError):
                write_file(target, read_start(source, _LONGEST))
        return True

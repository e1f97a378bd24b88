"""Hands the leases of one network over to another, so that pods keep their addresses when a network gets a new name.

Both folders are locked meanwhile, and in the end a symbolic link to the new folder takes the place of the old one, in
one step. So whoever still has the old name, a call that is under way or a runtime that kept the configuration of an ADD
for the DEL, finds the same leases. (The reference's host-local leases by a link, but does not release by it.)
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ctypes import CDLL, get_errno
from errno import EEXIST, EINVAL, ENOSYS, EXDEV

from ipam.lease_files import read_owner
from ipam.store import Leases, LeaseStore
from state.files import delete_file, read_start, write_file

_POINTER = "last_reserved_ip."
_LONGEST = 8192  # bytes of a lease, which has an owner of at most half as many
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class Handover:
    """From the folder `old` to the folder `new`, which is made if it is missing. `old` need not exist."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new
        self._old, self._new = LeaseStore(old), LeaseStore(new)

    def addresses(self) -> list[str]:
        """The leased addresses that are to be handed over. Raises CNIError 11 (timeout), OSError."""
        if not self._is_due():
            return []
        with self._old.locked(writable=False) as leases:
            return sorted(leases.taken())

    def perform(self, meanwhile: Callable[[], None]) -> None:
        """Hand all leases over, and call `meanwhile`, while neither network leases or releases an address.

        If that raises, or an address is leased to different owners, nothing has changed. Raises CNIError 11, OSError.
        """
        if not self._is_due():
            meanwhile()
            return
        self._new.create()
        aside = os.path.join(os.path.dirname(self.old), f".{os.path.basename(self.old)}.handed-over")
        with self._locked() as old, ExitStack() as undo:
            for name in old.taken():
                if self._copy(name):
                    undo.callback(delete_file, os.path.join(self.new, name))
            for name in os.listdir(self.old):
                target = os.path.join(self.new, name)
                if name.startswith(_POINTER) and not os.path.lexists(target):
                    shutil.copyfile(os.path.join(self.old, name), target)
                    undo.callback(delete_file, target)
            _remove(aside)  # of a run that was killed
            os.symlink(os.path.relpath(self.new, os.path.dirname(self.old)), aside)
            undo.callback(delete_file, aside)
            _exchange(aside, self.old)
            undo.callback(_exchange, aside, self.old)
            meanwhile()
            undo.pop_all()
        _remove(aside)

    def _is_due(self) -> bool:
        return self._old.exists() and not os.path.islink(self.old)

    @contextmanager
    def _locked(self) -> Iterator[Leases]:
        """The old leases, with both locks; always in the same order: two that do this never wait for each other."""
        with ExitStack() as locks:
            stores = sorted((self._old, self._new), key=lambda store: store.folder)
            leases = [locks.enter_context(store.locked(writable=False)) for store in stores]
            yield leases[stores.index(self._old)]

    def _copy(self, name: str) -> bool:
        """Put one lease into the new folder, too; False if it is there. Raises OSError."""
        source, target = os.path.join(self.old, name), os.path.join(self.new, name)
        try:
            os.link(source, target)
        except FileExistsError:
            if read_owner(source) != read_owner(target):
                raise OSError(EEXIST, f"address {name} is leased to another container in {self.new}") from None
            return False
        except OSError as error:
            if error.errno != EXDEV:
                raise
            with suppress(FileExistsError):
                write_file(target, read_start(source, _LONGEST))
        return True


def is_handed_over(old: str, new: str) -> bool:
    """Whether a symbolic link at `old` leads to the folder `new`."""
    return os.path.islink(old) and os.path.realpath(old) == os.path.realpath(new)


def _exchange(one: str, other: str) -> None:
    """Exchange two entries of a folder, in one step where the file system can. Raises OSError."""
    libc = CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return
    if (error := get_errno()) not in (EINVAL, ENOSYS):
        raise OSError(error, os.strerror(error), one)
    third = f"{one}.third"
    os.rename(one, third)
    os.rename(other, one)
    os.rename(third, other)


def _remove(path: str) -> None:
    if os.path.islink(path):
        delete_file(path)
    else:
        shutil.rmtree(path, ignore_errors=True)

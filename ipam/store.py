"""Leases on disk, in the format and folder of the reference plugin; both may use the folder at the same time.

    <dataDir>/<network>/lock                 flock(2): held while anything is read or changed
    <dataDir>/<network>/10.1.2.7             a lease: `<container id>\\r\\n<ifname>`, or only the id (old versions)
    <dataDir>/<network>/last_reserved_ip.0   the last address assigned from range set 0
    <dataDir>/<network>/.slash24/            ours: see `index` and `cooldown`

A lease appears complete or not at all: `link()` publishes a finished file, and fails where the reference's O_EXCL
would. A lease without a readable owner was left by the reference plugin after a crash or on a full disk: it creates
the file first and then writes it, but under the lock, which we hold when we look. Nothing is synced to disk: leases
need not survive a power failure, as pods do not.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from ipam.index import LeaseIndex, owner_key
from ipam.lease_files import is_address, owner_texts, read_owner
from spec.attachment import Attachment
from state.boot import Boot
from state.files import delete_file, make_folders, read_start, replace_file, rewrite_file
from state.lock import locked

HIDDEN = ".slash24"
_LAST_RESERVED = "last_reserved_ip."
_UNKNOWN_INODE = -1


class State:
    """The state of an address."""

    FREE = "free"
    TAKEN = "taken"
    COOLING = "cooling"
    """Released, and not to be assigned for a while."""
    RECLAIMABLE = "reclaimable"
    """Leased on disk, but certainly not in use: the lease is of an earlier boot, or has no owner."""


@dataclass(frozen=True)
class LeaseStore:
    """The leases of one network in `folder`. `cooldown` and `patience` (the timeout of the lock) are in seconds.

    `read_boot` returns the running boot and the time. It is called under the lock, so time never goes back from one
    holder to the next.
    """

    folder: str
    read_boot: Callable[[], Boot] = Boot.read
    cooldown: int = 0
    patience: float = 60.0

    def exists(self) -> bool:
        """Whether the folder exists; before the first ADD there are no leases."""
        return os.path.isdir(self.folder)

    def create(self) -> None:
        """Make the folder. Raises OSError."""
        make_folders(self.folder, 0o755)

    @contextmanager
    def locked(self, *, writable: bool) -> "Iterator[Leases]":
        """Hold the lock and read the leases. Unless `writable`, nothing on disk changes.

        Raises CNIError 11 (timeout), OSError.
        """
        with locked(os.path.join(self.folder, "lock"), self.patience):
            leases = Leases(self)
            if writable:
                leases.update_index()
            yield leases


class Leases:
    """The leases of a network, read once, while its lock is held. Addresses are text, as `str(Address)` prints them."""

    def __init__(self, store: LeaseStore) -> None:
        """Raises OSError."""
        self._folder, self._cooldown = store.folder, store.cooldown
        self._hidden = os.path.join(store.folder, HIDDEN)
        self._boot = store.read_boot()
        self._index = LeaseIndex(self._hidden, self._boot)
        with os.scandir(self._folder) as entries:
            self._inodes = {entry.name: entry.inode() for entry in entries}
        self._unindexed = {}  # leases that are not in the index: address -> owner, b"" without one
        indexed = self._index.names
        for name in [name for name, inode in self._inodes.items() if inode not in indexed]:
            if is_address(name):
                with suppress(OSError):  # not a file, or not readable
                    self._unindexed[name] = read_owner(self._path(name))
        self._cooling: Collection[str] = ()
        if self._cooldown:
            from ipam.cooldown import read_cooling

            self._cooling = read_cooling(self._hidden, self._boot, self._cooldown)

    def update_index(self) -> None:
        """Add what others wrote to the index, and sweep what a crash left in it.

        Nothing depends on it, so errors are ignored; the next call tries again.
        """
        with suppress(OSError):
            self._index.sweep(self._inodes.values())
        for name, owner in list(self._unindexed.items()):
            if owner:
                with suppress(OSError):
                    self._index.adopt(self._path(name), self._inodes[name], owner)
                    del self._unindexed[name]

    def state(self, address: str) -> str:
        """One of `State`."""
        if address not in self._inodes:
            return State.COOLING if address in self._cooling else State.FREE
        return State.RECLAIMABLE if self._is_reclaimable(address) else State.TAKEN

    def free(self, addresses: Iterable[str]) -> Iterator[str]:
        """Those of the addresses that are FREE, in the same order."""
        return (each for each in addresses if each not in self._inodes and each not in self._cooling)

    def held_by(self, owner: Attachment) -> tuple[str, ...]:
        """The addresses leased to the owner in this boot, also those leased to the bare container id."""
        return tuple(name for name, _ in self._owned(owner) if not self._is_reclaimable(name))

    def taken(self) -> tuple[str, ...]:
        """All addresses that are TAKEN."""
        return tuple(name for name in self._inodes if is_address(name) and not self._is_reclaimable(name))

    def last_reserved(self, range_set: int) -> str:
        """The content of the file for the last address assigned from a range set; "" if it cannot be read."""
        try:
            return read_start(self._path(f"{_LAST_RESERVED}{range_set}"), 64).decode("ascii", "replace").strip()
        except OSError:
            return ""

    def take(self, owner: Attachment, addresses: Sequence[tuple[int, str]]) -> bool:
        """Lease all of (number of the range set, address), each FREE or RECLAIMABLE, or none of them.

        Returns False if a program without the lock was faster; that address is TAKEN now. Raises OSError, with nothing
        leased. After a success, use a new session.
        """
        text = owner_texts(owner)[0]
        with ExitStack() as undo:
            for _, name in addresses:
                if self._make_way(name):
                    entry = self._index.write(text)
                    undo.callback(delete_file, entry)
                    with suppress(FileExistsError):
                        os.link(entry, self._path(name))
                        undo.callback(delete_file, self._path(name))
                        continue
                self._inodes[name] = _UNKNOWN_INODE
                return False
            for range_set, name in addresses:
                self._move_pointer(range_set, name)
            undo.pop_all()
        return True

    def release(self, owner: Attachment) -> tuple[str, ...]:
        """Release the leases of the owner, or if there are none, those of its bare container id; return the addresses.

        Raises OSError after having released all that can be.
        """
        full, owned = owner_texts(owner)[0], self._owned(owner)
        names = [name for name, text in owned if text == full] or [name for name, _ in owned]
        self._remove(names)
        return tuple(names)

    def retain(self, valid: Collection[Attachment]) -> tuple[str, ...]:
        """Release all leases but those of these attachments, also those without an owner; return the addresses.

        Raises OSError after having released all that can be.
        """
        keys = {owner_key(text) for attachment in valid for text in owner_texts(attachment)}
        stale = [name for name in self._inodes if (key := self._key_of(name)) is not None and key not in keys]
        self._remove(stale)
        return tuple(stale)

    def reclaim(self, addresses: Iterable[str]) -> None:
        """Release those of the addresses that are RECLAIMABLE. Raises OSError after having released all that can be."""
        self._remove([name for name in addresses if self.state(name) == State.RECLAIMABLE])

    def _is_reclaimable(self, name: str) -> bool:
        return self._index.is_over(self._inodes[name]) or self._unindexed.get(name) == b""

    def _key_of(self, name: str) -> str | None:
        """`owner_key` of the owner of a lease; None if the file is not a lease."""
        if name in self._unindexed:
            return owner_key(self._unindexed[name])
        entry = self._index.names.get(self._inodes[name])
        return entry and entry.rpartition(":")[0]

    def _owned(self, owner: Attachment) -> list[tuple[str, bytes]]:
        """The leases of the owner and of its bare container id: (address, content)."""
        texts = owner_texts(owner)
        inodes = self._index.inodes_of(texts[1])
        names = [name for name, inode in self._inodes.items() if inode in inodes] if inodes else []
        # The index has shortened names, and a lease may have been edited by hand: the file itself decides.
        owned = [(name, text) for name in names if (text := read_owner(self._path(name))) in texts]
        return owned + [(name, text) for name, text in self._unindexed.items() if text in texts]

    def _make_way(self, name: str) -> bool:
        """Remove a lease that can be reclaimed; return whether the address is free now. Raises OSError."""
        if name not in self._inodes:
            return True
        if not self._is_reclaimable(name):
            return False
        # Inode numbers were listed a while ago. Before a lease is reclaimed, the files themselves are compared.
        inode = self._inodes[name]
        if inode in self._index.names and not os.path.samefile(self._path(name), self._index.path_of(inode)):
            return False
        self._delete(name)
        return True

    def _remove(self, names: Iterable[str]) -> None:
        failure = None
        self._start_cooldown(names)
        for name in names:
            try:
                self._delete(name)
            except OSError as error:
                failure = error
        if failure:
            raise failure

    def _delete(self, name: str) -> None:
        # The lease first: an entry without a lease is swept, but a lease without an entry would be adopted.
        delete_file(self._path(name))
        inode = self._inodes.pop(name)
        self._unindexed.pop(name, None)
        if inode in self._index.names:
            with suppress(OSError):  # the next call sweeps it
                self._index.remove(inode)

    def _start_cooldown(self, names: Iterable[str]) -> None:
        # Not for leases that can be reclaimed: nothing has used these addresses since the boot.
        used = [name for name in names if self.state(name) == State.TAKEN] if self._cooldown else ()
        if used:
            from ipam.cooldown import note_released

            with suppress(OSError):  # a full disk must not prevent a release
                note_released(self._hidden, self._boot, self._cooldown, used)

    def _move_pointer(self, range_set: int, name: str) -> None:
        pointer = self._path(f"{_LAST_RESERVED}{range_set}")
        if not rewrite_file(pointer, name.encode()):
            replace_file(pointer, os.path.join(self._hidden, "pointer.new"), name.encode())

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

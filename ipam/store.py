"""Leases on disk, as the reference plugin keeps them, in a folder that both may use at the same time.

    <dataDir>/<network>/lock                 flock: whoever reads or changes anything holds it
    <dataDir>/<network>/10.1.2.7             a lease: `<container id>\\r\\n<ifname>`, or the bare id as of old
    <dataDir>/<network>/last_reserved_ip.0   the address that range set 0 handed out last
    <dataDir>/<network>/.slash24/            ours: see `register` and `cooldown`

A lease appears complete or not at all (`link()` of a finished file, which fails where the reference's O_EXCL would).
One without a readable owner is therefore what a crash or a full disk left of the reference's: it creates first and
writes then, but under the lock, and whoever looks here holds that. Nothing is synced: leases need not outlive a power
loss, as no pod does.

Who leases or releases touches the files that it is about, and no others: what a call costs does not grow with the
number of leases. The folders are read whole where that does not do: after anybody else was there (see `mark`), where
many addresses in a row are taken, and by who asks about all leases.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import filterfalse

from ipam.leases import State
from ipam.listing import Listing, is_address, read_owner
from ipam.mark import is_marked, mark, unmark
from ipam.register import Register, owner_key
from ipam.remembered import recall, remember
from spec.attachment import Attachment
from state.boot import Boot
from state.files import delete_file, make_folders, read_start, replace_file, rewrite_file
from state.lock import locked

HIDDEN = ".slash24"
_LAST_RESERVED = "last_reserved_ip."
_TRIES = 32
"""Addresses to look at one by one, before it costs less to read the folder."""


@dataclass(frozen=True)
class DiskStore:
    """The leases of one network in `folder`. `cooldown` and `patience` (how long to wait for the lock) are seconds.

    `read_boot` tells boot and time; it is asked when the lock is had, so that time never goes back between two holders.
    `likely`: addresses that the owner who releases may have, which saves looking for them.
    """

    folder: str
    read_boot: Callable[[], Boot] = Boot.read
    cooldown: int = 0
    patience: float = 60.0
    likely: tuple[str, ...] = ()

    def exists(self) -> bool:
        """Whether the folder is there: before the first ADD there are no leases."""
        return os.path.isdir(self.folder)

    def create(self) -> None:
        """Make the folder. Raises OSError."""
        make_folders(self.folder, 0o755)

    @contextmanager
    def locked(self, *, writable: bool) -> "Iterator[DiskLeases]":
        """The leases, while the lock is held; if not `writable`, for looking only: nothing on disk changes then.

        Raises CNIError 11 (the lock can not be had), OSError.
        """
        with locked(os.path.join(self.folder, "lock"), self.patience):
            leases = DiskLeases(self)
            if writable:
                leases.tidy()
            yield leases
            if writable:
                leases.settle()


class DiskLeases:
    """`leases.Leases` on disk."""

    def __init__(self, store: DiskStore) -> None:
        self._folder = store.folder
        self._hidden = os.path.join(store.folder, HIDDEN)
        self._boot = store.read_boot()
        self._cooldown = store.cooldown
        self._likely = store.likely
        self._register = Register(self._hidden, self._boot)
        self._is_settled = is_marked(self._folder)
        self._is_read = False
        self._cooling: Collection[str] = ()
        if self._cooldown:
            from ipam.cooldown import read_cooling

            self._cooling = read_cooling(self._hidden, self._boot, self._cooldown)

    @cached_property
    def _all(self) -> Listing:
        """All leases, read when they are first asked for."""
        self._is_read = True
        return Listing(self._folder, self._register)

    def tidy(self) -> None:
        """Register what others wrote, and sweep what a crash left.

        Nothing depends on it: what fails, the next call does.
        """
        if self._is_settled:
            return
        found, failed = self._all, False
        try:
            if not found.is_tidy:
                self._register.sweep(found.inodes.values())
        except OSError:
            failed = True
        for name, owner in list(found.unregistered.items()):
            try:
                if owner:
                    self._register.adopt(self._path(name), found.inodes[name], owner)
                    del found.unregistered[name]
            except OSError:
                failed = True
        self._is_settled = not failed and not found.unregistered and self._register.is_numbered()

    def settle(self) -> None:
        """Mark the folder as one that the next call need not read, if it is."""
        with suppress(OSError):
            if self._is_settled and not is_marked(self._folder):
                mark(self._folder)

    def state(self, address: str) -> str:
        """One of `State`."""
        exists = address in self._all.inodes if self._must_read else self._exists(address)
        if not exists:
            return State.COOLING if address in self._cooling else State.FREE
        return State.RECLAIMABLE if self._all.is_reclaimable(address) else State.TAKEN

    def free(self, addresses: Iterable[str]) -> Iterator[str]:
        """Those of the addresses that are FREE, in their order; asks as few as are taken from the iterator."""
        rest = filterfalse(self._cooling.__contains__, addresses) if self._cooling else iter(addresses)
        if not self._must_read:
            for _, address in zip(range(_TRIES), rest, strict=False):
                if not self._exists(address):
                    yield address
        yield from filterfalse(self._all.inodes.__contains__, rest)

    def held_by(self, owner: Attachment) -> tuple[str, ...]:
        """The addresses leased to the owner in this boot, also those noted under the bare container id."""
        if not self._must_read and all(self._register.find(text) == [] for text in _texts(owner)):
            return ()
        return tuple(name for name, _ in self._owned(owner) if self._all.inodes[name] not in self._all.over)

    def taken(self) -> tuple[str, ...]:
        """All addresses that are leased, whoever has them."""
        return tuple(name for name in self._all.inodes if is_address(name) and not self._all.is_reclaimable(name))

    def last_reserved(self, range_set: int) -> str:
        """What stands in the file for the address that the range set handed out last; "" if there is none."""
        try:
            return read_start(self._path(f"{_LAST_RESERVED}{range_set}"), 64).decode("ascii", "replace").strip()
        except OSError:
            return ""

    def take(self, owner: Attachment, addresses: Sequence[tuple[int, str]]) -> bool:
        """Lease all of (number of the range set, address), or none: False if a file is there that was not before.

        Only who ignores the lock can have put it there. Raises OSError, having given back what it took.
        """
        text = _texts(owner)[0]
        unmark(self._folder)
        with ExitStack() as undo:
            for _, name in addresses:
                if not self._evict(name):
                    return self._lose(name)
                entry = self._register.write(text)
                undo.callback(delete_file, entry)
                try:
                    os.link(entry, self._path(name))
                except FileExistsError:
                    return self._lose(name)
                undo.callback(delete_file, self._path(name))
            for range_set, name in addresses:
                self._move_pointer(range_set, name)
            undo.pop_all()
        remember(self._key(owner), tuple(name for _, name in addresses))
        return True

    def release(self, owner: Attachment) -> tuple[str, ...]:
        """Give back all that the owner holds, or else what its bare container id holds; answers the addresses.

        Raises OSError after having done all that can be done.
        """
        full = _texts(owner)[0]
        found = self._found(full, {*recall(self._key(owner)), *self._likely})
        if found:
            return self._give_back(found)
        owned = self._owned(owner)
        names = [name for name, text in owned if text == full] or [name for name, _ in owned]
        self._remove(names)
        return tuple(names)

    def retain(self, valid: Collection[Attachment]) -> tuple[str, ...]:
        """Give back all but the leases of these attachments, and so what has no owner at all; answers the addresses.

        Raises OSError after having done all that can be done.
        """
        keys = {owner_key(text) for attachment in valid for text in _texts(attachment)}
        stale = []
        for name, inode in self._all.inodes.items():
            if name in self._all.unregistered:
                key = owner_key(self._all.unregistered[name])
            elif inode in self._register:
                key = self._register.key_of(inode)
            else:
                continue
            if key not in keys:
                stale.append(name)
        self._remove(stale)
        return tuple(stale)

    @property
    def _must_read(self) -> bool:
        """Whether only the reading of all leases can tell, or there is one anyway."""
        return self._is_read or not self._is_settled

    def _found(self, owner: bytes, likely: Iterable[str]) -> list[tuple[str, str]]:
        """(address, entry) of all that the owner has, if it is at the likely addresses; empty where that is unsure."""
        if self._must_read or self._cooldown or not likely:
            return []
        at = {}
        for name in filter(is_address, likely):
            with suppress(FileNotFoundError):
                at[os.lstat(self._path(name)).st_ino] = name
        found = [(at.get(status.st_ino, ""), entry) for entry, status in self._register.find(owner) or ()]
        return found if all(name and read_owner(self._path(name)) == owner for name, _ in found) else []

    def _give_back(self, found: list[tuple[str, str]]) -> tuple[str, ...]:
        failure = None
        for name, entry in found:
            try:
                delete_file(self._path(name))
                self._drop(lambda: delete_file(entry))  # noqa: B023  (called at once)
            except OSError as error:
                failure = error
        if failure:
            raise failure
        return tuple(name for name, _ in found)

    def _owned(self, owner: Attachment) -> list[tuple[str, bytes]]:
        """What is leased to the owner or to its bare container id: addresses, and the text of the lease."""
        texts = _texts(owner)
        found = self._all
        inodes = self._register.inodes_of(texts[1])
        names = [name for name, inode in found.inodes.items() if inode in inodes] if inodes else []
        # The register has shortened names, and a lease may be rewritten by hand: the file itself has the last word.
        owned = [(name, text) for name in names if (text := read_owner(self._path(name))) in texts]
        return owned + [(name, text) for name, text in found.unregistered.items() if text in texts]

    def _evict(self, name: str) -> bool:
        """Remove what can be reclaimed at that address, if anything is there; whether it is free now.

        Raises OSError.
        """
        if not self._must_read and not self._exists(name):
            return True
        found = self._all
        if name not in found.inodes:
            return True
        # Reclaiming is the one thing that must never be wrong: numbers were listed, now the files are compared.
        inode = found.inodes[name]
        if not found.is_reclaimable(name):
            return False
        if inode in self._register and not os.path.samefile(self._path(name), self._register.path_of(inode)):
            return False
        self._forget(name)
        return True

    def _lose(self, name: str) -> bool:
        """Remember that somebody else has the address."""
        self._is_settled = False
        self._all.inodes[name] = -1
        return False

    def _remove(self, names: Iterable[str]) -> None:
        failure = None
        self._start_cooldown(names)
        for name in names:
            try:
                self._forget(name)
            except OSError as error:
                failure = error
        if failure:
            raise failure

    def _forget(self, name: str) -> None:
        # The lease first: an entry without a lease is swept, but a lease without an entry would count as seen in this
        # boot.
        inode = self._all.inodes[name]
        delete_file(self._path(name))
        del self._all.inodes[name]
        self._all.unregistered.pop(name, None)
        if inode in self._register:
            self._drop(lambda: self._register.remove(inode))

    def _drop(self, remove: Callable[[], None]) -> None:
        """Remove an entry; the next call sweeps what can not be removed, and the folders of boots that are over."""
        try:
            remove()
            self._is_settled = self._is_settled and not self._register.has_others
        except OSError:
            self._is_settled = False

    def _start_cooldown(self, names: Iterable[str]) -> None:
        # Not for leases that can be reclaimed: those are out of use since the boot, or were never in use.
        used = [name for name in names if self.state(name) == State.TAKEN]
        if used and self._cooldown:
            from ipam.cooldown import note_released

            # A full disk must not keep anybody from releasing.
            with suppress(OSError):
                note_released(self._hidden, self._boot, self._cooldown, used)

    def _move_pointer(self, range_set: int, name: str) -> None:
        pointer = self._path(f"{_LAST_RESERVED}{range_set}")
        if not rewrite_file(pointer, name.encode()):
            replace_file(pointer, os.path.join(self._hidden, "pointer.new"), name.encode())

    def _exists(self, name: str) -> bool:
        return os.path.lexists(self._path(name))

    def _key(self, owner: Attachment) -> tuple[str, ...]:
        return (self._folder, owner.container_id, owner.ifname)

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"


def _texts(owner: Attachment) -> tuple[bytes, bytes]:
    """What a lease file of the owner contains: as it is written today, and as it once was."""
    container_id = os.fsencode(owner.container_id).strip()
    return container_id + b"\r\n" + os.fsencode(owner.ifname), container_id

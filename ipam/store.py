"""Leases on disk, as the reference plugin keeps them, in a folder that both may use at the same time.

    <dataDir>/<network>/lock                 flock: whoever reads or changes anything holds it
    <dataDir>/<network>/10.1.2.7             a lease: `<container id>\\r\\n<ifname>`, or the bare id as of old
    <dataDir>/<network>/last_reserved_ip.0   the address that range set 0 handed out last
    <dataDir>/<network>/.slash24/            ours: see `register` and `cooldown`

A lease appears complete or not at all (`link()` of a finished file, which fails where the reference's O_EXCL would).
One without a readable owner is therefore what a crash or a full disk left of the reference's: it creates first and
writes then, but under the lock, and whoever looks here holds that. Nothing is synced: leases need not outlive a power
loss, as no pod does.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import filterfalse

from ipam.boot import Boot
from ipam.files import delete_file, make_folders, replace_file
from ipam.leases import State
from ipam.lock import locked
from ipam.register import Register, owner_key
from spec.attachment import Attachment

HIDDEN = ".slash24"
_LAST_RESERVED = "last_reserved_ip."
_LONGEST_OWNER = 4096


@dataclass(frozen=True)
class DiskStore:
    """The leases of one network in `folder`. `cooldown` and `patience` (how long to wait for the lock) are seconds.

    `read_boot` tells boot and time; it is asked when the lock is had, so that time never goes back between two holders.
    """

    folder: str
    read_boot: Callable[[], Boot] = Boot.read
    cooldown: int = 0
    patience: float = 60.0

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


class DiskLeases:
    """`leases.Leases` on disk; reads the folders once, when it is made."""

    def __init__(self, store: DiskStore) -> None:
        self._folder = store.folder
        self._hidden = os.path.join(store.folder, HIDDEN)
        self._boot = store.read_boot()
        self._cooldown = store.cooldown
        self._register = Register(self._hidden, self._boot)
        with os.scandir(self._folder) as entries:
            self._inodes = {entry.name: entry.inode() for entry in entries}
        known = self._register.inodes()
        names = [name for name, inode in self._inodes.items() if inode not in known]
        self._tidy = self._register.is_tidy(len(self._inodes) - len(names))
        owners = {name: self._read_unregistered(name) for name in names if is_address(name)}
        self._unregistered = {name: owner for name, owner in owners.items() if owner is not None}
        self._cooling: Collection[str] = ()
        if self._cooldown:
            from ipam.cooldown import read_cooling

            self._cooling = read_cooling(self._hidden, self._boot, self._cooldown)
        self._over = self._register.inodes_over()

    def tidy(self) -> None:
        """Register what others wrote, and sweep what a crash left.

        Nothing depends on it: what fails, the next call does.
        """
        with suppress(OSError):
            if not self._tidy:
                self._register.sweep(self._inodes.values())
        for name, owner in list(self._unregistered.items()):
            with suppress(OSError):
                if owner:
                    self._register.adopt(self._path(name), self._inodes[name], owner)
                    del self._unregistered[name]

    def state(self, address: str) -> str:
        """One of `State`."""
        inode = self._inodes.get(address)
        if inode is None:
            return State.COOLING if address in self._cooling else State.FREE
        reclaimable = inode in self._over or self._unregistered.get(address) == b""
        return State.RECLAIMABLE if reclaimable else State.TAKEN

    def free(self, addresses: Iterable[str]) -> Iterator[str]:
        """Those of the addresses that are FREE, in their order; asks as few as are taken from the iterator."""
        free = filterfalse(self._inodes.__contains__, addresses)
        return filterfalse(self._cooling.__contains__, free) if self._cooling else free

    def held_by(self, owner: Attachment) -> tuple[str, ...]:
        """The addresses leased to the owner in this boot, also those noted under the bare container id."""
        return tuple(name for name, _ in self._owned(owner) if self._inodes[name] not in self._over)

    def taken(self) -> tuple[str, ...]:
        """All addresses that are leased, whoever has them."""
        return tuple(name for name in self._inodes if is_address(name) and self.state(name) == State.TAKEN)

    def last_reserved(self, range_set: int) -> str:
        """What stands in the file for the address that the range set handed out last; "" if there is none."""
        try:
            with open(self._path(f"{_LAST_RESERVED}{range_set}"), encoding="ascii", errors="replace") as file:
                return file.read(64).strip()
        except OSError:
            return ""

    def take(self, owner: Attachment, addresses: Sequence[tuple[int, str]]) -> bool:
        """Lease all of (number of the range set, address), or none: False if a file is there that was not before.

        Only who ignores the lock can have put it there. Raises OSError, having given back what it took.
        """
        text = _texts(owner)[0]
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
        return True

    def release(self, owner: Attachment) -> tuple[str, ...]:
        """Give back all that the owner holds, or else what its bare container id holds; answers the addresses.

        Raises OSError after having done all that can be done.
        """
        owned = self._owned(owner)
        full = _texts(owner)[0]
        names = [name for name, text in owned if text == full] or [name for name, _ in owned]
        self._remove(names)
        return tuple(names)

    def retain(self, valid: Collection[Attachment]) -> tuple[str, ...]:
        """Give back all but the leases of these attachments, and so what has no owner at all; answers the addresses.

        Raises OSError after having done all that can be done.
        """
        keys = {owner_key(text) for attachment in valid for text in _texts(attachment)}
        stale = []
        for name, inode in self._inodes.items():
            if name in self._unregistered:
                key = owner_key(self._unregistered[name])
            elif inode in self._register:
                key = self._register.key_of(inode)
            else:
                continue
            if key not in keys:
                stale.append(name)
        self._remove(stale)
        return tuple(stale)

    def _owned(self, owner: Attachment) -> list[tuple[str, bytes]]:
        """What is leased to the owner or to its bare container id: addresses, and the text of the lease."""
        texts = _texts(owner)
        inodes = self._register.inodes_of(texts[1])
        names = [name for name, inode in self._inodes.items() if inode in inodes] if inodes else []
        # The register has shortened names, and a lease may be rewritten by hand: the file itself has the last word.
        owned = [(name, text) for name in names if (text := self._read(name)) in texts]
        return owned + [(name, text) for name, text in self._unregistered.items() if text in texts]

    def _read_unregistered(self, name: str) -> bytes | None:
        """The owner of a file that anybody may have put there; None if it can not be read, or is no file."""
        try:
            return self._read(name)
        except OSError:
            return None

    def _read(self, name: str) -> bytes:
        """The owner as the file has it; b"" if that can not be one. Raises OSError."""
        # Non-blocking, as a pipe of that name would wait for a writer.
        descriptor = os.open(self._path(name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            text = os.read(descriptor, _LONGEST_OWNER + 1).strip()
        finally:
            os.close(descriptor)
        # Zeros are what a power loss leaves of a file, more than a page was never an owner.
        return b"" if b"\0" in text or len(text) > _LONGEST_OWNER else text

    def _evict(self, name: str) -> bool:
        """Remove what can be reclaimed at that address, if anything is there; whether it is free now.

        Raises OSError.
        """
        if name not in self._inodes:
            return True
        # Reclaiming is the one thing that must never be wrong: numbers were listed, now the files are compared.
        inode = self._inodes[name]
        if self.state(name) != State.RECLAIMABLE:
            return False
        if inode in self._register and not os.path.samefile(self._path(name), self._register.path_of(inode)):
            return False
        self._forget(name)
        return True

    def _lose(self, name: str) -> bool:
        """Remember that somebody else has the address."""
        self._inodes[name] = -1
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
        inode = self._inodes[name]
        delete_file(self._path(name))
        del self._inodes[name]
        self._unregistered.pop(name, None)
        if inode in self._register:
            with suppress(OSError):
                self._register.remove(inode)

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
        replace_file(pointer, os.path.join(self._hidden, "pointer.new"), name.encode())

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)


def is_address(name: str) -> bool:
    """Whether a file name is that of a lease."""
    if name.strip("0123456789abcdefABCDEF.:"):
        return False
    # Imported here: where all leases are registered, no name needs to be looked at that closely.
    from socket import AF_INET, AF_INET6, inet_pton

    try:
        inet_pton(AF_INET6 if ":" in name else AF_INET, name)
    except (OSError, ValueError):
        return False
    return True


def _texts(owner: Attachment) -> tuple[bytes, bytes]:
    """What a lease file of the owner contains: as it is written today, and as it once was."""
    container_id = os.fsencode(owner.container_id).strip()
    return container_id + b"\r\n" + os.fsencode(owner.ifname), container_id

"""The index of a folder of leases: the owner of each lease and the boot it belongs to, without opening the files.

    10.1.2.7                              the lease, as the reference plugin writes and reads it
    .slash24/<node>.<boot id>/<owner>:0   its index entry: a second hard link to the same file

Why hard links. A listing carries inode numbers, so listing the two folders is enough: a lease whose inode is in the
index has that owner. Any other lease is new (written by the reference plugin); it is read once and linked into the
index. As long as the entry exists, its inode cannot be reused, so an entry never refers to a later lease of the same
address. The reference plugin walks hidden folders too: its DEL finds the entry by its content and removes both links.
And the entry is the complete temporary file that `link()` publishes: it costs an ADD nothing, and a crash leaves an
entry without a lease at worst, which the next call sweeps.

Why boots. No pod survives a reboot, even if its DEL never came. We do not use timestamps to find the boot that a lease
belongs to: they are wrong after the clock was set (a node without a battery starts in the past). An entry is in the
folder of the boot in which its lease was *first seen*. If that boot is over, the lease is older than the running boot,
so nothing uses it. A lease that the reference plugin wrote in this boot, before or after the node switched to us, is
first seen in this boot and stays. (So do its leases of earlier boots in which we never ran, until the next boot or GC:
only timestamps could distinguish them from live ones.) The name of the node is part of the folder's name because
machines may share a folder, and another machine's boot is unrelated to its leases.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from errno import ELOOP

from state.boot import Boot
from state.files import delete_file, make_folders, write_file

_LONGEST_KEY = 200
"""Bytes of an owner in a file name. Owners with the same beginning are told apart by the content of the file."""


def owner_key(owner: bytes) -> str:
    """The name of an owner's entries, without the number; `owner` is the content of a lease file."""
    return os.fsdecode(owner.replace(b"\r\n", b":").replace(b"/", b"_")[:_LONGEST_KEY])


class LeaseIndex:
    """The index in the folder `path`, as it was when it was read. To be used while holding the lock of the leases.

    `names`: the name of the entry of each indexed lease, by inode.
    """

    def __init__(self, path: str, boot: Boot) -> None:
        """Raises OSError."""
        self._path, self._boot = path, boot
        self.names: dict[int, str] = {}
        self._labels: dict[int, str] = {}  # the folders of the entries
        self._folders = _subfolders(path)
        self._over = {label for label in self._folders if boot.is_over(label)}
        # This boot comes last: it counts if a lease has entries in several boots.
        for label in sorted(self._folders, key=lambda label: label == boot.label):
            with os.scandir(f"{path}/{label}") as entries:
                found = {entry.inode(): entry.name for entry in entries}
            self.names |= found
            self._labels |= dict.fromkeys(found, label)

    def is_over(self, inode: int) -> bool:
        """Whether the lease is indexed, and of an earlier boot."""
        return self._labels.get(inode) in self._over

    def node_of(self, inode: int) -> str:
        """The name of the node that has indexed the lease, "" if none has."""
        return self._labels.get(inode, "").rpartition(".")[0]

    def path_of(self, inode: int) -> str:
        """The file of an entry."""
        return f"{self._path}/{self._labels[inode]}/{self.names[inode]}"

    def inodes_of(self, container_id: bytes) -> set[int]:
        """The indexed leases of a container, and perhaps of others whose very long id has the same prefix."""
        start = owner_key(container_id) + ":"
        return {inode for inode, name in self.names.items() if name.startswith(start)}

    def write(self, owner: bytes) -> str:
        """Write an entry in the folder of this boot, complete but not a lease yet, and return its path.

        Raises OSError, leaving nothing.
        """
        return self._make(owner, lambda path: _write_whole(path, owner))

    def adopt(self, lease: str, inode: int, owner: bytes) -> None:
        """Add a lease that another program wrote, as first seen in this boot. Raises OSError."""
        path = self._make(owner, lambda path: os.link(lease, path, follow_symlinks=False))
        self.names[inode], self._labels[inode] = os.path.basename(path), self._boot.label

    def remove(self, inode: int) -> None:
        """Remove an entry. Raises OSError."""
        delete_file(self.path_of(inode))
        del self.names[inode], self._labels[inode]

    def sweep(self, leases: Iterable[int]) -> None:
        """Remove the entries without a lease (`leases`: inodes), and empty folders of other boots. Raises OSError."""
        for inode in self.names.keys() - leases:
            self.remove(inode)
        for label in self._folders:
            if label != self._boot.label:
                with suppress(OSError):  # not empty
                    os.rmdir(f"{self._path}/{label}")

    def _make(self, owner: bytes, make: Callable[[str], None]) -> str:
        """Call `make` with the path of a new entry of the owner, and return that path."""
        folder = f"{self._path}/{self._boot.label}"
        number = 0
        while True:
            path = f"{folder}/{owner_key(owner)}:{number}"
            try:
                make(path)
            except FileExistsError:
                number += 1
            except FileNotFoundError:
                make_folders(folder, 0o700)
                make(path)
                return path
            else:
                return path


def _subfolders(path: str) -> list[str]:
    if os.path.islink(path):  # what it points to is not ours to sweep
        raise OSError(ELOOP, "a symbolic link instead of a folder", path)
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _write_whole(path: str, content: bytes) -> None:
    try:
        write_file(path, content)
    except FileExistsError:
        raise
    except OSError:
        delete_file(path)
        raise

"""Our hidden folder beside the leases: who owns which, and in which boot it was seen, known without opening them.

    10.1.2.7                              the lease, as the reference plugin writes and reads it
    .slash24/<node>.<boot id>/<owner>:0   the same file: a second hard link to it

Why hard links. One reading of the two folders tells everything, as a listing carries inode numbers: a lease whose inode
is listed here is this owner's; any other is new to us (the reference plugin wrote it beside us), is read once, and is
then linked here too. While a link is here its inode can not become another file's, so an entry never speaks of a later
lease of the same address. The reference plugin walks hidden folders too: its DEL finds the second link by its content
and removes both. And the entry *is* the complete temporary file that `link()` publishes: it costs an ADD nothing, and a
crash leaves either nothing or an entry without a lease, which the next call sweeps.

Why boots. The pods of an earlier boot are gone, whatever became of their DEL. Which boot a lease is of is asked of no
clock: file times lie once a clock was set (a node without a battery starts in the past, and its first pods with it). An
entry lies in the folder of the boot in which its lease was *first seen*. What was seen in an earlier boot was there
before this one began, so nothing that runs now is using it. What the reference plugin wrote in this boot, before or
after the node came to us, is first seen in this boot, and stays. (So does what it left in boots in which we never ran:
only file times could tell that from live leases. The next boot, or a GC, ends it.) The node's name is there for folders
that machines share: another machine's boot says nothing about its leases.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from errno import ELOOP
from functools import cached_property
from stat import S_ISLNK

from state.boot import Boot
from state.files import delete_file, make_folders, write_file

_LONGEST = 200
"""Bytes of an owner that go into a file name; who shares the beginning is told apart by the content of the file."""


def owner_key(owner: bytes) -> str:
    """The part of an entry's name that stands for an owner; `owner` is the text of a lease file."""
    return os.fsdecode(owner.replace(b"\r\n", b":").replace(b"/", b"_")[:_LONGEST])


class Register:
    """The register at `path`, read when it is first asked. To be used under the lock of the leases."""

    def __init__(self, path: str, boot: Boot) -> None:
        self.path = path
        self._boot = boot
        try:
            # What a link leads to is not ours to sweep.
            if S_ISLNK(os.lstat(path).st_mode):
                raise OSError(ELOOP, "a link, where a folder is to be", path)
            with os.scandir(path) as entries:
                self._labels = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            self._labels = []

    @cached_property
    def _entries(self) -> dict[str, dict[int, str]]:
        """By the boots' labels: inode -> name of the entry. Plain dicts of numbers and text cost least with many."""
        found = {}
        for label in self._labels:
            with os.scandir(os.path.join(self.path, label)) as entries:
                found[label] = {entry.inode(): entry.name for entry in entries}
        return found

    def __contains__(self, inode: int) -> bool:
        return self._find(inode) is not None

    @property
    def has_others(self) -> bool:
        """Whether there are folders of other boots."""
        return any(label != self._boot.label for label in self._labels)

    def key_of(self, inode: int) -> str:
        """`owner_key` of the owner of a registered lease."""
        return self._entries[self._find(inode)][inode].rpartition(":")[0]

    def inodes(self) -> Collection[int]:
        """All that are registered; not to be changed."""
        # Mostly there is one boot's folder, and what is known of it need not be copied.
        first, *more = self._entries.values() or [{}]
        return set(first).union(*more) if more else first

    def is_tidy(self, leases: int) -> bool:
        """Whether there are entries for that many leases only, and every boot's folder has some."""
        return len(self.inodes()) == leases and all(self._entries.values())

    def is_numbered(self) -> bool:
        """Whether every owner's entries are numbered 0, 1, ..., so that `find` finds them all."""
        for entries in self._entries.values():
            parts = [name.rpartition(":") for name in entries.values()]
            counts = Counter(key for key, _, _ in parts)
            if any(not number.isdigit() or int(number) >= counts[key] for key, _, number in parts):
                return False
        return True

    def find(self, owner: bytes) -> list[tuple[str, os.stat_result]] | None:
        """(path, status) of each entry of the owner, by looking for it alone; None for one too long for a name.

        To be relied on where the entries are numbered.
        """
        key = owner_key(owner)
        if len(os.fsencode(key)) >= _LONGEST:
            return None
        found = []
        for label in self._labels:
            number = 0
            with suppress(FileNotFoundError):
                while True:
                    path = f"{self.path}/{label}/{key}:{number}"
                    found.append((path, os.lstat(path)))
                    number += 1
        return found

    def inodes_of(self, container_id: bytes) -> set[int]:
        """The registered leases of a container, and perhaps of others that share the beginning of a very long id."""
        start = owner_key(container_id) + ":"
        entries = self._entries.values()
        return {inode for each in entries for inode, name in each.items() if name.startswith(start)}

    def inodes_over(self) -> set[int]:
        """The leases that were seen in an earlier boot, and not in this one."""
        over = [entries for label, entries in self._entries.items() if self._boot.is_over(label)]
        seen = [entries for label, entries in self._entries.items() if not self._boot.is_over(label)]
        return set().union(*over).difference(*seen)

    def path_of(self, inode: int) -> str:
        """The entry's file."""
        label = self._find(inode)
        return os.path.join(self.path, label, self._entries[label][inode])

    def write(self, owner: bytes) -> str:
        """Make an entry in the folder of this boot, complete and not yet a lease; answers its path.

        Raises OSError, leaving nothing.
        """
        return self._unused(owner, lambda path: _write_whole(path, owner))

    def adopt(self, lease: str, inode: int, owner: bytes) -> None:
        """Register a lease that somebody else wrote, as seen in this boot. Raises OSError."""
        path = self._unused(owner, lambda path: os.link(lease, path, follow_symlinks=False))
        self._entries.setdefault(self._boot.label, {})[inode] = os.path.basename(path)

    def remove(self, inode: int) -> None:
        """Forget a lease. Raises OSError."""
        path = self.path_of(inode)
        del self._entries[self._find(inode)][inode]
        os.unlink(path)

    def sweep(self, leases: Collection[int]) -> None:
        """Remove the entries that no lease belongs to, and the emptied folders of other boots. Raises OSError."""
        for inode in set(self.inodes()).difference(leases):
            self.remove(inode)
        for label in [label for label, entries in self._entries.items() if not entries and label != self._boot.label]:
            os.rmdir(os.path.join(self.path, label))

    def _find(self, inode: int) -> str | None:
        """The label of the boot whose folder has the lease."""
        return next((label for label, entries in self._entries.items() if inode in entries), None)

    def _unused(self, owner: bytes, make: Callable[[str], None]) -> str:
        """The first entry of the owner that `make` can make."""
        folder = os.path.join(self.path, self._boot.label)
        number = 0
        while True:
            path = os.path.join(folder, f"{owner_key(owner)}:{number}")
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


def _write_whole(path: str, content: bytes) -> None:
    try:
        write_file(path, content)
    except FileExistsError:
        raise
    except OSError:
        delete_file(path)
        raise

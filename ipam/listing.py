"""A folder of leases, read whole: one look at it and at the register, however many leases there are."""

import os
from contextlib import suppress

from ipam.register import Register
from state.files import read_start

_LONGEST_OWNER = 4096


class Listing:
    """The files of a folder by name, with their inodes, and what the register says of them.

    `unregistered`: leases that the register does not have, and their owner (b"": none that could be one).
    """

    def __init__(self, folder: str, register: Register) -> None:
        """Raises OSError."""
        with os.scandir(folder) as entries:
            self.inodes = {entry.name: entry.inode() for entry in entries}
        known = register.inodes()
        names = [name for name, inode in self.inodes.items() if inode not in known]
        self.is_tidy = register.is_tidy(len(self.inodes) - len(names))
        self.unregistered: dict[str, bytes] = {}
        for name in filter(is_address, names):
            with suppress(OSError):  # no file, or one that can not be read
                self.unregistered[name] = read_owner(f"{folder}/{name}")
        self.over = register.inodes_over()

    def is_reclaimable(self, name: str) -> bool:
        """Whether nobody can be using what is there: a lease of an earlier boot, or one without an owner."""
        return self.inodes.get(name) in self.over or self.unregistered.get(name) == b""


def read_owner(path: str) -> bytes:
    """The owner as a lease's file has it; b"" if that can not be one. Raises OSError."""
    text = read_start(path, _LONGEST_OWNER + 1).strip()
    # Zeros are what a power loss leaves of a file, more than a page was never an owner.
    return b"" if b"\0" in text or len(text) > _LONGEST_OWNER else text


def is_address(name: str) -> bool:
    """Whether a file name is that of a lease."""
    if name.strip("0123456789abcdefABCDEF.:"):
        return False
    # Imported here: where all leases are registered, no name needs to be looked at that closely.
    from spec.addresses import pack

    try:
        pack(name)
    except ValueError:
        return False
    return True

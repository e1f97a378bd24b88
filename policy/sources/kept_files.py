"""Copies of the files of documents that were right, so that what is in force outlives the daemon.

A file that is wrong keeps its last content, also if the daemon starts again meanwhile; not after a boot.
"""

import os
from collections.abc import Collection
from contextlib import suppress

from plugins.daemon import FOLDER
from state.files import delete_file, make_folders, read_file, replace_file

KEPT = os.path.join(FOLDER, "documents")


class KeptFiles:
    """The copies in a folder, under the names of the files; "" for none at all."""

    def __init__(self, folder: str = "") -> None:
        """No I/O."""
        self._folder = folder

    def read(self, name: str, most: int) -> bytes | None:
        """The copy of a file of at most `most` bytes, None if there is none."""
        with suppress(OSError):
            if self._folder:
                return read_file(os.path.join(self._folder, name), most)
        return None

    def write(self, name: str, data: bytes) -> None:
        """Copy a file. A full disk is no failure: the file itself is there."""
        with suppress(OSError):
            if self._folder and self.read(name, len(data)) != data:
                make_folders(self._folder, 0o700)
                replace_file(os.path.join(self._folder, name), os.path.join(self._folder, ".new"), data)

    def keep(self, names: Collection[str]) -> None:
        """Delete the copies of all other files."""
        with suppress(OSError):
            for name in os.listdir(self._folder) if self._folder else ():
                if name not in names:
                    delete_file(os.path.join(self._folder, name))

"""Learning that files in a folder change: inotify(7)."""

import os
import struct
from ctypes import CDLL, get_errno

# linux/inotify.h
CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x8, 0x40, 0x80, 0x100, 0x200
DELETE_SELF, MOVE_SELF = 0x400, 0x800
_UNMOUNT, _OVERFLOW, _IGNORED, _ONLY_FOLDERS = 0x2000, 0x4000, 0x8000, 0x1000000
_GONE = DELETE_SELF | MOVE_SELF | _UNMOUNT | _OVERFLOW | _IGNORED
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name
_BUFFER = 1 << 16

_libc = CDLL(None, use_errno=True)


class FolderWatch:
    """Notices of files that are written, created, renamed and deleted in a folder."""

    def __init__(self, path: str) -> None:
        """Raises OSError, also if the kernel's limits of watches are reached."""
        self.fd = _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), path)
        mask = CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF | _ONLY_FOLDERS
        try:
            _check(_libc.inotify_add_watch(self.fd, os.fsencode(path), mask), path)
        except OSError:
            self.close()
            raise

    def events(self) -> dict[str, int] | None:
        """The names of files that have changed since the last call, each with the bit of its last event.

        None: any file may have changed. Never blocks.
        """
        found: dict[str, int] = {}
        while True:
            try:
                data = os.read(self.fd, _BUFFER)
            except BlockingIOError:
                return found
            at = 0
            while at < len(data):
                _, mask, _, length = _EVENT.unpack_from(data, at)
                if mask & _GONE:
                    return None
                at += _EVENT.size
                found[os.fsdecode(data[at : at + length].rstrip(b"\0"))] = mask
                at += length

    def close(self) -> None:
        """End the notices."""
        os.close(self.fd)


def _check(result: int, path: str) -> int:
    if result < 0:
        number = get_errno()
        raise OSError(number, os.strerror(number), path)
    return result

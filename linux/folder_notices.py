"""Waiting for changes of a folder: by inotify, and by looking again and again, since others may write to a share."""

import os
import select
import time
from collections.abc import Collection
from contextlib import suppress

from linux.inotify import CREATE, DELETE, MOVED_FROM, FolderWatch

WHOLE = 60.0
"""Seconds between two looks at all files, if the folder's time says that none is new."""
WRITING = {CREATE: 1.0, DELETE: 0.1, MOVED_FROM: 0.1}
"""Seconds after these events until a file is looked at, if there is no other event of it before.

One that was created is mostly still being written, until it is closed; but it may be a link. One that is gone is
mostly created again.
"""


class FolderNotices:
    """Waits for changes of a folder, by inotify if the kernel has watches left, and until it has to be read again."""

    def __init__(self, path: str, seconds: float, wake: int) -> None:
        """`seconds`: between two looks at the folder; `wake`: a descriptor that ends every wait."""
        self._path = path
        self._seconds = seconds
        self._wake = wake
        self._next, self._whole = 0.0, 0.0  # when to look at the folder; at all its files
        self._seen: tuple[int, ...] = ()  # the folder's identity and time at the last look at all its files
        self._watch: FolderWatch | None = None
        self._watched: tuple[int, int] = (0, 0)  # device and inode
        self._later: dict[str, float] = {}  # names, and when to look at them

    def __enter__(self) -> "FolderNotices":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def renew(self) -> None:
        """Before a look at the whole folder: watch it, if it is not the one that was watched. Raises OSError."""
        now, status = time.monotonic(), os.stat(self._path)
        self._next, self._whole = now + self._seconds, now + max(self._seconds, WHOLE)
        self._seen = _mark(status)
        if self._watch is None or (status.st_dev, status.st_ino) != self._watched:
            self.end()
            with suppress(OSError):  # too many watches; then only the looks find changes
                self._watch = FolderWatch(self._path)
                self._watched = (status.st_dev, status.st_ino)

    def wait(self, seconds: float | None, due: Collection[str] = ()) -> set[str] | None:
        """The names of the files to look at, None for the whole folder; `due`: those after `seconds` (None: never)."""
        now = time.monotonic()
        limits = [self._next - now, *(at - now for at in self._later.values())]
        limits += [] if seconds is None else [seconds]
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._watch:
            poll.register(self._watch.fd, select.POLLIN)
        ready = poll.poll(1000 * max(min(limits), 0) + 1)
        now = time.monotonic()
        if now >= self._next:
            if not self._is_as_seen():
                return None
            self._next = now + self._seconds
        events = self._watch.events() if self._watch and ready else {}
        if events is None:
            return None
        for name, mask in events.items():
            if mask in WRITING:
                self._later[name] = now + WRITING[mask]
            else:
                self._later.pop(name, None)
        late = {name for name, at in self._later.items() if now >= at}
        for name in late:
            del self._later[name]
        return {name for name in (*events, *due) if name not in self._later} | late

    def end(self) -> None:
        """Watch no longer; `renew` begins again."""
        self._later.clear()
        if self._watch:
            self._watch.close()
            self._watch = None

    def _is_as_seen(self) -> bool:
        """Whether no file was added, replaced by renaming, or deleted since all were looked at, not long ago."""
        try:
            return time.monotonic() < self._whole and _mark(os.stat(self._path)) == self._seen
        except OSError:
            return False


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_mtime_ns

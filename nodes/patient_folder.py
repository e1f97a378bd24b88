"""A folder of files that anybody may write, by any means: what changed in it since the last look.

A file that is half written, or gone for a moment while a program replaces it, keeps its last content; only after a
while it is told that it is wrong, or counts as deleted.
"""

import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

PATIENCE = 2.0
"""Seconds until a file that is wrong is told, and one that is gone counts as deleted."""

Signature = tuple[int, ...]
Content = TypeVar("Content")


@dataclass(frozen=True)
class Reading(Generic[Content]):
    """What a file says: its `content`, None if it has none; `problem`: what is wrong with it, "" if nothing is.

    `is_doubtful`: nothing is wrong, but it counts only if it still says so after a while.
    """

    content: Content | None
    problem: str = ""
    is_doubtful: bool = False


@dataclass(frozen=True)
class _File(Generic[Content]):
    """What is known of a file: `reading` was passed on last, if anything was.

    `signature` () if it is gone. `until`: when what is wrong with it has to be told, 0 if nothing is.
    """

    reading: Reading[Content] | None
    signature: Signature
    until: float = 0.0


class PatientFolder(Generic[Content]):
    """The files of a folder, by name, as they were passed on last.

    `is_ours`: whether a name is that of a file to be read; of those `most` are. `read` is given a name and the last
    content, and may raise OSError and ValueError: then the last content stays. `settling`: seconds; at looks at the
    whole folder, a file that has been changed more recently is left for later, as it may be half written.
    """

    def __init__(
        self,
        path: str,
        is_ours: Callable[[str], bool],
        read: Callable[[str, Content | None], Reading[Content]],
        *,
        most: int,
        patience: float = PATIENCE,
        settling: float = 0.0,
    ) -> None:
        self._path, self._is_ours, self._read_file = path, is_ours, read
        self._most, self._patience, self._settling = most, patience, settling
        self._files: dict[str, _File[Content]] = {}
        self._until: dict[str, float] = {}  # of the files that have one

    @property
    def readings(self) -> dict[str, Reading[Content]]:
        """All that was passed on."""
        return {name: file.reading for name, file in self._files.items() if file.reading}

    @property
    def names(self) -> set[str]:
        """The names of all files that are known, also of those of which nothing was passed on yet."""
        return {*self._files, *self._until}

    def waiting(self, now: float) -> tuple[list[str], float | None]:
        """The names that are to be looked at again, and in how many seconds; None if there are none."""
        return list(self._until), max(0.0, min(self._until.values()) - now) if self._until else None

    def look(self, now: float, names: Collection[str] | None = None) -> tuple[list[str], list[str]]:
        """The names of files that are new or were written, if only with the same content, and of those that are gone.

        All since the last look: that sees the same content too if another was there for a moment.

        `now`: seconds of a steady clock. `names`: look at these only. Raises OSError if the folder cannot be read.
        """
        if names is None:
            present = dict(list_names(self._path, self._is_ours, self._files, self._most))
            names = [name for name in {**present, **self._files} if not self._is_unsettled(name, present, now)]
        else:
            names = [name for name in names if self._is_ours(name)]
            present = {name: mark for name in names if (mark := signature(self._path, name)) is not None}
        changed, removed = [], []
        for name in names:
            before = self._files.get(name) or _File(None, ())
            after = self._update(name, before, present.get(name, ()), now)
            if after and after.until:
                self._until[name] = after.until
            else:
                self._until.pop(name, None)
            if after is None:
                self._files.pop(name, None)
                if before.reading:
                    removed.append(name)
            else:
                self._files[name] = after
                if after.reading and after != before and not after.until:
                    changed.append(name)
        return changed, removed

    def _is_unsettled(self, name: str, present: dict[str, Signature], now: float) -> bool:
        mark, known = present.get(name), self._files.get(name)
        if not mark or not self._settling or (known and known.signature == mark):
            return False
        is_recent = abs(time.time() - mark[MODIFIED] / 1e9) < self._settling
        if is_recent:
            self._until.setdefault(name, now + self._settling)
        return is_recent

    def _update(self, name: str, file: _File[Content], mark: Signature, now: float) -> _File[Content] | None:
        """What is known of a file after a look at it; None: it is gone."""
        is_due = bool(file.until) and now >= file.until
        if mark == file.signature and not is_due:
            return file
        if not mark:
            return None if is_due or not file.reading else self._wrong(file, mark, now)
        last = file.reading.content if file.reading else None
        try:
            reading = self._read_file(name, last)
        except FileNotFoundError:
            return self._update(name, file, (), now)
        except (OSError, ValueError) as error:
            reading = Reading(last, str(error.strerror if isinstance(error, OSError) else error))
        if (reading.problem or reading.is_doubtful) and not is_due:
            return self._wrong(file, mark, now)
        return _File(reading, mark)

    def _wrong(self, file: _File[Content], mark: Signature, now: float) -> _File[Content]:
        return replace(file, signature=mark, until=file.until or now + self._patience)


def list_names(
    path: str, is_ours: Callable[[str], bool], known: Collection[str], most: int
) -> Iterator[tuple[str, Signature]]:
    """The name and signature of each file that is ours, of at most `most` that are not `known`. Raises OSError."""
    left = most - len(known)
    with os.scandir(path) as found:
        for each in found:
            name = each.name
            if is_ours(name) and (left > 0 or name in known) and (mark := signature(path, name)) is not None:
                left -= name not in known
                yield name, mark


MODIFIED = 4
"""Where a signature has the time of the last change, in nanoseconds."""


def signature(path: str, name: str) -> Signature | None:
    """Changes whenever the file does; None if there is no such name. A link that leads nowhere has one."""
    where = os.path.join(path, name)
    error = 0
    try:
        status = os.stat(where)
    except OSError as failure:
        error = failure.errno
        try:
            status = os.lstat(where)
        except FileNotFoundError:
            return None
    return error, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

"""A folder of records, NAME.json each: what changed since the last look at it.

Anybody may write there, by any means: a file that is half written, or gone for a moment while a program replaces it,
must not take a node out of the network.
"""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from nodes.records import from_text
from nodes.registry import Entry
from plugins.node.records import Node
from spec.identifiers import is_identifier
from state.files import read_file

SUFFIX = ".json"
MOST = 10_000
"""Files that are read at most."""
PATIENCE = 2.0
"""Seconds until a file that is wrong is told, and one that is gone counts as deleted."""
_LARGEST = 1 << 14  # bytes of a file

Signature = tuple[int, ...]


@dataclass(frozen=True)
class _File:
    """What is known of a file: `entry` was passed on last, if anything was.

    `signature` () if it is gone. `until`: when what is wrong with it has to be told, 0 if nothing is.
    """

    entry: Entry | None
    signature: Signature
    problem: str = ""
    until: float = 0.0


class Folder:
    """The records of a folder, as they were passed on last."""

    def __init__(self, path: str, patience: float = PATIENCE) -> None:
        self._path = path
        self._patience = patience
        self._files: dict[str, _File] = {}
        self._until: dict[str, float] = {}  # of the files that have one

    @property
    def entries(self) -> list[Entry]:
        """All that was passed on."""
        return [file.entry for file in self._files.values() if file.entry]

    def waiting(self, now: float) -> tuple[list[str], float | None]:
        """The keys that are to be looked at again, and in how many seconds; None if there are none."""
        return list(self._until), max(0.0, min(self._until.values()) - now) if self._until else None

    def look(self, now: float, keys: Collection[str] | None = None) -> tuple[list[Entry], list[str]]:
        """What is new or has changed, and the keys of what has been deleted, since the last look.

        `now`: seconds of a steady clock. `keys`: look at these only. Raises OSError if the folder cannot be read.
        """
        if keys is None:
            present = dict(list_files(self._path, self._files))
            keys = {**present, **self._files}
        else:
            present = {key: signature for key in keys if (signature := _signature(self._path, key)) is not None}
        changed, removed = [], []
        for key in keys:
            before = self._files.get(key) or _File(None, ())
            after = self._update(key, before, present.get(key, ()), now)
            if after and after.until:
                self._until[key] = after.until
            else:
                self._until.pop(key, None)
            if after is None:
                self._files.pop(key, None)
                if before.entry:
                    removed.append(key)
            else:
                self._files[key] = after
                if after.entry and after.entry != before.entry:
                    changed.append(after.entry)
        return changed, removed

    def _update(self, key: str, file: _File, signature: Signature, now: float) -> _File | None:
        """What is known of a file after a look at it; None: it is gone."""
        is_due = bool(file.until) and now >= file.until
        if signature == file.signature and not is_due:
            return file
        if not signature:
            return None if is_due or not file.entry else self._wrong(file, signature, "it is gone", now)
        try:
            return _File(Entry(key, read_record(self._path, key)), signature)
        except FileNotFoundError:
            return self._update(key, file, (), now)
        except (OSError, ValueError) as error:
            problem = error.strerror if isinstance(error, OSError) else str(error)
        if not is_due:
            return self._wrong(file, signature, str(problem), now)
        return _File(_explained(key, file.entry, str(problem)), signature, str(problem))

    def _wrong(self, file: _File, signature: Signature, problem: str, now: float) -> _File:
        return replace(file, signature=signature, problem=problem, until=file.until or now + self._patience)


def _explained(key: str, last: Entry | None, problem: str) -> Entry:
    """The entry of a file that is wrong: with its last record, if it ever had one."""
    node = last.node if last else None
    return Entry(key, node, f"{key}{SUFFIX}: {problem}{'; its last content stays in use' if node else ''}")


def list_files(path: str, known: Collection[str] = ()) -> Iterator[tuple[str, Signature]]:
    """The key and signature of each record's file, of at most MOST that are not `known`. Raises OSError."""
    left = MOST - len(known)
    with os.scandir(path) as found:
        for each in found:
            key = key_of(each.name)
            if key and (left > 0 or key in known) and (signature := _signature(path, key)) is not None:
                left -= key not in known
                yield key, signature


def key_of(name: str) -> str:
    """The key of a file's name, "" if it is not a record's: temporary files and others."""
    key = name.removesuffix(SUFFIX)
    return key if key != name and is_identifier(key) else ""


def read_record(path: str, key: str) -> Node:
    """The record of a node. Raises OSError, ValueError."""
    node = from_text(read_file(os.path.join(path, key + SUFFIX), _LARGEST))
    if not node.name:
        return replace(node, name=key)
    if node.name != key:
        raise ValueError(f'expected the record of "{key}", as the file is named, got "{node.name}"')
    return node


def _signature(path: str, key: str) -> Signature | None:
    """Changes whenever the file does; None if there is no such name. A link that leads nowhere has one."""
    name = os.path.join(path, key + SUFFIX)
    error = 0
    try:
        status = os.stat(name)
    except OSError as failure:
        error = failure.errno
        try:
            status = os.lstat(name)
        except FileNotFoundError:
            return None
    return error, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

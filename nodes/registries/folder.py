"""A folder of records, NAME.json each: what changed since the last look at it.

Anybody may write there, by any means: a file that is half written, or gone for a moment while a program replaces it,
must not take a node out of the network.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from nodes.patient_folder import PATIENCE, PatientFolder, Reading, Signature, list_names
from nodes.records import from_text
from nodes.registry import Entry
from plugins.node.records import Node
from spec.identifiers import is_identifier
from state.files import read_file

SUFFIX = ".json"
MOST = 10_000
"""Files that are read at most."""
_LARGEST = 1 << 14  # bytes of a file


class Folder:
    """The records of a folder, as they were passed on last."""

    def __init__(self, path: str, patience: float = PATIENCE) -> None:
        self._path = path
        self._files: PatientFolder[Node] = PatientFolder(
            path, lambda name: bool(key_of(name)), self._read, most=MOST, patience=patience
        )

    @property
    def entries(self) -> list[Entry]:
        """All that was passed on."""
        return [_entry(name, reading) for name, reading in self._files.readings.items()]

    def waiting(self, now: float) -> tuple[list[str], float | None]:
        """The keys that are to be looked at again, and in how many seconds; None if there are none."""
        names, delay = self._files.waiting(now)
        return [key_of(name) for name in names], delay

    def look(self, now: float, keys: Collection[str] | None = None) -> tuple[list[Entry], list[str]]:
        """What is new or has changed, and the keys of what has been deleted, since the last look.

        `now`: seconds of a steady clock. `keys`: look at these only. Raises OSError if the folder cannot be read.
        """
        changed, removed = self._files.look(now, None if keys is None else [name_of(key) for key in keys])
        readings = self._files.readings if changed else {}
        return [_entry(name, readings[name]) for name in changed], [key_of(name) for name in removed]

    def _read(self, name: str, _last: Node | None) -> Reading[Node]:
        return Reading(read_record(self._path, key_of(name)))


def _entry(name: str, reading: Reading[Node]) -> Entry:
    """The entry of a file; one that is wrong has its last record, if it ever had one."""
    problem = reading.problem and f"{name}: {reading.problem}"
    if problem and reading.content:
        problem += "; its last content stays in use"
    return Entry(key_of(name), reading.content, problem)


def list_files(path: str, known: Iterable[str] = ()) -> Iterator[tuple[str, Signature]]:
    """The key and signature of each record's file, of at most MOST that are not `known`. Raises OSError."""
    found = list_names(path, lambda name: bool(key_of(name)), {name_of(key) for key in known}, MOST)
    return ((key_of(name), mark) for name, mark in found)


def key_of(name: str) -> str:
    """The key of a file's name, "" if it is not a record's: temporary files and others."""
    key = name.removesuffix(SUFFIX)
    return key if key != name and is_identifier(key) else ""


def name_of(key: str) -> str:
    """The name of the file of a record."""
    return key + SUFFIX


def read_record(path: str, key: str) -> Node:
    """The record of a node. Raises OSError, ValueError."""
    node = from_text(read_file(os.path.join(path, key + SUFFIX), _LARGEST))
    if not node.name:
        return replace(node, name=key)
    if node.name != key:
        raise ValueError(f'expected the record of "{key}", as the file is named, got "{node.name}"')
    return node

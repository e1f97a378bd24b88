"""The source in a folder: files of YAML and JSON documents, for nodes without Kubernetes.

What is wrong never takes a policy away: a document that is wrong keeps its last content, and so does a whole file that
cannot be read. An object that two files have is that of the file whose name is first.
"""

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from errno import ENODEV

from linux.folder_notices import FolderNotices
from nodes.patient_folder import PATIENCE, PatientFolder, Reading
from policy.document_files import LARGEST, is_document_file, parse
from policy.documents import Document, Identity, read_all
from policy.sources.kept_files import KeptFiles
from policy.sources.sink import ClusterObject, Sink
from state.files import read_file

MOST = 10_000
"""Files that are read at most."""
_POLL = 10.0  # seconds between two looks at the folder, which may be a share
_MISSING = 1.0  # seconds between two looks for a folder that is not there
_RETRY = 5.0  # seconds until a folder that could not be read is read again
_SETTLING = 0.2
_UNMOUNTED = "it is empty, and on another file system than before; mount the share again"
_LAST = "its last content stays in force"
_TOLD = 20  # wrong documents of a file that are told


@dataclass(frozen=True)
class _Numbered:
    """A document of a file, with its number. `is_right`: its item is what a document without problems has said."""

    number: int
    document: Document
    is_right: bool


_Content = tuple[_Numbered, ...]


class FolderSource:
    """See `sink.Source`. `path`: of the folder, which may not exist yet; that is the same as an empty one."""

    def __init__(self, path: str, *, kept: str = "", poll: float = _POLL, patience: float = PATIENCE) -> None:
        """No I/O. `kept`: a folder for copies of files, so that what is in force outlives this process; "" for none.

        `poll`: seconds between two looks at the folder. `patience`: seconds until something wrong counts.
        """
        self._path, self._poll, self._patience = path, poll, patience
        self._kept = KeptFiles(kept)
        self._files: PatientFolder[_Content] = PatientFolder(
            path, is_document_file, self._read, most=MOST, patience=patience, settling=_SETTLING
        )
        self._device = 0  # of the folder, when it was last read
        self._passed: dict[Identity, ClusterObject] = {}
        self._told: dict[str, str] = {}
        self._is_first = True
        self._closed = threading.Event()
        self._wake = -1  # an eventfd while `run` runs, protected by the lock
        self._lock = threading.Lock()

    def run(self, sink: Sink) -> None:
        """As in Source."""
        names: set[str] | None = None
        is_due = True  # to be passed: after a mistake of the sink, too
        deadline = 0.0  # of the first list, which waits for files that are being written
        with self._waking() as wake, FolderNotices(self._path, self._poll, wake) as notices:
            while not self._closed.is_set():
                now = time.monotonic()
                try:
                    is_there = names is not None or self._renew(notices)
                    has_changed = self._look(now, names, is_there=is_there)
                except OSError as error:
                    sink.lost(f'the folder "{self._path}" cannot be read: {error.strerror}')
                    self._closed.wait(_RETRY)
                    names = None
                    continue
                deadline = deadline or now + self._patience
                due, delay = self._files.waiting(now)
                is_due = is_due or has_changed
                if not self._is_first or not due or now >= deadline:
                    self._pass(sink, has_changed=is_due)
                    is_due = False
                if is_there:
                    names = notices.wait(delay, due)
                    names = None if names and any(name.startswith("..") for name in names) else names
                else:
                    self._closed.wait(min(_MISSING, self._poll, _MISSING if delay is None else delay))

    def close(self) -> None:
        """As in Source."""
        self._closed.set()
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    @contextmanager
    def _waking(self) -> Iterator[int]:
        """A descriptor that becomes readable when the source is closed."""
        wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        with self._lock:
            self._wake = wake
        try:
            yield wake
        finally:
            with self._lock:
                self._wake = -1
            os.close(wake)

    def _renew(self, notices: FolderNotices) -> bool:
        """Before a look at the whole folder: watch it; returns whether there is one. Raises OSError."""
        try:
            notices.renew()
            device = os.stat(self._path).st_dev
            if self._device not in (0, device) and not any(map(is_document_file, os.listdir(self._path))):
                raise OSError(ENODEV, _UNMOUNTED)
        except FileNotFoundError:
            notices.end()
            return False
        self._device = device
        return True

    def _look(self, now: float, names: set[str] | None, *, is_there: bool) -> bool:
        """Look at all files (None) or some; returns whether anything has changed. Raises OSError."""
        if not is_there:
            names = set(self._files.readings).union(self._files.waiting(now)[0])  # which are all gone
        try:
            return any(self._files.look(now, names))
        except FileNotFoundError:
            return self._look(now, None, is_there=False)

    def _read(self, name: str, last: _Content | None) -> Reading[_Content]:
        """What is in force of a file. Raises OSError, ValueError: it cannot be read."""
        try:
            data = read_file(os.path.join(self._path, name), LARGEST)
            values = parse(name, data)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            before = self._last(name, last)
            if before is None:
                raise
            return Reading(before, str(error.strerror if isinstance(error, OSError) else error))
        reading = _reading(values, ())
        if reading.problem:
            return _reading(values, self._last(name, last) or ())
        if last and not reading.content:  # somebody begins to write it anew
            return replace(reading, is_doubtful=True)
        self._kept.write(name, data)
        return reading

    def _last(self, name: str, last: _Content | None) -> _Content | None:
        """What a file said before, if need be before this process was started; None if that is not known."""
        data = self._kept.read(name, LARGEST) if last is None else None
        if data is None:
            return last
        with suppress(ValueError):
            return _reading(parse(name, data), ()).content
        return None

    def _pass(self, sink: Sink, *, has_changed: bool) -> None:
        """Pass on what has changed."""
        if not has_changed and not self._is_first:
            sink.alive()
            return
        objects, problems = merge(self._files.readings)
        before = self._passed
        if self._is_first:
            sink.replace(objects.values())
            self._is_first = False
        else:
            for identity in [identity for identity in before if identity not in objects]:
                sink.remove(*identity)
            for identity, item in objects.items():
                if identity not in before or before[identity] != item:
                    sink.put(item)
        self._passed = objects
        self._kept.keep(self._files.names)
        for key in {**self._told, **problems}:
            if self._told.get(key) != problems.get(key):
                sink.wrong(key, problems.get(key))
        self._told = problems
        sink.alive()


def _reading(values: Iterable[tuple[int, object]], last: _Content) -> Reading[_Content]:
    """What is in force of the numbered documents of a file that said `last` before."""
    right = {each.document.identity: each for each in last if each.is_right}
    found = [_numbered(number, each, right) for number, value in values for each in read_all(value)]
    wrong = [each.document for each in found if each.document.problem]
    if any(document.identity is None for document in wrong):  # which may be any of those that are missing
        there = {each.document.identity for each in found}
        found += [each for identity, each in right.items() if identity not in there]
    return Reading(tuple(found), wrong[0].problem if wrong else "")


def merge(readings: Mapping[str, Reading[_Content]]) -> tuple[dict[Identity, ClusterObject], dict[str, str]]:
    """The objects of files by name, and what is wrong, by file or by file and document."""
    objects: dict[Identity, ClusterObject] = {}
    problems: dict[str, str] = {}
    holders: dict[Identity, str] = {}
    for name in sorted(readings):
        reading, wrong = readings[name], 0
        shown = name if name.isprintable() else ascii(name)[1:-1]
        if reading.problem and not any(each.document.problem for each in reading.content or ()):
            problems[shown] = f"{shown}: {reading.problem}{f'; {_LAST}' if reading.content else ''}"
        for each in reading.content or ():
            document, where = each.document, f"{shown}, document {each.number}"
            problem = document.problem
            if document.identity in holders and (document.item or problem):
                problem = f"{_called(document.identity)} is in {holders[document.identity]} too, and that one counts"
            elif document.item and document.identity:
                holders[document.identity] = where
                objects[document.identity] = document.item
            if problem and wrong < _TOLD:
                wrong += 1
                key = f"{where}, {_called(document.identity)}" if document.identity else where
                problems[key] = f"{key}: {problem}"
    return objects, problems


def _numbered(number: int, document: Document, right: Mapping[Identity | None, _Numbered]) -> _Numbered:
    """A document with its number; one that is wrong has what its file said before, if that was right."""
    last = right.get(document.identity) if document.problem and document.identity else None
    if not last:
        return _Numbered(number, document, is_right=bool(document.item and not document.problem))
    kept = replace(document, item=last.document.item, problem=f"{document.problem}; {_LAST}")
    return _Numbered(number, kept, is_right=True)


def _called(identity: Identity) -> str:
    kind, namespace, name = identity
    return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"

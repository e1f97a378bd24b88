"""The registry "file:///folder": a folder of JSON files, one per node; a share, or filled by configuration management.

Changes are learnt by inotify, which reports what this machine does, and by looking at the folder again and again, since
other machines may have written to a share.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from errno import EBADF, ENODEV, ENOLCK, ENOSYS, EOPNOTSUPP
from fcntl import LOCK_EX, LOCK_NB, flock
from threading import Event, Lock

from linux.folder_notices import FolderNotices
from nodes.records import KEYS, to_value
from nodes.registries.folder import SUFFIX, Folder, key_of, list_files, name_of, read_record
from nodes.registry import Entry, Grant, Readiness, RegistryError, Sink, Wish
from nodes.subnets import choose
from plugins.node.records import Node, check_subnets
from spec import jsontext
from spec.addresses import is_ipv6, parse_cidr
from spec.config import Section, wrong_value
from state.files import delete_file, make_folders, read_file, replace_file

_LOCK = ".lock"
_LOCK_SECONDS = 30.0
_NO_LOCKS = (EBADF, ENOLCK, ENOSYS, EOPNOTSUPP)  # of file systems without flock(2)
_SETTLING = 2.0  # seconds until another node's file is visible on a share without locks
_ATTEMPTS = 20  # to find a subnet that no other node has chosen at the same time
_RETRY = 5.0  # seconds until a folder that could not be read is read again
_LOCK_PAUSE = 0.02
_BEGINNING = 0.05  # seconds
_UNMOUNTED = "it is empty, and on another file system than before; mount the share again"
_EMPTY = (
    f"is empty, though this node has had a subnet since its boot; mount the share, or make {_LOCK} there to begin anew"
)
_KNOWN = {key.lower() for key in KEYS}


class FileRegistry:
    """See `nodes.registry.Registry`. Options: `poll` (seconds), `publish` (false: others write all records)."""

    def __init__(self, url: str, node: str, options: Section) -> None:
        """No I/O. Raises CNIError 7."""
        self._folder = url.removeprefix("file://")
        if not self._folder.startswith("/") or "\0" in self._folder:
            raise wrong_value("registry", '"file://" and an absolute path', url)
        self._node = node
        self._path = os.path.join(self._folder, node + SUFFIX)
        self._poll = options.integer("poll", 10, low=1, high=3600)
        self._publishes = options.boolean("publish", default=True)
        self._known = Folder(self._folder)  # of the thread that leases
        self._device = 0  # of the folder, when it was last read
        self._closed = Event()
        self._wake = -1  # an eventfd while `watch` runs, protected by the lock
        self._lock_of_wake = Lock()

    def lease(self, wish: Wish) -> Grant:
        """As in Registry: subnets that the own record has stay, whoever wrote it there."""
        own = self._own()
        have = {is_ipv6(subnet) for subnet in own.subnets} if own else set()
        lengths = tuple(length for length in wish.lengths if (length > 32) not in have)
        if not self._publishes:
            return self._granted(own)
        if own and have and not lengths:
            grant = self._granted(own)
            if not own.since:
                grant = replace(grant, since=_now())
                with _errors(f'write the record of this node to "{self._path}"'):
                    self._write(replace(own, since=grant.since))
            return grant
        if not lengths:
            raise RegistryError(f'"{self._path}" has no "podCIDRs"; add them, or set "cluster" and "allocate"')
        with _errors(f'lease a subnet in "{self._folder}"'):
            make_folders(self._folder, 0o755)
            if wish.preferred and own is None and self._is_untouched():
                raise RegistryError(f'"{self._folder}" {_EMPTY}')
            try:
                self._others()  # before other nodes have to wait for this one
                with self._locked() as is_locked:
                    return self._lease(replace(wish, lengths=lengths), is_locked=is_locked)
            finally:
                self._known = Folder(self._folder)  # frees megabytes

    def _lease(self, wish: Wish, *, is_locked: bool) -> Grant:
        for _ in range(_ATTEMPTS):
            own = self._own() or Node(self._node, (), ())
            others = [subnet for node in self._others() for subnet in node.subnets]
            chosen = choose(wish, others, self._node)
            record = replace(own, subnets=(*own.subnets, *chosen), since=own.since or _now())
            self._write(record)
            if is_locked:
                return self._granted(record)
            if self._closed.wait(_SETTLING):
                break
            if not any(_is_before(other, record, chosen) for other in self._others()):
                return self._granted(record)
            self._write(own)
        raise RegistryError(f'no subnet could be leased in "{self._folder}": other nodes choose the same')

    def _granted(self, own: Node | None) -> Grant:
        """What the own record says. Its addresses count only if others write it, or an old one would never change."""
        if own is None or not own.subnets:
            raise RegistryError(f'"{self._path}" has no "podCIDRs" yet; whoever writes the records must add them')
        current = {is_ipv6(subnet): subnet for subnet in reversed(own.subnets)}  # earlier ones come after it
        subnets = tuple(subnet for subnet in own.subnets if subnet in current.values())
        try:
            check_subnets(subnets)
        except ValueError as error:
            raise RegistryError(f'"{self._path}": "podCIDRs": expected {error}') from error
        return Grant(subnets, () if self._publishes else own.addresses, own.since, own.zone)

    def publish(self, node: Node) -> None:
        """As in Registry; keys of the own record that slash24 does not know stay."""
        with _errors(f'write the record of this node to "{self._path}"'):
            if not self._publishes:
                return
            make_folders(self._folder, 0o755)
            if self._is_unmounted():
                raise OSError(ENODEV, _UNMOUNTED)
            self._write(node)

    def watch(self, sink: Sink) -> None:
        """As in Registry."""
        folder, keys, was_read = Folder(self._folder), None, False
        with self._waking() as wake, FolderNotices(self._folder, self._poll, wake) as notices:
            while not self._closed.is_set():
                try:
                    if keys is None:
                        self._renew(notices)
                    if self._publishes and not was_read and self._is_untouched():
                        self._closed.wait(_BEGINNING)  # until the first lease, or the share, is there
                        continue
                    changes = folder.look(time.monotonic(), keys)
                except OSError as error:
                    sink.lost(f'the folder "{self._folder}" cannot be read: {error.strerror}')
                    self._closed.wait(_RETRY)
                    keys = None
                    continue
                if was_read:
                    _pass_on(sink, *changes)
                else:
                    sink.replace(folder.entries)
                was_read = True
                due, delay = folder.waiting(time.monotonic())
                names = notices.wait(delay, [name_of(key) for key in due])
                keys = None if names is None else {key for name in names if (key := key_of(name))}

    @contextmanager
    def _waking(self) -> Iterator[int]:
        """A descriptor that becomes readable when the registry is closed."""
        wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        with self._lock_of_wake:
            self._wake = wake
        try:
            yield wake
        finally:
            with self._lock_of_wake:
                self._wake = -1
            os.close(wake)

    def _renew(self, notices: FolderNotices) -> None:
        """Before a look at the whole folder. Raises OSError."""
        if self._publishes:
            make_folders(self._folder, 0o755)
        notices.renew()
        if self._is_unmounted():
            raise OSError(ENODEV, _UNMOUNTED)
        self._device = os.stat(self._folder).st_dev

    def tell(self, readiness: Readiness) -> None:
        """A folder has no place for it."""

    def withdraw(self) -> None:
        """Delete the own record, and with it the lease; not if others write the records."""
        if self._publishes:
            with _errors(f'delete the record of this node, "{self._path}"'):
                delete_file(self._path)

    def close(self) -> None:
        """End `watch`."""
        self._closed.set()
        with self._lock_of_wake:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def _own(self) -> Node | None:
        """The record of this node. Raises RegistryError if its file cannot be used."""
        try:
            return read_record(self._folder, self._node)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise RegistryError(f'"{self._path}" cannot be used: {why}; correct or delete it') from error

    def _others(self) -> list[Node]:
        """The records of the other nodes; only files that have changed since the last call are read. Raises OSError."""
        self._known.look(time.monotonic())
        return [entry.node for entry in self._known.entries if entry.node and entry.key != self._node]

    def _write(self, node: Node) -> None:
        """Make a record the content of this node's file, with the keys there that slash24 does not know."""
        before: dict[str, object] = {}
        with suppress(OSError, ValueError):
            before = dict(jsontext.loads(read_file(self._path)))
        after = {key: value for key, value in before.items() if key.lower() not in _KNOWN} | to_value(node)
        if after != before:
            text = json.dumps(after, ensure_ascii=False, separators=(",", ":"))
            replace_file(self._path, os.path.join(self._folder, f".{self._node}.new"), f"{text}\n".encode())

    def _is_unmounted(self) -> bool:
        """Whether the folder was on another file system before, and has no records now: the share's mount point."""
        moved = self._device not in (0, os.stat(self._folder).st_dev)
        return moved and next(list_files(self._folder), None) is None

    def _is_untouched(self) -> bool:
        """Whether the folder has no records, and no lock, which the first lease leaves there."""
        is_locked = os.path.lexists(os.path.join(self._folder, _LOCK))
        return not is_locked and next(list_files(self._folder), None) is None

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Hold the folder's lock; yields False where the file system has no locks. Raises OSError, RegistryError."""
        # For writing: NFS refuses exclusive locks on other descriptors.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(os.path.join(self._folder, _LOCK), flags, 0o600)
        try:
            yield self._lock(descriptor)
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> bool:
        deadline = time.monotonic() + _LOCK_SECONDS
        while time.monotonic() < deadline and not self._closed.is_set():
            try:
                flock(descriptor, LOCK_EX | LOCK_NB)
                return True
            except BlockingIOError:
                self._closed.wait(_LOCK_PAUSE)
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    return False
                raise
        raise RegistryError(f'"{self._folder}/{_LOCK}" was locked for {_LOCK_SECONDS:g} s; `fuser` shows the process')


def _now() -> int:
    return time.time_ns() // 1_000_000


def _pass_on(sink: Sink, changed: Sequence[Entry], removed: Sequence[str]) -> None:
    for entry in changed:
        sink.put(entry)
    for key in removed:
        sink.remove(key)
    if not changed and not removed:
        sink.alive()


def _is_before(other: Node, own: Node, chosen: Sequence[str]) -> bool:
    """Whether another node that has a part of the subnets that were chosen keeps it."""
    overlap = any(parse_cidr(one).overlaps(parse_cidr(mine)) for one in other.subnets for mine in chosen)
    return overlap and (other.since, other.name) < (own.since, own.name)


@contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RegistryError(f"cannot {what}: {error.strerror}") from error

"""Helpers of the tests of leases: a store in memory, the reference plugin's use of a folder, and fault injection."""

import errno
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ipam.lease_files import is_address
from ipam.ranges import RangeSet, parse_range_sets
from ipam.store import LeaseStore, State
from spec.attachment import Attachment
from spec.config import Section
from state.boot import Boot

BOOT = Boot("node", "11111111-1111", 1000.0)
NEXT_BOOT = Boot("node", "22222222-2222", 10.0)

_CHANGES = ("open", "write", "link", "unlink", "replace", "mkdir", "rmdir", "close", "scandir")


def owner(container_id: str, ifname: str = "eth0") -> Attachment:
    """An attachment to the network of all tests."""
    return Attachment("net", container_id, ifname)


def range_sets(*sets: Sequence[dict] | str) -> tuple[RangeSet, ...]:
    """Range sets of `ipam.ranges`; a string is the subnet of a set's only range."""
    groups = [[{"subnet": each}] if isinstance(each, str) else list(each) for each in sets]
    return parse_range_sets(Section({"ipam": {"ranges": groups}}), one_per_family=False)


@dataclass
class MemoryStore:
    """`store.LeaseStore` and its `Leases` in memory, for a running `boot`."""

    boot: Boot
    cooldown: int = 0
    held: dict[str, tuple[Attachment, str]] = field(default_factory=dict)
    released: dict[str, float] = field(default_factory=dict)
    pointers: dict[int, str] = field(default_factory=dict)

    @contextmanager
    def locked(self, *, writable: bool) -> Iterator["MemoryStore"]:
        """Itself."""
        yield self

    def create(self) -> None:
        """Does nothing."""

    def state(self, address: str) -> str:
        if address in self.held:
            return State.TAKEN if self.held[address][1] == self.boot.id else State.RECLAIMABLE
        cooling = self.boot.uptime - self.released.get(address, -1e9) < self.cooldown
        return State.COOLING if cooling else State.FREE

    def free(self, addresses: Iterable[str]) -> Iterator[str]:
        return (address for address in addresses if self.state(address) == State.FREE)

    def held_by(self, owner: Attachment) -> tuple[str, ...]:
        return tuple(name for name in self._of(owner) if self.state(name) == State.TAKEN)

    def last_reserved(self, range_set: int) -> str:
        return self.pointers.get(range_set, "")

    def take(self, owner: Attachment, addresses: Sequence[tuple[int, str]]) -> bool:
        if any(self.state(address) == State.TAKEN for _, address in addresses):
            return False
        self.held.update((address, (owner, self.boot.id)) for _, address in addresses)
        self.pointers.update(addresses)
        return True

    def release(self, owner: Attachment) -> tuple[str, ...]:
        return self._remove(self._of(owner))

    def retain(self, valid: Collection[Attachment]) -> tuple[str, ...]:
        return self._remove(tuple(name for name, (owner, _) in self.held.items() if owner not in valid))

    def _of(self, owner: Attachment) -> tuple[str, ...]:
        return tuple(name for name, (holder, _) in self.held.items() if holder == owner)

    def _remove(self, names: tuple[str, ...]) -> tuple[str, ...]:
        self.released.update((name, self.boot.uptime) for name in names if self.state(name) == State.TAKEN)
        for name in names:
            del self.held[name]
        return names


def disk_store(folder: str, boot: Boot, cooldown: int = 0) -> LeaseStore:
    """The real store, in a boot of the test's choice."""
    return LeaseStore(folder, lambda: boot, cooldown)


def at(store: LeaseStore | MemoryStore, boot: Boot) -> LeaseStore | MemoryStore:
    """The same leases in another boot, or later."""
    return replace(store, boot=boot) if isinstance(store, MemoryStore) else replace(store, read_boot=lambda: boot)


def leases_in(folder: Path) -> dict[str, bytes]:
    """The lease files in the folder: address -> content."""
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file() and is_address(each.name)}


def text_of(holder: Attachment) -> bytes:
    """The content of the owner's lease files."""
    return f"{holder.container_id}\r\n{holder.ifname}".encode()


def reference_add(folder: Path, holder: Attachment, address: str) -> None:
    """Write a lease as the Go plugin does: create, then write, then the pointer."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / address, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(text_of(holder))
    (folder / "last_reserved_ip.0").write_text(address)


def reference_delete(folder: Path, holder: Attachment) -> None:
    """Release as the Go plugin does: remove every file below the folder that contains the owner."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.read_bytes().strip() == text_of(holder):
            path.unlink()


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that dies just before its `step`-th system call; return whether it died."""
    child = os.fork()
    if child == 0:
        _disturb(setattr, step, lambda *_: os._exit(9))
        try:
            work()
        except BaseException:  # noqa: BLE001  (this process must not become a second test run)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 9)
    return os.waitstatus_to_exitcode(status) == 9


def calls_of(work: Callable[[], object]) -> int:
    """The number of system calls of the work, which is done in a separate process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        count = _disturb(setattr, 0, lambda *_: None)
        try:
            work()
        finally:
            os._exit(os.write(writing, str(count()).encode()) < 0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as answer:
        return int(answer.read())


def failing_at(patch: Callable, step: int, code: int = errno.ENOSPC) -> None:
    """Make the `step`-th system call that may need disk space fail; `patch` is setattr, or a monkeypatch's."""

    def fail(*arguments):
        raise OSError(code, os.strerror(code), arguments[0] if isinstance(arguments[0], str) else None)

    _disturb(patch, step, fail, names=("open", "write", "link", "replace", "mkdir"))


def _disturb(patch: Callable, step: int, disturbance: Callable, names: Collection[str] = _CHANGES) -> Callable[[], int]:
    """Do something else at the `step`-th call; returns a function that returns the number of calls."""
    count = 0

    def counting(real: Callable, name: str) -> Callable:
        def call(*arguments, **named):
            nonlocal count
            # Reading needs no space.
            counted = name != "open" or "scandir" in names or arguments[1] & os.O_CREAT
            count += bool(counted)
            return disturbance(*arguments) if counted and count == step else real(*arguments, **named)

        return call

    for name in names:
        patch(os, name, counting(getattr(os, name), name))
    return lambda: count


def take(store: LeaseStore, owner_: Attachment, *grants: tuple[int, str]) -> None:
    """Take leases that are available."""
    with store.locked(writable=True) as leases:
        assert leases.take(owner_, grants)


def release(store: LeaseStore, owner_: Attachment) -> set[str]:
    """Release the owner's leases; return the addresses."""
    with store.locked(writable=True) as leases:
        return set(leases.release(owner_))


def held(store: LeaseStore, owner_: Attachment) -> set[str]:
    """The addresses that the owner holds."""
    with store.locked(writable=False) as leases:
        return set(leases.held_by(owner_))


def state(store: LeaseStore, address: str) -> str:
    """The state of an address."""
    with store.locked(writable=False) as leases:
        return leases.state(address)


def entries(folder: Path) -> list[str]:
    """The entries of the index, without the folders they are in."""
    return sorted(path.name for path in (folder / ".slash24").rglob("*") if path.is_file() and ":" in path.name)


def others(folder: Path) -> set[str]:
    """Files that are neither leases nor entries."""
    return {path.name for path in folder.rglob("*") if path.is_file()} - {*entries(folder), *leases_in(folder)}

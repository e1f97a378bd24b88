"""Installs the suite's executables in a folder such as /opt/cni/bin, or removes them, while runtimes execute them.

A call opens a file after the other: the launcher, the frozen plugin, its libraries, its archive. All must be of one
version. Therefore the private folder has the digest of its content in its name, and `slash24.d` is a link to it. A
frozen plugin that was started by way of the link knows the real path, so it goes on with the version that it started
with. An installation

1. copies everything, on the same file system, and writes it to disk: if that fails, nothing has changed,
2. restores what launchers of this suite had replaced, where the new version has none of the name,
3. replaces the link,
4. replaces each launcher that differs.

Each step is a rename(2), so a call finds the old file or the new one. Launchers of one version work with frozen plugins
of another, which get what the runtime passes. A private folder that was replaced is kept for an hour, which is longer
than any call; the next installation after that deletes it.
"""

import ctypes
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EISDIR
from fcntl import LOCK_EX, flock
from stat import S_ISREG, S_IXUSR

PRIVATE = "slash24.d"
KEPT = ".distrib"

_MARK = b"slash24 launcher, protocol "  # launcher/main.c; of any version
_LONGEST_LAUNCHER = 256 << 10
_STAGE = ".slash24.new"
_IN_USE_SECONDS = 3600
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def install(folder: str) -> int:
    """Install the executables beside which the running one is installed; the exit status."""
    try:
        put(os.path.dirname(os.path.realpath(sys.executable)), os.path.abspath(folder))
    except OSError as error:
        sys.stderr.write(f"slash24-node: cannot install in {folder}: {error}\n")
        return 1
    return 0


def put(private: str, folder: str) -> None:
    """Install the launchers beside the folder `private`, and that, in `folder`, which is created if necessary.

    A file of the same name that is not ours is kept as NAME.distrib. Raises OSError: in step 1 nothing has changed
    then; in a later one every call still works, and another installation completes it.
    """
    launchers = _launchers_of(private)
    os.makedirs(folder, 0o755, exist_ok=True)
    for name in launchers:
        if os.path.isdir(os.path.join(folder, name)):
            raise IsADirectoryError(EISDIR, "a folder has the name of a plugin", os.path.join(folder, name))
    with _staging(folder) as stage:
        target = _place(private, folder, stage)
        for name, content in launchers.items():
            _write(os.path.join(stage, name), content)
        for name in _ours(folder):
            if name not in launchers:
                _restore(folder, name)
        _switch(folder, stage, target)
        for name in launchers:
            _replace(folder, stage, name)
        _sync(folder)
        for name in _private_folders(folder):
            if name != target and time.time() - os.lstat(os.path.join(folder, name)).st_mtime > _IN_USE_SECONDS:
                shutil.rmtree(os.path.join(folder, name))


def is_installed(private: str, folder: str) -> bool:
    """Whether `folder` has just these launchers and this private folder, so that `put` would change nothing.

    Raises OSError.
    """
    launchers = _launchers_of(private)
    there = {name: _launcher(os.path.join(folder, name)) for name in _ours(folder)} if os.path.isdir(folder) else {}
    target = os.path.join(folder, PRIVATE)
    return there == launchers and os.path.islink(target) and _digest(target) == _digest(private)


def names_of(private: str) -> list[str]:
    """The names of the launchers beside a private folder. Raises OSError."""
    return list(_launchers_of(private))


def is_launcher(path: str) -> bool:
    """Whether the file is a launcher of this suite, of any version."""
    return _launcher(path) is not None


def remove(folder: str) -> None:
    """Remove what `put` has installed in `folder`, and restore what that had replaced. Raises OSError."""
    if not os.path.isdir(folder):
        return
    with _staging(folder):
        for name in _ours(folder):
            _restore(folder, name)
        for name in (PRIVATE, *_private_folders(folder)):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                os.unlink(path)
            elif os.path.isdir(path):
                shutil.rmtree(path)
        _sync(folder)


@contextmanager
def _staging(folder: str) -> Iterator[str]:
    """An empty folder for what is not complete yet, which no other process uses."""
    stage = os.path.join(folder, _STAGE)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flock(descriptor, LOCK_EX)
        if os.path.lexists(stage):  # of an installation that was killed
            shutil.rmtree(stage)
        os.mkdir(stage, 0o755)
        try:
            yield stage
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    finally:
        os.close(descriptor)


def _launchers_of(private: str) -> dict[str, bytes]:
    """The launchers beside a private folder that belong to it: name -> content."""
    found = {}
    for name in sorted(os.listdir(private)):
        content = _launcher(os.path.join(os.path.dirname(private), name))
        if content is not None:
            found[name] = content
    if not found:
        raise OSError(f"{os.path.dirname(private)} has no launchers of slash24")
    return found


def _ours(folder: str) -> list[str]:
    """The names of this suite's launchers in the folder, of any version."""
    return [name for name in os.listdir(folder) if _launcher(os.path.join(folder, name)) is not None]


def _launcher(path: str) -> bytes | None:
    """The content of a launcher of any version; None if the file is something else."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            content = file.read(_LONGEST_LAUNCHER + 1)
    except OSError:
        return None
    is_ours = content.startswith(b"\x7fELF") and _MARK in content and len(content) <= _LONGEST_LAUNCHER
    return content if is_ours else None


def _private_folders(folder: str) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(f"{PRIVATE}.")]


def _place(private: str, folder: str, stage: str) -> str:
    """Have a complete copy of the private folder in `folder`; returns its name."""
    wanted = _digest(private)
    number = 0
    while True:
        name = f"{PRIVATE}.{wanted[:16]}" + (f"-{number}" if number else "")
        path = os.path.join(folder, name)
        if not os.path.lexists(path):
            _copy(private, os.path.join(stage, name))
            os.rename(os.path.join(stage, name), path)
            return name
        with suppress(OSError):
            if _digest(path) == wanted:
                return name
        number += 1  # somebody has changed it, and a plugin may be using it


def _files(folder: str) -> Iterator[str]:
    """The paths of all files below the folder, relative to it, in an order that depends only on them."""
    found = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
    yield from sorted(os.path.relpath(path, folder) for path in found)


def _digest(folder: str) -> str:
    """The digest of all files below a folder: names, whether they can be executed, contents."""
    whole, known = hashlib.sha256(), {}
    for name in _files(folder):
        path = os.path.join(folder, name)
        status = os.lstat(path)
        if status.st_ino not in known:
            with open(path, "rb") as file:
                known[status.st_ino] = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{name}\0{bool(status.st_mode & S_IXUSR)}\0{known[status.st_ino]}\0".encode())
    return whole.hexdigest()


def _copy(source: str, target: str) -> None:
    """Copy a folder with its hard links, to disk."""
    copies: dict[int, str] = {}
    os.mkdir(target, 0o755)
    for name in _files(source):
        origin, path = os.path.join(source, name), os.path.join(target, name)
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        status = os.stat(origin)
        if status.st_ino in copies:
            os.link(copies[status.st_ino], path)
            continue
        copies[status.st_ino] = path
        with open(origin, "rb") as file, open(path, "xb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
            _finish(copy.fileno(), 0o755 if status.st_mode & S_IXUSR else 0o644)
    for at, _, _ in os.walk(target):
        os.chmod(at, 0o755)
        _sync(at)


def _write(path: str, content: bytes) -> None:
    """Create a launcher, to disk."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        _finish(file.fileno(), 0o755)


def _finish(descriptor: int, mode: int) -> None:
    os.fchmod(descriptor, mode)
    os.fsync(descriptor)


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _switch(folder: str, stage: str, target: str) -> None:
    """Make `slash24.d` a link to the private folder `target`."""
    link, new = os.path.join(folder, PRIVATE), os.path.join(stage, PRIVATE)
    with suppress(OSError):
        if os.readlink(link) == target:
            return
        os.utime(link)  # the time at which it was replaced
    os.symlink(target, new)
    if os.path.islink(link) or not os.path.lexists(link):
        os.replace(new, link)
    elif not _exchange(new, link):  # it is a folder, as a tarball has it
        os.rename(link, os.path.join(stage, f"{PRIVATE}{KEPT}"))
        os.rename(new, link)


def _exchange(first: str, second: str) -> bool:
    """Exchange what two paths name, atomically; returns whether the file system can."""
    renameat2 = ctypes.CDLL(None).renameat2
    return renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0


def _replace(folder: str, stage: str, name: str) -> None:
    """Put the launcher of this name in its place, unless the same is there."""
    path, new = os.path.join(folder, name), os.path.join(stage, name)
    there = _launcher(path)
    if there is None and os.path.lexists(path):
        kept = os.path.join(stage, name + KEPT)
        os.link(path, kept, follow_symlinks=False)
        os.replace(kept, path + KEPT)
    with open(new, "rb") as file:
        if there == file.read() and os.lstat(path).st_mode == os.lstat(new).st_mode:
            return
    os.replace(new, path)


def _restore(folder: str, name: str) -> None:
    """Remove a launcher of ours, and restore what it had replaced."""
    path = os.path.join(folder, name)
    if os.path.lexists(path + KEPT):
        os.replace(path + KEPT, path)
    else:
        os.unlink(path)

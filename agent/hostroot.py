"""The host's files, seen from a container in which the host's root is a folder."""

import ctypes
import os
from collections.abc import Callable
from stat import S_ISDIR, S_ISLNK, S_ISREG
from threading import Thread
from typing import TypeVar

_CLONE_FS = 0x200
_LINKS_AT_MOST = 40  # as the kernel has it (path_resolution(7))
_libc = ctypes.CDLL(None, use_errno=True)

Answer = TypeVar("Answer")


def resolve(root: str, path: str) -> str | None:
    """The real path, as the host has it, of the regular file at the host's `path`; None if there is none."""
    found = _walk(root, path)
    return found[0] if found and S_ISREG(found[1]) else None


def resolve_folder(root: str, path: str) -> str:
    """The same of a folder, which need not exist."""
    found = _walk(root, path)
    return found[0] if found and S_ISDIR(found[1]) else os.path.normpath(path)


def _walk(root: str, path: str) -> tuple[str, int] | None:
    """(real path, mode). Every step is one below `root`: a link to /opt is to the host's /opt."""
    parts, done, links = path.split("/")[::-1], "", 0
    mode = os.stat(root).st_mode
    while parts:
        part = parts.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = os.path.dirname(done) if done != "/" else ""
            done = "" if done == "/" else done
            continue
        try:
            mode = os.lstat(f"{root}{done}/{part}").st_mode
            target = os.readlink(f"{root}{done}/{part}") if S_ISLNK(mode) else None
        except (OSError, ValueError):
            return None
        if target is None:
            done = f"{done}/{part}"
            continue
        links += 1
        if links > _LINKS_AT_MOST:
            return None
        done = "" if target.startswith("/") else done
        parts += target.split("/")[::-1]
    return done or "/", mode


def call_in(root: str, function: Callable[[], Answer]) -> Answer:
    """What `function` returns or raises, called where `root` is the root and the current folder, as for its children.

    In a thread of its own, which takes its root with it when it ends; all others keep theirs.
    """
    answers: list[Answer] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            if _libc.unshare(_CLONE_FS) != 0:
                raise OSError(ctypes.get_errno(), "unshare(CLONE_FS)")
            os.chroot(root)
            os.chdir("/")
            answers.append(function())
        except BaseException as error:  # noqa: BLE001  (raised again below, in the caller's thread)
            failures.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return answers[0]

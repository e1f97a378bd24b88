"""A network namespace with a name, for a moment: as `ip netns add` makes it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ctypes import CDLL, get_errno
from threading import Thread

from linux.netns import CLONE_NEWNET, OWN

FOLDER = "/run/netns"
_MS_BIND, _MNT_DETACH = 0x1000, 2

_libc = CDLL(None, use_errno=True)


@contextmanager
def scratch_netns(name: str) -> Iterator[str]:
    """The path of a new network namespace FOLDER/NAME, which is gone afterwards. Raises OSError."""
    path = os.path.join(FOLDER, name)
    os.makedirs(FOLDER, 0o755, exist_ok=True)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    try:
        failures: list[OSError] = []
        maker = Thread(target=_make, args=(path, failures))  # the namespace is that of the thread alone
        maker.start()
        maker.join()
        if failures:
            raise failures[0]
        yield path
    finally:
        _libc.umount2(os.fsencode(path), _MNT_DETACH)
        with suppress(FileNotFoundError):
            os.unlink(path)


def _make(path: str, failures: list[OSError]) -> None:
    if _libc.unshare(CLONE_NEWNET) or _libc.mount(OWN.encode(), os.fsencode(path), None, _MS_BIND, None):
        errno = get_errno()
        failures.append(OSError(errno, os.strerror(errno), path))

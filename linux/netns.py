"""Network namespaces: opens one by path, and enters it for what cannot be done from outside.

A thread enters (setns(2) is per thread), opens sockets or writes sysctls, and leaves again; sockets keep their
namespace. /proc/sys/net belongs to the namespace of the thread that opens the file.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CDLL, get_errno
from errno import EINVAL, ENOENT
from fcntl import ioctl

CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)
OWN, _HOME = "/proc/thread-self/ns/net", "/proc/self/ns/net"

_libc = CDLL(None, use_errno=True)


class NoNetns(OSError):
    """The path is not that of a network namespace: it does not exist, or is something else."""


def open_netns(path: str, given: int | None = None) -> int:
    """A file descriptor (close it) of the network namespace at `path`; raises NoNetns or another OSError.

    `given`: a descriptor of `path` that the caller's client opened in its own mount namespace (it stays open), or -1 if
    the client could not open it.
    """
    fd = _open(path) if given is None else _copy(given, path)
    try:
        kind = ioctl(fd, _NS_GET_NSTYPE)
    except OSError as error:
        os.close(fd)
        raise NoNetns(error.errno, "not a network namespace", path) from error
    if kind != CLONE_NEWNET:
        os.close(fd)
        raise NoNetns(EINVAL, "a namespace, but not a network namespace", path)
    return fd


def is_netns(path: str) -> bool:
    """Whether a path leads to a namespace, without opening what it leads to; False also if it cannot be told."""
    try:
        return os.stat(path).st_dev == os.stat(OWN).st_dev
    except (OSError, ValueError):
        return False


@contextmanager
def opened(path: str, given: int | None = None) -> Iterator[int]:
    """As `open_netns`, closed when the body ends. Raises CNIError if the namespace cannot be opened."""
    from linux.errors import step

    with step(f'open network namespace "{path}"'):
        fd = open_netns(path, given)
    try:
        yield fd
    finally:
        os.close(fd)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError) as error:
        raise NoNetns(error.errno, "no such network namespace", path) from error


def _copy(given: int, path: str) -> int:
    if given < 0:
        raise NoNetns(ENOENT, "no such network namespace", path)
    return os.dup(given)


@contextmanager
def entered(fd: int) -> Iterator[None]:
    """Run the body with the calling thread in the network namespace `fd`."""
    own = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(fd)
        try:
            yield
        finally:
            _setns(own)
    finally:
        os.close(own)


def return_home() -> None:
    """Move the calling thread to the namespace of the main thread. (A new thread inherits that of its creator.)

    Raises OSError.
    """
    if not os.path.samefile(OWN, _HOME):
        home = os.open(_HOME, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(home)
        finally:
            os.close(home)


def own_cookie() -> int:
    """The cookie of the calling thread's network namespace, unique since boot; 0 if the kernel has none."""
    from linux.netlink.socket import Netlink

    with Netlink() as any_socket:
        return any_socket.namespace


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        errno = get_errno()
        raise OSError(errno, f"setns: {os.strerror(errno)}")

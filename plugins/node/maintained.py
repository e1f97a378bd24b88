"""Whether the daemon keeps the node's part of a network: then an ADD need not.

While it does, the daemon holds an exclusive flock(2) on a file of the network, whose content is a digest of the
configuration that it works with. The kernel releases the lock with the daemon's last descriptor, however it ends; from
then on the plugins do everything themselves again.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock

from plugins.daemon import FOLDER
from spec.config import Section
from spec.errors import CNIError, Code
from spec.request import Request
from state.files import read_file

_OF_THE_POD = frozenset(("name", "cniversion", "prevresult", "runtimeconfig", "args", "capabilities", "ipam", "dns"))
"""Keys, in lower case, that change nothing of the node's part."""

_PRESENT = frozenset(("policywait",))
"""Keys of which only counts whether they are there: how long an ADD waits is up to it."""

_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LONGEST = 128  # bytes of a digest in the file


def digest(section: Section) -> str:
    """A digest of the main plugin's keys, except what is about pods or comes from the runtime."""
    from hashlib import sha256

    names = sorted(name for name in section.names() if name not in _OF_THE_POD and not name.startswith("cni.dev/"))
    keys = [[name, name in _PRESENT or section.raw(name)] for name in names]
    return sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()


def is_maintained(request: Request) -> bool:
    """Whether a daemon keeps the node's part of the request's network, with the request's configuration."""
    try:
        descriptor = os.open(_path(request.conf.name), os.O_RDONLY | _FLAGS)
    except OSError:
        return False
    try:
        try:
            flock(descriptor, LOCK_SH | LOCK_NB)
        except BlockingIOError:
            return os.read(descriptor, _LONGEST).decode("ascii", "replace") == request.conf.section.derive(digest)
        except OSError:
            return False
        return False
    finally:
        os.close(descriptor)


def was_maintained(network: str, section: Section) -> bool:
    """Whether a daemon has kept the node's part of the network since the boot, the last one with that configuration."""
    try:
        return read_file(_path(network), _LONGEST) == digest(section).encode()
    except OSError:
        return False


@contextmanager
def maintaining(network: str, section: Section) -> Iterator[None]:
    """A context in which this process keeps the node's part of the network, with that configuration.

    Raises CNIError 11 if another process does, OSError.
    """
    path = _path(network)
    os.makedirs(FOLDER, mode=0o755, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # whoever can open the file can lock it
        try:
            _lock(descriptor)
        except BlockingIOError as error:
            message = f'another process maintains the network "{network}"'
            raise CNIError(Code.TRY_AGAIN_LATER, message, f"end it; `fuser {path}` shows it") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, digest(section).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock exclusively. Raises BlockingIOError if another process does; plugins hold a shared lock for an instant."""
    from linux.waiting import wait_until

    def is_locked() -> bool:
        nonlocal failure
        try:
            flock(descriptor, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            failure = error
            return False
        return True

    failure: BlockingIOError | None = None
    if not wait_until(is_locked, seconds=1):
        raise failure


def _path(network: str) -> str:
    return os.path.join(FOLDER, f"{network}.daemon")

"""Files: atomic changes, and reads that never block or grow without limit."""

import os
from contextlib import suppress
from errno import EFBIG, EINVAL, ELOOP, ENOENT, ENXIO
from stat import S_ISREG


def make_folders(path: str, mode: int) -> None:
    """Make a folder and its missing parents, all with `mode` (less the umask).

    Raises OSError.
    """
    with suppress(FileExistsError):
        try:
            os.mkdir(path, mode)
        except FileNotFoundError:
            above = os.path.dirname(path)
            if not above:
                raise
            make_folders(above, mode)
            os.mkdir(path, mode)


def replace_file(path: str, temporary: str, content: bytes) -> None:
    """Replace the content of a file atomically. A link at `path` is replaced, not followed.

    Raises OSError, with the old file in place. A crash may leave `temporary`, which the next call removes.
    """
    try:
        delete_file(temporary)
        write_file(temporary, content)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def read_file(path: str, most: int = 1 << 20) -> bytes:
    """The content of a regular file; links are followed. Raises OSError, also if it has more than `most` bytes.

    For files named in configurations, which may turn out to be pipes or devices, and must not block a call.
    """
    if not S_ISREG(os.stat(path).st_mode):  # opening a device may have side effects
        raise _not_regular(path)
    content = b""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not S_ISREG(os.fstat(descriptor).st_mode):
            raise _not_regular(path)
        while part := os.read(descriptor, most + 1):
            content += part
            if len(content) > most:
                raise OSError(EFBIG, f"more than {most} bytes", path)
        return content
    finally:
        os.close(descriptor)


def read_start(path: str, size: int) -> bytes:
    """The first bytes of a file, at most `size`. Raises OSError."""
    # Non-blocking: opening a pipe would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


def rewrite_file(path: str, content: bytes) -> bool:
    """Overwrite an existing file in place; return False, with nothing changed, if there is none or it has other links.

    For a few unimportant bytes: not atomic, but much faster than `replace_file`, which makes file systems write to disk
    immediately, and it works on a full disk. Raises OSError.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (ENOENT, ELOOP, ENXIO):
            return False
        raise
    try:
        status = os.fstat(descriptor)
        if status.st_nlink != 1 or not S_ISREG(status.st_mode):
            return False
        os.write(descriptor, content)
        if status.st_size > len(content):
            os.ftruncate(descriptor, len(content))
        return True
    finally:
        os.close(descriptor)


def write_file(path: str, content: bytes) -> None:
    """Create a file with mode 0600. Raises OSError: EEXIST if it exists; after others, part of it may be written."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
    finally:
        os.close(descriptor)


def delete_file(path: str) -> None:
    """Delete a file if it exists. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def _not_regular(path: str) -> OSError:
    return OSError(EINVAL, "not a regular file", path)

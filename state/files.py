"""Files: changes that are done whole or not at all, and reading that comes to an end."""

import os
from contextlib import suppress
from errno import EFBIG, EINVAL, ELOOP, ENOENT, ENXIO
from stat import S_ISREG


def make_folders(path: str, mode: int) -> None:
    """Make a folder and those above it that are missing, all with `mode`, whatever the caller's umask adds.

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
    """Give a file a new content in one step. What is at `path`, be it a link to elsewhere, makes way.

    Raises OSError, leaving the old one. (What a crash leaves, the next call removes.)
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
    """All of a regular file, be it behind links. Raises OSError, also for a pipe or device, or more than `most` bytes.

    For files that configurations name: what is there may be anything, and a call must come to its end.
    """
    if not S_ISREG(os.stat(path).st_mode):  # to open a device may do something already
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
    # Non-blocking, as a pipe of that name would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


def rewrite_file(path: str, content: bytes) -> bool:
    """Write over the beginning of a file that is there; False, and nothing done, where there is none.

    Nor is there one where a link leads to a file that is elsewhere, too. For a few bytes that matter little: quicker by
    far than `replace_file`, for which file systems write to the disk at once, and works on a full disk. Who is killed
    in the middle leaves a mixture. Raises OSError.
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
    """Make a file that only its owner may read. Raises OSError, EEXIST if there is one, perhaps with a part written."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
    finally:
        os.close(descriptor)


def delete_file(path: str) -> None:
    """Remove a file, if it is there. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def _not_regular(path: str) -> OSError:
    return OSError(EINVAL, "not a regular file", path)

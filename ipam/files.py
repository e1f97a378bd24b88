"""Changes to files that are done whole or not at all."""

import os
from contextlib import suppress


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
    """Give a file a new content in one step.

    Raises OSError, leaving the old one. (What a crash leaves, the next call overwrites.)
    """
    try:
        write_file(temporary, content, os.O_TRUNC)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise


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

    For a few bytes that matter little: quicker by far than `replace_file`, for which file systems write to the disk at
    once, and works on a full disk. Who is killed in the middle leaves a mixture. Raises OSError.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        os.write(descriptor, content)
        if os.fstat(descriptor).st_size != len(content):
            os.ftruncate(descriptor, len(content))
        return True
    finally:
        os.close(descriptor)


def write_file(path: str, content: bytes, flag: int) -> None:
    """Make a file that only its owner may read; `flag` is O_EXCL or O_TRUNC.

    Raises OSError, perhaps with a part written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flag, 0o600)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
    finally:
        os.close(descriptor)


def delete_file(path: str) -> None:
    """Remove a file, if it is there. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(path)

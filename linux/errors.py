"""The border between the kernel's errors and the protocol's: every OSError becomes a CNIError here, once."""

from collections.abc import Iterator
from contextlib import contextmanager

from spec.errors import CNIError, Code


@contextmanager
def step(what: str) -> Iterator[None]:
    """Name the step under way; an OSError in it is raised as CNIError 999 `failed to <what>: <the kernel's reason>`."""
    try:
        yield
    except OSError as error:
        raise CNIError(Code.INTERNAL, f"failed to {what}: {reason(error)}") from error


def reason(error: OSError) -> str:
    """The reason alone, with the path where there is one."""
    said = error.strerror or str(error)
    return f"{error.filename}: {said}" if error.filename else said

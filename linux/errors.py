"""Translates the kernel's errors into the protocol's: every OSError becomes a CNIError here, once."""

from spec.errors import CNIError, code_of


class step:
    """A context that names a step: an OSError in it is raised as CNIError `failed to <what>: <the kernel's reason>`.

    The code is 999, or 11 if the node is out of memory or descriptors.
    """

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise CNIError(code_of(error), f"failed to {self._what}: {reason(error)}") from error


def reason(error: OSError) -> str:
    """The reason of an error, with its path if it has one, and a remark if the kernel may be too old."""
    from linux.kernel import remark

    text = (error.strerror or str(error)) + remark(error)
    return f"{error.filename}: {text}" if error.filename else text

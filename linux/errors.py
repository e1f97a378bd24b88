"""The border between the kernel's errors and the protocol's: every OSError becomes a CNIError here, once."""

from spec.errors import CNIError, code_of


class step:
    """Name the step under way; an OSError in it is raised as CNIError `failed to <what>: <the kernel's reason>`.

    The code is 999, or 11 where the node lacks memory or descriptors.
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
    """The reason alone, with the path where there is one, and the kernel's age where that may be the reason."""
    from linux.kernel import remark

    said = (error.strerror or str(error)) + remark(error)
    return f"{error.filename}: {said}" if error.filename else said

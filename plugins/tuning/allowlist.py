"""The administrator's list of the sysctls that a network configuration may set: one regular expression a line."""

from collections.abc import Iterable

from spec.errors import CNIError, Code, code_of
from state.files import read_file

PATH = "/etc/cni/tuning/allowlist.conf"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Pattern(Protocol):
        """A compiled regular expression."""

        pattern: str

        def search(self, text: str) -> object: ...


def read(path: str = PATH) -> "tuple[Pattern, ...] | None":
    """The patterns of the file; None if there is none, and so everything is allowed. An empty one allows nothing.

    Raises CNIError 5 if it can not be read, 7 for a line that is no regular expression.
    """
    try:
        lines = [line.strip() for line in read_file(path).decode().splitlines()]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"failed to read the allowlist of sysctls {path}: {reason}"
        raise CNIError(code_of(error, Code.IO_FAILURE), message) from error
    return tuple(_compile(line, number, path) for number, line in enumerate(lines, 1) if line)


def require_allowed(names: Iterable[str], patterns: "Iterable[Pattern] | None") -> None:
    """Raises CNIError 7 for the first name (as it stands in the configuration) that no pattern is found in."""
    if patterns is None:
        return
    for name in names:
        if not any(pattern.search(name) for pattern in patterns):
            allowed = " ".join(pattern.pattern for pattern in patterns)
            message = f"Sysctl {name} is not allowed. Only the following sysctls are allowed: [{allowed}]"
            raise CNIError(Code.INVALID_NETWORK_CONFIG, message)


def _compile(line: str, number: int, path: str) -> "Pattern":
    """With RE2, whose time grows with the name and no faster; its syntax is that of Go, so of the reference."""
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(line, options)
    except re2.error as error:
        said = error.args[0] if error.args else ""
        message = f"{path}, line {number}: not a regular expression: {line}"
        details = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        raise CNIError(Code.INVALID_NETWORK_CONFIG, message, details) from error

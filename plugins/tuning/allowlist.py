"""The administrator's list of the sysctls that configurations may set: a file with one regular expression per line."""

from collections.abc import Iterable

from spec.errors import CNIError, Code, code_of
from state.files import read_file

PATH = "/etc/cni/tuning/allowlist.conf"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from plugins.tuning.conf import Sysctl

    class Pattern(Protocol):
        """A compiled regular expression."""

        pattern: str

        def search(self, text: str) -> object: ...


def read(path: str = PATH) -> "tuple[Pattern, ...] | None":
    """The patterns; None if there is no file, which allows everything. An empty file allows nothing.

    Raises CNIError 5 if it cannot be read, 7 for a line that is not a regular expression.
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
    """Raises CNIError 7 for the first name, as written in the configuration, that no pattern matches."""
    if patterns is None:
        return
    for name in names:
        if not any(pattern.search(name) for pattern in patterns):
            allowed = " ".join(pattern.pattern for pattern in patterns)
            message = f"Sysctl {name} is not allowed. Only the following sysctls are allowed: [{allowed}]"
            raise CNIError(Code.INVALID_NETWORK_CONFIG, message)


def check_ready(sysctls: "Iterable[Sysctl]") -> None:
    """For STATUS: raises CNIError 50 if the allowlist cannot be used, 7 for a sysctl that is not allowed."""
    try:
        patterns = read()
    except CNIError as error:
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, error.msg, error.details) from error
    require_allowed([sysctl.name for sysctl in sysctls], patterns)


def _compile(line: str, number: int, path: str) -> "Pattern":
    """With RE2, which matches in linear time and has the syntax of Go, hence of the reference plugin."""
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(line, options)
    except re2.error as error:
        text = error.args[0] if error.args else ""
        message = f"{path}, line {number}: not a regular expression: {line}"
        details = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        raise CNIError(Code.INVALID_NETWORK_CONFIG, message, details) from error

"""The administrator's list of the sysctls that a network configuration may set: one regular expression a line."""

import re
from collections.abc import Iterable

from ipam.files import read_file
from spec.errors import CNIError, Code, code_of

PATH = "/etc/cni/tuning/allowlist.conf"

# What lists written for the reference may hold (Go's syntax), and Python reads as something else without a word.
_READ_OTHERWISE = re.compile(r"\[\[|\[:|\{,|\\[pPQECZ]")


def read(path: str = PATH) -> tuple[re.Pattern, ...] | None:
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


def require_allowed(names: Iterable[str], patterns: Iterable[re.Pattern] | None) -> None:
    """Raises CNIError 7 for the first name (as it stands in the configuration) that no pattern is found in."""
    if patterns is None:
        return
    for name in names:
        # A `$` would let a line feed at the end pass; no sysctl has one.
        if "\n" in name or not any(pattern.search(name) for pattern in patterns):
            allowed = " ".join(pattern.pattern for pattern in patterns)
            message = f"Sysctl {name} is not allowed. Only the following sysctls are allowed: [{allowed}]"
            raise CNIError(Code.INVALID_NETWORK_CONFIG, message)


def _compile(line: str, number: int, path: str) -> re.Pattern:
    try:
        if unclear := _READ_OTHERWISE.search(line):
            raise ValueError(f"{unclear[0]} is not supported")
        return re.compile(line, re.ASCII)
    except (ValueError, re.error, RecursionError, OverflowError) as error:
        message = f"{path}, line {number}: not a regular expression: {line}"
        raise CNIError(Code.INVALID_NETWORK_CONFIG, message, str(error)) from error

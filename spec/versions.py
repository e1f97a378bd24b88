"""The versions of the CNI specification: which exist, how they compare, and which share a result format."""

from spec.errors import CNIError, Code

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
LATEST = "1.1.0"
UNSTATED = "0.1.0"
"""The version of a configuration without cniVersion."""

FAMILIES = (("0.1.0", "0.2.0"), ("0.3.0", "0.3.1", "0.4.0"), ("1.0.0", "1.1.0"))
"""Versions whose results have the same format."""

_PARTS = ("major", "minor", "micro")
_LONGEST_VERSION = 80  # characters of an invalid version in an error message


def parse(version: str) -> tuple[int, int, int]:
    """`"1.1.0"` as (1, 1, 0); missing parts are 0, an empty text is 0.1.0. Raises CNIError 6 for anything else."""
    if not version:
        return (0, 1, 0)
    parts = version.split(".")
    if len(parts) > len(_PARTS):
        raise CNIError(Code.DECODING_FAILURE, f'invalid version "{version}": too many parts')
    for name, part in zip(_PARTS, parts, strict=False):
        # At most 9 digits: int() rejects thousands of digits with an error of its own.
        if not (part.isascii() and part.isdigit() and len(part) <= 9):
            raise CNIError(Code.DECODING_FAILURE, f'failed to convert {name} version part "{part}": not a number')
    major, minor, micro = (*map(int, parts), 0, 0)[:3]
    return (major, minor, micro)


def at_least(version: str, since: str) -> bool:
    """Whether `version` is `since` or newer. Raises CNIError 6 if either is invalid."""
    return parse(version) >= parse(since)


def family(version: str) -> tuple[str, ...]:
    """The versions with the same result format as `version`. Raises CNIError 1 for a version that does not exist."""
    for versions in FAMILIES:
        if version in versions:
            return versions
    raise CNIError(Code.INCOMPATIBLE_VERSION, f'unsupported CNI result version "{version[:_LONGEST_VERSION]}"')

"""What a check found."""

from collections.abc import Iterable
from dataclasses import dataclass

OK, PROBLEM, WARNING, NOT_APPLICABLE = "ok", "problem", "warning", "not applicable"
"""Fine; broken; may be broken, or could not be told; means nothing on this node."""


@dataclass(frozen=True)
class Finding:
    """`outcome`: one of the above. `found`: a sentence. `mend`: how to mend it: commands, or which key to set."""

    outcome: str
    found: str
    mend: str = ""


def ok(found: str) -> Finding:
    """What is fine."""
    return Finding(OK, found)


def problem(found: str, mend: str) -> Finding:
    """What keeps pods, or some of them, from working."""
    return Finding(PROBLEM, found, mend)


def warning(found: str, mend: str = "") -> Finding:
    """What may be wrong, or could not be told."""
    return Finding(WARNING, found, mend)


def not_applicable(found: str) -> Finding:
    """What need not be looked at on this node, and why."""
    return Finding(NOT_APPLICABLE, found)


def or_ok(findings: Iterable[Finding], found: str) -> list[Finding]:
    """The findings, or that all is fine if there are none."""
    return list(findings) or [ok(found)]

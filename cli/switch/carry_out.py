"""Takes away what a provider left."""

from collections.abc import Iterator

from cli.switch.find import Findings
from cli.switch.leftover import CONFIGURATION, Leftover
from spec.errors import CNIError


def carry_out(findings: Findings) -> Iterator[tuple[Leftover, str]]:
    """Take away all that need not wait, in order; each leftover when it is done, with what failed, "" if nothing did.

    What fails does not keep the rest from being done, unless it is the take-over of leases, before which nothing that
    matters to pods has changed. Raises CNIError 11 (a lock of leases is held), OSError if that fails.
    """
    ready = [one for one in findings.leftovers if not one.waits]
    takeover = findings.takeover
    started = takeover.done_by_start if takeover else set()
    first = [one for one in ready if one.kind == CONFIGURATION and one.name not in started]
    for one in first:
        yield one, _remove(one)
    if takeover:
        takeover.start()
    for one in ready:
        if one not in first:
            yield one, "" if one.name in started else _remove(one)
    if takeover and not findings.pods:
        takeover.finish()


def _remove(one: Leftover) -> str:
    try:
        one.remove()
    except (CNIError, OSError) as error:
        return said(error)
    return ""


def said(error: Exception) -> str:
    """What an error says to people: without numbers."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror

"""What is told of a call when it is over: a line in the log."""

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

WARNING, NOTICE, INFO = 4, 5, 6  # syslog(3)
_LONGEST = 2000
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:@+,")

Log = Callable[[int, Mapping[str, object]], None]
"""Takes a priority and what is to be told, by name."""


@dataclass(frozen=True)
class Outcome:
    """How a call ended. `code` is the CNI error code, 0 for success; `config` what could be read of its stdin."""

    verb: str
    plugin: str
    network: str
    container: str
    ifname: str
    seconds: float
    code: int
    message: str
    config: Mapping[str, object]

    def fields(self) -> dict[str, object]:
        """What the log tells."""
        names = ("verb", "plugin", "network", "container", "ifname")
        fields: dict[str, object] = {name: getattr(self, name) for name in names}
        fields |= {"duration_ms": f"{self.seconds * 1000:.1f}", "outcome": self.code}
        return fields | ({"msg": self.message} if self.message else {})


def logger(fd: int, environ: Mapping[str, str]) -> Log:
    """Write lines `key=value key="value with spaces"` to `fd`, each by one write, so that threads do not mix.

    journald is told the priority as sd-daemon(3) has it, and adds the time; anywhere else the line begins with it.
    """
    to_journal = _leads_to_journal(fd, environ)

    def log(priority: int, fields: Mapping[str, object]) -> None:
        text = " ".join(f"{name}={_value(value)}" for name, value in fields.items())
        prefix = f"<{priority}>" if to_journal else f"time={_now()} "
        with suppress(OSError):
            os.write(fd, f"{prefix}{text}\n".encode(errors="backslashreplace"))

    return log


def _leads_to_journal(fd: int, environ: Mapping[str, str]) -> bool:
    """Whether `fd` is what JOURNAL_STREAM speaks of, which whoever a service starts inherits (systemd.exec(5))."""
    found = os.fstat(fd)
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _now() -> str:
    """RFC 3339, UTC: needs no file of a time zone."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 1_000_000:03}Z"


def _value(value: object) -> str:
    text = str(value)[:_LONGEST]
    return text if text and _PLAIN.issuperset(text) else json.dumps(text)

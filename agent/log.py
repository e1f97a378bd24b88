"""The log: one line per event, of key=value pairs or a JSON object, on stderr."""

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

WARNING, NOTICE, INFO = 4, 5, 6  # syslog(3)
LEVELS = {"warning": WARNING, "notice": NOTICE, "info": INFO}
"""By the name of a level in JSON and on the command line."""

_MAX_VALUE = 2000  # characters
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:@+,")

Log = Callable[[int, Mapping[str, object]], None]
"""Logs fields, with a priority."""


def logger(fd: int, environ: Mapping[str, str], *, level: int = INFO, as_json: bool = False) -> Log:
    """Logs lines `key=value key="value with spaces"` to `fd`, each in one write, so that threads do not mix them.

    For journald the line begins with the priority (sd-daemon(3)), and journald adds the time; else with the time.
    `level`: the priority of the least important lines. `as_json`: log JSON objects, with the time and the level.
    """
    to_journal = _is_journal(fd, environ)
    names = {priority: name for name, priority in LEVELS.items()}

    def log(priority: int, fields: Mapping[str, object]) -> None:
        if priority > level:
            return
        if as_json:
            head = {"time": _now(), "level": names[priority]}
            text = json.dumps({**head, **{name: _limited(value) for name, value in fields.items()}})
            prefix = f"<{priority}>" if to_journal else ""
        else:
            text = " ".join(f"{name}={_value(value)}" for name, value in fields.items())
            prefix = f"<{priority}>" if to_journal else f"time={_now()} "
        with suppress(OSError):
            os.write(fd, f"{prefix}{text}\n".encode(errors="backslashreplace"))

    return log


def _is_journal(fd: int, environ: Mapping[str, str]) -> bool:
    """Whether `fd` is the stream of JOURNAL_STREAM: the variable alone may be inherited (systemd.exec(5))."""
    status = os.fstat(fd)
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _now() -> str:
    """RFC 3339, UTC: needs no time zone file."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 1_000_000:03}Z"


def _limited(value: object) -> object:
    return value if isinstance(value, int | float) else str(value)[:_MAX_VALUE]


def _value(value: object) -> str:
    text = str(value)[:_MAX_VALUE]
    return text if text and _PLAIN.issuperset(text) else json.dumps(text)

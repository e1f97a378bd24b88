"""What a plugin is, and the family it ships with."""

from collections.abc import Callable
from dataclasses import dataclass

from spec.versions import SUPPORTED


@dataclass(frozen=True)
class Plugin:
    """A CNI plugin: its type, and a function a verb. Each takes a Request; `add` gives a Result, the others None.

    A verb that is None has nothing to do and succeeds; an `add` of None passes the result of the plugin before on.
    Every function raises CNIError for a failure it can name; any other exception reaches the runtime as code 999.
    `versions`: those it supports, oldest first.
    """

    type: str
    add: Callable | None = None
    delete: Callable | None = None
    check: Callable | None = None
    gc: Callable | None = None
    status: Callable | None = None
    versions: tuple[str, ...] = SUPPORTED


@dataclass(frozen=True)
class Suite:
    """The plugins that can be called in-process instead of executed.

    `home`: the folder of this suite's executables (None: there is none, everything is executed). `load`: type ->
    Plugin, or None where the suite has no such type. `version`: what the about text says.
    """

    home: str | None
    load: Callable[[str], Plugin | None]
    version: str = "unknown"

"""What a plugin is, and the family it ships with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from spec.versions import SUPPORTED


@dataclass(frozen=True)
class Plugin:
    """A CNI plugin: its type, and a function a verb. Each takes a Request; `add` gives a Result, the others None.

    A verb that is None has nothing to do and succeeds; an `add` of None passes the result of the plugin before on.
    Every function raises CNIError for a failure it can name; any other exception reaches the runtime as code 999.
    `versions`: those it supports, oldest first. `is_ipam`: whether it gives addresses, so that
    `ipam.type` may name it. `reads_args`: whether it uses CNI_ARGS; if not, nothing in there is an error.
    """

    type: str
    add: Callable | None = None
    delete: Callable | None = None
    check: Callable | None = None
    gc: Callable | None = None
    status: Callable | None = None
    versions: tuple[str, ...] = SUPPORTED
    is_ipam: bool = False
    reads_args: bool = True


@dataclass(frozen=True)
class Children:
    """How executables of others are found and run, where that is not simply done by this process.

    `resolve`: (path, the suite's home or None) -> the real path of the regular file that is there, or None. `run`:
    (executable, stdin, environment) -> (exit status, or minus the signal that ended it; stdout; stderr); raises OSError
    if it can not be run, CNIError if it was stopped.
    """

    resolve: Callable[[str, str | None], str | None]
    run: Callable[[str, bytes, Mapping[str, str]], tuple[int, bytes, bytes]]


@dataclass(frozen=True)
class Suite:
    """The plugins that can be called in-process instead of executed, and how a call reaches what is not in-process.

    `home`: the folder of this suite's executables (None: there is none, everything is executed). `load`: type ->
    Plugin, or None where the suite has no such type. `version`: what the about text says. `netns`: a descriptor that
    the caller opened at CNI_NETNS, -1 if the caller could not, None: the path is opened here. `children`: None: they
    are run here, as long as they like. `hear`: is told the configuration of the call once that is decoded.
    """

    home: str | None
    load: Callable[[str], Plugin | None]
    version: str = "unknown"
    netns: int | None = None
    children: Children | None = None
    hear: Callable[[Mapping[str, object]], None] | None = None

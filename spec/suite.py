"""What a plugin is, and the suite it ships with."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass

from spec.versions import SUPPORTED


@dataclass(frozen=True)
class Plugin:
    """A CNI plugin: its type, and a function a verb. Each takes a Request; `add` gives a Result, the others None.

    A verb that is None does nothing and succeeds; an `add` of None returns the result of the previous plugin.
    The functions raise CNIError for failures with a code; the runtime gets any other exception as code 999.
    `versions`: supported versions, oldest first. `is_ipam`: whether the plugin assigns addresses, so that `ipam.type`
    may name it. `reads_args`: whether it uses CNI_ARGS; if not, CNI_ARGS is not validated.
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
class Executor:
    """How other plugins' executables are found and run, in a process that serves many calls.

    `resolve`: (path, the suite's home or None) -> the real path of the regular file at `path`, or None. `run`:
    (executable, stdin, environment) -> (exit status, or minus the signal that ended it; stdout; stderr); raises OSError
    if it cannot be executed, CNIError if it was stopped.
    """

    resolve: Callable[[str, str | None], str | None]
    run: Callable[[str, bytes, Mapping[str, str]], tuple[int, bytes, bytes]]


@dataclass(frozen=True)
class Suite:
    """The plugins that can be called in-process, and what the process that serves a call does differently.

    `home`: the folder of this suite's executables (None: there is none, every delegated plugin is executed). `load`:
    type -> Plugin, or None if the suite does not have that type. `version`: for the about text. `netns`: a descriptor
    of CNI_NETNS that the caller opened, -1 if it could not, None: the path is opened here. `executor`: None: other
    plugins run as children of this process, without a deadline. `on_config` is called with the decoded configuration.

    An agent serves many calls, one at a time. `released()` gives up the call's turn while its body waits.
    `delete_links`: deletes links in place of linux.rtnl.deletion.delete_now. `on_batch` is called with a kind and a
    size: "links" deleted in one operation, "nft" changes in one transaction.
    """

    home: str | None
    load: Callable[[str], Plugin | None]
    version: str = "unknown"
    netns: int | None = None
    executor: Executor | None = None
    on_config: Callable[[Mapping[str, object]], object] | None = None
    released: Callable[[], AbstractContextManager[None]] = nullcontext
    delete_links: Callable | None = None
    on_batch: Callable[[str, int], object] | None = None


NO_SUITE = Suite(home=None, load=lambda _kind: None)
"""For a plugin that ships alone: whatever it delegates to is executed."""

_current: ContextVar[Suite] = ContextVar("suite", default=NO_SUITE)


def current() -> Suite:
    """The suite of the call that the calling thread serves; NO_SUITE outside a call.

    For code deep below the plugins that waits or counts: the functions above it do not need the suite.
    """
    return _current.get()


@contextmanager
def serving(suite: Suite) -> Iterator[None]:
    """Have `current` return `suite` in the calling thread while the body runs."""
    token = _current.set(suite)
    try:
        yield
    finally:
        _current.reset(token)

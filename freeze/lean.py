"""Runs in a frozen plugin before any of our modules is imported, and defers imports that a call does not need.

A cold call spends most of its time importing, much of it code that never runs. A deferred module takes the place in
`sys.modules` of one that many modules import and few use. It has the names that are needed at import; access to any
other imports the real module, which replaces it.

It also takes the compiled methods of dataclasses from the build (freeze/precompile.py), which Python compiles in every
process; restores the runtime's environment, for plugins that we execute; and disables the garbage collector, which
would find little during a call.

In the frozen agent, daemon and `slash24`, only imports that need asyncio, and asyncio itself, are deferred.
"""

import gc
import os
import sys
from _thread import _local, allocate_lock

Module = type(sys)

WHOLE = ("slash24", "slash24-agent", "slash24-node")
LOADER_VARIABLES = ("_PYI_", "_MEIPASS2")


class Deferred(Module):
    """A module that is imported on the first access to a name that it does not have."""

    def __init__(self, name: str, **known: object) -> None:
        super().__init__(name)
        self.__dict__.update(known)

    def __getattr__(self, attribute: str) -> object:
        """Import the real module, which replaces this one in `sys.modules`, and return its attribute."""
        if attribute in {"__path__", "__file__", "__spec__"}:  # read by the import system itself
            raise AttributeError(attribute)
        name = self.__name__
        if sys.modules.get(name) is self:
            del sys.modules[name]
        __import__(name)
        return getattr(sys.modules[name], attribute)


class DeferredLogger:
    """`logging.getLogger(name)`, which creates the logger only when something is logged."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def __getattr__(self, attribute: str) -> object:
        from logging import Logger, getLogger, root

        return getattr(Logger.manager.getLogger(self.name) if self.name else root or getLogger(), attribute)


class Hint:
    """Any name from `typing` in an annotation, which is evaluated when a function is defined and never used again."""

    def __getitem__(self, _: object) -> "Hint":
        return self

    def __call__(self, *_: object, **__: object) -> "Hint":
        return self


class OutOfReach:
    """pyroute2's sockets: they need asyncio, and this suite has its own (linux/netlink/socket.py)."""

    def __init__(self, *_: object, **__: object) -> None:
        raise NotImplementedError("pyroute2's sockets are not part of a frozen plugin")


def known_to_all() -> dict[str, dict[str, object]]:
    """The modules that are deferred everywhere, and the names that each has."""
    return {
        "asyncio": {"__path__": [], "subprocess": None},  # lightkube: only for its asynchronous client
        "asyncio.subprocess": {},
        "importlib.metadata": {"version": lambda _name: "bundled"},  # httpx2 and httpcore2: their own
        # the real one imports platform and multiprocessing
        "pyroute2.config": {"AF_BRIDGE": 7, "data_plugins_pkgs": [], "data_plugins_path": []},
        "pyroute2.netlink.nlsocket": {"AsyncNetlinkSocket": OutOfReach, "NetlinkSocket": OutOfReach},
    }


def known_to_plugins() -> dict[str, dict[str, object]]:
    """Those that are deferred in plugins only."""
    hint = Hint()
    hints = dict.fromkeys(("Any", "Callable", "Dict", "Literal", "Optional", "TypeVar", "Union"), hint)
    return {
        "inspect": {},  # dataclasses: only for classes without a docstring
        "traceback": {},  # pyroute2.netlink: only for messages that it cannot decode
        "pkgutil": {},  # pyroute2: only for plugins of plugins
        "selectors": {},  # socket: only for sendfile
        "threading": {"local": _local, "Lock": allocate_lock},
        "logging": {"getLogger": DeferredLogger},
        # ClassVar and _GenericAlias: dataclasses uses them if `typing` is imported
        "typing": hints | {"ClassVar": hint, "_GenericAlias": Hint},
    }


def defer(name: str, known: dict[str, object]) -> None:
    """Defer the module `name`, unless it is already imported."""
    if name in sys.modules:
        return
    sys.modules[name] = Deferred(name, **known)


def reuse_compiled(code: dict[str, bytes]) -> None:
    """Have `dataclasses` execute the compiled code of a text if `code` has it (text -> marshalled), else the text."""
    import dataclasses
    import marshal

    def execute(text: str, names: dict[str, object], made: dict[str, object]) -> None:
        known = code.get(text)
        exec(text if known is None else marshal.loads(known), names, made)  # noqa: S102  (our own build's)

    dataclasses.exec = execute  # found before the builtin, being a global of the module


def restore_environment() -> None:
    """Remove the bootloader's own variables from the environment."""
    for variable in [name for name in os.environ if name.startswith(LOADER_VARIABLES)]:
        del os.environ[variable]
    original = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)
    if original is not None:
        os.environ["LD_LIBRARY_PATH"] = original
    elif getattr(sys, "frozen", False):
        os.environ.pop("LD_LIBRARY_PATH", None)


def main() -> None:
    """Defer imports, and restore the environment."""
    deferred = known_to_all()
    if os.path.basename(sys.executable) not in WHOLE:
        gc.disable()
        deferred |= known_to_plugins()
    for module, known in deferred.items():
        defer(module, known)
    restore_environment()
    try:
        from dataclass_code import CODE
    except ImportError:  # not frozen
        return
    reuse_compiled(CODE)


main()

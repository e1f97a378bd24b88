"""Runs before anything of ours is imported in a frozen plugin, and puts off imports that a call does not need.

A cold call spends most of its time importing, and much of that is code it never runs. A deferred module stands in
`sys.modules` for one that is imported by many and used by few. What importing code asks for at once, it knows; the
first access to anything else imports the real module and hands over to it, so that nothing is lost but time.

It also has the methods of dataclasses come from the build, compiled (freeze/precompile.py), instead of compiling them
anew in every call; gives the environment back as the runtime made it, for the plugins we execute; and turns
the garbage collector off: a call lasts a blink and collects nothing worth the time.

In the frozen agent, which is to last, only what would drag in asyncio is put off.
"""

import gc
import os
import sys
from _thread import _local, allocate_lock

Module = type(sys)

AGENT = "slash24-agent"
LOADER_VARIABLES = ("_PYI_", "_MEIPASS2")


class Deferred(Module):
    """A module that is imported when first asked for something it does not know."""

    def __init__(self, name: str, **known: object) -> None:
        super().__init__(name)
        self.__dict__.update(known)

    def __getattr__(self, attribute: str) -> object:
        """Import the real module and answer from it; it takes this one's place wherever it is imported from now on."""
        if attribute in {"__path__", "__file__", "__spec__"}:  # asked by the import system itself: not a use
            raise AttributeError(attribute)
        name = self.__name__
        if sys.modules.get(name) is self:
            del sys.modules[name]
        __import__(name)
        return getattr(sys.modules[name], attribute)


class DeferredLogger:
    """`logging.getLogger(name)`, of which a logger is made only when something is logged."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def __getattr__(self, attribute: str) -> object:
        from logging import Logger, getLogger, root

        return getattr(Logger.manager.getLogger(self.name) if self.name else root or getLogger(), attribute)


class Hint:
    """Anything from `typing` in an annotation: evaluated when a function is defined, never looked at again."""

    def __getitem__(self, _: object) -> "Hint":
        return self

    def __call__(self, *_: object, **__: object) -> "Hint":
        return self


class OutOfReach:
    """pyroute2's own sockets: they need asyncio, and this suite has its own (linux/netlink/socket.py)."""

    def __init__(self, *_: object, **__: object) -> None:
        raise NotImplementedError("pyroute2's sockets are not part of a frozen plugin")


def known_to_all() -> dict[str, dict[str, object]]:
    """The modules that are deferred everywhere, and what each knows without the real one."""
    return {
        # the real one asks platform and multiprocessing about the machine
        "pyroute2.config": {"AF_BRIDGE": 7, "data_plugins_pkgs": [], "data_plugins_path": []},
        "pyroute2.netlink.nlsocket": {"AsyncNetlinkSocket": OutOfReach, "NetlinkSocket": OutOfReach},
    }


def known_to_plugins() -> dict[str, dict[str, object]]:
    """The same of those that are deferred in plugins."""
    hint = Hint()
    hints = dict.fromkeys(("Any", "Callable", "Dict", "Literal", "Optional", "TypeVar", "Union"), hint)
    return {
        "inspect": {},  # dataclasses: only for classes without a docstring
        "pprint": {},  # netaddr.core: only for printing its own statistics
        "traceback": {},  # pyroute2.netlink: only for messages it can not decode
        "pkgutil": {},  # pyroute2: only for plugins of plugins
        "selectors": {},  # socket: only for sendfile
        "threading": {"local": _local, "Lock": allocate_lock},
        "logging": {"getLogger": DeferredLogger},
        # ClassVar and _GenericAlias: dataclasses compares with them if `typing` is there
        "typing": hints | {"ClassVar": hint, "_GenericAlias": Hint},
    }


def defer(name: str, known: dict[str, object]) -> None:
    """Put a deferred module in the place of `name`, unless the real one is there already."""
    if name in sys.modules:
        return
    sys.modules[name] = Deferred(name, **known)


def reuse_compiled(code: dict[str, bytes]) -> None:
    """Have `dataclasses` execute the compiled form of a text that `code` knows (text -> marshalled), else the text."""
    import dataclasses
    import marshal

    def execute(text: str, names: dict[str, object], made: dict[str, object]) -> None:
        known = code.get(text)
        exec(text if known is None else marshal.loads(known), names, made)  # noqa: S102  (our own build's)

    dataclasses.exec = execute  # a global of the module: found before the builtin


def restore_environment() -> None:
    """Take out what the bootloader put into the environment for itself."""
    for variable in [name for name in os.environ if name.startswith(LOADER_VARIABLES)]:
        del os.environ[variable]
    original = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)
    if original is not None:
        os.environ["LD_LIBRARY_PATH"] = original
    elif getattr(sys, "frozen", False):
        os.environ.pop("LD_LIBRARY_PATH", None)


def main() -> None:
    """Make the interpreter lean."""
    deferred = known_to_all()
    if os.path.basename(sys.executable) != AGENT:
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

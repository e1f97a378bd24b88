"""Delegation (spec section 4): calls another plugin, in-process if it is one of ours, else by executing it."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from stat import S_ISREG

from spec import jsontext
from spec.config import Section, abbreviated
from spec.errors import CNIError, Code, code_of
from spec.plugin import Plugin, call, check_version
from spec.request import Request
from spec.result import Result
from spec.suite import Executor
from spec.verbs import VERBS

_DELEGATED = "SLASH24_DELEGATED"
"""Set for executed plugins: a plugin of ours that finds it set does not delegate again."""

_LINK_MAKERS = "bridge dummy host-device ipvlan kubenet macvlan ptp tap vlan vxlan loopback"
_CHAINED = "bandwidth firewall flannel portmap sbr tuning vrf"
_NOT_IPAM = frozenset((*_LINK_MAKERS.split(), *_CHAINED.split(), "slash24-agent", "slash24-node"))
"""Plugins that create links or are chained, which execute `ipam.type`, that is themselves; and the daemons."""

_CODE_HIGHEST = 2**32 - 1

_ELF, _LAUNCHER_MARK = b"\x7fELF", b"slash24 launcher, protocol 2\0"  # launcher/main.c
_LAUNCHER_LIMIT = 256 << 10  # bytes; it has some 50,000

_BUSY_TRIES = 5
_BUSY_PAUSE_SECONDS = 1
_ETXTBSY = 26


def resolve(path: str, home: str | None) -> str | None:
    """Executor.resolve of this process. `home` is a real path, so its files need no resolution."""
    with suppress(OSError, ValueError):
        if os.path.dirname(path) == home and S_ISREG(os.lstat(path).st_mode):
            return path
    return os.path.realpath(path) if os.path.isfile(path) else None


def find(kind: str, path: Sequence[str], home: str | None, executor: Executor) -> tuple[str, str]:
    """Find the executable of a type: the first regular file of that name in the folders of `path`.

    Returns its path, and its real path with symbolic links resolved. `home`: the suite's. Raises CNIError 7 for a type
    that is not a valid file name, 999 if it is not found.
    """
    if not kind:
        raise CNIError(Code.INVALID_NETWORK_CONFIG, "no plugin name provided")
    if "/" in kind:
        raise CNIError(Code.INVALID_NETWORK_CONFIG, f"invalid plugin name: {kind}")
    for folder in path:
        candidate = os.path.join(folder, kind)
        real = executor.resolve(candidate, home)
        if real is not None:
            return candidate, real
    raise CNIError(Code.INTERNAL, f'failed to find plugin "{kind}" in path [{" ".join(path)}]')


def delegate(request: Request, verb: str, kind: str) -> Result | None:
    """Delegate `verb` to the IPAM plugin `kind`, with the same configuration and variables; returns an ADD's Result.

    Raises the plugin's CNIError unchanged (999 with its stderr if it printed none), 1 if the configuration's version
    lacks the verb, and 7 if `kind` is not an IPAM plugin; DEL and GC only log that.
    """
    check_version(VERBS[verb], request.conf.cni_version)
    try:
        _require_ipam(request, kind)
        executable, real = _find_for(request, verb, kind)
        _require_ipam(request, os.path.basename(real))
        inherited = request.with_verb(verb)
        plugin = _own_plugin(inherited, real)
        if plugin is not None and not plugin.is_ipam:
            raise _not_ipam(kind)
    except _NotIPAM as error:
        if verb not in ("DEL", "GC"):
            raise
        # No ADD can have got an address from it, so there is nothing to release.
        request.log(str(error))
        return None
    if plugin is not None:
        return call(plugin, inherited)
    return _delegate_to_child(inherited, executable, kind)


class _NotIPAM(CNIError):
    """`ipam.type` does not name an IPAM plugin."""


def _not_ipam(kind: str) -> _NotIPAM:
    message = f'"ipam.type": expected an IPAM plugin such as host-local or static, got {abbreviated(kind)}'
    return _NotIPAM(Code.INVALID_NETWORK_CONFIG, message)


def _require_ipam(request: Request, kind: str) -> None:
    """Raises CNIError 7 for plugins that are not IPAM plugins, and for infinite recursion."""
    if kind and kind == request.conf.type:
        raise _NotIPAM(Code.INVALID_NETWORK_CONFIG, f"plugin {kind} is configured to delegate to itself")
    if kind in _NOT_IPAM:
        raise _not_ipam(kind)
    if request.environ.get(_DELEGATED):
        message = f"{request.conf.type} was executed as an IPAM plugin, and would execute another: {abbreviated(kind)}"
        raise _NotIPAM(Code.INVALID_NETWORK_CONFIG, message)


def _find_for(request: Request, verb: str, kind: str) -> tuple[str, str]:
    try:
        return find(kind, request.path, request.suite.home, _executor(request))
    except CNIError as error:
        if verb == "STATUS":
            # STATUS is the only verb for which the specification has a code for this.
            raise CNIError(Code.PLUGIN_NOT_AVAILABLE, error.msg) from error
        raise


def _own_plugin(request: Request, real: str) -> Plugin | None:
    """The suite's plugin, if the executable at this real path is one: its name alone does not show that."""
    home, folder = request.suite.home, os.path.dirname(real)
    if home is None or (folder != home and folder != os.path.realpath(home)):
        return None
    plugin = request.suite.load(os.path.basename(real))
    return plugin if plugin is not None and is_launcher(real) else None


def is_launcher(path: str) -> bool:
    """Whether the file is a launcher of this suite, a hard link or a copy, that would pass the call to the agent.

    False if it cannot be read or has another protocol version: executing it is always correct.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(_LAUNCHER_LIMIT)
    except OSError:
        return False
    return data.startswith(_ELF) and _LAUNCHER_MARK in data


def _delegate_to_child(request: Request, executable: str, kind: str) -> Result | None:
    if request.verb != "ADD":
        _execute(request, executable, kind)
        return None
    try:
        return _read_result(_execute(request, executable, kind), request, kind)
    except CNIError:
        # Spec section 4: after a failed ADD the delegating plugin runs DEL. (Our own plugins undo a failed ADD.)
        try:
            _execute(request.with_verb("DEL"), executable, kind)
        except CNIError as error:
            request.log(f"{kind}: DEL after a failed ADD: {error}")
        raise


def _execute(request: Request, executable: str, kind: str) -> bytes:
    """Execute the plugin; returns its stdout. Raises CNIError."""
    status, output, errors = _run(request, executable, kind)
    if status != 0 and not output.strip():
        raise _error_without_document(status, errors)
    if errors:
        request.log(errors.rstrip("\n"))
    if status != 0:
        raise _child_error(output)
    return output


def _run(request: Request, executable: str, kind: str) -> tuple[int, bytes, str]:
    # Imported here, since delegation to our own plugins never gets here.
    import time

    for attempt in range(_BUSY_TRIES):
        try:
            environ = {**request.environ, _DELEGATED: "1"}
            status, output, errors = _executor(request).run(executable, request.stdin, environ)
        except OSError as error:
            # It is being installed.
            if error.errno == _ETXTBSY and attempt + 1 < _BUSY_TRIES:
                time.sleep(_BUSY_PAUSE_SECONDS)
                continue
            raise CNIError(code_of(error), f'failed to run plugin "{kind}": {error.strerror}', executable) from error
        return status, output, errors.decode(errors="replace")
    raise AssertionError("unreachable")


def _executor(request: Request) -> Executor:
    return request.suite.executor or HERE


def _run_here(executable: str, stdin: bytes, environ: Mapping[str, str]) -> tuple[int, bytes, bytes]:
    """Executor.run of this process, without a deadline, which is up to the runtime."""
    import subprocess

    from spec.child_process import communicate

    pipe = subprocess.PIPE
    with subprocess.Popen([executable], stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environ)) as child:
        try:
            stdout, stderr = communicate(child, stdin, executable)
        except BaseException:
            child.kill()
            raise
    return child.returncode, stdout, stderr


HERE = Executor(resolve, _run_here)
"""Plugins run as children of this process."""


def _error_without_document(status: int, errors: str) -> CNIError:
    if errors.strip():
        return CNIError(Code.INTERNAL, f"netplugin failed: {jsontext.dumps(errors.strip())}")
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    return CNIError(Code.INTERNAL, f"netplugin failed with no error message: {how}")


def _child_error(output: bytes) -> CNIError:
    """The error that a plugin printed; code 0, which is not an error code, becomes 999."""
    try:
        document = Section(_object(output))
        code = document.integer("code", 0, low=0, high=_CODE_HIGHEST)
        return CNIError(code or Code.INTERNAL, document.string("msg"), document.string("details"))
    except (ValueError, CNIError) as error:
        text = jsontext.dumps(output.decode(errors="replace"))
        message = f"netplugin failed but error parsing its diagnostic message {text}: {error}"
        return CNIError(Code.INTERNAL, message)


def _read_result(output: bytes, request: Request, kind: str) -> Result:
    """Parse the result that a plugin printed, in its own version or the configuration's. Raises CNIError 6, 7 or 1."""
    try:
        document = Section(_object(output), f"result of {kind}")
    except ValueError as error:
        raise CNIError(Code.DECODING_FAILURE, f'could not parse the result of plugin "{kind}": {error}') from error
    return Result.parse(document, document.string("cniVersion") or request.conf.cni_version)


def _object(output: bytes) -> Mapping[str, object]:
    value = jsontext.loads(output)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {abbreviated(value)}")
    return value

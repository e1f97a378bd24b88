"""Delegation (spec section 4): another plugin does a part of the work, in-process if it is ours, executed if not."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from stat import S_ISREG

from spec import jsontext
from spec.config import Section, shown
from spec.errors import CNIError, Code, code_of
from spec.plugin import Plugin, call, check_version
from spec.request import Request
from spec.result import Result
from spec.suite import Children
from spec.verbs import VERBS

_BUSY_TRIES = 5
_BUSY_PAUSE_SECONDS = 1
_ETXTBSY = 26


def resolve(path: str, home: str | None) -> str | None:
    """As spec.suite.Children has it. `home` is a real path, which makes it easy to tell what is in there."""
    with suppress(OSError, ValueError):
        if os.path.dirname(path) == home and S_ISREG(os.lstat(path).st_mode):
            return path
    return os.path.realpath(path) if os.path.isfile(path) else None


def find(kind: str, path: Sequence[str], home: str | None, children: Children) -> tuple[str, str]:
    """The executable of that type: the first regular file of that name in the folders of `path`.

    Returns its path, and the real one behind whatever symbolic links. `home`: the suite's. Raises CNIError 7 for a type
    that can not be a file's name, 999 where no folder has it.
    """
    if not kind:
        raise CNIError(Code.INVALID_NETWORK_CONFIG, "no plugin name provided")
    if "/" in kind:
        raise CNIError(Code.INVALID_NETWORK_CONFIG, f"invalid plugin name: {kind}")
    for folder in path:
        candidate = os.path.join(folder, kind)
        real = children.resolve(candidate, home)
        if real is not None:
            return candidate, real
    raise CNIError(Code.INTERNAL, f'failed to find plugin "{kind}" in path [{" ".join(path)}]')


def delegate(request: Request, verb: str, kind: str) -> Result | None:
    """Have the plugin `kind` do `verb` with the same configuration and variables; the Result of an ADD, else None.

    Raises the child's CNIError unchanged (999 for a child that dies without one, with what it said on stderr), and 1
    where the configuration's version has no such verb.
    """
    check_version(VERBS[verb], request.conf.cni_version)
    if kind and kind == request.conf.type:
        raise CNIError(Code.INVALID_NETWORK_CONFIG, f"plugin {kind} is configured to delegate to itself")
    executable, real = _find_for(request, verb, kind)
    inherited = request.with_verb(verb)
    plugin = _own_plugin(inherited, real)
    if plugin is not None:
        return call(plugin, inherited)
    return _delegate_to_child(inherited, executable, kind)


def _find_for(request: Request, verb: str, kind: str) -> tuple[str, str]:
    try:
        return find(kind, request.path, request.suite.home, _children(request))
    except CNIError as error:
        if verb == "STATUS":
            # The one question to which "it is not installed" is an answer the specification has a code for.
            raise CNIError(Code.PLUGIN_NOT_AVAILABLE, error.msg) from error
        raise


def _own_plugin(request: Request, real: str) -> Plugin | None:
    """The suite's own plugin if that is what the executable at this real path is."""
    home, folder = request.suite.home, os.path.dirname(real)
    if home is None or (folder != home and folder != os.path.realpath(home)):
        return None
    return request.suite.load(os.path.basename(real))


def _delegate_to_child(request: Request, executable: str, kind: str) -> Result | None:
    if request.verb != "ADD":
        _execute(request, executable, kind)
        return None
    try:
        return _read_result(_execute(request, executable, kind), request, kind)
    except CNIError:
        # Spec section 4: after a failed ADD the upper plugin runs DEL. (A plugin of ours leaves nothing by itself.)
        try:
            _execute(request.with_verb("DEL"), executable, kind)
        except CNIError as error:
            request.say(f"{kind}: DEL after a failed ADD: {error}")
        raise


def _execute(request: Request, executable: str, kind: str) -> bytes:
    """Run it to its end; its stdout. Raises CNIError."""
    status, output, said = _run(request, executable, kind)
    if status != 0 and not output.strip():
        raise _mute_error(status, said)
    if said:
        request.say(said.rstrip("\n"))
    if status != 0:
        raise _child_error(output)
    return output


def _run(request: Request, executable: str, kind: str) -> tuple[int, bytes, str]:
    # Imported here: the suite's own plugins never get to this line.
    import time

    for attempt in range(_BUSY_TRIES):
        try:
            status, output, said = _children(request).run(executable, request.stdin, request.environ)
        except OSError as error:
            # Somebody is just installing it.
            if error.errno == _ETXTBSY and attempt + 1 < _BUSY_TRIES:
                time.sleep(_BUSY_PAUSE_SECONDS)
                continue
            raise CNIError(code_of(error), f'failed to run plugin "{kind}": {error.strerror}', executable) from error
        return status, output, said.decode(errors="replace")
    raise AssertionError("unreachable")


def _children(request: Request) -> Children:
    return request.suite.children or HERE


def _run_here(executable: str, stdin: bytes, environ: Mapping[str, str]) -> tuple[int, bytes, bytes]:
    """Bounded by nothing: how long a call may last is the runtime's to decide."""
    import subprocess

    done = subprocess.run([executable], input=stdin, env=dict(environ), capture_output=True, check=False)
    return done.returncode, done.stdout, done.stderr


HERE = Children(resolve, _run_here)
"""Executables are run by this process, as long as they like."""


def _mute_error(status: int, said: str) -> CNIError:
    if said.strip():
        return CNIError(Code.INTERNAL, f"netplugin failed: {jsontext.dumps(said.strip())}")
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    return CNIError(Code.INTERNAL, f"netplugin failed with no error message: {how}")


def _child_error(output: bytes) -> CNIError:
    """The error document of a child; code 0 is none, so it becomes 999."""
    try:
        document = Section(_object(output))
        code = document.integer("code", 0, low=0)
        return CNIError(code or Code.INTERNAL, document.string("msg"), document.string("details"))
    except (ValueError, CNIError) as error:
        text = jsontext.dumps(output.decode(errors="replace"))
        message = f"netplugin failed but error parsing its diagnostic message {text}: {error}"
        return CNIError(Code.INTERNAL, message)


def _read_result(output: bytes, request: Request, kind: str) -> Result:
    """What a child printed, in the version that it states, else in the configuration's. Raises CNIError 6, 7 or 1."""
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
        raise ValueError(f"expected an object, got {shown(value)}")
    return value

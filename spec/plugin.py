"""Serves one call: reads variables and stdin, prints at most one JSON document, returns the exit status."""

from collections.abc import Mapping
from io import BufferedIOBase, TextIOBase
from time import sleep

from spec import jsontext, verbs
from spec.config import NetConf, Section, read_config, read_name, read_version
from spec.errors import CNIError, Code, as_cni_error, came_of_shortage
from spec.request import Request, check_variables, is_own_netns, log, parse_args, parse_path, read_stdin
from spec.result import Result, check_expressible, dumps
from spec.suite import NO_SUITE, Plugin, Suite, serving
from spec.verbs import VERBS, Verb
from spec.versions import LATEST, SUPPORTED, at_least

__all__ = ["NO_SUITE", "Plugin", "Suite", "call", "serve"]

_UNDO_TRIES, _UNDO_PAUSE_SECONDS = 20, 0.1

_LONGEST_TEXT = 4096
"""Characters of an error's message and of its details: runtimes copy them to logs, events and RPCs with limits."""


def serve(
    plugin: Plugin,
    *,
    environ: Mapping[str, str],
    stdin: BufferedIOBase,
    stdout: BufferedIOBase,
    stderr: TextIOBase,
    suite: Suite = NO_SUITE,
) -> int:
    """Serve one call; returns the exit status, 0 or 1. Never raises.

    stdout gets at most one JSON document: the result or the error. Thread-safe: all input is in the arguments, and the
    network namespace is that of the calling thread.
    """
    command = environ.get(verbs.COMMAND, "")
    if not command:
        log(stderr, _about(plugin, suite))
        return 0
    call_ = _Call(plugin, environ, stderr, suite)
    with serving(suite):
        try:
            text = _version_text(plugin) if command == "VERSION" else call_.answer(command, stdin)
        except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001  (the border: one document)
            return call_.fail(error, stdout)
        return call_.succeed(text, stdout)


def call(plugin: Plugin, request: Request) -> Result | None:
    """Run `request.verb`, for `serve` and for in-process delegation.

    Raises CNIError 1 if the plugin or the configuration's version does not have the verb, and what the plugin raises.
    An ADD whose result cannot be expressed in the configuration's version is undone first.
    """
    verb = VERBS[request.verb]
    check_version(verb, request.conf.cni_version, plugin.versions)
    if request.verb == "ADD":
        return _add(plugin, request)
    handler = getattr(plugin, verb.handler)
    if request.verb == "GC" and request.conf.valid_attachments is None:
        # The list is part of the input, and a plugin deletes what is not in it. cnitool (libcni's GCNetworkList with
        # nil arguments) sends none, after a DEL for each attachment it knows. Whether any others are in use cannot be
        # known here, and releasing the address of a running pod is worse than leaking one.
        request.log(f"{plugin.type}: GC without cni.dev/valid-attachments removes nothing")
    elif handler is not None:
        handler(request)
    return None


def check_version(verb: Verb, version: str, supported: tuple[str, ...] = SUPPORTED) -> None:
    """Raises CNIError 1 if the version lacks the verb or is not supported, 6 if it is invalid and must be compared."""
    if verb.since != SUPPORTED[0]:
        if not at_least(version, verb.since):
            raise CNIError(Code.INCOMPATIBLE_VERSION, f"config version does not allow {verb.name}")
        if not at_least(supported[-1], version):
            raise CNIError(Code.INCOMPATIBLE_VERSION, f"plugin version does not allow {verb.name}")
    if version not in supported:
        names = " ".join(f'"{name}"' for name in supported)
        details = f'config is "{version}", plugin supports [{names}]'
        raise CNIError(Code.INCOMPATIBLE_VERSION, "incompatible CNI versions", details)


class _Call:
    """The state of a call: the version for its error document, and the ADD to undo if the result cannot be printed."""

    def __init__(self, plugin: Plugin, environ: Mapping[str, str], stderr: TextIOBase, suite: Suite) -> None:
        self._plugin = plugin
        self._environ = environ
        self._stderr = stderr
        self._suite = suite
        self._version = LATEST
        self._added: Request | None = None

    def answer(self, command: str, stdin: BufferedIOBase) -> str:
        """The text to print, "" for nothing. Checks the input in the reference's order; raises any exception."""
        verb = VERBS.get(command)
        if verb is not None:
            check_variables(self._environ, verb)
        data = read_stdin(stdin)
        document, section = read_config(data)
        if self._suite.on_config:
            self._suite.on_config(document)
        self._remember_version(section)
        read_name(section)
        if verb is None:
            raise CNIError(Code.INVALID_ENVIRONMENT, f"unknown {verbs.COMMAND}: {command}")
        check_version(verb, read_version(section), self._plugin.versions)
        request = self._request(verb, section, data)
        result = call(self._plugin, request)
        if verb.name != "ADD":
            return ""
        self._added = request
        return dumps(result, request.conf.cni_version)

    def succeed(self, text: str, stdout: BufferedIOBase) -> int:
        """Print the result. If that fails, so does the call, and an ADD is undone."""
        try:
            _write(stdout, text)
        except (OSError, ValueError) as error:
            self._undo()
            log(self._stderr, f"{self._plugin.type}: cannot write the result: {error}")
            return 1
        return 0

    def fail(self, error: BaseException, stdout: BufferedIOBase) -> int:
        """Print the error document."""
        self._undo()
        if self._environ.get("SLASH24_DEBUG"):
            import traceback

            traceback.print_exception(error, file=self._stderr)
        try:
            _write(stdout, error_text(error, self._version))
        except (OSError, ValueError):
            log(self._stderr, f"{self._plugin.type}: {error}")
        return 1

    def _remember_version(self, section: Section) -> None:
        version = section.raw("cniVersion") or SUPPORTED[0]
        if version in self._plugin.versions:
            self._version = version

    def _request(self, verb: Verb, section: Section, data: bytes) -> Request:
        conf = NetConf.parse(section, strict=verb.strict)
        environ = dict(self._environ)
        given = {name: environ.get(name, "") for name in (*verb.required, *verb.optional)}
        args = parse_args(given.get(verbs.ARGS, ""), strict=verb.strict and self._plugin.reads_args)
        netns = given.get(verbs.NETNS, "")
        if _guards_own_netns(environ) and is_own_netns(netns, self._suite.netns):
            if verb.strict:
                message = "plugin's netns and netns from CNI_NETNS should not be the same"
                raise CNIError(Code.INVALID_NETNS, message)
            # Not a pod's namespace: clean up as for a DEL without a netns.
            netns = environ[verbs.NETNS] = ""
        return Request(
            verb=verb.name,
            container_id=given.get(verbs.CONTAINERID, ""),
            netns=netns,
            ifname=given.get(verbs.IFNAME, ""),
            args=args,
            path=parse_path(given[verbs.PATH], strict=verb.strict),
            conf=conf,
            stdin=data,
            environ=environ,
            suite=self._suite,
            stderr=self._stderr,
        )

    def _undo(self) -> None:
        if self._added is not None:
            undo_add(self._plugin, self._added)


def undo_add(plugin: Plugin, request: Request) -> None:
    """DEL after an ADD whose result was not delivered. Never raises, so that the ADD's error is the one reported."""
    if plugin.delete is None:
        return
    for left in reversed(range(_UNDO_TRIES)):
        try:
            plugin.delete(request.with_verb("DEL"))
        except Exception as error:  # noqa: BLE001  (nothing may replace the ADD's error)
            if left and came_of_shortage(error):
                sleep(_UNDO_PAUSE_SECONDS)
                continue
            request.log(f"{plugin.type}: undo of a failed ADD: {error}")
        return


def _add(plugin: Plugin, request: Request) -> Result:
    if plugin.add is None:
        return request.conf.prev_result or Result()
    result = plugin.add(request)
    try:
        check_expressible(result, request.conf.cni_version)
    except CNIError:
        undo_add(plugin, request)
        raise
    return result


def _guards_own_netns(environ: Mapping[str, str]) -> bool:
    return environ.get(verbs.NETNS_OVERRIDE, "").lower() not in ("1", "true")


def _about(plugin: Plugin, suite: Suite) -> str:
    supported = ", ".join(plugin.versions)
    return f"CNI {plugin.type} plugin {suite.version}\nCNI protocol versions supported: {supported}"


def _version_text(plugin: Plugin) -> str:
    document = {"cniVersion": LATEST, "supportedVersions": list(plugin.versions)}
    return jsontext.dumps(document, indent=None) + "\n"


def error_text(error: BaseException, version: str) -> str:
    """The error document in `version`; other exceptions than CNIError become code 999, or 11 for a shortage."""
    error = as_cni_error(error)
    document = {"cniVersion": version, "code": int(error.code), "msg": _cut(str(error.msg))}
    if error.details:
        document["details"] = _cut(str(error.details))
    return jsontext.dumps(document)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "…"


def _write(stdout: BufferedIOBase, text: str) -> None:
    stdout.write(text.encode())
    stdout.flush()

"""The runtime's side of CNI: calls the plugins of a network, as libcni does."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cli.facts.networks import Network
from spec import verbs
from spec.child_process import communicate
from spec.config import Section
from spec.delegate import HERE, find
from spec.errors import CNIError, Code
from spec.jsontext import dumps, loads

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SECONDS = 60
_LONGEST_TEXT = 1000  # characters of what a plugin prints, in an error


@dataclass(frozen=True)
class Pod:
    """A container: its ID, a path of its network namespace, and the name of its interface there."""

    container: str
    netns: str
    ifname: str = "eth0"


@dataclass(frozen=True)
class Answer:
    """The document that a plugin printed ({} if none), and its lines on stderr."""

    document: Mapping[str, object]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Caller:
    """Calls the plugins of `network` in this version of CNI. `folders`: where they are, as in CNI_PATH."""

    network: Network
    version: str
    folders: tuple[str, ...]

    def add(self, pod: Pod) -> Mapping[str, object]:
        """ADD of all plugins; the result of the last one. Raises CNIError; what was made stays until `delete`."""
        result: Mapping[str, object] | None = None
        for plugin in self.network.plugins:
            result = self._call("ADD", plugin, pod, result).document
        return result or {}

    def check(self, pod: Pod, result: Mapping[str, object]) -> None:
        """CHECK of all plugins. Raises CNIError."""
        for plugin in self.network.plugins:
            self._call("CHECK", plugin, pod, result)

    def delete(self, pod: Pod, result: Mapping[str, object] | None) -> None:
        """DEL of all plugins, the last one first; all of them are called. Raises the first CNIError."""
        failures = []
        for plugin in reversed(self.network.plugins):
            try:
                self._call("DEL", plugin, pod, result)
            except CNIError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def status(self, plugin: Mapping[str, object]) -> tuple[str, ...]:
        """STATUS of one plugin; its lines on stderr. Raises CNIError."""
        return self._call("STATUS", plugin, None, None).lines

    def _call(
        self, verb: str, plugin: Mapping[str, object], pod: Pod | None, result: Mapping[str, object] | None
    ) -> Answer:
        kind = Section(plugin).string("type")
        executable, _ = find(kind, self.folders, None, HERE)
        conf = {**plugin, "cniVersion": self.version, "name": self.network.name}
        if result is not None:
            conf["prevResult"] = result
        environ = {verbs.PATH: ":".join(self.folders)}
        if pod:
            environ |= {verbs.CONTAINERID: pod.container, verbs.NETNS: pod.netns, verbs.IFNAME: pod.ifname}
        try:
            return call(executable, verb, dumps(conf, indent=None).encode(), environ)
        except CNIError as error:
            raise CNIError(error.code, f"{verb} of {executable}: {error.msg}", error.details) from error


def call(executable: str, verb: str, stdin: bytes = b"", environ: Mapping[str, str] | None = None) -> Answer:
    """Call an executable. Raises CNIError: its own, or 999 if it cannot be run or does not answer within a minute."""
    environ = {"PATH": _PATH, verbs.COMMAND: verb, **(environ or {})}
    status, stdout, stderr = _run([executable], stdin, environ)
    text, lines = stdout.strip(), tuple(stderr.decode("utf-8", "replace").splitlines())
    try:
        document = loads(text) if text else {}
    except ValueError as error:
        printed = text.decode("utf-8", "replace")[:_LONGEST_TEXT]
        raise CNIError(Code.INTERNAL, f"{executable} printed no JSON document: {printed}", str(error)) from error
    if not isinstance(document, dict):
        raise CNIError(Code.INTERNAL, f"{executable} printed a document that is no object")
    if status == 0:
        return Answer(document, lines)
    told = Section(document)
    message = told.string("msg") or " ".join(lines)[:_LONGEST_TEXT] or f"it ended with status {status}"
    raise CNIError(told.integer("code") or Code.INTERNAL, message, told.string("details"))


def _run(argv: Sequence[str], stdin: bytes, environ: Mapping[str, str]) -> tuple[int, bytes, bytes]:
    """In a session of its own, so that the terminal's Ctrl-C does not end it half way. Raises CNIError 999."""
    pipe, end = subprocess.PIPE, time.monotonic() + _SECONDS
    try:
        with subprocess.Popen(
            argv, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environ), start_new_session=True
        ) as child:
            try:
                stdout, stderr = communicate(child, stdin, argv[0], end)
            except BaseException:
                child.kill()
                raise
    except TimeoutError as error:
        raise CNIError(Code.INTERNAL, f"{argv[0]} did not answer within {_SECONDS} seconds") from error
    except OSError as error:
        raise CNIError(Code.INTERNAL, f"{argv[0]} cannot be executed: {os.strerror(error.errno)}") from error
    return child.returncode, stdout, stderr

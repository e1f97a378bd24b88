"""One call of a plugin: the variables, CNI_ARGS and the configuration, checked and in one frozen value."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BufferedIOBase, TextIOBase

from spec import verbs
from spec.attachment import Attachment
from spec.config import NetConf
from spec.errors import CNIError, Code
from spec.identifiers import check_container_id, check_ifname, check_new_ifname
from spec.suite import Suite
from spec.verbs import VERBS, Verb

STDIN_LIMIT = 16 << 20
"""Bytes of a configuration. The largest real ones (a GC of a full node) have some hundred kilobytes."""

CONVENTIONAL_ARGS = ("IP", "GATEWAY", "MAC")
"""Keys of CNI_ARGS that any plugin takes, whether or not it uses them: a runtime sends them to a whole chain."""

_IGNORE_UNKNOWN = "IgnoreUnknown"
_BOOLEANS = {"1": True, "true": True, "0": False, "false": False}
_OWN_NETNS = ("/proc/thread-self/ns/net", "/proc/self/ns/net")


@dataclass(frozen=True)
class Request:
    """What the runtime asks. `netns` is a path, "" where there is none (any more); `args` is CNI_ARGS, parsed.

    `path` is CNI_PATH in parts; `stdin` and `environ` are what delegated plugins are given, `stderr` takes what is
    to be said beside the protocol. All a plugin may know of its caller is here; a plugin never looks at os.environ.
    """

    verb: str
    container_id: str
    netns: str
    ifname: str
    args: Mapping[str, str]
    path: tuple[str, ...]
    conf: NetConf
    stdin: bytes
    environ: Mapping[str, str]
    suite: Suite
    stderr: TextIOBase

    @property
    def attachment(self) -> Attachment:
        """The owner of everything this call makes or removes."""
        return Attachment(self.conf.name, self.container_id, self.ifname)

    @property
    def netns_fd(self) -> int | None:
        """The caller's descriptor of `netns`, as linux.netns.open_netns takes it."""
        # A DEL that was given the node's own namespace goes on without one, and without this way into it.
        return self.suite.netns if self.netns else None

    @property
    def valid_attachments(self) -> frozenset[Attachment]:
        """What a GC must leave alone. Raises CNIError 7 where the runtime did not say."""
        pairs = self.conf.valid_attachments
        if pairs is None:
            raise self.conf.section.error("cni.dev/valid-attachments", "a list of attachments")
        return frozenset(Attachment(self.conf.name, container_id, ifname) for container_id, ifname in pairs)

    def log(self, text: str) -> None:
        """A line on stderr, for people; never raises."""
        log(self.stderr, text)

    def with_verb(self, verb: str) -> "Request":
        """The same request with another verb, for delegation and undo."""
        if verb == self.verb:
            return self
        conf = replace(self.conf, strict=VERBS[verb].strict)
        return replace(self, verb=verb, conf=conf, environ={**self.environ, verbs.COMMAND: verb})


def log(stderr: TextIOBase, text: str) -> None:
    """A line on stderr; what can not be said there is not worth failing for."""
    try:
        stderr.write(f"{text}\n")
        stderr.flush()
    except (OSError, ValueError, AttributeError):
        # AttributeError: Python's stderr is None where the caller closed the descriptor.
        return


def check_variables(environ: Mapping[str, str], verb: Verb) -> None:
    """Raises CNIError 4: for the first variable that is wrong, else for all that are missing, together."""
    missing = []
    for name in verb.required:
        value = environ.get(name, "")
        if not value:
            missing.append(name)
        elif name == verbs.IFNAME and not verb.strict:
            check_ifname(value)
        elif name in _CHECKS:
            _CHECKS[name](value)
    if missing:
        raise CNIError(Code.INVALID_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")


def read_stdin(stdin: BufferedIOBase) -> bytes:
    """All of stdin. Raises CNIError 5 (it can not be read), 6 (more than STDIN_LIMIT bytes)."""
    try:
        data = stdin.read(STDIN_LIMIT + 1) or b""
    except (OSError, ValueError) as error:
        raise CNIError(Code.IO_FAILURE, f"error reading from stdin: {error}") from error
    if len(data) > STDIN_LIMIT:
        raise CNIError(Code.DECODING_FAILURE, f"network config of more than {STDIN_LIMIT} bytes")
    return data


def parse_args(text: str, *, strict: bool) -> dict[str, str]:
    """CNI_ARGS, `K=V;K2=V2`. Raises CNIError 4 if `strict`, else takes what can be read and drops the rest.

    Keys beside the conventional ones are kept where IgnoreUnknown is true, an error otherwise.
    """
    args: dict[str, str] = {}
    for pair in text.split(";") if text else ():
        key, equals, value = pair.partition("=")
        if equals and "=" not in value:
            args[key] = value
        elif strict:
            raise _args_error(f"invalid pair {_quoted(pair)}")
    if strict and not _ignores_unknown(args):
        unknown = [f"{key}={value}" for key, value in args.items() if key not in (*CONVENTIONAL_ARGS, _IGNORE_UNKNOWN)]
        if unknown:
            raise _args_error(f"unknown args [{' '.join(map(_quoted, unknown))}]")
    return args


def parse_path(text: str, *, strict: bool) -> tuple[str, ...]:
    """The folders of CNI_PATH. Raises CNIError 4 for a relative one if `strict`, else does without it.

    Which folder it means depends on the working directory: the runtime's, the agent's.
    """
    folders = tuple(part for part in text.split(":") if part)
    relative = [folder for folder in folders if folder[0] != "/"]
    if relative and strict:
        raise CNIError(Code.INVALID_ENVIRONMENT, f'CNI_PATH: expected absolute paths, got "{relative[0]}"')
    return tuple(folder for folder in folders if folder[0] == "/")


def is_own_netns(netns: str, fd: int | None = None) -> bool:
    """Whether the path leads to the network namespace of the calling thread; one that can not be opened does not.

    `fd`: a descriptor that was opened there, if somebody else opened it. Raises CNIError 8 where the thread's own can
    not be read.
    """
    if not netns:
        return False
    try:
        theirs = os.stat(netns if fd is None else fd)
    except (OSError, ValueError):
        return False
    for path in _OWN_NETNS:
        try:
            ours = os.stat(path)
        except OSError:
            continue
        return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)
    raise CNIError(Code.INVALID_NETNS, "get plugin's netns failed")


def _check_netns(text: str) -> None:
    # A result repeats the path, and results are UTF-8.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CNIError(Code.INVALID_ENVIRONMENT, "CNI_NETNS is not valid UTF-8", ascii(text)) from None


_CHECKS = {verbs.CONTAINERID: check_container_id, verbs.IFNAME: check_new_ifname, verbs.NETNS: _check_netns}


def _ignores_unknown(args: Mapping[str, str]) -> bool:
    value = args.get(_IGNORE_UNKNOWN, "0")
    if value.lower() not in _BOOLEANS:
        pair = _quoted(f"{_IGNORE_UNKNOWN}={value}")
        raise _args_error(f"error parsing value of pair {pair}: boolean unmarshal error: invalid input {value.lower()}")
    return _BOOLEANS[value.lower()]


def _args_error(reason: str) -> CNIError:
    allowed = ", ".join((*CONVENTIONAL_ARGS, _IGNORE_UNKNOWN))
    details = f"CNI_ARGS is K=V;K2=V2 with the keys {allowed}; others with {_IGNORE_UNKNOWN}=1 only"
    return CNIError(Code.INVALID_ENVIRONMENT, f"ARGS: {reason}", details)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

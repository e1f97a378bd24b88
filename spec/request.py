"""A call of a plugin: variables, CNI_ARGS and configuration, validated, in one frozen value."""

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
"""Bytes of a configuration. The largest real ones, of a GC on a full node, have some hundred kilobytes."""

CONVENTIONAL_ARGS = ("IP", "GATEWAY", "MAC")
"""Keys of CNI_ARGS that every plugin accepts, since a runtime sends them to all plugins of a chain."""

_IGNORE_UNKNOWN = "IgnoreUnknown"
_BOOLEANS = {"1": True, "true": True, "0": False, "false": False}
_OWN_NETNS = ("/proc/thread-self/ns/net", "/proc/self/ns/net")


@dataclass(frozen=True)
class Request:
    """The runtime's request. `netns` is a path, "" if there is none (any more); `args` is CNI_ARGS, parsed.

    `path`: the folders of CNI_PATH; `stdin` and `environ`: passed on to delegated plugins; `stderr`: for log messages.
    This is all that a plugin may know of its caller; plugins do not use os.environ.
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
        """The owner of everything this call creates or deletes."""
        return Attachment(self.conf.name, self.container_id, self.ifname)

    @property
    def netns_fd(self) -> int | None:
        """The caller's descriptor of `netns`, for linux.netns.open_netns."""
        # If a DEL names the node's own namespace, `netns` is "" and the descriptor must not be used either.
        return self.suite.netns if self.netns else None

    @property
    def valid_attachments(self) -> frozenset[Attachment]:
        """The attachments that a GC must keep. Raises CNIError 7 if the runtime did not send them."""
        pairs = self.conf.valid_attachments
        if pairs is None:
            raise self.conf.section.error("cni.dev/valid-attachments", "a list of attachments")
        return frozenset(Attachment(self.conf.name, container_id, ifname) for container_id, ifname in pairs)

    def log(self, text: str) -> None:
        """Write a line to stderr; never raises."""
        log(self.stderr, text)

    def with_verb(self, verb: str) -> "Request":
        """The same request with another verb, for delegation and undoing."""
        if verb == self.verb:
            return self
        conf = replace(self.conf, strict=VERBS[verb].strict)
        return replace(self, verb=verb, conf=conf, environ={**self.environ, verbs.COMMAND: verb})


def log(stderr: TextIOBase, text: str) -> None:
    """Write a line to stderr. Errors are ignored."""
    try:
        stderr.write(f"{text}\n")
        stderr.flush()
    except (OSError, ValueError, AttributeError):
        # AttributeError: stderr is None if the caller closed the descriptor.
        return


def check_variables(environ: Mapping[str, str], verb: Verb) -> None:
    """Raises CNIError 4 for the first invalid variable, else for all missing ones together."""
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
    """All of stdin. Raises CNIError 5 if it cannot be read, 6 for more than STDIN_LIMIT bytes."""
    try:
        data = stdin.read(STDIN_LIMIT + 1) or b""
    except (OSError, ValueError) as error:
        raise CNIError(Code.IO_FAILURE, f"error reading from stdin: {error}") from error
    if len(data) > STDIN_LIMIT:
        raise CNIError(Code.DECODING_FAILURE, f"network config of more than {STDIN_LIMIT} bytes")
    return data


def parse_args(text: str, *, strict: bool) -> dict[str, str]:
    """CNI_ARGS, `K=V;K2=V2`. Raises CNIError 4 for invalid pairs if `strict`, else drops them.

    Keys other than the conventional ones are errors unless IgnoreUnknown is true.
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
    """The folders of CNI_PATH. Raises CNIError 4 for a relative one if `strict`, else drops it.

    The agent and the runtime have different working directories.
    """
    folders = tuple(part for part in text.split(":") if part)
    relative = [folder for folder in folders if folder[0] != "/"]
    if relative and strict:
        raise CNIError(Code.INVALID_ENVIRONMENT, f'CNI_PATH: expected absolute paths, got "{relative[0]}"')
    return tuple(folder for folder in folders if folder[0] == "/")


def is_own_netns(netns: str, fd: int | None = None) -> bool:
    """Whether the path is the network namespace of the calling thread; False if it cannot be opened.

    `fd`: a descriptor of it that the caller opened. Raises CNIError 8 if the thread's own namespace cannot be read.
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
    # Results contain the path, and are UTF-8.
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
    details = f"CNI_ARGS is K=V;K2=V2 with the keys {allowed}; other keys need {_IGNORE_UNKNOWN}=1"
    return CNIError(Code.INVALID_ENVIRONMENT, f"ARGS: {reason}", details)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

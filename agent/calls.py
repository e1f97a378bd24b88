"""A call: its request, its deadlines, its one reply; and the worker that performs it."""

import io
import json
import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from threading import Lock

from agent import wire
from agent.executor import executor
from agent.log import INFO, NOTICE, WARNING, Log
from linux.netns import OWN, return_home
from spec import jsontext, verbs
from spec.errors import Code
from spec.plugin import serve
from spec.suite import Suite
from spec.versions import LATEST, SUPPORTED

_SEND_SECONDS = 10
_MAX_CONFIG = 1 << 20  # bytes; the configuration of a larger request is not decoded only to log its network


def longest(seconds: float) -> float:
    """When a call with a deadline of `seconds` is answered at the latest: undoing it takes time as well."""
    return seconds + min(seconds, 10)


class Call:
    """A request whose connection waits for the reply. Its methods may be called from any thread.

    `deadline`: when what it executes is killed; `last`: when it is answered at the latest; of time.monotonic().
    """

    def __init__(self, connection: socket.socket, request: wire.Request, netns: int | None, seconds: float) -> None:
        """`netns`: the descriptor that came with the request; the call closes it. `seconds`: its maximum duration."""
        self.request = request
        self.netns = netns
        self.arrived = time.monotonic()
        self.deadline = self.arrived + seconds
        self.last = self.arrived + longest(seconds)
        self.begun = False
        self.in_order = False  # whether other calls for the same attachment wait for it to finish
        self._config: Mapping[str, object] | None = None
        self._connection = connection
        self._answered = False
        self._lock = Lock()

    @property
    def verb(self) -> str:
        """CNI_COMMAND."""
        return self.request.environ.get(verbs.COMMAND, "")

    @property
    def attachment(self) -> tuple[str, str] | None:
        """Container ID and interface; calls for the same attachment run in order. None: the call names none."""
        pair = (self.request.environ.get(verbs.CONTAINERID, ""), self.request.environ.get(verbs.IFNAME, ""))
        return pair if all(pair) else None

    @property
    def netns_given(self) -> int | None:
        """For spec.suite.Suite, as its `netns`."""
        if self.netns is None and self.request.environ.get(verbs.NETNS):
            return -1
        return self.netns

    @property
    def answered(self) -> bool:
        """Whether the reply was sent, or cannot be sent any more."""
        return self._answered

    def begin(self) -> bool:
        """Whether to perform the call: not if it has been answered meanwhile, or if the caller has gone."""
        with self._lock:
            if self._answered or self._has_hung_up():
                return False
            self.begun = True
            return True

    def decline(self) -> None:
        """Have the launcher run the plugin itself; only before the call has begun."""
        self.answer(wire.DECLINED)

    def fail(self, message: str) -> None:
        """Answer with error 11, "try again later". The call may go on all the same."""
        version = self.describe()[1]
        document = {"cniVersion": version, "code": int(Code.TRY_AGAIN_LATER), "msg": message}
        reply = wire.reply(1, jsontext.dumps(document).encode())
        if self._claim():
            with self._connection, suppress(OSError):
                self._connection.send(reply)  # fits into the socket's buffer: nothing but the greeting was sent

    def answer(
        self,
        status: int,
        stdout: bytes = b"",
        stderr: bytes = b"",
        released: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> bool:
        """Send the reply and close the connection; whether the caller gets it. Nothing may use the call's netns now.

        The pod's namespace is closed first: a runtime that has its answer may unmount it at once. If the caller is
        known not to get the answer, it stays open, for the undo. `released`: as in Suite, around a slow send.
        """
        reply = wire.reply(status, stdout, stderr)
        if not self._claim():
            return False
        with self._connection:
            if self._has_hung_up():
                return False
            self._close_netns()
            try:
                self._send(reply, released)
            except OSError:
                return False
        return True

    def _claim(self) -> bool:
        """Whether the calling thread, and no other, is to answer and close the connection."""
        with self._lock:
            is_first, self._answered = not self._answered, True
        return is_first

    def _send(self, reply: bytes, released: Callable[[], AbstractContextManager[None]]) -> None:
        """Send all of it. Mostly it fits into the buffer of the socket, which is non-blocking until then."""
        sent = 0
        with suppress(BlockingIOError):
            sent = self._connection.send(reply)
        if sent < len(reply):
            with released():
                self._connection.settimeout(_SEND_SECONDS)
                self._connection.sendall(reply[sent:])

    def dispose(self) -> None:
        """Close what is still open, when nothing uses the call any more."""
        if self._claim():
            self._connection.close()
        self._close_netns()

    def _close_netns(self) -> None:
        netns, self.netns = self.netns, None
        if netns is not None:
            os.close(netns)

    def on_config(self, config: Mapping[str, object]) -> None:
        """For Suite.on_config: keep the decoded configuration."""
        self._config = config

    def describe(self) -> tuple[str, str, Mapping[str, object]]:
        """(network, CNI version for errors, configuration), as far as they can be read."""
        config = self._config
        if config is None:
            config = self._decode() if len(self.request.stdin) <= _MAX_CONFIG else {}
        name, version = config.get("name"), config.get("cniVersion")
        return name if isinstance(name, str) else "", version if version in SUPPORTED else LATEST, config

    def _decode(self) -> Mapping[str, object]:
        with suppress(ValueError, RecursionError):
            config = json.loads(self.request.stdin)
            return config if isinstance(config, dict) else {}
        return {}

    def _has_hung_up(self) -> bool:
        """Whether the launcher has closed the connection, and not just for writing."""
        poll = select.poll()
        poll.register(self._connection, 0)
        return bool(poll.poll(0))


@dataclass(frozen=True)
class Outcome:
    """How a call ended. `code`: the CNI error code, 0 for success; `config`: its configuration, if readable."""

    verb: str
    plugin: str
    network: str
    container: str
    ifname: str
    seconds: float
    code: int
    message: str
    config: Mapping[str, object]

    def fields(self) -> dict[str, object]:
        """The fields of the log line."""
        names = ("verb", "plugin", "network", "container", "ifname")
        fields: dict[str, object] = {name: getattr(self, name) for name in names}
        fields |= {"duration_ms": f"{self.seconds * 1000:.1f}", "outcome": self.code}
        return fields | ({"msg": self.message} if self.message else {})


class Worker:
    """Performs calls with the plugins' own code, in any number of threads."""

    def __init__(self, suite: Suite, log: Log, on_outcome: Callable[[Outcome], object]) -> None:
        """`on_outcome` is called with the outcome of every call."""
        self._suite, self._log, self._on_outcome = suite, log, on_outcome
        self._netns = os.stat(OWN)

    def perform(self, call: Call) -> None:
        """Perform the call and answer it. Never raises."""
        try:
            # A new thread inherits the network namespace of the thread that started it, which may be a pod's.
            if not os.path.samestat(os.stat(OWN), self._netns):
                return_home()
            if call.begin():
                self._perform(call)
        except Exception as error:  # noqa: BLE001  (the thread has other calls to perform)
            self._log(WARNING, {"event": "call failed in the agent", "error": repr(error)})

    def _perform(self, call: Call) -> None:
        status, stdout, stderr = self._serve(call, call.verb)
        is_delivered = call.answer(status, stdout, stderr, self._suite.released)
        seconds = time.monotonic() - call.arrived
        if not is_delivered and status == 0 and call.verb == "ADD":
            # The runtime does not know of this success: the launcher has exited, or the deadline has passed.
            self._serve(call, "DEL")
        self._report(call, (status, stdout, stderr), seconds, is_delivered=is_delivered)

    def _serve(self, call: Call, verb: str) -> tuple[int, bytes, bytes]:
        suite = replace(
            self._suite,
            netns=call.netns_given,
            executor=executor(call.deadline, call.last, self._suite.released),
            on_config=call.on_config,
        )
        stdout, stderr = io.BytesIO(), io.StringIO()
        status = serve(
            suite.load(call.request.kind),
            environ={**call.request.environ, verbs.COMMAND: verb} if verb else call.request.environ,
            stdin=io.BytesIO(call.request.stdin),
            stdout=stdout,
            stderr=stderr,
            suite=suite,
        )
        return status, stdout.getvalue(), stderr.getvalue().encode(errors="backslashreplace")

    def _report(self, call: Call, reply: tuple[int, bytes, bytes], seconds: float, *, is_delivered: bool) -> None:
        status, stdout, stderr = reply
        network, _, config = call.describe()
        code, message = _error_of(stdout) if status else (0, "")
        if not is_delivered:
            code, message = code or int(Code.TRY_AGAIN_LATER), message or "the caller did not wait for the answer"
        environ = call.request.environ
        container, ifname = environ.get(verbs.CONTAINERID, ""), environ.get(verbs.IFNAME, "")
        outcome = Outcome(call.verb, call.request.kind, network, container, ifname, seconds, code, message, config)
        remarks = stderr.decode().strip()
        # A plugin that succeeds writes to stderr what needs attention, such as a peer that it leaves out.
        priority = WARNING if code else NOTICE if remarks else INFO
        self._log(priority, outcome.fields() | ({"stderr": remarks} if remarks else {}))
        self._on_outcome(outcome)


def _error_of(stdout: bytes) -> tuple[int, str]:
    try:
        document = json.loads(stdout)
        return int(document["code"]), f"{document['msg']} {document.get('details', '')}".strip()
    except (ValueError, TypeError, KeyError):
        return int(Code.INTERNAL), "no error document"

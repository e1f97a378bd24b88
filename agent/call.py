"""A call on its way: who asked what, until when, and that it is answered exactly once."""

import json
import os
import select
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from threading import Lock

from agent import wire
from spec import jsontext, verbs
from spec.errors import Code
from spec.suite import current
from spec.versions import LATEST, SUPPORTED

_SEND_SECONDS = 10
_NAMING_LIMIT = 1 << 20


def longest(seconds: float) -> float:
    """After how long a call is answered in any case, that is to last so many seconds: undoing it takes time as well."""
    return seconds + min(seconds, 10)


class Call:
    """A request whose connection waits for the reply. Its methods may be called from any thread.

    `deadline`: when whatever is executed for it is ended; `last`: when it is answered in any case. Both are of
    time.monotonic().
    """

    def __init__(self, connection: socket.socket, request: wire.Request, netns: int | None, seconds: float) -> None:
        """`netns`: the descriptor that came along; the call closes it. `seconds`: how long it may last."""
        self.request = request
        self.netns = netns
        self.arrived = time.monotonic()
        self.deadline = self.arrived + seconds
        self.last = self.arrived + longest(seconds)
        self.begun = False
        self.in_order = False  # whether others for the same attachment wait for its end
        self._config: Mapping[str, object] | None = None
        self._connection = connection
        self._answered = False
        self._lock = Lock()

    @property
    def verb(self) -> str:
        """What CNI_COMMAND says."""
        return self.request.environ.get(verbs.COMMAND, "")

    @property
    def attachment(self) -> tuple[str, str] | None:
        """Container id and interface: calls for the same are done one after another. None: there is no such order."""
        pair = (self.request.environ.get(verbs.CONTAINERID, ""), self.request.environ.get(verbs.IFNAME, ""))
        return pair if all(pair) else None

    @property
    def netns_given(self) -> int | None:
        """What spec.suite.Suite takes as `netns`."""
        if self.netns is None and self.request.environ.get(verbs.NETNS):
            return -1
        return self.netns

    @property
    def answered(self) -> bool:
        """Whether there is nobody to answer to any more."""
        return self._answered

    def begin(self) -> bool:
        """Whether to do it: not if it was answered meanwhile, or if the caller is gone."""
        with self._lock:
            if self._answered or self._is_abandoned():
                return False
            self.begun = True
            return True

    def decline(self) -> None:
        """Have the launcher do it otherwise; only before it has begun."""
        self.answer(wire.DECLINED)

    def fail(self, message: str) -> None:
        """Answer with error 11, "try again later". It may be worked for all the same."""
        version = self.describe()[1]
        document = {"cniVersion": version, "code": int(Code.TRY_AGAIN_LATER), "msg": message}
        reply = wire.reply(1, jsontext.dumps(document).encode())
        if self._claim():
            with self._connection, suppress(OSError):
                self._connection.send(reply)  # the first bytes after the greeting: there is room for them

    def answer(self, status: int, stdout: bytes = b"", stderr: bytes = b"") -> bool:
        """Send the reply and hang up, when nobody works for the call any more; whether the caller gets it.

        The pod's namespace is closed first: a runtime that has its answer may unmount it at once. Where the caller is
        known not to get the answer it stays open, for undoing what was done.
        """
        reply = wire.reply(status, stdout, stderr)
        if not self._claim():
            return False
        with self._connection:
            if self._is_abandoned():
                return False
            self._close_netns()
            try:
                self._send(reply)
            except OSError:
                return False
        return True

    def _claim(self) -> bool:
        """Whether it is for the calling thread, and nobody else, to answer and to close the connection."""
        with self._lock:
            is_first, self._answered = not self._answered, True
        return is_first

    def _send(self, reply: bytes) -> None:
        """Send all of it: mostly there is room for it at once, and the connection does not wait as it is."""
        sent = 0
        with suppress(BlockingIOError):
            sent = self._connection.send(reply)
        if sent < len(reply):
            with current().released():
                self._connection.settimeout(_SEND_SECONDS)
                self._connection.sendall(reply[sent:])

    def dispose(self) -> None:
        """Close all that is still open; when nobody works for the call any more."""
        if self._claim():
            self._connection.close()
        self._close_netns()

    def _close_netns(self) -> None:
        netns, self.netns = self.netns, None
        if netns is not None:
            os.close(netns)

    def on_config(self, config: Mapping[str, object]) -> None:
        """Take the configuration from who has decoded it anyway."""
        self._config = config

    def describe(self) -> tuple[str, str, Mapping[str, object]]:
        """(network, version for answers, configuration) as far as they can be read."""
        config = self._config
        if config is None:
            config = self._read() if len(self.request.stdin) <= _NAMING_LIMIT else {}
        name, version = config.get("name"), config.get("cniVersion")
        return name if isinstance(name, str) else "", version if version in SUPPORTED else LATEST, config

    def _read(self) -> Mapping[str, object]:
        with suppress(ValueError, RecursionError):
            config = json.loads(self.request.stdin)
            return config if isinstance(config, dict) else {}
        return {}

    def _is_abandoned(self) -> bool:
        """Whether the launcher has closed its end, and not just for writing."""
        poll = select.poll()
        poll.register(self._connection, 0)
        return bool(poll.poll(0))

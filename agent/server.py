"""The event loop: accepts and greets, receives requests, submits calls, enforces deadlines, and ends."""

import errno
import os
import resource
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from agent import wire
from agent.calls import Call, longest
from agent.connection import Connection, Peer, peer
from agent.listener import InheritedListener, Listener, Reached, bind
from agent.log import NOTICE, WARNING, Log
from agent.scheduler import Scheduler
from agent.wire import Malformed
from spec import verbs
from spec.suite import Suite

_ARRIVAL_SECONDS = 30.0
_MAX_REQUEST = 512 << 10
"""Bytes. A larger request is left to its launcher: all other calls would wait while it is decoded."""
_MAX_ARRIVING = 64 << 20
"""Bytes of all requests that are being received; what goes beyond is declined."""

_MAX_CALLS = 1024
_DESCRIPTORS_PER_CALL, _DESCRIPTORS_BESIDE = 12, 12
"""File descriptors that a call needs, and that the agent needs beyond those it has at the start: kept sockets, and
those of the pages."""
_PAUSE_SECONDS, _DRAINING_PAUSE_SECONDS, _BEHIND_PAUSE_SECONDS = 0.5, 0.02, 0.01
_NO_DESCRIPTOR_SECONDS = 0.01


class Server:
    """One agent's socket. `run` returns after `stop`, or when superseded, as soon as every call is answered."""

    def __init__(self, listener: Listener, suite: Suite, scheduler: Scheduler, log: Log, *, seconds: float) -> None:
        """`seconds`: the maximum duration of a call."""
        self.malformed = self.declined = 0
        self._listener: Listener | None = listener
        self._path = listener.path
        self._suite, self._scheduler, self._log, self._seconds = suite, scheduler, log, seconds
        self._connections: dict[int, Connection] = {}
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._spare = os.dup(self._wake)  # -1: none left
        self._descriptors = len(os.listdir("/proc/self/fd")) + _DESCRIPTORS_BESIDE
        self._stopping = False
        self._warned = ""
        self._hello = wire.hello(longest(seconds))
        root = os.stat("/")
        self._root = root.st_dev, root.st_ino
        self._poll.register(self._wake, select.EPOLLIN)
        self._poll.register(listener.socket, select.EPOLLIN)

    @property
    def path(self) -> str:
        """Where launchers connect."""
        return self._path

    @property
    def is_listening(self) -> bool:
        """Whether calls are still accepted."""
        return self._listener is not None

    @property
    def max_calls(self) -> int:
        """The limit of concurrent calls, chosen so that no call runs out of descriptors."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit == resource.RLIM_INFINITY:
            return _MAX_CALLS
        return min(_MAX_CALLS, (limit - self._descriptors) // _DESCRIPTORS_PER_CALL)

    def stop(self) -> None:
        """Accept no more calls, finish those in progress. From a signal handler or any thread."""
        self._stopping = True
        with suppress(OSError):  # BlockingIOError: stopped before; EBADF: it has ended
            os.eventfd_write(self._wake, 1)

    def run(self, on_drain: Callable[[], None]) -> None:
        """Serve until the end, once; `on_drain` is called when no more calls are accepted."""
        try:
            self._run(on_drain)
        finally:
            self._poll.close()
            os.close(self._wake)
            if self._spare >= 0:
                os.close(self._spare)

    def _run(self, on_drain: Callable[[], None]) -> None:
        due = 0.0
        while True:
            pause = _PAUSE_SECONDS if self._listener else _DRAINING_PAUSE_SECONDS
            now = time.monotonic()
            if now >= due or self._stopping:
                due = now + pause
                if self._listener and self._should_end():
                    self._drain()
                    on_drain()
                if not self._listener and not self._connections and not self._scheduler.is_awaited(now):
                    return
                self._expire(now)
            pause = min(pause, _BEHIND_PAUSE_SECONDS) if self._scheduler.keep_up() else pause
            for descriptor, _ in self._poll.poll(pause):
                self._on_ready(descriptor)

    def _on_ready(self, descriptor: int) -> None:
        if descriptor == self._wake:
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        elif descriptor in self._connections:
            self._receive(self._connections[descriptor])
        else:
            self._accept()  # one: if more are waiting, the next poll reports it

    def _should_end(self) -> bool:
        if self._stopping:
            self._log(NOTICE, {"event": "stopping"})
            return True
        if self._listener.is_in_place():
            return False
        reached = self._listener.probe()
        if reached is Reached.ANOTHER:
            return self._is_superseded()
        if reached is Reached.NOBODY:
            self._bind_again()
        return False

    def _is_superseded(self) -> bool:
        """Whether to exit for another agent. Under systemd, which would only restart this one, it stands by."""
        if isinstance(self._listener, InheritedListener):
            self._warn("another agent has the socket; this one takes it back when that one ends")
            return False
        self._accept_all()
        self._log(NOTICE, {"event": "superseded by another agent"})
        return True

    def _bind_again(self) -> None:
        try:
            listener = bind(self._path)
        except OSError as error:
            self._warn("the socket is lost, and can not be made again", error=error)
            return
        self._accept_all()
        self._close_listener()
        self._listener = listener
        self._poll.register(listener.socket, select.EPOLLIN)
        self._log(WARNING, {"event": "the socket was lost, and was made again", "socket": self._path})
        self._warned = ""

    def _warn(self, event: str, **more: object) -> None:
        """Log, once, a condition that may last."""
        warning = f"{event} {more}"
        if warning != self._warned:
            self._log(WARNING, {"event": event, "socket": self._path, **more})
        self._warned = warning

    def _drain(self) -> None:
        self._close_listener()
        for connection in list(self._connections.values()):
            connection.refuse("the agent is ending")

    def _close_listener(self) -> None:
        self._poll.unregister(self._listener.socket)
        self._listener.close()
        self._listener = None

    def _accept_all(self) -> None:
        """Accept the connections that were made before the path led elsewhere."""
        while self._accept():
            pass

    def _accept(self) -> bool:
        """Accept one connection; whether more may be waiting."""
        try:
            connected, _ = self._listener.socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away()
            return False
        if self._spare < 0:
            with suppress(OSError):
                self._spare = os.dup(self._wake)
        self._greet(connected)
        return True

    def _turn_away(self) -> None:
        """Out of descriptors: use the spare one to accept and hang up, so that the launcher runs the plugin itself."""
        if self._spare >= 0:  # else it was logged already
            self._log(WARNING, {"event": "out of file descriptors"})
        try:
            spare = self._spare if self._spare >= 0 else os.dup(self._wake)
            self._spare = -1
            os.close(spare)
            connected, _ = self._listener.socket.accept()
        except OSError:
            time.sleep(_NO_DESCRIPTOR_SECONDS)  # another thread was faster: it will close some again
            return
        # The connection's descriptor becomes the spare one, in one step.
        self._spare = connected.detach()
        os.dup2(self._wake, self._spare, inheritable=False)

    def _greet(self, connected: socket.socket) -> None:
        # A launcher that gets no greeting runs the plugin itself.
        try:
            caller = peer(connected)
            reason = self._objection(caller)
            connection = None if reason else Connection(connected, caller.pid, self._hello)
        except OSError as error:
            reason, connection = str(error), None
        if not connection:
            self._log(WARNING, {"event": "turned away", "reason": reason})
            connected.close()
            return
        descriptor = connected.fileno()
        self._connections[descriptor] = connection
        self._receive(connection)  # launchers do not wait for the greeting: most have sent everything by now
        if descriptor in self._connections:
            connection.is_watched = True
            self._poll.register(descriptor, select.EPOLLIN)

    def _objection(self, caller: Peer) -> str:
        """Why not to serve the caller, "" to serve it."""
        if caller.uid != 0:
            return f"user {caller.uid}"
        if caller.is_elsewhere:
            return "the caller is in another network namespace"
        if len(self._connections) + self._scheduler.under_way >= self.max_calls:
            return "too many calls"
        return ""

    def _receive(self, connection: Connection) -> None:
        try:
            if not connection.receive():
                self._limit(connection)
                return
            request = None if connection.refused else connection.request()
            if request:
                connection.refused = self._refusal(request)
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, Malformed) as error:
            self._refuse(connection, str(error))
            return
        self._forget(connection)
        if request and not connection.refused:
            call = Call(connection.socket, request, connection.netns, self._seconds)
            self._scheduler.submit(call, connection.pid)
            return
        self._decline(connection)

    def _refusal(self, request: wire.Request) -> str:
        """Why not to serve the request, "" to serve it."""
        if self._suite.load(request.kind) is None:
            return f"no plugin {request.kind}"
        if request.root != self._root:
            return "the caller has another root directory, and so other files (in a container: --host-root)"
        if not all(folder.startswith("/") for folder in request.environ.get(verbs.PATH, "").split(":") if folder):
            return f"{verbs.PATH} has a relative path, and the caller another current directory"
        return ""

    def _limit(self, connection: Connection) -> None:
        """Refuse a request that is too large, or too much beside the others that are being received."""
        if connection.announced > _MAX_REQUEST:
            connection.refuse(f"{connection.announced} bytes, more than the {_MAX_REQUEST} that the agent accepts")
        if sum(each.announced for each in self._connections.values() if not each.refused) > _MAX_ARRIVING:
            connection.refuse(f"the requests that are being received exceed {_MAX_ARRIVING} bytes")

    def _refuse(self, connection: Connection, reason: str) -> None:
        self._forget(connection)
        connection.refused = reason
        if connection.is_silent:
            connection.close()
            return
        self.malformed += 1
        self._decline(connection)

    def _decline(self, connection: Connection) -> None:
        """Nothing was begun: the launcher can run the plugin itself."""
        self.declined += 1
        self._log(WARNING, {"event": "request declined", "reason": connection.refused})
        connection.decline()

    def _forget(self, connection: Connection) -> None:
        del self._connections[connection.socket.fileno()]
        if connection.is_watched:
            self._poll.unregister(connection.socket)

    def _expire(self, now: float) -> None:
        for call in self._scheduler.expire(now):
            self.declined += not call.begun
            event = "answered out of time" if call.begun else "declined or out of time before it began"
            self._log(WARNING, {"event": event, "verb": call.verb, "plugin": call.request.kind})
        for connection in [each for each in self._connections.values() if now - each.since > _ARRIVAL_SECONDS]:
            self._refuse(connection, f"incomplete after {_ARRIVAL_SECONDS:g} s")

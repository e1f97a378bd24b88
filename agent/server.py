"""The loop that listens: greets, takes requests in, hands calls on, watches the time, and knows when to end."""

import errno
import os
import resource
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from agent import wire
from agent.call import Call, longest
from agent.dispatcher import Dispatcher
from agent.endpoint import Endpoint, Lent, Reached, bind
from agent.incoming import Incoming, Peer, peer
from agent.record import NOTICE, WARNING, Log
from agent.wire import Malformed
from spec import verbs
from spec.suite import Suite

_ARRIVAL_SECONDS = 30.0
_REQUEST_LIMIT = 512 << 10
"""Bytes of a request: while a larger one was read, all other calls would wait, so that it is left to its launcher."""
_ARRIVING_LIMIT = 64 << 20
"""Bytes of requests that are coming in at the same time; more are declined."""

_CALLS_LIMIT = 1024
_DESCRIPTORS_A_CALL, _DESCRIPTORS_BESIDE = 12, 12
"""File descriptors that a call needs, and that the agent needs beside those it has at the start: sockets that it keeps,
and those of the pages."""
_PAUSE_SECONDS, _DRAINING_PAUSE_SECONDS, _BEHIND_PAUSE_SECONDS = 0.5, 0.02, 0.01
_NO_DESCRIPTOR_SECONDS = 0.01


class Server:
    """One agent's listening. `run` returns when it was told to stop, or superseded, and every call is answered."""

    def __init__(self, endpoint: Endpoint, suite: Suite, dispatcher: Dispatcher, log: Log, *, seconds: float) -> None:
        """`seconds`: how long a call may last."""
        self.refused = self.declined = 0
        self._endpoint: Endpoint | None = endpoint
        self._path = endpoint.path
        self._suite, self._dispatcher, self._log, self._seconds = suite, dispatcher, log, seconds
        self._incoming: dict[int, Incoming] = {}
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._spare = os.dup(self._wake)  # -1: there is none
        self._descriptors = len(os.listdir("/proc/self/fd")) + _DESCRIPTORS_BESIDE
        self._stopping = False
        self._told = ""
        self._hello = wire.hello(longest(seconds))
        root = os.stat("/")
        self._root = root.st_dev, root.st_ino
        self._poll.register(self._wake, select.EPOLLIN)
        self._poll.register(endpoint.listener, select.EPOLLIN)

    @property
    def path(self) -> str:
        """Where launchers connect."""
        return self._path

    @property
    def is_listening(self) -> bool:
        """Whether calls are still taken."""
        return self._endpoint is not None

    def stop(self) -> None:
        """Take no more calls, finish those under way. From a signal handler or any thread."""
        self._stopping = True
        with suppress(OSError):  # BlockingIOError: it was told before; EBADF: it has ended
            os.eventfd_write(self._wake, 1)

    def run(self, on_drain: Callable[[], None]) -> None:
        """Serve until the end, once; `on_drain` is called when it begins to come."""
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
            pause = _PAUSE_SECONDS if self._endpoint else _DRAINING_PAUSE_SECONDS
            now = time.monotonic()
            if now >= due or self._stopping:
                due = now + pause
                if self._endpoint and self._should_end():
                    self._drain()
                    on_drain()
                if not self._endpoint and not self._incoming and not self._dispatcher.is_awaited(now):
                    return
                self._look_after(now)
            pause = min(pause, _BEHIND_PAUSE_SECONDS) if self._dispatcher.keep_up() else pause
            for descriptor, _ in self._poll.poll(pause):
                self._attend(descriptor)

    def _attend(self, descriptor: int) -> None:
        if descriptor == self._wake:
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        elif descriptor in self._incoming:
            self._receive(self._incoming[descriptor])
        else:
            self._accept()  # one: who else waits, the next look at the descriptors tells

    def _should_end(self) -> bool:
        if self._stopping:
            self._log(NOTICE, {"event": "stopping"})
            return True
        if self._endpoint.is_in_place():
            return False
        reached = self._endpoint.whom_reached()
        if reached is Reached.ANOTHER:
            return self._is_superseded()
        if reached is Reached.NOBODY:
            self._bind_again()
        return False

    def _is_superseded(self) -> bool:
        """Whether to end for another agent: a service manager would only start this one again, so it stands by."""
        if isinstance(self._endpoint, Lent):
            self._warn("another agent has the socket; this one takes it back when that one ends")
            return False
        self._accept_all()
        self._log(NOTICE, {"event": "superseded by another agent"})
        return True

    def _bind_again(self) -> None:
        try:
            endpoint = bind(self._path)
        except OSError as error:
            self._warn("the socket is lost, and can not be made again", error=error)
            return
        self._accept_all()
        self._close_endpoint()
        self._endpoint = endpoint
        self._poll.register(endpoint.listener, select.EPOLLIN)
        self._log(WARNING, {"event": "the socket was lost, and was made again", "socket": self._path})
        self._told = ""

    def _warn(self, event: str, **more: object) -> None:
        """Log something that may be so for long, once."""
        told = f"{event} {more}"
        if told != self._told:
            self._log(WARNING, {"event": event, "socket": self._path, **more})
        self._told = told

    def _drain(self) -> None:
        self._close_endpoint()
        for incoming in list(self._incoming.values()):
            incoming.refuse("the agent is ending")

    def _close_endpoint(self) -> None:
        self._poll.unregister(self._endpoint.listener)
        self._endpoint.close()
        self._endpoint = None

    def _accept_all(self) -> None:
        """Take who connected before the path led elsewhere."""
        while self._accept():
            pass

    def _accept(self) -> bool:
        """Take one of those who wait; whether there may be more."""
        try:
            connection, _ = self._endpoint.listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away()
            return False
        if self._spare < 0:
            with suppress(OSError):
                self._spare = os.dup(self._wake)
        self._greet(connection)
        return True

    def _turn_away(self) -> None:
        """No descriptor is left: with the spare one, hang up on who waits, so that the launcher does without us."""
        if self._spare >= 0:  # else it was said already
            self._log(WARNING, {"event": "out of file descriptors"})
        try:
            spare = self._spare if self._spare >= 0 else os.dup(self._wake)
            self._spare = -1
            os.close(spare)
            connection, _ = self._endpoint.listener.accept()
        except OSError:
            time.sleep(_NO_DESCRIPTOR_SECONDS)  # another thread was quicker: it closes some again
            return
        # That of the connection is the spare one now, in one step.
        self._spare = connection.detach()
        os.dup2(self._wake, self._spare, inheritable=False)

    def _greet(self, connection: socket.socket) -> None:
        # Who hears no greeting does without the agent.
        try:
            caller = peer(connection)
            reason = self._objection(caller)
            incoming = None if reason else Incoming(connection, caller.pid, self._hello)
        except OSError as error:
            reason, incoming = str(error), None
        if not incoming:
            self._log(WARNING, {"event": "turned away", "reason": reason})
            connection.close()
            return
        descriptor = connection.fileno()
        self._incoming[descriptor] = incoming
        self._receive(incoming)  # launchers do not wait for the greeting: most have sent all by now
        if descriptor in self._incoming:
            incoming.is_watched = True
            self._poll.register(descriptor, select.EPOLLIN)

    def _objection(self, caller: Peer) -> str:
        """Why not to serve whoever has connected, "" to serve."""
        if caller.uid != 0:
            return f"user {caller.uid}"
        if caller.is_elsewhere:
            return "the caller is in another network namespace"
        if len(self._incoming) + self._dispatcher.under_way >= self._most_calls():
            return "too many calls"
        return ""

    def _most_calls(self) -> int:
        """So many are taken on that none of them lacks a descriptor in the middle of its work."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit == resource.RLIM_INFINITY:
            return _CALLS_LIMIT
        return min(_CALLS_LIMIT, (limit - self._descriptors) // _DESCRIPTORS_A_CALL)

    def _receive(self, incoming: Incoming) -> None:
        try:
            if not incoming.receive():
                self._bound(incoming)
                return
            request = None if incoming.refused else incoming.request()
            if request:
                incoming.refused = self._refusal(request)
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, Malformed) as error:
            self._refuse(incoming, str(error))
            return
        except MemoryError:
            self._refuse(incoming, "out of memory")
            return
        self._forget(incoming)
        if request and not incoming.refused:
            call = Call(incoming.connection, request, incoming.netns, self._seconds)
            self._dispatcher.take(call, incoming.pid)
            return
        self._decline(incoming)

    def _refusal(self, request: wire.Request) -> str:
        """Why not to do what is asked, "" to do it."""
        if self._suite.load(request.kind) is None:
            return f"no plugin {request.kind}"
        if request.root != self._root:
            return "the caller has another root directory, and so other files (in a container: --host-root)"
        if not all(folder.startswith("/") for folder in request.environ.get(verbs.PATH, "").split(":") if folder):
            return f"{verbs.PATH} has a relative path, and the caller another current directory"
        return ""

    def _bound(self, incoming: Incoming) -> None:
        """See that requests under way are not more than there is memory for, nor one more than it may cost others."""
        if incoming.announced > _REQUEST_LIMIT:
            incoming.refuse(f"{incoming.announced} bytes, of which the agent takes {_REQUEST_LIMIT}")
        if sum(each.announced for each in self._incoming.values() if not each.refused) > _ARRIVING_LIMIT:
            incoming.refuse("too much is coming in")

    def _refuse(self, incoming: Incoming, reason: str) -> None:
        self._forget(incoming)
        incoming.refused = reason
        if incoming.is_silent:
            incoming.close()
            return
        self.refused += 1
        self._decline(incoming)

    def _decline(self, incoming: Incoming) -> None:
        """Nothing was begun: the launcher can do it otherwise."""
        self.declined += 1
        self._log(WARNING, {"event": "request declined", "reason": incoming.refused})
        incoming.decline()

    def _forget(self, incoming: Incoming) -> None:
        del self._incoming[incoming.connection.fileno()]
        if incoming.is_watched:
            self._poll.unregister(incoming.connection)

    def _look_after(self, now: float) -> None:
        for call in self._dispatcher.look_after(now):
            self.declined += not call.begun
            event = "answered out of time" if call.begun else "declined or out of time before it began"
            self._log(WARNING, {"event": event, "verb": call.verb, "plugin": call.request.kind})
        for incoming in [each for each in self._incoming.values() if now - each.since > _ARRIVAL_SECONDS]:
            self._refuse(incoming, "not whole in time")

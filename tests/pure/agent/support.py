"""An agent's main loop in the test's own process, with plugins made for the test."""

import gc
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.calls import Outcome, Worker
from agent.connection import Peer
from agent.listener import Listener, bind
from agent.scheduler import Scheduler, Turns
from agent.server import Server
from agent.threads import Threads
from spec.plugin import Plugin, Suite
from spec.request import Request
from tests.netns import launcher

ENVIRON = {"PATH": "/bin", "CNI_PATH": "/nowhere", "CNI_IFNAME": "eth0", "CNI_NETNS": "/run/netns/none"}


class Agent:
    """The loop in a thread, what it logged, and the outcomes of calls."""

    def __init__(
        self,
        path: Path,
        plugin: Plugin,
        *,
        workers: int = 8,
        seconds: float = 60.0,
        listen: Callable[[str], Listener] = bind,
        on_outcome: Callable[[Outcome], object] = lambda _outcome: None,
    ) -> None:
        self.path, self.log, self.outcomes, self._on_outcome = str(path), [], [], on_outcome
        self.threads = Threads(workers)
        self.turns: Turns = Turns(self.threads)
        load = {plugin.type: plugin}.get
        suite = Suite(home=None, load=load, released=self.turns.released)
        worker = Worker(suite, self._log, self._note)
        self.scheduler = Scheduler(self.turns, worker.perform)
        self.server = Server(listen(self.path), suite, self.scheduler, self._log, seconds=seconds)
        self.drained = threading.Event()
        self.thread = threading.Thread(target=self.server.run, args=(self.drained.set,), daemon=True)
        self.thread.start()

    def _log(self, _priority: int, fields: dict) -> None:
        self.log.append(fields)

    def _note(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._on_outcome(outcome)

    @property
    def events(self) -> list[object]:
        """The log events other than calls."""
        return [fields.get("reason") or fields["event"] for fields in self.log if "event" in fields]

    def ask(self, verb: str, container: str = "pod", kind: str = "plain", **variables: str) -> launcher.Answer:
        """Send one call and return its reply."""
        return finish(self.begin(verb, container, kind, **variables))

    def begin(
        self, verb: str, container: str = "pod", kind: str = "plain", *, netns: int | None = None, **variables: str
    ):
        """Send a call and return its connection."""
        connection = launcher.connect(self.path)
        assert connection is not None, "no greeting"
        environ = {**ENVIRON, "CNI_COMMAND": verb, "CNI_CONTAINERID": container, **variables}
        config = {"cniVersion": "1.1.0", "name": "net", "type": kind}
        launcher.send(connection, launcher.request(kind, environ, json.dumps(config).encode()), netns)
        return connection

    def close(self) -> None:
        """Stop the loop, and check that it ends."""
        self.server.stop()
        self.thread.join(10)
        assert not self.thread.is_alive(), "the loop did not end"


class Gate:
    """A plugin's work that blocks until `open` is set, and records the order of calls."""

    def __init__(self) -> None:
        self.began, self.ended = [], []
        self.open = threading.Event()

    def __call__(self, request: Request) -> None:
        self.began.append((request.container_id, request.verb))
        if request.container_id.startswith("slow"):
            self.open.wait(20)
        self.ended.append((request.container_id, request.verb))


def finish(connection) -> tuple[int, str] | None:
    """Status and stdout of a call's reply, after which the connection is closed."""
    with connection:
        reply = launcher.receive(connection)
    return reply and (reply[0], reply[1].decode())


@contextmanager
def running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[Request], object], **options: object
) -> Iterator[Agent]:
    """An agent whose plugin "plain" runs `work` for DEL and CHECK. Its peer is taken for root."""
    monkeypatch.setattr("agent.server.peer", lambda _connection: Peer(0, 0))  # the tests need not run as root
    agent = Agent(tmp_path / "cni.sock", Plugin("plain", delete=work, check=work), **options)
    try:
        yield agent
    finally:
        agent.close()


def wait_until(predicate: Callable[[], object], seconds: float = 15.0) -> bool:
    """Whether the predicate became true in time."""
    end = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def descriptors() -> int:
    """The number of descriptors that this process has open, without those of objects that are garbage."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def outcome(**fields: object) -> Outcome:
    """The outcome of a successful ADD, with other fields as given."""
    plain = {"verb": "ADD", "plugin": "bridge", "network": "net", "container": "pod", "ifname": "eth0"}
    plain |= {"seconds": 0.004, "code": 0, "message": "", "config": {}}
    return Outcome(**{**plain, **fields})

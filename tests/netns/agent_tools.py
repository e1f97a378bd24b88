"""An agent on a test's node, and calls through it: with the real launchers if the plugins under test have any, else
with `launcher.py`.
"""

import http.client
import os
import shutil
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from threading import Lock

import pytest

from plugins.__main__ import TYPES
from tests.conformance.support import DUAL, leases, network, on_bridge
from tests.netns import launcher
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node, Pod, wait_until
from tests.netns.way import agent_command, agent_environment

SOCKET, PAGES = "/run/slash24/cni.sock", "/run/slash24/http.sock"
CONF = network(DUAL, ipMasq=True, macspoofchk=True)


class Agent:
    """An agent process on the node; the constructor returns when it listens."""

    def __init__(self, node: Node, home: Path, *options: str, prefix: Sequence[str] = ()) -> None:
        self.node, self.path = node, str(node.path(SOCKET))
        self._log = node.path(f"/run/agent-{len(list(node.path('/run').glob('agent-*')))}.log")
        with self._log.open("w") as log:
            argv = [*prefix, *agent_command(home), *options]
            self.process = node.start(argv, env=agent_environment(home), stderr=log)
        assert wait_until(self._is_ready, timeout=20), self.log

    def _is_ready(self) -> bool:
        return "event=ready" in self.log or self.process.poll() is not None

    @property
    def log(self) -> str:
        """The agent's log so far."""
        return self._log.read_text()

    @property
    def descriptors(self) -> int:
        """The number of its open file descriptors."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    @property
    def threads(self) -> int:
        """The number of its threads."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    @property
    def resident(self) -> int:
        """Its resident memory in MB."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096 // 1_000_000

    def page(self, name: str) -> tuple[int, str]:
        """HTTP status and body of a page, requested over the socket PAGES."""
        return page_at(self.node.path(PAGES), name)

    def stop(self, number: int = signal.SIGTERM, *, timeout: float = 15) -> int:
        """Send it the signal, wait, and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout)


def page_at(path: Path, name: str) -> tuple[int, str]:
    """HTTP status and body of a page that is served on the Unix socket at `path`."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(10)
    with closing(connection):
        connection.sock.connect(str(path))
        connection.request("GET", f"/{name}")
        response = connection.getresponse()
        return response.status, response.read().decode()


@dataclass(frozen=True)
class ViaAgent(CNI):
    """Calls as a launcher makes them; `ways` counts how they were served.

    "agent", "alone" (the plugin was executed), or "lost" (the agent died during the call).
    """

    ways: Counter = field(default_factory=Counter)

    def raw(self, plugin: str, env: Mapping[str, str], stdin: str) -> CompletedProcess | launcher.Answer:
        """Call the agent if it is running, else execute the plugin."""
        if (self.folder / "slash24.d").is_dir():
            return self._launch(plugin, env, stdin)
        path, root = self.node.path(SOCKET), str(self.node.path(""))
        answer = launcher.launch(
            str(path), plugin, env, stdin, lambda: super(ViaAgent, self).raw(plugin, env, stdin), root=root
        )
        self.ways[answer.way] += 1
        return answer

    def _launch(self, plugin: str, env: Mapping[str, str], stdin: str) -> CompletedProcess:
        """Call the real launcher, behind which the frozen plugin reports that it is executed."""
        done = self.node.run([installed(self.node, self.folder) / plugin], env=env, stdin=stdin, check=False)
        said = done.stderr.removeprefix(ALONE)
        way = "lost" if "the agent was lost" in done.stdout else "agent" if said == done.stderr else "alone"
        self.ways[way] += 1
        return CompletedProcess(done.args, done.returncode, done.stdout, said)


ALONE = "(alone)\n"
_lock = Lock()


def installed(node: Node, folder: Path) -> Path:
    """A folder with the launchers of `folder`; the plugins behind them print ALONE to stderr, then run as usual."""
    made, private = node.path("/run/launchers"), folder / "slash24.d"
    with _lock:
        if not made.is_dir():
            (made / "slash24.d").mkdir(parents=True)
            for name in TYPES:
                shutil.copy(folder / name, made)
                foreign(made / "slash24.d", name, f"echo '{ALONE.strip()}' >&2; exec {private / name}")
    return Path("/run/launchers")


def foreign(folder: Path, name: str, text: str) -> Path:
    """Write a third-party plugin, an executable shell script, and return its folder."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return folder


Start = Callable[..., Agent]


@pytest.fixture(name="start")
def agents_started(node: Node, bin_dir: Path) -> Iterator[Start]:
    """Starts agents on the node; all are killed when the test ends."""
    agents = []

    def started(*options: str, **more: object) -> Agent:
        agents.append(Agent(node, bin_dir, *options, **more))
        return agents[-1]

    yield started
    for agent in agents:
        agent.process.kill()
        agent.process.wait()


@pytest.fixture(name="warm")
def calls_by_agent(node: Node, bin_dir: Path) -> ViaAgent:
    """Calls through an agent."""
    return ViaAgent(node, bin_dir)


def tried(verb: Callable, conf: dict, pod: Pod) -> None:
    """Make a call that may fail only because the agent is dead or starved, or because of what an earlier call left."""
    excuses = ("has an interface of that name already", "duplicate allocation is not allowed")
    try:
        verb(conf, pod)
    except CNIFailure as failure:
        if failure.code != 11 and not any(excuse in failure.text for excuse in excuses):
            raise


def nothing_is_left(node: Node) -> bool:
    """Assert that no lease, bridge port or nftables element of a pod remains."""
    assert leases(node) == {}
    assert on_bridge(node) == set()
    assert "v1:" not in node.ruleset()
    return True

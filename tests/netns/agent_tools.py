"""An agent on a test's node, and calls that go by way of it."""

import http.client
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT
from tests.netns import launcher
from tests.netns.cni import CNI
from tests.netns.node import Node, wait_until

SOCKET, PAGES = "/run/slash24/cni.sock", "/run/slash24/http.sock"


def command(home: Path) -> list[str]:
    """How the agent is started from the source."""
    return [sys.executable, "-m", "agent", "--home", str(home)]


def environment() -> dict[str, str]:
    """The variables that it needs for that."""
    search = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": search}


class Agent:
    """An agent process on the node, started from the source, listening when this is made."""

    def __init__(self, node: Node, home: Path, *options: str, prefix: Sequence[str] = ()) -> None:
        self.node, self.path = node, str(node.path(SOCKET))
        self._log = node.path(f"/run/agent-{len(list(node.path('/run').glob('agent-*')))}.log")
        with self._log.open("w") as log:
            self.process = node.start([*prefix, *command(home), *options], env=environment(), stderr=log)
        assert wait_until(self._is_ready, timeout=20), self.log

    def _is_ready(self) -> bool:
        return "event=ready" in self.log or self.process.poll() is not None

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text()

    @property
    def descriptors(self) -> int:
        """How many it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    @property
    def threads(self) -> int:
        """How many it has."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    @property
    def resident(self) -> int:
        """Its memory in MB."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096 // 1_000_000

    def page(self, name: str) -> tuple[int, str]:
        """Status and body of a page, from the socket PAGES."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        connection.sock.connect(str(self.node.path(PAGES)))
        connection.request("GET", f"/{name}")
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return response.status, body

    def stop(self, number: int = signal.SIGTERM, *, timeout: float = 15) -> int:
        """Send it the signal; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout)


@dataclass(frozen=True)
class ViaAgent(CNI):
    """Calls as a launcher makes them; `ways` counts how they went."""

    ways: dict[str, int] = field(default_factory=dict)

    def raw(self, plugin: str, env: Mapping[str, str], stdin: str) -> launcher.Answer:
        """By way of the agent if it is there, else by executing the plugin."""
        path, root = self.node.path(SOCKET), str(self.node.path(""))
        answer = launcher.launch(
            str(path), plugin, env, stdin, lambda: super(ViaAgent, self).raw(plugin, env, stdin), root=root
        )
        self.ways[answer.way] = self.ways.get(answer.way, 0) + 1
        return answer


def foreign(folder: Path, name: str, text: str) -> Path:
    """An executable shell script as a plugin of others; the folder."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return folder


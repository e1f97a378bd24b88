"""Nodes whose network `slash24-node` keeps, with an agent and a registry in a folder that all nodes share."""

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT
from tests.netns.agent_tools import Agent
from tests.netns.cni import PATH, Cnitool
from tests.netns.node import Node, Pod, wait_until
from tests.system.underlay import CLUSTER, Member, Underlay

CONFIG, PAGES, REGISTRY = "/run/slash24.toml", "/run/node.sock", "/run/registry"
CONFLIST = "/run/net.d/10-slash24.conflist"
NETWORK = "slash24"
READY_SECONDS = 30
ROUTES = ["-j", "route", "show", "proto", "24"]


def toml(config: Mapping[str, object]) -> str:
    """The configuration as a file: plain keys, then a table for each mapping."""
    plain = [f"{key} = {_value(value)}" for key, value in config.items() if not isinstance(value, Mapping)]
    for name, table in config.items():
        if isinstance(table, Mapping):
            plain += [f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join([*plain, ""])


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value)


class Daemon:
    """A `slash24-node` process on a node."""

    def __init__(self, node: Node, home: Path, *options: str) -> None:
        frozen = home / "slash24-node"
        argv = [str(frozen)] if frozen.exists() else [sys.executable, "-m", "daemon"]
        env = {"PATH": PATH} if frozen.exists() else {"PATH": PATH, "PYTHONPATH": str(ROOT)}
        self._log = node.path(f"/run/node-{len(list(node.path('/run').glob('node-*.log')))}.log")
        self._pages = node.path(PAGES)
        with self._log.open("w") as log:
            argv = [*argv, "--config", CONFIG, "--listen", PAGES, *options]
            self.process = node.start(argv, env=env, stdin=subprocess.DEVNULL, stderr=log)

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text()

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def page(self, name: str) -> tuple[int, str]:
        """HTTP status and body of a page; (0, "") if it does not listen."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        with closing(connection), suppress(OSError, http.client.HTTPException):
            connection.sock.connect(str(self._pages))
            connection.request("GET", f"/{name}")
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        return 0, ""

    @property
    def is_ready(self) -> bool:
        """Whether its page says so."""
        return self.page("readyz")[0] == 200

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it the signal, wait, and return its exit status. AssertionError if it has logged a traceback."""
        if self.is_running:
            self.process.send_signal(number)
        status = self.process.wait(20)
        assert "Traceback" not in self.log, self.log
        return status


@dataclass
class Served:
    """A node with a daemon and an agent: its number, its name in the registry, its addresses, its configuration."""

    number: int
    name: str
    addresses: tuple[str, str]
    node: Node
    tool: Cnitool
    home: Path
    config: dict
    daemon: Daemon
    agent: Agent
    results: dict[str, dict] = field(default_factory=dict)

    def start(self, **changes: object) -> None:
        """Start the daemon with its configuration, changed by these keys; those that are None are taken out."""
        self.config = {key: value for key, value in {**self.config, **changes}.items() if value is not None}
        self.node.path(CONFIG).write_text(toml(self.config))
        self.daemon = Daemon(self.node, self.home)

    def restart(self, number: int = signal.SIGTERM, **changes: object) -> None:
        """End the daemon with the signal, and start it again."""
        self.daemon.end(number)
        self.start(**changes)

    def wait_until_ready(self) -> None:
        """Wait until the daemon says it serves, and the conflist is there."""
        assert wait_until(self.is_ready, timeout=READY_SECONDS), f"{self.name}: {self.daemon.log}"

    def is_ready(self) -> bool:
        """Whether the daemon says it serves, and the conflist is there."""
        assert self.daemon.is_running, self.daemon.log
        return self.daemon.is_ready and self.node.path(CONFLIST).exists()

    @property
    def subnets(self) -> tuple[str, ...]:
        """The node's own, from node.json; () if there is none."""
        return tuple(self._file("node.json").get("podCIDRs", ()))

    @property
    def problem(self) -> str:
        """Why this node gives no addresses, from node.json; "" if it does."""
        return self._file("node.json").get("problem", "")

    def routes(self) -> dict[str, dict]:
        """The routes of our routing protocol by destination."""
        shown = [self.node.run(["ip", family, *ROUTES]).stdout for family in ("-4", "-6")]
        return {route["dst"]: route for text in shown for route in json.loads(text or "[]")}

    def knows(self, others: Collection["Served"]) -> bool:
        """Whether it has routes to the subnets of all other nodes and to no more."""
        wanted = {subnet for other in others if other is not self for subnet in other.subnets}
        return set(self.routes()) == wanted

    def add(self, name: str) -> Pod:
        """Add a pod by the conflist that the daemon wrote, and CHECK it."""
        pod = self.node.pod(name)
        self.results[name] = self.tool.ok("add", NETWORK, pod)
        self.check(pod)
        return pod

    def check(self, pod: Pod) -> None:
        """CHECK a pod."""
        self.tool.ok("check", NETWORK, pod)

    def delete(self, pod: Pod) -> None:
        """DEL a pod."""
        self.tool.ok("del", NETWORK, pod)
        del self.results[pod.name]

    def address(self, pod: Pod, family: int) -> str:
        """The pod's address of IP version 4 or 6."""
        found = [ip["address"].partition("/")[0] for ip in self.results[pod.name]["ips"]]
        return next(address for address in found if (":" in address) == (family == 6))

    def close(self) -> None:
        """End the daemon and the agent. AssertionError if the daemon has failed."""
        self.agent.process.kill()
        self.agent.process.wait()
        self.daemon.end()

    def _file(self, name: str) -> dict:
        file = self.node.path(f"/run/slash24/{name}")
        return json.loads(file.read_text()) if file.exists() else {}


class Cluster:
    """The nodes of an underlay that share a folder as their registry."""

    def __init__(self, underlay: Underlay, folder: Path, home: Path, cnitool: Path) -> None:
        self.underlay, self.folder = underlay, folder
        self._home, self._cnitool = home, cnitool
        self.nodes: list[Served] = []

    def join(self, link: str, name: str = "", **config: object) -> Served:
        """Add a node on a link, and start its daemon; keys of the configuration as in the file."""
        return self.serve(self.underlay.join(link), name, **config)

    def serve(self, member: Member, name: str = "", **config: object) -> Served:
        """Start agent and daemon on a node."""
        node, name = member.node, name or f"n{member.number}"
        self.share(node)
        made = Served(
            number=member.number,
            name=name,
            addresses=member.addresses,
            node=node,
            tool=Cnitool(node, self._cnitool, (self._home,)),
            home=self._home,
            config=self.configuration(name) | config,
            daemon=None,
            agent=Agent(node, self._home),
        )
        made.start()
        self.nodes.append(made)
        return made

    @staticmethod
    def configuration(name: str) -> dict:
        """The usual configuration of the node with that name."""
        return {
            "mode": "vxlan",
            "cluster": list(CLUSTER),
            "registry": f"file://{REGISTRY}",
            "node": name,
            "allocate": [24, 64],
            "conflist": {"path": CONFLIST},
        }

    def share(self, node: Node) -> None:
        """Mount the shared folder on a node."""
        node.run(["mkdir", "-p", REGISTRY, str(Path(CONFLIST).parent)])
        node.run(["mount", "--bind", str(self.folder), REGISTRY])

    def settle(self, nodes: Sequence[Served] | None = None) -> None:
        """Wait until all nodes are ready and have the routes to each other, and no more."""
        nodes = self.nodes if nodes is None else nodes
        for one in nodes:
            one.wait_until_ready()
        for one in nodes:
            settled = wait_until(lambda one=one: one.knows(nodes), timeout=READY_SECONDS)
            assert settled, f"{one.name} has {sorted(one.routes())}: {one.daemon.log}"

    def close(self) -> None:
        """End all daemons and agents; the underlay ends the nodes."""
        for one in self.nodes:
            one.close()


@contextmanager
def cluster_on(underlay: Underlay, folder: Path, home: Path, reference_bin: Path) -> Iterator[Cluster]:
    """A cluster without nodes; its daemons are ended afterwards."""
    made = Cluster(underlay, folder, home, reference_bin / "cnitool")
    try:
        yield made
    finally:
        made.close()

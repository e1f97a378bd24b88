"""The daemon `slash24-node` on a test's node, with a registry of files, and calls through its conflist."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.netns.agent_tools import page_at
from tests.netns.cni import CNI, PATH
from tests.netns.node import Node, Pod, wait_until

NODES, CONFLIST, PAGES = "/var/lib/slash24/nodes", "/run/net.d/10-slash24.conflist", "/run/slash24/node-http.sock"
CONFIG = """
mode = "{mode}"
cluster = ["10.244.0.0/16", "fd00:244::/48"]
registry = "file://{nodes}"
node = "n1"
{more}
[conflist]
path = "{conflist}"
"""


def daemon_command(home: Path) -> list[str]:
    """The command that starts a daemon: the frozen executable if there is one, else the source."""
    frozen = home / "slash24-node"
    return [str(frozen)] if frozen.exists() else [sys.executable, "-m", "daemon"]


def daemon_environment(home: Path) -> dict[str, str]:
    """The environment for that command."""
    return {"PATH": PATH} if (home / "slash24-node").exists() else {"PATH": PATH, "PYTHONPATH": str(ROOT)}


class Daemon:
    """A daemon process on a node; the constructor returns when it has begun, or ended."""

    def __init__(
        self,
        node: Node,
        home: Path,
        mode: str,
        *options: str,
        more: str = "",
        prefix: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`more`: lines for the configuration, before its tables or with tables of their own."""
        self.node = node
        config = CONFIG.format(mode=mode, nodes=NODES, conflist=CONFLIST, more=more)
        node.path("/run/slash24.toml").write_text(config)
        number = len(list(node.path("/run").glob("daemon-*")))
        self._log = node.path(f"/run/daemon-{number}.log")
        argv = [*prefix, *daemon_command(home), "--config", "/run/slash24.toml", "--listen", PAGES, *options]
        env = {**daemon_environment(home), **(environ or {})}
        with self._log.open("w") as log:
            self.process = node.start(argv, env=env, stderr=log, cwd="/")
        assert wait_until(lambda: "started" in self.log or self.process.poll() is not None), self.log

    @property
    def log(self) -> str:
        """The log so far."""
        return self._log.read_text()

    def await_ready(self) -> "Daemon":
        """Wait until the network works and the conflist is written."""
        assert wait_until(lambda: self.node.path(CONFLIST).exists() and self.page("readyz")[0] == 200), self.log
        return self

    def page(self, name: str) -> tuple[int, str]:
        """HTTP status and body of a page."""
        return page_at(self.node.path(PAGES), name)

    def metric(self, name: str) -> float:
        """The value of a metric, with its labels if it has any."""
        lines = [line for line in self.page("metrics")[1].splitlines() if line.startswith(f"{name} ")]
        return float(lines[0].rpartition(" ")[2])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send it the signal, wait, and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(15)


Start = Callable[..., Daemon]


@pytest.fixture(name="daemon")
def daemons_started(node: Node, bin_dir: Path) -> Iterator[Start]:
    """Starts daemons on the node, which has an uplink; all are killed when the test ends."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    daemons: list[Daemon] = []

    def started(mode: str = "vxlan", *options: str, **more: object) -> Daemon:
        daemons.append(Daemon(node, bin_dir, mode, *options, **more))
        return daemons[-1]

    yield started
    for one in daemons:
        one.process.kill()
        one.process.wait()


def write_record(node: Node, number: int, **keys: object) -> None:
    """Write the record of node NUMBER into the registry, as its own daemon does."""
    addresses = [f"192.0.2.{number}", f"2001:db8:1::{number}"]
    record = {"version": 1, "name": f"n{number}", "addresses": addresses}
    record |= {"podCIDRs": [f"10.244.{number}.0/24", f"fd00:244:0:{number}::/64"]}
    record |= {"vtepMAC": f"02:00:00:00:01:{number:02x}", "vni": 1, "port": 4789, **keys}
    folder = node.path(NODES)
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f".n{number}.new"
    new.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))
    os.rename(new, folder / f"n{number}.json")


def read_record(node: Node, name: str = "n1") -> dict:
    """A record in the registry."""
    return json.loads((node.path(NODES) / f"{name}.json").read_text())


def conf_of(node: Node) -> dict:
    """The main plugin's configuration as a runtime gets it from the conflist."""
    conflist = json.loads(node.path(CONFLIST).read_text())
    return {"cniVersion": conflist["cniVersion"], "name": conflist["name"], **conflist["plugins"][0]}


def add(cni: CNI, name: str) -> tuple[Pod, dict]:
    """A new pod, added through the conflist; and the result."""
    pod = cni.node.pod(name)
    return pod, cni.add(conf_of(cni.node), pod)


def forwarding(node: Node, device: str = "slash24.1") -> dict[str, str]:
    """The FDB entries of the tunnel: MAC to address."""
    done = node.run(["bridge", "-j", "fdb", "show", "dev", device])
    return {entry["mac"]: entry["dst"] for entry in json.loads(done.stdout) if "dst" in entry}


def neighbours(node: Node, device: str = "slash24.1") -> dict[str, str]:
    """The permanent neighbours of the tunnel: address to MAC."""
    lines = [*node.ip("-4", "neigh", "show", "dev", device), *node.ip("-6", "neigh", "show", "dev", device)]
    return {line["dst"]: line["lladdr"] for line in lines if "PERMANENT" in line["state"]}

"""`slash24-node --uninstall` leaves a node as it was."""

import json
import shutil
import subprocess
import sys
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.netns.cluster_tools import CLUSTER, NODE_FILE, OWN, PEERS_FILE, network, own_routes, record, write
from tests.netns.cni import CNI
from tests.netns.daemon_tools import (  # noqa: F401 (one is a fixture)
    NODES,
    Start,
    add,
    conf_of,
    daemon_command,
    daemon_environment,
    daemons_started,
)
from tests.netns.node import Node
from tests.netns.way import Agent

pytestmark = pytest.mark.cold("an agent that runs keeps its socket")

CONFLIST, RECORDS, BINARIES = "/run/net.d/10-slash24.conflist", "/run/nodes", "/run/bin"
PROGRAM = """
import sys
from daemon import conflist
from daemon.config import read
from daemon.uninstall import uninstall
config = read("/run/config.toml", {"NODE_NAME": "n1"})
conflist.ensure(config) if sys.argv[1] == "write" else sys.exit(uninstall(config, sys.argv[1]))
"""


def program(node: Node, argument: str) -> subprocess.CompletedProcess:
    """Write the conflist ("write"), or uninstall; the argument is the folder of the plugins then."""
    return node.run([sys.executable, "-c", PROGRAM, argument], env={"PYTHONPATH": str(ROOT)}, check=False)


@pytest.fixture(params=["vxlan", "kubenet"])
def kind(request: pytest.FixtureRequest) -> str:
    """The mode."""
    return request.param


def conf(kind: str) -> dict:
    """The main plugin's configuration, with subnets and peers from the files."""
    return network(kind, podCIDRs=None, clusterCIDRs=None)


def state(node: Node) -> dict[str, object]:
    """What slash24 must leave as it was."""
    return {
        "links": {name: link["address"] for name, link in node.links().items()},
        "routes": {key: (route.get("gateway"), route["dev"]) for key, route in node.routes().items()},
        "rules": [line for line in node.ruleset().splitlines() if line.startswith("table")],
        "files": [str(path) for folder in ("/run", "/var/lib") for path in sorted(node.path(folder).rglob("*"))],
    }


def install(cni: CNI, node: Node, kind: str) -> None:
    """Make everything that daemon and installation make, on a node of a cluster."""
    install_files(node, kind)
    shutil.copy(cni.folder / kind, node.path(BINARIES))


def install_files(node: Node, kind: str) -> None:
    """Make all of that but the plugins."""
    lines = [f'mode = "{kind}"', f"cluster = {json.dumps(CLUSTER)}", f'registry = "file://{RECORDS}"']
    node.path("/run/config.toml").write_text("\n".join([*lines, f'[conflist]\npath = "{CONFLIST}"\nname = "net"\n']))
    write(node, NODE_FILE, {"version": 1, "podCIDRs": OWN, "clusterCIDRs": CLUSTER})
    write(node, PEERS_FILE, {"version": 1, "peers": [record(1), record(2), record(3)]})
    write(node, f"{RECORDS}/n1.json", record(1))
    assert program(node, "write").returncode == 0
    assert node.path(CONFLIST).exists()


@pytest.fixture
def ready(node: Node) -> Node:
    """A node with a default route, another node's record, and folders that were there before."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    for folder in (BINARIES, "/run/net.d", RECORDS):
        node.path(folder).mkdir()
    write(node, f"{RECORDS}/n2.json", record(2))
    node.path("/run/config.toml").write_text("")
    return node


@pytest.mark.parametrize("kind", ["vxlan", "kubenet"])
def test_a_node_without_pods_is_left_as_it_was(cni: CNI, ready: Node, kind: str) -> None:
    """Links, routes, rules and files; and a second time there is nothing to do."""
    pod = ready.pod("pod")
    before = state(ready)
    install(cni, ready, kind)
    cni.add(conf(kind), pod)
    assert set(own_routes(ready)) >= {"10.244.2.0/24", "10.244.3.0/24"}
    cni.delete(conf(kind), pod)
    for _ in range(2):
        done = program(ready, BINARIES)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert state(ready) == before


def test_the_socket_of_an_agent_that_has_ended_goes(ready: Node, bin_dir: Path) -> None:
    """The socket of one that runs stays, and the command says so."""
    before = state(ready)
    install_files(ready, "vxlan")
    agent = Agent(ready.start, bin_dir)
    assert program(ready, BINARIES).stdout == "/run/slash24/cni.sock remains: an agent runs; end it\n"
    assert ready.path("/run/slash24/cni.sock").exists()
    agent.stop()
    assert ready.path("/run/slash24/cni.sock").exists()
    assert program(ready, BINARIES).stdout == ""
    assert state(ready) == before


@pytest.mark.parametrize("kind", ["vxlan", "kubenet"])
def test_pods_that_run_stay_on_the_node(cni: CNI, ready: Node, kind: str) -> None:
    """Their links, leases and rules, and the bridge, which are named; when they are gone, the rest goes."""
    pod, validated = ready.pod("pod"), conf(kind) | {"sourceAddressValidation": True}
    before = state(ready)
    install(cni, ready, kind)
    result = cni.add(validated, pod)
    done = program(ready, BINARIES)
    assert done.returncode == 0
    (veth,) = (name for name in ready.links() if name.startswith("veth"))
    told = done.stdout.splitlines()
    assert told[0] == f"{veth} remain, with their bridge cbr0: their pods run"
    leases = sorted(ip["address"].partition("/")[0] for ip in result["ips"])
    assert told[1:] == [f"leases remain in /var/lib/cni/networks/net: {', '.join(leases)}"]
    assert own_routes(ready) == {}
    assert state(ready)["rules"] == ["table bridge slash24_source_validation {"]
    assert pod.reaches(result["ips"][0]["gateway"])
    write(ready, NODE_FILE, {"podCIDRs": OWN})
    cni.delete(validated, pod)
    assert program(ready, BINARIES).returncode == 0
    after = state(ready)
    assert after.pop("rules") in ([], ["table bridge slash24_source_validation {"])
    del before["rules"]
    assert after == before


def test_what_others_made_stays(cni: CNI, ready: Node) -> None:
    """A conflist of somebody else, a bridge with a port of somebody else, other programs in the folder of plugins."""
    install(cni, ready, "vxlan")
    cni.add(conf("vxlan"), pod := ready.pod("pod"))
    cni.delete(conf("vxlan"), pod)
    write(ready, CONFLIST, {"name": "theirs"})
    write(ready, f"{BINARIES}/other", "#!/bin/sh\n")
    ready.run(["ip", "link", "add", "theirs", "master", "cbr0", "type", "veth"])
    done = program(ready, BINARIES)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"{CONFLIST} remains: slash24-node has not written it",
        "bridge cbr0 remains, with the ports theirs",
    ]
    assert json.loads(ready.path(CONFLIST).read_text()) == {"name": "theirs"}
    assert [path.name for path in ready.path(BINARIES).iterdir()] == ["other"]


def test_a_step_that_fails_does_not_stop_the_others(cni: CNI, ready: Node) -> None:
    """It is told, and the exit status is 1."""
    install(cni, ready, "vxlan")
    own = ready.path(f"{RECORDS}/n1.json")
    own.unlink()
    own.mkdir()
    done = program(ready, BINARIES)
    assert done.returncode == 1
    assert done.stdout.startswith('cannot remove this node from the registry: cannot delete the record of this node, "')
    assert not ready.path(CONFLIST).exists()
    assert not list(ready.path(BINARIES).iterdir())


def test_a_daemon_that_runs_has_to_be_ended_first(cni: CNI, ready: Node) -> None:
    """It would make everything again."""
    install(cni, ready, "vxlan")
    before = state(ready)
    lock = ready.path("/run/slash24/slash24-node.pid")
    with lock.open("w") as file:
        file.write("77\n")
        file.flush()
        flock(file, LOCK_EX)
        done = program(ready, BINARIES)
        assert "AlreadyRunning: another slash24-node runs on this node, with process ID 77; end it first" in done.stderr
    lock.unlink()
    assert state(ready) == before


def test_all_that_a_daemon_made_goes(cni: CNI, node: Node, daemon: Start, bin_dir: Path) -> None:
    """By the command line; the folders that it made for others to write to stay."""
    node.run(["mount", "-t", "tmpfs", "private", "/opt"])
    before = state(node)
    running = daemon("vxlan").await_ready()
    pod, _ = add(cni, "p1")
    cni.delete(conf_of(node), pod)
    pod.vanish()
    node.path("/opt/cni/bin").mkdir(parents=True)
    shutil.copy(cni.folder / "vxlan", node.path("/opt/cni/bin"))
    assert running.stop() == 0
    argv = [*daemon_command(bin_dir), "--config", "/run/slash24.toml", "--uninstall"]
    done = node.run(argv, env=daemon_environment(bin_dir), check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    after = state(node)
    left = {path.partition("/root")[2] for path in set(after.pop("files")) - set(before.pop("files"))}
    assert left == {"/run/daemon-0.log", "/run/slash24.toml", "/run/net.d", "/var/lib/slash24", NODES, f"{NODES}/.lock"}
    assert list(node.path("/opt/cni/bin").iterdir()) == []
    assert after == before

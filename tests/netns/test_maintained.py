"""While the daemon keeps the node's part of a network, an ADD does the pod's part alone."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.netns.cluster_tools import NODE_FILE, PEERS_FILE, network, own_routes, record, refused, write
from tests.netns.cni import CNI
from tests.netns.node import Node

KINDS = pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
ENVIRON = {"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
SUBNETS = {"podCIDRs": ["10.244.1.0/24", "fd00:244:0:1::/64"], "mtu": 1400}

HOLD = """
import json, sys
from plugins.node.maintained import maintaining
from spec.config import Section
with maintaining("net", Section(json.loads(sys.argv[1]))):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def ready(node: Node) -> Node:
    """A node with a default route."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    return node


@contextmanager
def maintained(node: Node, keys: Mapping[str, object]) -> Iterator[subprocess.Popen]:
    """A process that says it keeps the network "net" with these keys of the main plugin."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": ENVIRON}
    holder = node.start([sys.executable, "-c", HOLD, json.dumps(keys)], **pipes)
    try:
        assert holder.stdout.readline() == "ready\n"
        yield holder
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()


def conf(kind: str, **keys: object) -> dict:
    """A configuration without the node's subnets, which are in its file."""
    return network(kind, podCIDRs=None, **keys)


@pytest.mark.cold(reason="calls the plugin's code itself, to count what it asks of the kernel")
@KINDS
def test_an_add_costs_the_same_whatever_the_number_of_peers(ready: Node, bin_dir: Path, kind: str) -> None:
    """It opens no file of peers, and sends as many requests with 1,500 peers as with 10; nothing is left to change."""
    counted = []
    for number, peers in (("a", 10), ("b", 1500), ("c", 10)):
        ready.pod(number)
        keys = {"type": kind, "clusterCIDRs": ["10.0.0.0/8", "fd00::/16"], "nonMasqueradeCIDRs": ["192.0.0.0/16"]}
        ready.run(["ip", "addr", "replace", "192.0.2.1/16", "dev", "wan0"])
        asked = {"conf": {"cniVersion": "1.0.0", "name": "net", **keys}, "daemon": keys, "peers": peers}
        script = ROOT / "tests" / "netns" / "maintained_add.py"
        done = ready.run([sys.executable, script, number, bin_dir], stdin=json.dumps(asked), env=ENVIRON)
        found = json.loads(done.stdout)
        assert (found["status"], found["opened"], found["stderr"], found["changed"]) == (0, [], "", 0), found
        counted.append(found["requests"])
    assert counted[0] == counted[1] == counted[2]


@KINDS
def test_the_files_are_not_even_read(ready: Node, cni: CNI, kind: str) -> None:
    """A peers file that cannot be used fails no call; the node's rules and routes are not touched."""
    write(ready, NODE_FILE, SUBNETS)
    write(ready, PEERS_FILE, "{")
    rules = ready.ruleset()
    with maintained(ready, {"type": kind, "clusterCIDRs": conf(kind)["clusterCIDRs"]}):
        cni.call("STATUS", conf(kind))
        pod = ready.pod("pod")
        result = cni.add(conf(kind), pod)
        assert result["ips"][0]["address"] == "10.244.1.2/24"
        assert pod.links()["eth0"]["mtu"] == 1400
        assert (ready.ruleset(), own_routes(ready)) == (rules, {})
        assert "slash24.1" not in ready.links()
        cni.check(conf(kind), pod, result)
        cni.delete(conf(kind), pod, result)


@KINDS
def test_with_another_configuration_an_add_does_everything(ready: Node, cni: CNI, kind: str) -> None:
    """The daemon knows nothing of a bridge that only the configuration names."""
    write(ready, NODE_FILE, SUBNETS)
    write(ready, PEERS_FILE, {"peers": [record(2)]})
    with maintained(ready, {"type": kind, "clusterCIDRs": conf(kind)["clusterCIDRs"]}):
        cni.add(conf(kind, bridge="br7"), ready.pod("pod"))
    assert set(own_routes(ready)) == set(record(2)["podCIDRs"])


@KINDS
def test_the_daemon_s_death_is_noticed_by_the_next_add(ready: Node, cni: CNI, kind: str) -> None:
    """Killed, it holds no lock."""
    write(ready, NODE_FILE, SUBNETS)
    write(ready, PEERS_FILE, {"peers": [record(2)]})
    with maintained(ready, {"type": kind, "clusterCIDRs": conf(kind)["clusterCIDRs"]}):
        cni.add(conf(kind), ready.pod("a"))
        assert own_routes(ready) == {}
    cni.add(conf(kind), ready.pod("b"))
    assert set(own_routes(ready)) == set(record(2)["podCIDRs"])


def test_no_other_user_can_hold_the_lock(ready: Node) -> None:
    """Nobody but root may open its file, even one that was there before; or users could keep ADDs from their work."""
    path = ready.path("/run/slash24/net.daemon")
    path.parent.mkdir()
    path.touch(0o666)
    with maintained(ready, {"type": "kubenet"}):
        assert path.stat().st_mode & 0o777 == 0o600


@KINDS
def test_keys_about_the_pod_alone_make_no_difference(ready: Node, cni: CNI, kind: str) -> None:
    """The daemon need not know `ipam`, nor what the runtime adds."""
    write(ready, NODE_FILE, SUBNETS)
    with maintained(ready, {"type": kind, "clusterCIDRs": conf(kind)["clusterCIDRs"]}):
        keys = {"ipam": {"dataDir": "/run/leases"}, "runtimeConfig": {"mac": "02:00:5e:10:00:01"}}
        cni.add(conf(kind, capabilities={"mac": True}, **keys), ready.pod("pod"))
        assert "slash24.1" not in ready.links()
        assert ready.ruleset() == ""


def test_two_daemons_cannot_keep_one_network(ready: Node) -> None:
    """The second is told which file to look at."""
    with maintained(ready, {"type": "vxlan"}):
        done = ready.run([sys.executable, "-c", HOLD, "{}"], env=ENVIRON, check=False)
    assert done.returncode == 1
    assert 'another process maintains the network "net"' in done.stderr


@KINDS
def test_a_node_that_may_give_no_addresses_says_why(ready: Node, cni: CNI, kind: str) -> None:
    """ADD fails with the file's sentence (11), STATUS with the same (50)."""
    write(ready, NODE_FILE, {"podCIDRs": [], "problem": "10.244.1.0/24 belongs to node a, which is older"})
    for verb, code in (("ADD", 11), ("STATUS", 50)):
        error = refused(cni, verb, conf(kind), ready.pod("pod") if verb == "ADD" else None)
        assert (error.code, error.msg) == (code, "10.244.1.0/24 belongs to node a, which is older")

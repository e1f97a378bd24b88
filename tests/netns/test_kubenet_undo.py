"""A failed ADD of `kubenet` or `vxlan` leaves nothing of the pod; after a killed ADD, DEL removes everything."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.netns.cluster_tools import NO_PODS, network, own_routes, pods_left, record
from tests.netns.cni import CNI
from tests.netns.node import Node

KINDS = pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
KEYS = {"bridge": "b0", "hairpinMode": "promiscuous-bridge", "peers": [record(2), record(3)], "mtu": 1400}
KILLS = 15


@pytest.fixture
def ready(node: Node) -> Node:
    """A node with a default route."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    return node


def refuse_each(node: Node, bin_dir: Path, conf: dict, state: str) -> list[dict]:
    """Run one ADD per request it makes, with that request refused; return what each left."""
    node.run(["sh", "-c", "nft add table inet warm; nft delete table inet warm"])
    script = ROOT / "tests" / "netns" / "fail_every_request.py"
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    done = node.run([sys.executable, script, bin_dir, "/run/netns/pod", state], stdin=json.dumps(conf), env=env)
    return json.loads(done.stdout)


@pytest.mark.cold(reason="calls the plugin's code itself, to refuse what it asks of the kernel")
@pytest.mark.parametrize("policies", [{}, {"policyWait": 0}], ids=["", "policies"])
@pytest.mark.parametrize("state", ["fresh", "used"])
@KINDS
def test_nothing_of_the_pod_is_left_whichever_request_is_refused(
    ready: Node, bin_dir: Path, kind: str, state: str, policies: dict
) -> None:
    """For each request of an ADD, read or write: if ADD fails because of it, nothing of the pod is left.

    The node's wanted state may stay: tunnel, routes, rules. A bridge that this ADD created is deleted. On a node that
    is set up already, nothing changes at all.
    """
    ready.pod("pod")
    conf = network(kind, ipam={"dataDir": "/run/leases"}, **KEYS, **policies)
    story = refuse_each(ready, bin_dir, conf, state)
    failed = [entry for entry in story if entry["status"]]
    assert len(failed) >= 30, f"too few requests were refused to prove anything: {len(failed)} of {story}"
    assert story[-1] == {"refused": "", "status": 0, "left": {}}, "the ADD that is not disturbed succeeds"
    if state == "used":
        assert [entry for entry in failed if entry["left"]] == []
    for entry in failed:
        assert not {"pod", "settings", "leases", "files of pods"} & set(entry["left"]), entry
        assert "v1:net:pod:eth0" not in str(entry["left"]), entry
        before, after = ({link["ifname"] for link in json.loads(t)} for t in entry["left"].get("node", ("[]", "[]")))
        assert after - before <= {"slash24.1"}, entry


@KINDS
def test_del_after_a_killed_add_leaves_nothing(cni: CNI, ready: Node, kind: str) -> None:
    """After SIGKILL at any moment, DEL leaves nothing of the pod; the other pod and the node's state are intact."""
    other, pod = ready.pod("other"), ready.pod("pod")
    conf = network(kind, hairpinMode="promiscuous-bridge", peers=[record(2), record(3)])
    begun = time.monotonic()
    result = cni.add(conf, other)
    lasts = time.monotonic() - begun
    routes, rules = own_routes(ready), sorted(ready.ruleset().split())
    moments, caught = random.Random(24), 0
    for _ in range(KILLS):
        plugin = ready.start([cni.folder / kind], env=cni.environ("ADD", pod), stdin=subprocess.PIPE, stdout=-3)
        with plugin:
            plugin.stdin.write(json.dumps(conf).encode())
            plugin.stdin.close()
            time.sleep(moments.uniform(0, lasts))
            running = plugin.poll() is None
            plugin.kill()
        caught += running
        lasts *= 1.1 if running else 0.7
        cni.delete(conf, pod)
        assert len(pods_left(ready)["veths"]) == 1
        assert pods_left(ready, pod)["inside"] == []
        assert len(pods_left(ready)["leases"]) == 2
        cni.check(conf, other, result)
    assert caught, f"none of {KILLS} calls was still running when killed"
    assert own_routes(ready) == routes
    assert sorted(ready.ruleset().split()) == rules


@KINDS
def test_the_next_add_completes_a_new_node_after_a_killed_add(cni: CNI, ready: Node, kind: str) -> None:
    """If part of the node's state exists, the next ADD completes it, and CHECK passes."""
    moments = random.Random(7)
    conf = network(kind, hairpinMode="promiscuous-bridge", peers=[record(2), record(3)])
    pods = [ready.pod(f"pod{number}") for number in range(6)]
    for pod in pods:
        ready.run(["sh", "-c", "ip link del cbr0; ip link del slash24.1; nft flush ruleset"], check=False)
        plugin = ready.start([cni.folder / kind], env=cni.environ("ADD", pod), stdin=subprocess.PIPE, stdout=-3)
        with plugin:
            plugin.stdin.write(json.dumps(conf).encode())
            plugin.stdin.close()
            time.sleep(moments.uniform(0.03, 0.15))
            plugin.kill()
        second = ready.pod(f"second{pod.name}")
        result = cni.add(conf, second)
        cni.check(conf, second, result)
        cni.delete(conf, second, result)
    cni.gc(conf)
    assert pods_left(ready, *pods) == NO_PODS

"""Killed plugins, full and read-only disks: a failed ADD, or the next DEL or GC, leaves nothing."""

import json
import random
import subprocess
import time

import pytest

from tests.conformance.support import DUAL, container_interface, leases, mentions, network, on_bridge
from tests.netns.cni import CNI
from tests.netns.node import Node, Pod

CONF = network(DUAL, ipMasq=True, macspoofchk=True)
KILLS = 25


def killed(cni: CNI, pod: Pod, verb: str, conf: dict, after: float) -> bool:
    """Start the call and kill it after `after` seconds; return whether it was still running."""
    env = cni.environ(verb, pod)
    plugin = cni.node.start([cni.folder / "bridge"], env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    with plugin:
        plugin.stdin.write(json.dumps(conf).encode())
        plugin.stdin.close()
        time.sleep(after)
        running = plugin.poll() is None
        plugin.kill()
    return running


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_del_after_a_killed_call_leaves_nothing(cni: CNI, node: Node, verb: str) -> None:
    """After SIGKILL at any moment of an ADD or DEL, a DEL deletes the rest, and nothing of another pod."""
    other, pod = node.pod("other"), node.pod("poda")
    result = cni.add(CONF, other)
    ports, rules = on_bridge(node), node.ruleset()
    moments = random.Random(24)  # reproducible moments, as fractions of the call's duration
    lasts, caught = 0.1, 0
    for _ in range(KILLS):
        if verb == "DEL":
            cni.add(CONF, pod)
        running = killed(cni, pod, verb, CONF, moments.uniform(0, lasts))
        caught += running
        lasts *= 1.1 if running else 0.7  # tracks how long a call currently takes on this machine
        cni.delete(CONF, pod)
        assert on_bridge(node) == ports
        assert "eth0" not in pod.links()
        assert {owner.split("\r")[0] for owner in leases(node).values()} == {"other"}
        assert mentions(node, pod.name) == []
        assert sorted(node.ruleset().split()) == sorted(rules.split())
    assert caught > KILLS // 8, f"only {caught} of {KILLS} calls were still running when killed"
    cni.check(CONF, other, result)
    assert container_interface(cni.add(CONF, pod), pod)


def test_gc_after_killed_adds_leaves_nothing(cni: CNI, node: Node) -> None:
    """GC alone deletes links, leases and rules of killed ADDs, whether or not their namespaces still exist."""
    moments = random.Random(42)
    for index in range(8):
        pod = node.pod(f"pod{index}")
        killed(cni, pod, "ADD", CONF, moments.uniform(0.02, 0.12))
        # Returns after an agent has finished the killed ADD.
        cni.raw("bridge", cni.environ("CHECK", pod), json.dumps(CONF))
        if index % 2:
            pod.vanish()
    cni.gc(CONF)
    assert leases(node) == {}
    assert on_bridge(node) == set()
    assert mentions(node, *(f"pod{index}" for index in range(8)), "10.1.2.", "fd00:1::") == []
    assert set(node.links()) <= {"lo", "br0"}


def test_full_disk(cni: CNI, node: Node) -> None:
    """On a full disk ADD fails and leaves nothing; once there is space it succeeds."""
    pod, folder = node.pod("poda"), "/var/lib/cni/networks"
    node.run(["mkdir", folder])
    node.run(["mount", "-t", "tmpfs", "-o", "size=16k,nr_inodes=40", "tmpfs", folder])
    node.run(["sh", "-c", f"head -c 1M /dev/zero >{folder}/filler"], check=False)
    done = cni.raw("bridge", cni.environ("ADD", pod), json.dumps(CONF))
    assert done.returncode == 1
    assert "space" in done.stdout
    assert set(node.links()) == {"lo"}
    assert set(pod.links()) == {"lo"}
    assert leases(node) == {}
    node.path(f"{folder}/filler").unlink()
    cni.delete(CONF, pod, cni.add(CONF, pod))
    assert leases(node) == {}


def test_read_only_disk(cni: CNI, node: Node) -> None:
    """On a read-only dataDir ADD fails and leaves nothing."""
    pod, folder = node.pod("poda"), "/var/lib/cni/networks"
    node.run(["mkdir", folder])
    node.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder])
    done = cni.raw("bridge", cni.environ("ADD", pod), json.dumps(CONF))
    assert done.returncode == 1
    assert "Read-only file system" in done.stdout
    assert set(node.links()) == {"lo"}
    assert set(pod.links()) == {"lo"}

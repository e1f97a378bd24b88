"""The agent behaves as the executables do, on real namespaces, and survives hung plugins, kills, upgrades and load."""

import json
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conformance.support import DUAL, leases, network, on_bridge
from tests.netns import launcher
from tests.netns.agent_tools import (  # noqa: F401 (two are fixtures)
    CONF,
    SOCKET,
    Start,
    ViaAgent,
    agents_started,
    calls_by_agent,
    foreign,
    nothing_is_left,
    tried,
)
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node, wait_until

pytestmark = pytest.mark.cold(reason="brings agents of its own")


def test_the_agent_and_the_executables_are_interchangeable(node: Node, warm: ViaAgent, cni: CNI, start: Start) -> None:
    """ADD, CHECK, DEL with addresses, masquerade and MAC filter: each checks and deletes what the other added."""
    agent = start()
    first, second = node.pod("pod1"), node.pod("pod2")
    results = warm.add(CONF, first), cni.add(CONF, second)
    for pod, result in zip((first, second), results, strict=True):
        warm.check(CONF, pod, result)
        cni.check(CONF, pod, result)
        assert pod.addresses("eth0") == {ip["address"] for ip in result["ips"]}
        assert result["interfaces"][2]["sandbox"] == pod.path
    assert first.reaches(results[1]["ips"][0]["address"].split("/")[0])
    cni.delete(CONF, first, results[0])
    warm.delete(CONF, second, results[1])
    assert nothing_is_left(node)
    warm.gc(CONF)
    warm.status(CONF)
    assert set(warm.ways) == {"agent"}
    assert wait_until(lambda: "verb=STATUS" in agent.log)
    assert " outcome=0" in agent.log
    assert f"verb=ADD plugin=bridge network=net container={first.name} ifname=eth0 duration_ms=" in agent.log


def test_its_log_has_the_stderr_of_a_plugin(node: Node, warm: ViaAgent, start: Start) -> None:
    """An unusable peer does not fail the ADD; the log line of the call has the plugin's message about it."""
    agent, peer = start(), {"name": "joining", "addresses": ["192.0.2.7"]}
    warm.add({**CONF, "type": "kubenet", "podCIDRs": ["10.244.1.0/24"], "peers": [peer], "ipam": {}}, node.pod("pod1"))
    assert wait_until(lambda: "outcome=0" in agent.log), (agent.log, warm.ways)
    assert r'stderr="kubenet: peer \"joining\" has no \"podCIDRs\" that can be used"' in agent.log


def test_its_errors_equal_those_of_the_executables(node: Node, warm: ViaAgent, cni: CNI, start: Start) -> None:
    """The error documents are identical, also for the agent's own netns and for a path that does not exist."""
    start()
    pod = node.pod("pod1")
    mistakes = [
        ("ADD", {**CONF, "mtu": "big"}, {}),
        ("ADD", CONF, {"netns": "/run/netns/none"}),
        ("ADD", CONF, {"netns": "/etc/passwd"}),
        ("ADD", CONF, {"netns": f"/proc/{node.pid}/ns/mnt"}),
        ("ADD", CONF, {"netns": f"/proc/{node.pid}/ns/net"}),
        ("ADD", CONF, {"ifname": "a/b"}),
        ("CHECK", CONF, {}),
        ("FLY", CONF, {}),
        ("ADD", {**CONF, "cniVersion": "9.9.9"}, {}),
        ("ADD", {**CONF, "ipam": {"type": "no-such-plugin"}}, {}),
    ]
    for verb, conf, variables in mistakes:
        documents = []
        for way in (cni, warm):
            with pytest.raises(CNIFailure) as raised:
                way.call(verb, conf, pod, **variables)
            documents.append(raised.value.raw)
        assert documents[0] == documents[1], (verb, variables)
    warm.call("DEL", CONF, pod, netns=f"/proc/{node.pid}/ns/net")
    assert set(warm.ways) == {"agent"}


def test_a_hundred_pods_at_once(node: Node, warm: ViaAgent, start: Start) -> None:
    """Each gets unique addresses; after all DELs no state of a pod remains, nor extra threads or file descriptors."""
    agent = start()
    pods = [node.pod(f"pod{index}") for index in range(100)]
    warm.delete(CONF, pods[0])
    before = agent.descriptors
    with ThreadPoolExecutor(100) as threads:
        results = list(threads.map(lambda pod: warm.add(CONF, pod), pods))
        assert len({ip["address"] for result in results for ip in result["ips"]}) == 200
        assert len(on_bridge(node)) == 100
        list(threads.map(lambda pod: warm.delete(CONF, pod), pods))
    assert nothing_is_left(node)
    assert set(warm.ways) == {"agent"}
    assert wait_until(lambda: agent.descriptors <= before and agent.threads <= 3, timeout=20)


def test_concurrent_adds_and_dels_of_one_pod(node: Node, warm: ViaAgent, start: Start) -> None:
    """Calls for one attachment are serialised: after 40 concurrent ADDs and DELs, one more DEL leaves nothing."""
    start()
    pod = node.pod("pod1")

    def one(index: int) -> None:
        if index % 2:
            warm.delete(CONF, pod)
            return
        tried(warm.add, CONF, pod)

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(one, range(40)))
    warm.delete(CONF, pod)
    assert nothing_is_left(node)


def test_a_hung_ipam_plugin_does_not_block_other_calls(node: Node, tmp_path: Path, bin_dir: Path, start: Start) -> None:
    """It is killed at the call's deadline: error 11, and the ADD leaves nothing. Other calls are served meanwhile."""
    folder = foreign(tmp_path / "others", "hung", '[ "$CNI_COMMAND" = ADD ] && sleep 60; exit 0')
    agent = start("--deadline", "5")
    warm = ViaAgent(node, bin_dir, more=(folder,))
    hung, pod = node.pod("hung"), node.pod("pod1")
    with ThreadPoolExecutor(1) as thread:
        failing = thread.submit(warm.add, network({"type": "hung"}), hung)
        assert wait_until(lambda: len(on_bridge(node)) == 1)
        warm.delete(CONF, pod, warm.add(CONF, pod))
        assert not failing.done()
        with pytest.raises(CNIFailure) as raised:
            failing.result(20)
    assert raised.value.code == 11
    assert set(hung.links()) == {"lo"}
    assert nothing_is_left(node)
    assert wait_until(lambda: "outcome=11" in agent.log)
    assert node.run(["pgrep", "-f", str(folder)], check=False).stdout == ""


def test_a_foreign_plugin_that_calls_ours_does_not_deadlock(
    node: Node, tmp_path: Path, bin_dir: Path, start: Start
) -> None:
    """A third-party IPAM plugin calls host-local through a launcher for the attachment of the call in progress."""
    text = f"exec {sys.executable} {launcher.__file__} {SOCKET} {bin_dir} host-local"
    folder = foreign(tmp_path / "others", "wrapper", text)
    agent = start("--deadline", "10")
    warm, pod = ViaAgent(node, bin_dir, more=(folder,)), node.pod("pod1")
    conf = network({**DUAL, "type": "wrapper"})
    result = warm.add(conf, pod)
    assert leases(node)
    warm.delete(conf, pod, result)
    assert nothing_is_left(node)
    assert wait_until(lambda: agent.log.count("plugin=host-local") == 2)


def test_a_foreign_plugin_gets_the_environment_of_the_runtime(
    node: Node, tmp_path: Path, bin_dir: Path, start: Start
) -> None:
    """It gets all of it plus SLASH24_DELEGATED=1, with the agent and without."""
    folder = foreign(tmp_path / "others", "foreign", "tr '\\0' '\\n' </proc/self/environ >/run/seen; echo '{}'")
    start()
    warm, pod = ViaAgent(node, bin_dir, more=(folder,)), node.pod("pod1")
    env = warm.environ("ADD", pod) | {"HOME": "/root", "https_proxy": "http://[::1]:3128", "EMPTY": ""}
    env["SLASH24_SOCKET"] = SOCKET
    conf = json.dumps(network({"type": "foreign"}))
    private = bin_dir / "slash24.d"
    for way in (warm, CNI(node, private if private.is_dir() else bin_dir)):
        for verb in ("DEL", "STATUS"):
            assert way.raw("bridge", {**env, "CNI_COMMAND": verb}, conf).returncode == 0
            lines = node.path("/run/seen").read_text().splitlines()
            assert dict(line.split("=", 1) for line in lines) == {**env, "CNI_COMMAND": verb, "SLASH24_DELEGATED": "1"}
    assert set(warm.ways) == {"agent"}


def test_an_agent_that_is_killed_under_load_and_restarted(node: Node, warm: ViaAgent, start: Start) -> None:
    """SIGKILL under load: every call returns; after a DEL for each pod only the state of the untouched pod remains."""
    pods = [node.pod(f"pod{index}") for index in range(6)]
    keeper = node.pod("keeper")
    agent = start()
    kept = warm.add(CONF, keeper)
    ended = threading.Event()

    def churn(pod) -> None:
        while not ended.is_set():
            for verb in (warm.add, warm.delete):
                tried(verb, CONF, pod)

    with ThreadPoolExecutor(len(pods)) as threads:
        running = [threads.submit(churn, pod) for pod in pods]
        for pause in (0.3, 0.17, 0.41):
            time.sleep(pause)
            agent.process.kill()
            agent.process.wait()
            agent = start()
        ended.set()
        for each in running:
            each.result(60)
    for pod in pods:
        warm.delete(CONF, pod)
    assert {owner.split("\r")[0] for owner in leases(node).values()} == {"keeper"}
    assert len(on_bridge(node)) == 1
    warm.check(CONF, keeper, kept)
    warm.delete(CONF, keeper, kept)
    assert nothing_is_left(node)
    assert warm.ways["lost"] > 0, "no call was under way when the agent was killed"


def test_an_upgrade_fails_no_call(node: Node, warm: ViaAgent, start: Start) -> None:
    """New agents take over the socket under load; the old ones finish their calls and exit with status 0."""
    pods = [node.pod(f"pod{index}") for index in range(4)]
    agents = [start()]
    ended = threading.Event()

    def churn(pod) -> int:
        rounds = 0
        while not ended.is_set():
            warm.delete(CONF, pod, warm.add(CONF, pod))
            rounds += 1
        return rounds

    with ThreadPoolExecutor(len(pods)) as threads:
        running = [threads.submit(churn, pod) for pod in pods]
        for _ in range(2):
            time.sleep(0.3)
            agents.append(start())
            assert agents[-2].process.wait(10) == 0
        ended.set()
        assert all(each.result(30) for each in running)
    assert nothing_is_left(node)
    assert "lost" not in warm.ways
    assert "superseded" in agents[0].log


def test_sigterm_finishes_calls_and_leaves_the_network(node: Node, tmp_path: Path, bin_dir: Path, start: Start) -> None:
    """The call in progress succeeds, the exit status is 0, pods stay connected, later calls execute the plugin."""
    text = 'sleep 1; echo \'{"cniVersion": "1.1.0", "ips": [{"address": "10.1.2.9/24"}]}\''
    folder = foreign(tmp_path / "others", "slow", text)
    agent = start()
    warm = ViaAgent(node, bin_dir, more=(folder,))
    pod, slow = node.pod("pod1"), node.pod("slow")
    result = warm.add(CONF, pod)
    with ThreadPoolExecutor(1) as thread:
        adding = thread.submit(warm.add, network({"type": "slow"}), slow)
        assert wait_until(lambda: len(on_bridge(node)) == 2)
        agent.process.send_signal(signal.SIGTERM)
        assert adding.result(20)["ips"][0]["address"] == "10.1.2.9/24"
    assert agent.process.wait(10) == 0
    assert pod.reaches("10.1.2.1")
    warm.check(CONF, pod, result)
    assert warm.ways == {"agent": 2, "alone": 1}

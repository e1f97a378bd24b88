"""The agent serves what the executables do, on real namespaces, and survives what a node does to it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conformance.support import DUAL, leases, network, on_bridge
from tests.conftest import ROOT
from tests.netns import launcher
from tests.netns.agent_tools import SOCKET, Agent, ViaAgent, foreign
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node, Pod, wait_until
from tests.netns.way import agent_command, agent_environment

pytestmark = pytest.mark.cold(reason="brings agents of its own")

CONF = network(DUAL, ipMasq=True, macspoofchk=True)
Start = Callable[..., Agent]


@pytest.fixture
def start(node: Node, bin_dir: Path) -> Iterator[Start]:
    """Starts agents on the node; all are ended with the test."""
    agents = []

    def started(*options: str, **more: object) -> Agent:
        agents.append(Agent(node, bin_dir, *options, **more))
        return agents[-1]

    yield started
    for agent in agents:
        agent.process.kill()
        agent.process.wait()


@pytest.fixture
def warm(node: Node, bin_dir: Path) -> ViaAgent:
    """Calls by way of an agent."""
    return ViaAgent(node, bin_dir)


def tried(verb: Callable, conf: dict, pod: Pod, *excuses: str) -> None:
    """A call that may find the agent gone, or what an earlier call left, but fails for nothing else."""
    excuses += ("has an interface of that name already", "duplicate allocation is not allowed")
    try:
        verb(conf, pod)
    except CNIFailure as failure:
        if failure.code != 11 and not any(excuse in failure.text for excuse in excuses):
            raise


def nothing_is_left(node: Node) -> bool:
    """No lease, no port, no element of a pod."""
    assert leases(node) == {}
    assert on_bridge(node) == set()
    assert "v1:" not in node.ruleset()
    return True


def test_what_it_does_is_what_the_executables_do(node: Node, warm: ViaAgent, cni: CNI, start: Start) -> None:
    """ADD, CHECK, DEL with addresses, masquerade and MAC filter; either way continues what the other began."""
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
    assert " outcome=0" in agent.log
    assert f"verb=ADD plugin=bridge network=net container={first.name} ifname=eth0 duration_ms=" in agent.log


def test_its_errors_are_those_of_the_executables(node: Node, warm: ViaAgent, cni: CNI, start: Start) -> None:
    """The same documents for the same mistakes; its own namespace is refused, and a path to nothing."""
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
    """Each gets its own address, and nothing remains when all are gone; nor of threads and descriptors."""
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


def test_one_pod_added_and_deleted_by_many_at_once(node: Node, warm: ViaAgent, start: Start) -> None:
    """Calls for one attachment do not overlap: whatever the order, there is one interface or none in the end."""
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


def test_a_hung_ipam_plugin_holds_nobody_up(node: Node, tmp_path: Path, bin_dir: Path, start: Start) -> None:
    """It is killed when the call's time is over: error 11, and nothing of the ADD is left. Others pass meanwhile."""
    folder = foreign(tmp_path / "others", "hung", '[ "$CNI_COMMAND" = ADD ] && sleep 60; exit 0')
    agent = start("--deadline", "3")
    warm = ViaAgent(node, bin_dir, more=(folder,))
    hung, pod = node.pod("hung"), node.pod("pod1")
    with ThreadPoolExecutor(1) as thread:
        failing = thread.submit(warm.add, network({"type": "hung"}), hung)
        assert wait_until(lambda: len(on_bridge(node)) == 1)
        began = time.monotonic()
        warm.delete(CONF, pod, warm.add(CONF, pod))
        assert time.monotonic() - began < 1.5
        with pytest.raises(CNIFailure) as raised:
            failing.result(20)
    assert raised.value.code == 11
    assert set(hung.links()) == {"lo"}
    assert nothing_is_left(node)
    assert "outcome=11" in agent.log
    assert node.run(["pgrep", "-f", str(folder)], check=False).stdout == ""


def test_a_foreign_plugin_that_uses_ours_does_not_wait_for_itself(
    node: Node, tmp_path: Path, bin_dir: Path, start: Start
) -> None:
    """An IPAM plugin of others that asks host-local, by a launcher, for the attachment that is being worked for."""
    text = f"exec {sys.executable} {launcher.__file__} {SOCKET} {bin_dir} host-local"
    folder = foreign(tmp_path / "others", "wrapper", text)
    agent = start("--deadline", "10")
    warm, pod = ViaAgent(node, bin_dir, more=(folder,)), node.pod("pod1")
    conf = network({**DUAL, "type": "wrapper"})
    began = time.monotonic()
    result = warm.add(conf, pod)
    assert leases(node)
    warm.delete(conf, pod, result)
    assert time.monotonic() - began < 5
    assert nothing_is_left(node)
    assert agent.log.count("plugin=host-local") == 2


def test_a_foreign_plugin_has_the_environment_of_the_runtime(
    node: Node, tmp_path: Path, bin_dir: Path, start: Start
) -> None:
    """All of it and nothing else, by way of the agent as without."""
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
            assert dict(line.split("=", 1) for line in lines) == {**env, "CNI_COMMAND": verb}
    assert set(warm.ways) == {"agent"}


def test_killed_in_the_middle_and_started_anew(node: Node, warm: ViaAgent, start: Start) -> None:
    """SIGKILL while pods come and go: every call is answered, and after a DEL each nothing is lost or doubled."""
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
    """New agents take the socket over under load; the old ones finish their calls and end by themselves."""
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


def test_sigterm_finishes_what_is_under_way_and_leaves_the_network(
    node: Node, tmp_path: Path, bin_dir: Path, start: Start
) -> None:
    """Exit status 0; who comes later does without the agent."""
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


def test_the_socket_is_root_s_alone(node: Node, start: Start) -> None:
    """By its mode, and by who connects, whatever its mode."""
    start()
    path = node.path(SOCKET)
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.parent.stat().st_mode & 0o7777 == 0o755
    path.chmod(0o666)
    program = f"s = socket.socket(1); s.connect('{SOCKET}'); print(len(s.recv(8)))"
    programs = [f"import os, socket; os.setuid({uid}); {program}" for uid in (0, 65534)]
    said = [node.run([sys.executable, "-c", text]).stdout for text in programs]
    assert said == ["8\n", "0\n"]


def test_systemd_passes_the_socket_and_hears_of_readiness(node: Node, warm: ViaAgent, bin_dir: Path) -> None:
    """The first call waits in the socket until the agent is there; the socket file is left alone at the end."""
    path = node.path(SOCKET)
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        listener.bind(str(path))
        listener.listen()
        notified.bind(str(node.path("/run/notify")))
        notified.settimeout(20)
        # As systemd does it: descriptor 3, and the process id of the program that is executed.
        text = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
        text += "os.execv(sys.argv[2], sys.argv[2:])"
        environ = {**agent_environment(bin_dir), "LISTEN_FDS": "1", "NOTIFY_SOCKET": "/run/notify"}
        argv = [sys.executable, "-c", text, str(listener.fileno()), *agent_command(bin_dir)]
        agent = node.start(argv, env=environ, pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL)
        pod = node.pod("pod1")
        warm.delete(CONF, pod, warm.add(CONF, pod))
        assert notified.recv(100) == b"READY=1"
        agent.terminate()
        assert notified.recv(100) == b"STOPPING=1"
        assert agent.wait(10) == 0
        assert warm.ways == {"agent": 2}
        assert path.exists()


def test_an_agent_in_a_container(node: Node, bin_dir: Path, start: Start) -> None:
    """It sees another /run/netns and no CNI_PATH: the namespace comes along, and others' plugins run on the host."""
    lease = '{"cniVersion": "1.1.0", "ips": [{"address": "10.1.2.9/24"}]}'
    foreign(node.path("/run/others"), "foreign", f"cat >/dev/null; ls $CNI_NETNS >/run/seen; echo '{lease}'")
    pod = node.pod("pod1")
    # What the container sees: its own /run/netns and /run/others, the host's files under /run/host.
    hide = (
        "mkdir -p /run/host && mount --rbind / /run/host && mount -t tmpfs x /run/netns && mount -t tmpfs x /run/others"
        ' && exec "$@"'
    )
    start("--host-root", "/run/host", prefix=["unshare", "--mount", "sh", "-c", hide, "sh"])
    warm = ViaAgent(node, bin_dir, more=("/run/others",))
    conf = network({"type": "foreign"})
    result = warm.add(conf, pod)
    assert pod.addresses("eth0") == {"10.1.2.9/24"}
    assert result["interfaces"][2]["sandbox"] == pod.path
    assert node.path("/run/seen").read_text() == f"{pod.path}\n"
    warm.check(conf, pod, result)
    warm.delete(conf, pod, result)
    assert set(pod.links()) == {"lo"}
    warm.delete(CONF, pod, warm.add(CONF, pod))  # in-process: the executable found on the host is the suite's own
    assert warm.ways == {"agent": 5}


def test_the_capabilities_of_the_unit_will_do(node: Node, tmp_path: Path, bin_dir: Path, start: Start) -> None:
    """For all that our plugins do, and to execute another's; the agent has no others."""
    (line,) = re.findall(
        "^CapabilityBoundingSet=(.*)$", (ROOT / "deploy/slash24-agent.service").read_text(), re.MULTILINE
    )
    kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in line.split())
    agent = start(prefix=["setpriv", f"--bounding-set=-all,{kept}", "--no-new-privs"])
    folder = foreign(tmp_path / "others", "foreign", 'echo \'{"cniVersion": "1.1.0"}\'')
    warm, pod = ViaAgent(node, bin_dir, more=(folder,)), node.pod("pod1")
    result = warm.add(CONF, pod)
    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    chain = [
        {"type": "portmap", "runtimeConfig": {"portMappings": ports}},
        {"type": "bandwidth", "ingressRate": 8000000, "ingressBurst": 8000000},
        {"type": "firewall"},
        {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}, "mtu": 1400},
    ]
    confs = [{"cniVersion": "1.1.0", "name": "net", **each, "prevResult": result} for each in chain]
    for conf in confs:
        warm.add(conf, pod)
        warm.call("CHECK", conf, pod)
    for conf in confs[::-1]:
        warm.delete(conf, pod)
    warm.gc(CONF, pod)
    warm.delete(CONF, pod, result)
    warm.delete(network({"type": "foreign"}), pod)
    assert nothing_is_left(node)
    assert set(warm.ways) == {"agent"}
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    assert int(re.search(r"CapEff:\s*(\w+)", status)[1], 16).bit_count() == len(line.split())


def test_pages_tell_the_truth(node: Node, warm: ViaAgent, start: Start) -> None:
    """Health is a greeting, readiness the last real result, metrics are of the calls that were made."""
    agent = start("--listen", "/run/slash24/http.sock")
    pod = node.pod("pod1")
    assert agent.page("healthz")[0] == agent.page("readyz")[0] == 200
    result = warm.add(CONF, pod)
    status, text = agent.page("metrics")
    assert status == 200
    assert 'slash24_calls_total{outcome="0",plugin="bridge",verb="ADD"} 1.0' in text
    assert 'slash24_leases_used{network="net"} 2.0' in text
    assert 'slash24_call_duration_seconds_count{plugin="bridge",verb="ADD"} 1.0' in text
    assert 'slash24_batch_size_count{kind="nft"} ' in text
    with pytest.raises(CNIFailure):
        warm.add({**CONF, "mtu": "big"}, pod)
    assert agent.page("readyz")[0] == 200
    with pytest.raises(CNIFailure):
        warm.add(CONF, pod)  # there is an eth0 already
    status, text = agent.page("readyz")
    assert status == 503
    assert json.loads(text)["last"]["ADD"]["outcome"] == 999
    warm.delete(CONF, pod, result)
    assert wait_until(lambda: 'slash24_batch_size_count{kind="links"} 1.0' in agent.page("metrics")[1])
    warm.add(CONF, pod)
    assert agent.page("readyz")[0] == 200
    assert agent.page("nothing")[0] == 404
    assert agent.page("healthz")[0] == 200
    assert node.path("/run/slash24/http.sock").stat().st_mode & 0o777 == 0o600


def test_without_descriptors_it_answers_or_lets_others_do(node: Node, warm: ViaAgent, start: Start) -> None:
    """Starved of file descriptors: no call is left without a well-formed answer, and with some again all is well."""
    agent = start()
    pods = [node.pod(f"pod{index}") for index in range(30)]
    subprocess.run(["prlimit", f"--pid={agent.process.pid}", "--nofile=24:"], check=True)

    with ThreadPoolExecutor(30) as threads:
        list(threads.map(lambda pod: tried(warm.add, CONF, pod, "Too many open files"), pods))
    subprocess.run(["prlimit", f"--pid={agent.process.pid}", "--nofile=512:"], check=True)
    for pod in pods:
        warm.delete(CONF, pod)
    assert nothing_is_left(node)
    warm.delete(CONF, pods[0], warm.add(CONF, pods[0]))
    assert agent.process.poll() is None


def test_memory_descriptors_and_threads_stay(node: Node, warm: ViaAgent, start: Start) -> None:
    """Pods that come and go, eight at once: no more of anything than after the first quarter of them.

    400; SLASH24_PODS=10000 makes it the long form.
    """
    agent = start("--listen", "/run/slash24/http.sock")
    pods = [node.pod(f"pod{index}") for index in range(8)]
    rounds = int(os.environ.get("SLASH24_PODS", "400")) // (4 * len(pods))

    def come_and_go(pod: Pod) -> None:
        for _ in range(rounds):
            warm.delete(CONF, pod, warm.add(CONF, pod))

    seen = []
    with ThreadPoolExecutor(len(pods)) as threads:
        for _ in range(4):
            list(threads.map(come_and_go, pods))
            seen.append(agent.resident)
    assert max(seen) <= 60, seen
    assert seen[-1] - seen[0] <= 2, seen
    assert wait_until(lambda: agent.threads <= 3, timeout=15), agent.threads
    assert agent.descriptors < 16
    assert set(warm.ways) == {"agent"}
    print(f"MB after each quarter: {seen}")

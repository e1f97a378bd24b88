"""The agent as a service: access to its socket, socket activation, capabilities, HTTP pages, use of resources."""

import json
import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conformance.support import network
from tests.conftest import ROOT
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
from tests.netns.cni import CNIFailure
from tests.netns.node import Node, Pod, wait_until
from tests.netns.way import agent_command, agent_environment

pytestmark = pytest.mark.cold(reason="brings agents of its own")


def test_only_root_may_use_the_socket(node: Node, start: Start) -> None:
    """Its mode is 0600, and the agent refuses peers that are not root whatever the mode."""
    start()
    path = node.path(SOCKET)
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.parent.stat().st_mode & 0o7777 == 0o755
    path.chmod(0o666)
    program = f"s = socket.socket(1); s.connect('{SOCKET}'); print(len(s.recv(8)))"
    programs = [f"import os, socket; os.setuid({uid}); {program}" for uid in (0, 65534)]
    said = [node.run([sys.executable, "-c", text]).stdout for text in programs]
    assert said == ["8\n", "0\n"]


def test_socket_activation_and_notifications_of_systemd(node: Node, warm: ViaAgent, bin_dir: Path) -> None:
    """A call before the agent is ready waits in the socket; READY and STOPPING are sent; the socket file is kept."""
    path = node.path(SOCKET)
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        listener.bind(str(path))
        listener.listen()
        notified.bind(str(node.path("/run/notify")))
        notified.settimeout(20)
        # As systemd does: descriptor 3, and the process ID of the executed program.
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


def test_the_capabilities_of_the_unit_are_sufficient(node: Node, tmp_path: Path, bin_dir: Path, start: Start) -> None:
    """All plugins, and the execution of a third-party one, work with them alone; the agent has exactly these."""
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


def test_pages_reflect_the_calls_that_were_made(node: Node, warm: ViaAgent, start: Start) -> None:
    """healthz is 200 throughout; readyz is 503 after an error of the node, not of the caller; metrics count calls."""
    agent = start("--listen", "/run/slash24/http.sock")
    pod = node.pod("pod1")

    def shows(*lines: str) -> bool:
        # A call is counted after its reply is sent.
        return wait_until(lambda: not set(lines) - set(agent.page("metrics")[1].splitlines()))

    assert agent.page("healthz")[0] == agent.page("readyz")[0] == agent.page("metrics")[0] == 200
    result = warm.add(CONF, pod)
    assert shows(
        'slash24_calls_total{outcome="0",plugin="bridge",verb="ADD"} 1.0',
        'slash24_leases_used{network="net"} 2.0',
        'slash24_call_duration_seconds_count{plugin="bridge",verb="ADD"} 1.0',
    )
    assert 'slash24_batch_size_count{kind="nft"} ' in agent.page("metrics")[1]
    with pytest.raises(CNIFailure, match='"mtu"'):
        warm.add({**CONF, "mtu": "big"}, pod)
    assert shows('slash24_calls_total{outcome="7",plugin="bridge",verb="ADD"} 1.0')
    assert agent.page("readyz")[0] == 200
    with pytest.raises(CNIFailure, match="has an interface of that name"):
        warm.add(CONF, pod)
    with pytest.raises(CNIFailure, match="not leased to other eth0"):
        warm.check(CONF, node.pod("other"), result)
    assert shows('slash24_calls_total{outcome="999",plugin="bridge",verb="ADD"} 1.0')
    assert agent.page("readyz")[0] == 200
    with pytest.raises(CNIFailure, match="no-such-plugin"):
        warm.call("STATUS", network({"type": "no-such-plugin"}))
    assert wait_until(lambda: agent.page("readyz")[0] == 503)
    assert json.loads(agent.page("readyz")[1])["last"]["STATUS"]["outcome"] == 50
    warm.delete(CONF, pod, result)
    assert shows('slash24_batch_size_count{kind="links"} 1.0')
    warm.add(CONF, pod)
    warm.status(CONF)
    assert wait_until(lambda: agent.page("readyz")[0] == 200)
    errors = [(one["verb"], one["outcome"]) for one in json.loads(agent.page("status")[1])["errors"]]
    assert errors == [("STATUS", "50"), ("CHECK", "999"), ("ADD", "999"), ("ADD", "7")]
    assert agent.page("nothing")[0] == 404
    assert agent.page("healthz")[0] == 200
    assert node.path("/run/slash24/http.sock").stat().st_mode & 0o777 == 0o600


def test_calls_are_answered_without_free_file_descriptors(node: Node, warm: ViaAgent, start: Start) -> None:
    """Short of file descriptors, every call still gets a well-formed answer; with a higher limit all calls succeed."""
    agent = start()
    pods = [node.pod(f"pod{index}") for index in range(30)]
    subprocess.run(["prlimit", f"--pid={agent.process.pid}", "--nofile=24:"], check=True)

    with ThreadPoolExecutor(30) as threads:
        list(threads.map(lambda pod: tried(warm.add, CONF, pod), pods))
    subprocess.run(["prlimit", f"--pid={agent.process.pid}", "--nofile=512:"], check=True)
    for pod in pods:
        warm.delete(CONF, pod)
    assert nothing_is_left(node)
    warm.delete(CONF, pods[0], warm.add(CONF, pods[0]))
    assert agent.process.poll() is None


def test_memory_descriptors_and_threads_do_not_grow(node: Node, warm: ViaAgent, start: Start) -> None:
    """After 400 pods, eight at a time, memory has grown by at most 2 MB since the first quarter; the rest is bounded.

    SLASH24_PODS=10000 runs the long form.
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
    assert wait_until(lambda: agent.threads <= 3, timeout=30), agent.threads
    assert agent.descriptors < 16
    assert set(warm.ways) == {"agent"}
    print(f"MB after each quarter: {seen}")

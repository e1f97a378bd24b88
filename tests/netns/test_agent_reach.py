"""Which calls the agent serves and which it declines: its socket, network namespaces, file descriptors, executables."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conformance.support import network
from tests.netns.agent_tools import (  # noqa: F401 (two are fixtures)
    CONF,
    SOCKET,
    Start,
    ViaAgent,
    agents_started,
    calls_by_agent,
    foreign,
    nothing_is_left,
)
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node, Pod, wait_until
from tests.netns.way import agent_command, agent_environment

pytestmark = pytest.mark.cold(reason="brings agents of its own")


class Manager:
    """A service manager like systemd: creates the socket, keeps it, and passes it to the agents that it starts."""

    def __init__(self, node: Node, home: Path) -> None:
        self._node, self._home = node, home
        self.log = node.path("/run/managed.log")
        path = node.path(SOCKET)
        path.parent.mkdir()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.agents: list[subprocess.Popen] = []

    def start(self) -> subprocess.Popen:
        """Start an agent and wait until it is ready."""
        text = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
        text += "os.execv(sys.argv[2], sys.argv[2:])"
        argv = [sys.executable, "-c", text, str(self.listener.fileno()), *agent_command(self._home)]
        environ = {**agent_environment(self._home), "LISTEN_FDS": "1"}
        with self.log.open("a") as log:
            agent = self._node.start(argv, env=environ, pass_fds=[self.listener.fileno()], stderr=log)
        self.agents.append(agent)
        assert wait_until(lambda: self.log.read_text().count("event=ready") == len(self.agents))
        return agent

    def close(self) -> None:
        """Kill the agents and close the socket."""
        for agent in self.agents:
            agent.kill()
            agent.wait()
        self.listener.close()


@pytest.fixture
def manager(node: Node, bin_dir: Path) -> Iterator[Manager]:
    """A service manager on the node."""
    made = Manager(node, bin_dir)
    yield made
    made.close()


def is_served(warm: ViaAgent, pod: Pod) -> bool:
    """Whether an agent serves a call."""
    before = warm.ways["agent"]
    warm.delete(CONF, pod)
    return warm.ways["agent"] > before


def test_the_service_regains_its_socket_after_a_second_agent_was_killed(
    node: Node, warm: ViaAgent, manager: Manager, start: Start
) -> None:
    """An agent started by hand takes over the socket; after it is killed, the service creates its socket again."""
    service, pod = manager.start(), node.pod("pod1")
    assert is_served(warm, pod)
    by_hand = start()
    assert wait_until(lambda: "another agent has the socket" in manager.log.read_text())
    assert is_served(warm, pod)
    assert wait_until(lambda: "verb=DEL" in by_hand.log)
    by_hand.process.kill()
    by_hand.process.wait()
    assert wait_until(lambda: "was made again" in manager.log.read_text())
    assert is_served(warm, pod)
    assert service.poll() is None


@pytest.mark.parametrize("what", ["dead", "gone"])
def test_a_service_started_with_an_unreachable_socket_becomes_reachable(
    node: Node, warm: ViaAgent, manager: Manager, what: str
) -> None:
    """The path of the passed socket was unlinked, or has the dead socket of another agent: calls are served anyway."""
    path = node.path(SOCKET)
    path.unlink()
    if what == "dead":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    manager.start()
    assert wait_until(lambda: is_served(warm, node.pod("pod1")), timeout=5)


def test_a_passed_socket_that_is_reachable_is_not_replaced(node: Node, warm: ViaAgent, manager: Manager) -> None:
    """The path leads to the agent, so the agent does not replace the socket, although it did not create it."""
    inode = node.path(SOCKET).stat().st_ino
    manager.start()
    pod = node.pod("pod1")
    assert all(is_served(warm, pod) for _ in range(3))
    assert wait_until(lambda: manager.log.read_text().count("verb=DEL") == 3)
    assert node.path(SOCKET).stat().st_ino == inode
    assert "made again" not in manager.log.read_text()


def test_a_call_from_another_network_namespace_is_executed_there(
    node: Node, warm: ViaAgent, bin_dir: Path, start: Start
) -> None:
    """`ip netns exec node2 bridge`: the agent declines, and the executable creates the bridge in node2."""
    agent = start()
    node.run(["ip", "netns", "add", "node2"])
    pod = node.pod("pod1")
    program = ["ip", "netns", "exec", "node2", bin_dir / "bridge"]
    done = node.run(program, env=warm.environ("ADD", pod), stdin=json.dumps(CONF))
    assert json.loads(done.stdout)["ips"]
    assert "br0" not in node.links()
    assert "br0" in Pod(node, "node2").links()
    assert "another network namespace" in agent.log
    node.run(program, env=warm.environ("DEL", pod), stdin=json.dumps(CONF))
    assert "verb=" not in agent.log


def test_a_netns_can_be_unmounted_as_soon_as_a_call_has_returned(node: Node, warm: ViaAgent, start: Start) -> None:
    """umount without MNT_DETACH, as some runtimes do, succeeds immediately after each of twenty DELs."""
    start()
    pods = [node.pod(f"pod{number}") for number in range(20)]
    results = [warm.add(CONF, pod) for pod in pods]
    umount = 'for pod; do echo "$CNI_CONF" | CNI_CONTAINERID=$pod CNI_NETNS=/run/netns/$pod "$CNI_BIN"; '
    umount += "umount /run/netns/$pod || exit 1; done"
    environ = {**warm.environ("DEL", pods[0]), "CNI_CONF": json.dumps(CONF), "CNI_BIN": str(warm.folder / "bridge")}
    node.run(["sh", "-c", umount, "sh", *[pod.name for pod in pods]], env=environ)
    assert len(results) == 20
    assert nothing_is_left(node)


def test_a_call_without_enough_file_descriptors_is_declined(node: Node, warm: ViaAgent, start: Start) -> None:
    """Forty concurrent calls at several limits: the agent serves or declines each, so none fails or leaves a lease."""
    agent = start()
    pods = [node.pod(f"pod{index}") for index in range(40)]
    warm.delete(CONF, pods[0])
    for limit in (16, 24, 32, 40, 64):
        subprocess.run(["prlimit", f"--pid={agent.process.pid}", f"--nofile={limit}:"], check=True)
        with ThreadPoolExecutor(len(pods)) as threads:
            results = list(threads.map(lambda pod: warm.add(CONF, pod), pods))
            list(threads.map(lambda one: warm.delete(CONF, *one), zip(pods, results, strict=True)))
        assert nothing_is_left(node)
    assert "out of file descriptors" not in agent.log
    assert warm.ways["agent"]
    assert warm.ways["alone"]
    assert not warm.ways["lost"]


def suite_with_a_stranger(tmp_path: Path, bin_dir: Path) -> Path:
    """The suite as `cp -r` installs it, with a third-party host-local instead of ours."""
    home = tmp_path / "bin"
    shutil.copytree(bin_dir, home, symlinks=True)
    (home / "host-local").unlink()
    lease = '{"cniVersion": "1.1.0", "ips": [{"address": "10.1.2.9/24"}]}'
    return foreign(home, "host-local", f"cat >/dev/null; echo '{lease}'")


def test_a_third_party_host_local_in_our_folder_is_executed(
    node: Node, bin_dir: Path, tmp_path: Path, start: Start
) -> None:
    """With an agent and without; once a copy of our host-local is back in its place, the agent calls ours again."""
    home = suite_with_a_stranger(tmp_path, bin_dir)
    conf, pod = network({"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}]]}), node.pod("pod1")
    cold = CNI(node, home)
    assert cold.add(conf, pod)["ips"][0]["address"] == "10.1.2.9/24"
    cold.delete(conf, pod)
    start("--home", str(home))
    warm = ViaAgent(node, home)
    assert warm.add(conf, pod)["ips"][0]["address"] == "10.1.2.9/24"
    warm.delete(conf, pod)
    assert warm.ways == {"agent": 2}
    shutil.copy(bin_dir / "host-local", home)
    assert warm.add(conf, pod)["ips"][0]["address"] == "10.1.2.2/24"
    warm.delete(conf, pod)


def test_a_call_to_a_stopped_agent_times_out(node: Node, bin_dir: Path, tmp_path: Path, start: Start) -> None:
    """The call fails with error 11, as if the agent was killed; after SIGCONT the agent undoes the ADD."""
    folder = foreign(
        tmp_path / "others", "hung", f'[ "$CNI_COMMAND" = ADD ] && touch {tmp_path}/begun && sleep 60; exit 0'
    )
    agent = start("--deadline", "1")
    warm, pod = ViaAgent(node, bin_dir, more=(folder,)), node.pod("pod1")
    with ThreadPoolExecutor(1) as thread:
        failing = thread.submit(warm.add, network({"type": "hung"}), pod)
        assert wait_until((tmp_path / "begun").exists)
        agent.process.send_signal(signal.SIGSTOP)
        with pytest.raises(CNIFailure, match="it did not answer in time") as raised:
            failing.result(30)
    assert raised.value.code == 11
    agent.process.send_signal(signal.SIGCONT)
    assert wait_until(lambda: set(pod.links()) == {"lo"})
    assert wait_until(lambda: is_served(warm, pod))
    assert nothing_is_left(node)


def test_a_call_with_another_root_directory_is_declined(
    node: Node, warm: ViaAgent, bin_dir: Path, start: Start
) -> None:
    """Paths mean other files there: an agent in a container without --host-root declines the call."""
    node.path("/run/other").mkdir()
    agent = start("--socket", "/run/agent.sock")
    environ = {**warm.environ("STATUS"), "SLASH24_SOCKET": "/run/agent.sock"}
    done = node.run([bin_dir / "bridge"], env=environ, stdin=json.dumps(CONF))
    assert done.stdout == ""
    assert wait_until(lambda: "verb=STATUS" in agent.log)
    mounted = "mount -t tmpfs none /run/other && for each in $(ls /); do "
    mounted += "mkdir -p /run/other/$each; [ -L /$each ] && rmdir /run/other/$each && cp -P /$each /run/other || "
    mounted += 'mount --rbind /$each /run/other/$each; done; exec chroot /run/other "$@"'
    argv = ["unshare", "--mount", "sh", "-c", mounted, "sh", bin_dir / "bridge"]
    node.run(argv, env=environ, stdin=json.dumps(CONF))
    assert "another root directory" in agent.log
    assert agent.log.count("verb=STATUS") == 1

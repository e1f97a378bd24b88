"""Limits: what one call may cost others, which calls the agent declines, and that its socket stays reachable."""

import os
import socket
import threading
import time
from fcntl import LOCK_EX, flock
from itertools import count
from pathlib import Path

import pytest

from agent.connection import Peer
from agent.listener import bind
from agent.metrics import Metrics
from spec.errors import CNIError
from spec.request import Request
from tests.netns import launcher
from tests.pure.agent.support import Gate, finish, outcome, running, wait_until


@pytest.mark.parametrize("what", ["dead", "symlink", "file", "stranger"])
def test_a_socket_that_does_not_lead_to_the_agent_is_recreated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """That of a killed agent, a symbolic link, a regular file, or the socket of another service."""
    path = tmp_path / "cni.sock"
    with running(tmp_path, monkeypatch, lambda _request: None) as agent, socket.socket(socket.AF_UNIX) as other:
        if what in ("dead", "stranger"):
            other.bind(f"{path}.other")
            other.listen()
            if what == "dead":
                other.close()
            os.rename(f"{path}.other", path)
        else:
            path.unlink()
            path.symlink_to("/nonexistent") if what == "symlink" else path.write_text("")
        assert wait_until(lambda: "the socket was lost, and was made again" in agent.events)
        assert agent.ask("DEL") == (0, "")
    assert path.is_socket()


def test_a_socket_that_was_moved_and_symlinked_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launchers still reach the agent through the link."""
    path = tmp_path / "cni.sock"
    with running(tmp_path, monkeypatch, lambda _request: None) as agent:
        path.rename(tmp_path / "moved.sock")
        path.symlink_to("moved.sock")
        time.sleep(1)
        assert agent.ask("DEL") == (0, "")
        assert path.is_symlink()


def test_the_pod_s_namespace_is_closed_before_the_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime unmounts it once it has the reply: a result, an error, or that the call is declined."""
    told = threading.Event()

    def work(request: Request) -> None:
        if request.container_id == "bad":
            raise CNIError(42, "no")

    with running(tmp_path, monkeypatch, work, on_outcome=lambda _: told.wait(10)) as agent:
        for container, kind in (("pod", "plain"), ("bad", "plain"), ("pod", "unheard-of")):
            ours, theirs = os.pipe()
            with agent.begin("DEL", container, kind, netns=theirs) as connection:
                os.close(theirs)
                assert launcher.receive(connection)[0] == {"pod": 0, "bad": 1}[container] or kind != "plain"
                os.set_blocking(ours, False)
                assert os.read(ours, 1) == b"", "somebody still has the descriptor"
            os.close(ours)
        told.set()


def test_a_caller_that_does_not_read_its_reply_does_not_block_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent accepts other calls while that reply is being sent, even beyond the deadline."""

    def work(request: Request) -> None:
        if request.container_id == "large":
            request.log("x" * (1 << 20))  # more than a socket's buffer holds

    with running(tmp_path, monkeypatch, work, seconds=0.5) as agent:
        with agent.begin("DEL", "large"):
            assert wait_until(lambda: agent.threads.busy)
            time.sleep(1.5)  # beyond the deadline
            assert agent.ask("DEL") is not None  # error 11 on a slow machine
            assert wait_until(lambda: agent.scheduler.under_way == 1)
        assert wait_until(lambda: agent.scheduler.under_way == 0)


def test_a_caller_in_another_network_namespace_gets_no_greeting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its plugin would work in that namespace, the agent in the node's."""
    with running(tmp_path, monkeypatch, lambda _request: None) as agent:
        monkeypatch.setattr("agent.server.peer", lambda _connection: Peer(0, 0, is_elsewhere=True))
        assert launcher.connect(agent.path) is None
        assert wait_until(lambda: any("another network namespace" in str(event) for event in agent.events))


@pytest.mark.parametrize("path", ["bin", "/opt/cni/bin:bin", "./bin:/opt/cni/bin"])
def test_a_call_with_a_relative_folder_in_cni_path_is_declined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """The folder is relative to the caller's working directory, not to the agent's."""
    with running(tmp_path, monkeypatch, lambda _request: None) as agent:
        assert agent.ask("DEL", CNI_PATH=path) == (launcher.DECLINED, "")
        assert agent.ask("DEL", CNI_PATH="/opt/cni/bin:") == (0, "")


def test_a_large_request_is_declined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four at once, each 3 MB of empty objects: none is decoded, which would block all other calls."""
    with running(tmp_path, monkeypatch, lambda _request: None) as agent:
        asked = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "large", "CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere"}
        stdin = b'{"name": "net", "type": "plain", "x": [' + b"{}," * (1 << 20) + b"{}]}"
        monkeypatch.setattr("spec.jsontext.loads", lambda _: pytest.fail("decoded"))
        connections = [launcher.connect(agent.path) for _ in range(4)]
        for connection in connections:
            launcher.send(connection, launcher.request("plain", asked, stdin))
        assert [finish(connection)[0] for connection in connections] == [launcher.DECLINED] * 4
        assert wait_until(lambda: sum("that the agent accepts" in str(each) for each in agent.events) == 4), (
            agent.events
        )


def test_calls_are_limited_by_the_number_of_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An accepted call has enough of them until it ends; a further caller is refused, and runs without the agent."""
    gate = Gate()
    with running(tmp_path, monkeypatch, gate, workers=64) as agent:
        limits = count()
        monkeypatch.setattr("resource.getrlimit", lambda _: (next(limits), 0))
        while agent.server.max_calls < 3:
            pass
        limit = next(limits)
        monkeypatch.setattr("resource.getrlimit", lambda _: (limit, limit))
        taken = [agent.begin("DEL", f"slow{index}") for index in range(3)]
        assert launcher.connect(agent.path) is None
        assert wait_until(lambda: "too many calls" in agent.events)
        gate.open.set()
        assert [finish(each) for each in taken] == [(0, "")] * 3
        assert wait_until(lambda: agent.scheduler.under_way == 0)
        assert agent.ask("DEL") == (0, "")


def test_an_agent_does_not_wait_for_ever_for_the_socket_s_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If an agent was stopped while it held the lock, `bind` fails, and may succeed when tried again."""
    path = str(tmp_path / "cni.sock")
    with open(f"{path}.lock", "w") as lock:
        flock(lock, LOCK_EX)
        with pytest.raises(OSError, match="for too long"):
            bind(path, patience=0.1)
    bind(path).close()


def test_error_codes_of_other_plugins_do_not_grow_the_metrics_without_bound() -> None:
    """A foreign IPAM plugin may return any code: beyond 100 series the rest are counted as "other"."""
    metrics = Metrics()
    for code in range(900, 5000):
        metrics.on_outcome(outcome(code=code))
    lines = [line for line in metrics.text().decode().splitlines() if line.startswith("slash24_calls_total{")]
    assert len(lines) == 101
    assert 'slash24_calls_total{outcome="other",plugin="bridge",verb="ADD"} 4000.0' in lines

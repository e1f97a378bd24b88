"""Calls in the agent: their order, their time limit, and their replies."""

import errno
import json
import socket
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.connection import Peer
from agent.listener import Listener, bind
from spec.errors import CNIError
from spec.request import Request
from tests.netns import launcher
from tests.pure.agent.support import Gate, descriptors, finish, running, wait_until

DECLINED = launcher.DECLINED


def test_the_reply_has_the_plugin_s_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status, stdout and stderr are those of the executable."""

    def work(request: Request) -> None:
        request.log("a remark")
        if request.container_id == "bad":
            raise CNIError(42, "no", "never")

    with running(tmp_path, monkeypatch, work) as agent:
        assert agent.ask("DEL") == (0, "")
        status, text = agent.ask("DEL", "bad")
        assert (status, json.loads(text)) == (1, {"cniVersion": "1.1.0", "code": 42, "msg": "no", "details": "never"})
        with agent.begin("DEL") as connection:
            assert launcher.receive(connection) == (0, b"", b"a remark\n")
        assert json.loads(agent.ask("VERSION")[1])["supportedVersions"][-1] == "1.1.0"
        assert wait_until(lambda: len(agent.outcomes) == 4)
    assert [(o.verb, o.plugin, o.container, o.ifname, o.code) for o in agent.outcomes[:2]] == [
        ("DEL", "plain", "pod", "eth0", 0),
        ("DEL", "plain", "bad", "eth0", 42),
    ]
    assert agent.outcomes[0].network == "net"


def test_calls_for_one_attachment_run_in_order_and_do_not_block_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call for an attachment that has a running call waits, without occupying a worker."""
    gate = Gate()
    with running(tmp_path, monkeypatch, gate, workers=2) as agent:
        waiting = [agent.begin("CHECK", "slow")]
        assert wait_until(lambda: gate.began)
        for _ in range(6):
            waiting += [agent.begin("DEL", "slow"), agent.begin("CHECK", "slow")]
        for index in range(10):
            assert agent.ask("DEL", f"other{index}") == (0, "")
        assert gate.began[0] == ("slow", "CHECK")
        assert ("slow", "DEL") not in gate.began
        gate.open.set()
        assert [finish(each)[0] for each in waiting] == [0] * 13
    assert [verb for name, verb in gate.ended if name == "slow"] == ["CHECK", *["DEL", "CHECK"] * 6]


def test_interfaces_of_one_container_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each interface is an attachment of its own."""
    gate = Gate()
    with running(tmp_path, monkeypatch, gate) as agent:
        first = agent.begin("DEL", "slow")
        second = agent.begin("DEL", "slow", CNI_IFNAME="eth1")
        assert wait_until(lambda: len(gate.began) == 2)
        gate.open.set()
        assert finish(first) == finish(second) == (0, "")


def test_hanging_calls_do_not_block_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If all running calls wait for something slow, other calls get workers soon."""
    gate = Gate()
    with running(tmp_path, monkeypatch, gate, workers=64) as agent:
        hung = [agent.begin("DEL", f"slow{index}") for index in range(50)]
        assert agent.ask("DEL", "other") == (0, "")
        assert gate.ended == [("other", "DEL")]
        gate.open.set()
        assert [finish(each) for each in hung] == [(0, "")] * 50


def test_quick_calls_run_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 8, though there are enough workers for all."""
    together, most = [], []

    def work(_request: Request) -> None:
        together.append(1)
        most.append(len(together))
        together.pop()

    with running(tmp_path, monkeypatch, work, workers=128) as agent:
        calls = [agent.begin("DEL", f"pod{index}") for index in range(100)]
        assert [finish(each) for each in calls] == [(0, "")] * 100
    assert max(most) <= 8


def test_calls_run_while_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and any number: a call that declares that it waits does not count as stalled."""
    gate = threading.Event()

    def work(request: Request) -> None:
        if request.container_id.startswith("waits"):
            with request.suite.released():
                gate.wait(10)

    with running(tmp_path, monkeypatch, work, workers=128) as agent:
        monkeypatch.setattr(agent.turns, "overtake", lambda: None)
        calls = [agent.begin("DEL", f"waits{index}") for index in range(20)]
        assert agent.ask("DEL", "other") == (0, "")
        assert wait_until(lambda: agent.threads.busy == 20)
        gate.set()
        assert [finish(each) for each in calls] == [(0, "")] * 20


def test_a_call_is_declined_if_no_worker_becomes_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, before it has begun; the launcher then runs it itself. Running calls get their replies."""
    gate = Gate()
    with running(tmp_path, monkeypatch, gate, workers=2) as agent:
        taken = [agent.begin("DEL", f"slow{index}") for index in range(2)]
        assert wait_until(lambda: len(gate.began) == 2)
        began = time.monotonic()
        assert agent.ask("DEL", "late") == (DECLINED, "")
        assert time.monotonic() - began > 1.5
        gate.open.set()
        assert [finish(each) for each in taken] == [(0, "")] * 2
        assert agent.ask("DEL", "late") == (0, "")
    assert ("late", "DEL") in gate.began
    assert len(gate.began) == 3


def test_a_call_that_hangs_is_answered_at_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With error 11, and so is the call that waits behind it. Its worker is free once the call ends."""
    gate = Gate()
    with running(tmp_path, monkeypatch, gate, seconds=0.4) as agent:
        hung, behind = agent.begin("DEL", "slow"), agent.begin("DEL", "slow")
        for connection in (hung, behind):
            status, text = finish(connection)
            assert (status, json.loads(text)["code"]) == (1, 11)
            assert "0.4 s" in json.loads(text)["msg"]
        gate.open.set()
        assert wait_until(lambda: agent.scheduler.under_way == 0)
        assert agent.ask("DEL", "slow") == (0, "")
    assert gate.began == [("slow", "DEL")] * 2, "the call that waited must not be done after its answer"


def test_an_add_whose_caller_has_left_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher has exited when the ADD succeeds: what the ADD made is deleted."""
    from spec.plugin import Plugin
    from spec.result import Result
    from tests.pure.agent.support import Agent

    monkeypatch.setattr("agent.server.peer", lambda _connection: Peer(0, 0))
    done, begun, gone = [], threading.Event(), threading.Event()

    def add(request: Request) -> Result:
        begun.set()
        gone.wait(5)
        done.append("ADD")
        return Result()

    agent = Agent(tmp_path / "cni.sock", Plugin("plain", add=add, delete=lambda _request: done.append("DEL")))
    connection = agent.begin("ADD")
    assert begun.wait(5)
    connection.close()
    gone.set()
    assert wait_until(lambda: agent.outcomes)
    agent.close()
    assert done == ["ADD", "DEL"]
    assert agent.outcomes[0].code == 11


def test_a_call_whose_caller_left_before_it_began_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that has killed its launcher expects no later effect."""
    gate = Gate()
    with running(tmp_path, monkeypatch, gate) as agent:
        first, second = agent.begin("DEL", "slow"), agent.begin("CHECK", "slow")
        assert wait_until(lambda: agent.scheduler.under_way == 2)
        second.close()
        gate.open.set()
        assert finish(first) == (0, "")
        assert wait_until(lambda: agent.scheduler.under_way == 0)
    assert gate.began == [("slow", "DEL")]


def test_a_call_for_a_plugin_that_the_agent_does_not_have_is_declined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher of a newer suite then executes the plugin itself."""
    with running(tmp_path, monkeypatch, lambda _request: None) as agent:
        assert agent.ask("DEL", kind="unheard-of") == (DECLINED, "")
        assert "no plugin unheard-of" in agent.events


def test_a_caller_that_is_not_root_gets_no_greeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs without the agent, with its own privileges."""
    with running(tmp_path, monkeypatch, lambda _request: None) as agent:
        monkeypatch.setattr("agent.server.peer", lambda _connection: Peer(0, 1000))
        assert launcher.connect(agent.path) is None
        assert wait_until(lambda: "user 1000" in agent.events)


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(garbage=st.one_of(st.binary(min_size=1, max_size=300), st.binary(max_size=200).map(b"S24Q\2\0\0\0".__add__)))
def test_a_malformed_request_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, garbage: bytes) -> None:
    """It is declined or its connection is closed, and the next call is answered."""
    with running(tmp_path, monkeypatch, lambda _request: None) as agent:
        connection = launcher.connect(agent.path)
        with connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            assert launcher.receive(connection) in (None, (DECLINED, b"", b""))
        assert agent.ask("DEL") == (0, "")


def test_a_slow_sender_does_not_block_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An incomplete request does not occupy a worker."""
    with running(tmp_path, monkeypatch, lambda _request: None, workers=1) as agent:
        half = [launcher.connect(agent.path) for _ in range(20)]
        for connection in half:
            connection.sendall(b"S24Q\2\0\0\0\5")
        assert agent.ask("DEL") == (0, "")
        for connection in half:
            connection.close()


def test_a_stop_declines_calls_that_have_not_begun_and_finishes_running_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every caller gets a reply."""
    gate = Gate()
    with running(tmp_path, monkeypatch, gate) as agent:
        under_way, half = agent.begin("DEL", "slow"), launcher.connect(agent.path)
        whole = launcher.request("plain", {"CNI_COMMAND": "DEL"}, b"{}")
        half.sendall(whole[:25])
        assert wait_until(lambda: gate.began)
        agent.server.stop()
        assert agent.drained.wait(5)
        assert launcher.connect(agent.path) is None
        half.sendall(whole[25:])
        assert finish(half) == (DECLINED, "")
        gate.open.set()
        assert finish(under_way) == (0, "")


def test_nothing_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are as many descriptors, connections and threads as before, however calls ended."""
    with running(tmp_path, monkeypatch, lambda _request: None) as agent:
        agent.ask("DEL")
        before, threads = descriptors(), threading.active_count()
        for index in range(200):
            connection = launcher.connect(agent.path)
            data = launcher.request("plain" if index % 3 else "other", {"CNI_COMMAND": "VERSION"}, b"{}")
            launcher.send(connection, data if index % 5 else data[:-1], 0)
            finish(connection) if index % 5 else connection.close()
        assert wait_until(lambda: descriptors() <= before), (descriptors(), before)
        assert threading.active_count() <= threads + agent.threads.limit


class Starved:
    """A listening socket whose next `left` accepts fail with EMFILE, because other threads use all descriptors."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener, self.left = listener, 0

    def accept(self) -> tuple[socket.socket, object]:
        """Accept a connection once `left` is 0."""
        if self.left:
            self.left -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self.listener.accept()

    def __getattr__(self, name: str) -> object:
        return getattr(self.listener, name)


@pytest.mark.parametrize("times", range(1, 6))
def test_the_agent_survives_a_shortage_of_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """A launcher is refused or waits a little; in the end the spare descriptor is open again, and no other."""
    starved = []

    def listen(path: str) -> Listener:
        listener = bind(path)
        starved.append(Starved(listener.socket))
        listener.socket = starved[0]
        return listener

    with running(tmp_path, monkeypatch, lambda _: None, listen=listen) as agent:
        assert agent.ask("DEL", "first") == (0, "")
        assert wait_until(lambda: not agent.scheduler.under_way)
        before = descriptors()
        starved[0].left = times
        connection = launcher.connect(agent.path)
        if connection:
            connection.close()
        assert starved[0].left == 0
        assert agent.ask("DEL", "next") == (0, "")
        assert wait_until(lambda: descriptors() == before)  # the spare one included


def test_a_request_with_two_descriptors_is_malformed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both descriptors are closed."""
    with running(tmp_path, monkeypatch, lambda _request: None) as agent:
        before = descriptors()
        with launcher.connect(agent.path) as connection:
            data = launcher.request("plain", {"CNI_COMMAND": "VERSION"}, b"{}")
            socket.send_fds(connection, [data], [0, 1])
            assert launcher.receive(connection)[0] == DECLINED
        assert wait_until(lambda: descriptors() <= before)


def test_a_new_agent_takes_over_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one notices, and exits after its last call; every call in between is answered by one of the two."""
    gate = Gate()
    with running(tmp_path, monkeypatch, gate) as old:
        slow = old.begin("DEL", "slow")
        assert wait_until(lambda: gate.began)
        with running(tmp_path, monkeypatch, lambda _request: None) as new:
            assert [new.ask("DEL", f"pod{index}") for index in range(50)] == [(0, "")] * 50
            assert old.drained.wait(5)
            assert old.thread.is_alive()
            gate.open.set()
            assert finish(slow) == (0, "")
            old.thread.join(5)
            assert not old.thread.is_alive()
            assert new.ask("DEL") == (0, "")


def test_a_deleted_socket_is_recreated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise every call would run slowly, without the agent, until an administrator noticed."""
    with running(tmp_path, monkeypatch, lambda _request: None) as agent:
        (tmp_path / "cni.sock").unlink()
        assert wait_until((tmp_path / "cni.sock").exists)
        assert agent.ask("DEL") == (0, "")
        assert (tmp_path / "cni.sock").stat().st_mode & 0o777 == 0o600

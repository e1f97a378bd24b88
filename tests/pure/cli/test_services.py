"""What the command knows of the agent and the daemon, whatever answers at their addresses."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fcntl import LOCK_EX, flock
from pathlib import Path
from threading import Thread

import pytest

from agent.pages import Page, Pages, json_page
from agent.wire import MAGIC
from cli.facts import services
from cli.facts.services import fetch, read_agent, read_daemon

UNKNOWN_UNIT = "LoadState=not-found\nActiveState=inactive\nMainPID=0\n"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is to be closed."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(name="listen")
def listening(tmp_path: Path, stack: ExitStack) -> Callable[[bytes], str]:
    """A function that listens at a path, and sends every caller these bytes."""

    def listen(greeting: bytes) -> str:
        path = str(tmp_path / "answering.sock")
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(path)
        server.listen()

        def serve() -> None:
            while True:
                try:
                    caller, _ = server.accept()
                except OSError:
                    return
                with caller:
                    caller.sendall(greeting)
                    caller.recv(1 << 16)  # a socket that is closed with something to read resets the connection

        Thread(target=serve, daemon=True).start()
        stack.callback(server.shutdown, socket.SHUT_RDWR)
        return path

    return listen


@pytest.fixture(name="serve")
def serving(tmp_path: Path, stack: ExitStack) -> Callable[..., str]:
    """A function that serves pages, and returns where."""

    def serve(pages: dict[str, Page], where: str = "") -> str:
        made = Pages(where or str(tmp_path / "http.sock"), pages)
        stack.callback(made.close)
        return where or str(tmp_path / "http.sock")

    return serve


@pytest.fixture(name="systemd")
def systemd_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that has systemctl print these texts, one for each unit."""

    def say(*units: str) -> None:
        printed = tmp_path / "printed"
        printed.write_text("\n".join(units))
        command = tmp_path / "bin" / "systemctl"
        command.parent.mkdir()
        command.write_text(f"#!/bin/sh\ncat {printed}\n")
        command.chmod(0o755)
        monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
        monkeypatch.setattr(services, "_SYSTEMD", str(tmp_path))

    return say


def locked(stack: ExitStack, path: Path, text: str) -> str:
    """A file that a daemon holds."""
    path.write_text(text)
    file = stack.enter_context(path.open())
    flock(file, LOCK_EX)
    return str(path)


def test_nothing_runs(tmp_path: Path) -> None:
    """That is no problem: the plugins need neither."""
    for found in (read_agent(str(tmp_path / "no.sock"), ()), read_daemon(str(tmp_path / "no.pid"), ())):
        assert (found.is_running, found.pid, found.problems, found.where, found.is_ready) == (False, 0, (), "", None)


def test_an_agent_is_known_by_its_greeting(listen: Callable[[bytes], str]) -> None:
    """And its process by the socket."""
    found = read_agent(listen(MAGIC), ())
    assert (found.is_running, found.pid, found.problems, found.is_ready) == (True, os.getpid(), (), None)


def test_something_else_at_the_agents_socket_is_reported(listen: Callable[[bytes], str]) -> None:
    """Launchers would find no agent there."""
    path = listen(b"HTTP")
    assert read_agent(path, ()).problems == (f"what listens at {path} is no agent of slash24",)


def test_pages_tell_what_is_wrong(
    stack: ExitStack, tmp_path: Path, listen: Callable[[bytes], str], serve: Callable[..., str]
) -> None:
    """Of the agent and of the daemon; each sentence once, the reason first."""
    ill = {"ready": False, "problems": ["the last ADD failed"], "last": {}}
    where = serve({"/healthz": lambda: json_page(200, {"ok": True}), "/readyz": lambda: json_page(503, ill)})
    agent = read_agent(listen(MAGIC), [str(tmp_path / "elsewhere.sock"), where])
    assert (agent.where, agent.is_ready, agent.problems) == (where, False, ("the last ADD failed",))
    assert agent.pages["/readyz"] == ill
    ill = {"ready": False, "reason": "NoSubnet", "message": "no subnet yet", "problems": ["no subnet yet", "x", 7]}
    daemon = read_daemon(locked(stack, tmp_path / "d.pid", "123\n"), [where])
    assert (daemon.pid, daemon.is_ready, daemon.problems) == (123, False, ("no subnet yet", "x"))


@pytest.mark.parametrize("body", [b"[]", b"{", b"[" * 100_000, b"\xff", b'{"problems": 3, "message": {}}'])
def test_a_page_may_hold_anything(body: bytes, stack: ExitStack, tmp_path: Path, serve: Callable[..., str]) -> None:
    """It is as if it said nothing."""
    where = serve(dict.fromkeys(("/healthz", "/readyz"), lambda: (200, "application/json", body)))
    found = read_daemon(locked(stack, tmp_path / "d.pid", "nonsense"), [where])
    assert (found.is_running, found.pid, found.is_ready, found.problems) == (True, 0, True, ())


def test_only_slash24_is_listened_to(tmp_path: Path, listen: Callable[[bytes], str]) -> None:
    """The port may be another program's; a path may lead nowhere."""
    other = listen(b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 2\r\n\r\n{}")
    ours = b"HTTP/1.1 200 OK\r\nServer: slash24 \r\nContent-Length: 2\r\n\r\n{}"
    assert fetch(other, "/readyz") is None
    assert fetch(str(tmp_path / "none.sock"), "/readyz") is None
    assert fetch("127.0.0.1:nonsense", "/readyz") is None
    os.unlink(other)
    assert fetch(listen(ours), "/readyz") == (200, b"{}")


@pytest.mark.parametrize("answer", [b"", b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 \xff"])
def test_broken_answers_are_no_answers(answer: bytes, listen: Callable[[bytes], str]) -> None:
    """None of them raises."""
    assert fetch(listen(answer), "/readyz") is None


def test_a_page_without_end_is_not_read(listen: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a limit."""
    monkeypatch.setattr(services, "_LARGEST", 10)
    assert fetch(listen(b"HTTP/1.1 200 OK\r\nServer: slash24\r\n\r\n" + bytes(11)), "/readyz") is None


def test_a_socket_of_systemd_is_left_alone(systemd: Callable[..., None], listen: Callable[[bytes], str]) -> None:
    """A connection would start the agent, and looking changes nothing."""
    systemd("LoadState=loaded\nActiveState=inactive\nMainPID=0\n", "LoadState=loaded\nActiveState=active\n")
    found = read_agent(listen(MAGIC), ())
    assert (found.is_running, found.is_waiting, found.unit, found.problems) == (False, True, "inactive", ())


def test_a_unit_that_failed_is_a_problem(systemd: Callable[..., None], tmp_path: Path) -> None:
    """Somebody wants it to run."""
    systemd("LoadState=loaded\nActiveState=failed\nMainPID=0\n")
    found = read_daemon(str(tmp_path / "no.pid"), ())
    assert (found.unit, len(found.problems), "failed" in found.problems[0]) == ("failed", 1, True)


@pytest.mark.parametrize("printed", ["", "nonsense", UNKNOWN_UNIT, "a\n\nb\n\nc\n"])
def test_whatever_systemd_prints_nothing_breaks(
    printed: str, systemd: Callable[..., None], listen: Callable[[bytes], str]
) -> None:
    """It is as if there were no units."""
    systemd(printed, UNKNOWN_UNIT)
    found = read_agent(listen(MAGIC), ())
    assert (found.is_running, found.unit) == (True, "")

"""Limits of the input, and streams that are closed, full, or of an unexpected kind."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.wire import ENVIRON_LIMIT
from spec.request import STDIN_LIMIT
from tests.launcher.agent import RESULT, Agent, answering, reply
from tests.launcher.launched import CALL, CONF, FROZEN_STATUS, Folder


@pytest.mark.parametrize("size", [STDIN_LIMIT + 1, STDIN_LIMIT + (1 << 20)])
def test_too_long_a_configuration_is_refused(home: Folder, agent: Agent, size: int) -> None:
    """The launcher refuses it as a plugin does, without a request to the agent."""
    message = f"network config of more than {STDIN_LIMIT} bytes"
    assert home.run(agent.path, stdin=b" " * size).error == (6, message, "", "1.1.0")
    assert agent.connections == 0


def test_an_environment_that_is_too_long_is_not_sent(home: Folder, agent: Agent) -> None:
    """The limit is 256 KiB including names and NULs: with one byte more the frozen plugin serves the call."""
    env = {**CALL, **dict.fromkeys(("A", "B"), "x" * 100000)}
    size = sum(len(f"{name}={value}") + 1 for name, value in {**env, "SLASH24_SOCKET": agent.path}.items())
    value = "x" * (ENVIRON_LIMIT - size - len("C=") - 1)
    assert home.run(agent.path, env={**env, "C": value}).status == 0
    assert agent.asked[0].environ["C"] == value
    assert home.run(agent.path, env={**env, "C": value + "x"}).status == FROZEN_STATUS
    assert len(agent.asked) == 1


def test_unreadable_stdin_is_code_5(home: Folder, agent: Agent) -> None:
    """Stdin is a folder."""
    fd = os.open("/", os.O_RDONLY)
    with home.start(agent.path, stdin=fd) as process:
        document = json.loads(process.stdout.read())
    os.close(fd)
    assert (document["code"], document["msg"]) == (5, "error reading from stdin")
    assert document["details"] == "Is a directory"


def closing(home: Folder, fds: str, socket: Path) -> subprocess.CompletedProcess:
    """A call with these streams closed by a shell: "0<&-" and the like."""
    argv = ["/bin/sh", "-c", f'exec "$@" {fds}', "sh", *home.argv()]
    env = {**CALL, "SLASH24_SOCKET": str(socket)}
    return subprocess.run(argv, input=CONF, env=env, capture_output=True, timeout=60)


@pytest.mark.parametrize("fds", ["0<&-", "1>&-", "2>&-", "0<&- 1>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_stream_counts_as_empty(home: Folder, listen: Callable[..., Agent], fds: str) -> None:
    """No other descriptor takes the stream's number: the output does not go to the socket."""
    agent = listen(answering(reply(0, RESULT, b"said")))
    done = closing(home, fds, agent.path)
    assert done.returncode == 0
    assert done.stdout == (b"" if "1>" in fds else RESULT)
    assert done.stderr == (b"" if "2>" in fds else b"said")
    assert agent.asked[0].stdin == (b"" if "0<" in fds else CONF)


@pytest.mark.parametrize("fds", ["0<&-", "1>&-", "0<&- 1>&- 2>&-"])
def test_the_frozen_plugin_gets_closed_streams_as_empty(home: Folder, tmp_path: Path, fds: str) -> None:
    """It does not get the launcher's copy of stdin in place of a closed stream."""
    done = closing(home, fds, tmp_path / "nothing")
    assert done.returncode == FROZEN_STATUS
    expected = b"frozen CHECK \n" + (b"" if "0<" in fds else CONF)
    assert done.stdout == (b"" if "1>" in fds else expected)


def test_nonblocking_streams_are_waited_for(home: Folder, listen: Callable[..., Agent]) -> None:
    """A runtime may pass nonblocking pipes."""
    result = b"x" * (4 << 20)
    agent = listen(answering(reply(0, result)))
    for end in (ends := [*os.pipe(), *os.pipe()]):
        fcntl.fcntl(end, fcntl.F_SETFL, fcntl.fcntl(end, fcntl.F_GETFL) | os.O_NONBLOCK)
    with home.start(agent.path, stdin=ends[0], stdout=ends[3]):
        os.close(ends[0])
        os.close(ends[3])
        threading.Event().wait(0.1)
        os.write(ends[1], CONF)
        threading.Event().wait(0.1)
        os.close(ends[1])
        os.set_blocking(ends[2], True)
        with open(ends[2], "rb") as out:
            assert out.read() == result
    assert agent.asked[0].stdin == CONF


def unread_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("target", ["a pipe", "/dev/full"])
def test_an_add_whose_result_cannot_be_printed_is_undone(home: Folder, agent: Agent, target: str) -> None:
    """The runtime does not know the addresses and may not send DEL, so the launcher requests DEL from the agent."""
    home.skip_if_emulated()
    stdout = unread_pipe() if target == "a pipe" else os.open(target, os.O_WRONLY)
    with home.start(agent.path, env={**CALL, "CNI_COMMAND": "ADD"}, stdout=stdout) as process:
        os.close(stdout)
        process.communicate(CONF)
    assert process.returncode == 1  # and not a signal
    add, undo = agent.asked
    assert (add.environ, undo.environ) == ({**CALL, "CNI_COMMAND": "ADD"}, {**CALL, "CNI_COMMAND": "DEL"})
    assert (undo.kind, undo.stdin, undo.netns) == (add.kind, CONF, add.netns)


def test_the_undo_falls_back_to_the_frozen_plugin(home: Folder, listen: Callable[..., Agent], tmp_path: Path) -> None:
    """If the agent does not exist any more, the frozen plugin is started with the caller's signal handling."""
    home.skip_if_emulated()

    def once(agent: Agent, connection: socket.socket) -> None:
        if agent.connections == 1:
            answering(reply(0, RESULT))(agent, connection)

    script = f"#!/bin/sh\n(echo $CNI_COMMAND; grep SigIgn /proc/self/status; cat) >{tmp_path}/undone\n"
    (home.frozen / "bridge").write_text(script)
    stdout = unread_pipe()
    options = {"env": {**CALL, "CNI_COMMAND": "ADD"}, "stdout": stdout, "restore_signals": True}
    with home.start(listen(once).path, **options) as process:
        os.close(stdout)
        process.communicate(CONF)
    assert process.returncode == 1
    command, ignored, stdin = (tmp_path / "undone").read_bytes().split(b"\n", 2)
    assert (command, stdin) == (b"DEL", CONF)
    assert not int(ignored.split()[1], 16) & 1 << (signal.SIGPIPE - 1)


@pytest.mark.parametrize(("command", "status"), [("CHECK", 0), ("DEL", 0), ("ADD", 1)])
def test_only_a_successful_add_is_undone(home: Folder, listen: Callable[..., Agent], command: str, status: int) -> None:
    """A failed ADD has already undone itself."""
    agent = listen(answering(reply(status, RESULT)))
    stdout = unread_pipe()
    with home.start(agent.path, env={**CALL, "CNI_COMMAND": command}, stdout=stdout) as process:
        os.close(stdout)
        process.communicate(CONF)
    assert process.returncode == 1
    assert [asked.environ["CNI_COMMAND"] for asked in agent.asked] == [command]


def test_an_error_that_cannot_be_printed_is_an_exit_status(home: Folder, listen: Callable[..., Agent]) -> None:
    """The launcher is not killed by SIGPIPE."""
    stdout = unread_pipe()
    with home.start(listen(answering(b"")).path, stdout=stdout) as process:
        os.close(stdout)
        process.communicate(CONF)
    assert process.returncode == 1


def test_unwritable_stderr_is_ignored(home: Folder, listen: Callable[..., Agent]) -> None:
    """Stdout and exit status are those of the reply."""
    stderr = unread_pipe()
    with home.start(listen(answering(reply(0, RESULT, b"said"))).path, stderr=stderr) as process:
        os.close(stderr)
        assert process.communicate(CONF)[0] == RESULT
    assert process.returncode == 0

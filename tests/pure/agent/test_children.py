"""Execution of other plugins: they run to their end, but no longer than the call may last."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from agent.executor import executor
from spec.errors import CNIError
from spec.suite import Executor
from tests.conftest import ROOT
from tests.pure.agent.support import wait_until


def program(folder: Path, text: str) -> str:
    """Write an executable shell script."""
    path = folder / "foreign"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def is_gone(pid: str) -> bool:
    """Whether the process has exited."""
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


@pytest.fixture
def children() -> Callable[..., Executor]:
    """The executor of a call with this many seconds left."""

    def of_call(seconds: float = 5.0) -> Executor:
        now = time.monotonic()
        return executor(now + seconds, now + 2 * seconds, nullcontext)

    return of_call


def test_stdin_variables_and_outputs(tmp_path: Path, children: Callable[..., Executor]) -> None:
    """All of a long stdin, both outputs and the exit status are passed; the agent's environment is not inherited."""
    path = program(tmp_path, "cat; env >&2; exit 3")
    stdin = os.urandom(1 << 20)
    assert children().run(path, stdin, {"CNI_COMMAND": "ADD", "PATH": os.environ["PATH"]})[:2] == (3, stdin)
    assert b"HOME" not in children().run(path, b"", {"PATH": os.environ["PATH"]})[2]


def test_a_plugin_may_leave_its_stdin_unread_or_be_killed(tmp_path: Path, children: Callable[..., Executor]) -> None:
    """A closed pipe is not an error of the agent; a signal is returned as minus its number."""
    assert children().run(program(tmp_path, "echo yes"), bytes(1 << 20), {}) == (0, b"yes\n", b"")
    assert children().run(program(tmp_path, "kill -9 $$"), b"", {})[0] == -9


def test_a_plugin_that_hangs_is_killed_with_its_children(tmp_path: Path, children: Callable[..., Executor]) -> None:
    """Error 11 at the deadline, and no process remains."""
    note = tmp_path / "pid"
    path = program(tmp_path, f"sleep 60 & echo $! >{note}; sleep 60")
    began = time.monotonic()
    with pytest.raises(CNIError) as raised:
        children(0.5).run(path, b"", {"PATH": os.environ["PATH"]})
    assert raised.value.code == 11
    assert time.monotonic() - began > 0.4
    assert wait_until(lambda: is_gone(note.read_text().strip()))


def test_a_background_process_is_not_killed(tmp_path: Path, children: Callable[..., Executor]) -> None:
    """A plugin may start a service that goes on running."""
    _, output, _ = children().run(program(tmp_path, "sleep 60 >&- 2>&- & echo $!"), b"", {"PATH": os.environ["PATH"]})
    time.sleep(0.2)
    assert not is_gone(output.decode().strip())
    os.kill(int(output), 9)


def test_the_output_is_complete_when_the_plugin_exits(tmp_path: Path, children: Callable[..., Executor]) -> None:
    """A background process that holds the pipes is neither waited for nor killed."""
    path = program(
        tmp_path, f"cat >{tmp_path}/seen; sleep 60 & echo $! >{tmp_path}/pid; echo note >&2; cat {tmp_path}/seen"
    )
    stdin = os.urandom(1 << 20)
    assert children().run(path, stdin, {"PATH": os.environ["PATH"]}) == (0, stdin, b"note\n")
    service = (tmp_path / "pid").read_text().strip()
    time.sleep(0.2)
    assert not is_gone(service)
    os.kill(int(service), 9)


def test_a_cleanup_may_last_until_the_second_deadline(tmp_path: Path, children: Callable[..., Executor]) -> None:
    """After an ADD that timed out, its DEL still runs for a while."""
    path = program(tmp_path, "sleep 0.3; echo done")
    ours = children(0.5)
    with pytest.raises(CNIError):
        ours.run(program(tmp_path, "sleep 9"), b"", {"PATH": os.environ["PATH"]})
    program(tmp_path, "sleep 0.2; echo done")
    assert ours.run(path, b"", {"PATH": os.environ["PATH"]})[1] == b"done\n"
    with pytest.raises(CNIError):
        ours.run(program(tmp_path, "sleep 9"), b"", {"PATH": os.environ["PATH"]})


def test_nothing_is_executed_after_the_second_deadline(tmp_path: Path, children: Callable[..., Executor]) -> None:
    """A cleanup has twice the call's time; after that the executor raises error 11 and starts no process."""
    note = tmp_path / "ran"
    ours = children(0.1)
    time.sleep(0.25)
    with pytest.raises(CNIError) as raised:
        ours.run(program(tmp_path, f"touch {note}"), b"", {"PATH": os.environ["PATH"]})
    assert (raised.value.code, note.exists()) == (11, False)


def test_unbounded_output_is_an_error(tmp_path: Path, children: Callable[..., Executor]) -> None:
    """It is raised before the output fills the agent's memory."""
    with pytest.raises(CNIError, match="printed more than"):
        children(20).run(program(tmp_path, "yes 0123456789012345678901234567890123456789"), b"", os.environ)


def test_a_file_that_cannot_be_executed_is_an_oserror(tmp_path: Path, children: Callable[..., Executor]) -> None:
    """As spec.delegate expects. A path that does not exist resolves to None."""
    (tmp_path / "text").write_text("no program")
    with pytest.raises(OSError, match="Permission denied"):
        children().run(str(tmp_path / "text"), b"", {})
    assert children().resolve(str(tmp_path / "none"), None) is None


def test_the_agent_is_not_a_plugin(tmp_path: Path) -> None:
    """If a runtime or a plugin executes it as one, it prints an error and does not touch the socket."""
    env = {"CNI_COMMAND": "ADD", "SLASH24_SOCKET": str(tmp_path / "socket"), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-m", "agent"], cwd=ROOT, env=env, input="{}", capture_output=True, text=True
    )
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"cniVersion": "1.1.0", "code": 7, "msg": "slash24-agent is not a CNI plugin"}
    assert not (tmp_path / "socket").exists()

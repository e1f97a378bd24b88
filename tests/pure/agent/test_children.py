"""Plugins of others: run to their end, and no longer than the call may last."""

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
    """An executable shell script."""
    path = folder / "foreign"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def is_gone(pid: str) -> bool:
    """Whether that process has ended."""
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


@pytest.fixture
def children() -> Callable[..., Executor]:
    """How a call executes other plugins that may last so many seconds."""

    def of_call(seconds: float = 5.0) -> Executor:
        now = time.monotonic()
        return executor(now + seconds, now + 2 * seconds, nullcontext)

    return of_call


def test_stdin_variables_and_outputs(tmp_path: Path, children: Callable[..., Executor]) -> None:
    """All of a long stdin, both outputs whole, the exit status; and not the agent's own environment."""
    path = program(tmp_path, "cat; env >&2; exit 3")
    stdin = os.urandom(1 << 20)
    assert children().run(path, stdin, {"CNI_COMMAND": "ADD", "PATH": os.environ["PATH"]})[:2] == (3, stdin)
    assert b"HOME" not in children().run(path, b"", {"PATH": os.environ["PATH"]})[2]


def test_one_that_reads_nothing_and_one_that_dies(tmp_path: Path, children: Callable[..., Executor]) -> None:
    """A closed pipe is not the agent's failure; a signal is minus its number."""
    assert children().run(program(tmp_path, "echo yes"), bytes(1 << 20), {}) == (0, b"yes\n", b"")
    assert children().run(program(tmp_path, "kill -9 $$"), b"", {})[0] == -9


def test_what_hangs_is_killed_with_all_it_started(tmp_path: Path, children: Callable[..., Executor]) -> None:
    """Error 11 at the deadline, and no process remains."""
    note = tmp_path / "pid"
    path = program(tmp_path, f"sleep 60 & echo $! >{note}; sleep 60")
    began = time.monotonic()
    with pytest.raises(CNIError) as raised:
        children(0.5).run(path, b"", {"PATH": os.environ["PATH"]})
    assert raised.value.code == 11
    assert time.monotonic() - began > 0.4
    assert wait_until(lambda: is_gone(note.read_text().strip()))


def test_what_it_leaves_running_is_let_go(tmp_path: Path, children: Callable[..., Executor]) -> None:
    """A plugin may start a service that stays."""
    _, output, _ = children().run(program(tmp_path, "sleep 60 >&- 2>&- & echo $!"), b"", {"PATH": os.environ["PATH"]})
    time.sleep(0.2)
    assert not is_gone(output.decode().strip())
    os.kill(int(output), 9)


def test_an_answer_is_whole_when_the_plugin_ends(tmp_path: Path, children: Callable[..., Executor]) -> None:
    """A service that it left running may hold the pipes of its answer; nobody waits for that, and it lives on."""
    path = program(
        tmp_path, f"cat >{tmp_path}/seen; sleep 60 & echo $! >{tmp_path}/pid; echo note >&2; cat {tmp_path}/seen"
    )
    stdin = os.urandom(1 << 20)
    assert children().run(path, stdin, {"PATH": os.environ["PATH"]}) == (0, stdin, b"note\n")
    service = (tmp_path / "pid").read_text().strip()
    time.sleep(0.2)
    assert not is_gone(service)
    os.kill(int(service), 9)


def test_what_undoes_has_until_the_very_end(tmp_path: Path, children: Callable[..., Executor]) -> None:
    """A DEL after an ADD that ran out of time is still run, for a while."""
    path = program(tmp_path, "sleep 0.3; echo done")
    ours = children(0.5)
    with pytest.raises(CNIError):
        ours.run(program(tmp_path, "sleep 9"), b"", {"PATH": os.environ["PATH"]})
    program(tmp_path, "sleep 0.2; echo done")
    assert ours.run(path, b"", {"PATH": os.environ["PATH"]})[1] == b"done\n"
    with pytest.raises(CNIError):
        ours.run(program(tmp_path, "sleep 9"), b"", {"PATH": os.environ["PATH"]})


def test_nothing_is_begun_when_the_caller_has_been_answered(tmp_path: Path, children: Callable[..., Executor]) -> None:
    """What undoes has twice the call's time; then there is error 11, and no process."""
    note = tmp_path / "ran"
    ours = children(0.1)
    time.sleep(0.25)
    with pytest.raises(CNIError) as raised:
        ours.run(program(tmp_path, f"touch {note}"), b"", {"PATH": os.environ["PATH"]})
    assert (raised.value.code, note.exists()) == (11, False)


def test_a_flood_of_output_ends(tmp_path: Path, children: Callable[..., Executor]) -> None:
    """Before it fills the agent's memory."""
    with pytest.raises(CNIError, match="printed more than"):
        children(20).run(program(tmp_path, "yes 0123456789012345678901234567890123456789"), b"", os.environ)


def test_what_can_not_be_run_is_an_oserror(tmp_path: Path, children: Callable[..., Executor]) -> None:
    """As spec.delegate expects it."""
    (tmp_path / "text").write_text("no program")
    with pytest.raises(OSError, match="Permission denied"):
        children().run(str(tmp_path / "text"), b"", {})
    assert children().resolve(str(tmp_path / "none"), None) is None


def test_the_agent_is_no_plugin(tmp_path: Path) -> None:
    """Executed as one, by a runtime or as an IPAM plugin, it answers an error, and takes nobody's socket."""
    env = {"CNI_COMMAND": "ADD", "SLASH24_SOCKET": str(tmp_path / "socket"), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-m", "agent"], cwd=ROOT, env=env, input="{}", capture_output=True, text=True
    )
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"cniVersion": "1.1.0", "code": 7, "msg": "slash24-agent is not a CNI plugin"}
    assert not (tmp_path / "socket").exists()

"""How calls of our plugins on a test's nodes are served: by an agent, or without one.

* `--way cold` (the default): no node has an agent.
* `--way warm`: the first call of our plugins starts an agent on its node, which serves all calls.
* `--way mixed`: the calls for a container are served with and without the agent in turn.

A test marked `cold` does not involve an agent, or starts its own: its nodes get none, and it is not repeated in the
other modes.
"""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

WAYS = ("cold", "warm", "mixed")
_NOWHERE = "/nonexistent"
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_ROOT = Path(__file__).resolve().parent.parent.parent
_READY_SECONDS, _END_SECONDS = 60, 20

# The agent ends when the stdin of this shell closes, so that it cannot outlive a killed test run.
_HELD = '"$@" & agent=$!; cat >/dev/null; kill $agent; wait $agent'


class Chosen:
    """The option, and the folder of the plugins under test.

    One for the whole run, set by tests/conftest.py alone: nodes are created in too many places to pass it to each.
    """

    way = "cold"
    home: Path | None = None
    is_marked_cold = False

    def choose(self, way: str, home: Path) -> None:
        """Set the option; plugins without a launcher (the reference's) support `cold` only."""
        self.home = home.resolve()
        self.way = way if (home / "slash24.d").is_dir() else "cold"

    @property
    def now(self) -> str:
        """The mode of the running test."""
        return "cold" if self.is_marked_cold else self.way


CHOSEN = Chosen()


def agent_command(home: Path) -> list[str]:
    """The command that starts an agent: the frozen executable if there is one, else the source."""
    frozen = home / "slash24-agent"
    return [str(frozen)] if frozen.exists() else [sys.executable, "-m", "agent", "--home", str(home)]


def agent_environment(home: Path) -> dict[str, str]:
    """The environment for that command."""
    return {"PATH": _PATH} if (home / "slash24-agent").exists() else {"PATH": _PATH, "PYTHONPATH": str(_ROOT)}


class Calls:
    """How calls on one node are served, and the agent there, if any."""

    def __init__(self, start: Callable[..., subprocess.Popen]) -> None:
        """`start`: starts a program on the node; argv and options as for subprocess.Popen."""
        self._start = start
        self._agent: Agent | None = None
        self._lock = threading.Lock()
        self._turns: dict[str, int] = {}
        self._expected = 0

    def environ(
        self, argv: Sequence[str | Path], env: Mapping[str, str] | None, *, ends: bool
    ) -> dict[str, str] | None:
        """The environment for a program, so that its calls of our plugins are served in the chosen mode.

        `ends`: the caller waits for the program, so if it is a plugin call, the agent's log must contain it.
        """
        way, home = CHOSEN.now, CHOSEN.home
        if home is None or (way == "cold" and not self._agent) or not _calls_ours(argv, env or os.environ, home):
            return env
        with self._lock:
            if way == "cold" or (way == "mixed" and self._is_cold_turn(argv, env or {})):
                return {**(os.environ if env is None else env), "SLASH24_SOCKET": _NOWHERE}
            self._agent = self._agent or Agent(self._start, home)
            self._expected += ends and _is_call(argv, env or {}, home)
        return env

    def close(self) -> None:
        """End the agent. AssertionError if it did not serve the expected calls, or failed."""
        if self._agent:
            self._agent.stop()
            assert self._agent.served >= self._expected, f"{self._expected} calls, by the agent:\n{self._agent.log}"
            self._agent = None

    def _is_cold_turn(self, argv: Sequence[str | Path], env: Mapping[str, str]) -> bool:
        """Every other call for a container; for every other container, beginning with the first call."""
        whose = env.get("CNI_CONTAINERID") or str(argv[-1])
        turn = self._turns.get(whose, len(self._turns))
        self._turns[whose] = turn + 1
        return turn % 2 == 0


class Agent:
    """An agent on a node, listening on the default socket once this is constructed."""

    def __init__(self, start: Callable[..., subprocess.Popen], home: Path, *options: str) -> None:
        # Not on the node: tests examine its files, and fill its disk.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (stop() closes it)
        self._said, self.pid = "", 0
        argv = ["sh", "-c", _HELD, "sh", *agent_command(home), *options]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        self._process = start(argv, env=agent_environment(home), stdin=pipe, stdout=null, stderr=self._output)
        end = time.monotonic() + _READY_SECONDS
        while "event=ready" not in self.log and self._process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        ready = re.search(r"event=ready .*pid=(\d+)", self.log)
        if ready is None:
            self.end()
            raise AssertionError(f"the agent does not get ready: {self.log}")
        self.pid = int(ready[1])

    @property
    def log(self) -> str:
        """What it has logged."""
        if not self._output.closed:
            output = self._output.fileno()
            self._said = os.pread(output, os.fstat(output).st_size, 0).decode()
        return self._said

    @property
    def served(self) -> int:
        """The number of calls it has logged."""
        return len(re.findall(r"^(?:time=\S+ )?verb=", self.log, re.MULTILINE))

    def stop(self) -> None:
        """End it. AssertionError if it holds a pod's namespace, or has failed in any way."""
        held = wait_for_none(lambda: namespaces_held(self.pid))
        status = self.end()
        assert status == 0, f"the agent exited with {status}:\n{self.log}"
        assert "Traceback" not in self.log, self.log
        assert "call failed in the agent" not in self.log, self.log
        assert not held, f"the agent holds {held}:\n{self.log}"

    @property
    def is_running(self) -> bool:
        """Whether it is still running."""
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    def end(self) -> int:
        """Terminate it if it is running; return the exit status: 128 plus the number if a signal ended it."""
        self._process.stdin.close()
        try:
            return self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            os.kill(self.pid, 9)
            self._process.wait(_END_SECONDS)
            raise
        finally:
            self._said = self.log
            self._output.close()


def _calls_ours(argv: Sequence[str | Path], env: Mapping[str, str], home: Path) -> bool:
    """Whether the program is one of our plugins, or looks for plugins in the folder of ours."""
    folders = [*env.get("CNI_PATH", "").split(":"), env.get("SLASH24_BIN", "")] if env is not os.environ else []
    return Path(argv[0]).parent == home or any(_leads_to(folder, home) for folder in folders if folder)


def _leads_to(folder: str, home: Path) -> bool:
    with suppress(OSError, ValueError):
        if os.path.samefile(folder, home):
            return True
        with os.scandir(folder) as entries:
            return any(entry.is_symlink() and home in Path(entry.path).resolve().parents for entry in entries)
    return False


def _is_call(argv: Sequence[str | Path], env: Mapping[str, str], home: Path) -> bool:
    """Whether the program is a single call of a plugin."""
    return Path(argv[0]).parent == home and bool(env.get("CNI_COMMAND"))


def namespaces_held(pid: int) -> list[str]:
    """What the process has open of other network namespaces: the namespaces themselves, and sockets in them."""
    with suppress(OSError):
        before, own = _descriptors(pid), {os.readlink(f"/proc/{pid}/ns/net")}
        for protocol in ("netlink", "unix", "packet", "raw", "udp"):
            for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines():
                own |= {f"socket:[{word}]" for word in line.split()}
        # A socket that was opened or closed meanwhile may be missing from `own`.
        lasting = before & _descriptors(pid)
        return sorted(link for link in lasting - own if link.startswith(("net:[", "socket:[", "/run/netns/")))
    return []


def _descriptors(pid: int) -> set[str]:
    found = set()
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    return found


def wait_for_none(look: Callable[[], list[str]], seconds: float = 5.0) -> list[str]:
    """Call `look` until it finds nothing, for so many seconds at most; return what it found last."""
    end = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < end:
        time.sleep(0.02)
    return found

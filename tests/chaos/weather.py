"""Failures of a node in the chaos test: its agent is killed, replaced, stopped or out of descriptors; its disk is full;
the files with the other nodes' records are missing, incomplete or wrong."""

import json
import os
import random
import resource
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from tests.chaos.networks import (
    BROKEN_FILES,
    NODE,
    NODE_FILE,
    PEERS,
    PEERS_FILE,
    WRONG_RECORDS,
    begin_overlay,
    write_whole,
)
from tests.netns.node import Node
from tests.netns.way import Agent

DEADLINE_SECONDS = 2
_GONE_SECONDS = 15
_ROOM = {"size": "4m", "nr_inodes": "3000"}  # of /run and /var/lib
_FILLER = "filler"


class Weather:
    """Failures of one node, chosen by a seed. `events` counts them; `wrongs` describes unexpected ends of agents."""

    def __init__(self, node: Node, home: Path) -> None:
        """Make the node's disks small, and start an agent."""
        self.events: Counter[str] = Counter()
        self.wrongs: list[str] = []
        self._node, self._home = node, home
        self._bad: list[list[float]] = []  # begin and end of each time in which a call may fail
        for folder in ("/run", "/var/lib"):
            options = ",".join(f"{name}={value}" for name, value in _ROOM.items())
            node.run(["mount", "-o", f"remount,{options}", folder])
        self._agent: Agent | None = None
        self._wrong_files: list[list[float]] = []  # the same for times in which the peers' records are wrong
        begin_overlay(node)
        self._begin_agent()

    @property
    def agents(self) -> list[int]:
        """Process ids of the running agents."""
        return [self._agent.pid] if self._agent and self._agent.is_running else []

    def was_bad(self, begin: float, end: float) -> bool:
        """Whether a call that lasted from `begin` to `end` (of time.monotonic()) may fail."""
        return _meets(self._bad, begin, end)

    def was_misled(self, begin: float, end: float) -> bool:
        """Whether the records of the other nodes were wrong in that time, which is no reason for an ADD to fail."""
        return _meets(self._wrong_files, begin, end)

    def rage(self, stop: threading.Event, choose: random.Random) -> None:
        """Disturb the agent until `stop` is set; afterwards it runs."""
        happenings: tuple[Callable[[random.Random], None], ...] = (
            self._kill,
            self._kill,
            self._restart,
            self._upgrade,
            self._take_descriptors,
            self._stand_still,
        )
        while not stop.wait(choose.uniform(0.05, 0.8)):
            choose.choice(happenings)(choose)
            self._look_after()
        self._look_after()

    def flood(self, stop: threading.Event, choose: random.Random) -> None:
        """Fill a disk with bytes or files, and empty it again, until `stop` is set."""
        while not stop.wait(choose.uniform(1, 4)):
            folder, by_files = choose.choice(("/run", "/var/lib")), choose.random() < 0.5
            with self._bad_time(f"disk full of {'files' if by_files else 'bytes'}"):
                filler = self._node.path(f"{folder}/{_FILLER}")
                with suppress(OSError):
                    (_fill_with_files if by_files else _fill_with_bytes)(filler)
                time.sleep(choose.uniform(0.2, 1.5))
                _empty(filler)

    def mislead(self, stop: threading.Event, choose: random.Random) -> None:
        """Damage the files with the nodes' records, and repair them, until `stop` is set."""
        peers, node = self._node.path(PEERS_FILE), self._node.path(NODE_FILE)
        while not stop.wait(choose.uniform(0.5, 3)):
            if choose.random() < 0.6:
                with self._misled("wrong record"):
                    _write_at_last(peers, json.dumps({"peers": [*PEERS, choose.choice(WRONG_RECORDS)]}))
                    time.sleep(choose.uniform(0.1, 1))
                    _write_at_last(peers, json.dumps({"peers": PEERS}))
                continue
            file, right = choose.choice(((peers, {"peers": PEERS}), (node, NODE)))
            with self._bad_time(f"{file.name} broken"), self._misled("broken file"):
                if choose.random() < 0.5:
                    file.unlink()
                else:
                    with suppress(OSError):  # if the disk is full, half of the file is written
                        file.write_text(choose.choice(BROKEN_FILES))
                time.sleep(choose.uniform(0.1, 0.5))
                _write_at_last(file, json.dumps(right))

    def end(self) -> None:
        """Stop the agent, which must hold no namespace and exit with 0."""
        if self._agent:
            self._note_log(self._agent)
            self._agent.stop()
            self._agent = None

    def _misled(self, name: str) -> AbstractContextManager[None]:
        """CHECKs during this time may fail, as they report wrong records."""
        return self._time_of(self._wrong_files, name)

    def _bad_time(self, name: str) -> AbstractContextManager[None]:
        """Calls during this time may fail."""
        return self._time_of(self._bad, name)

    @contextmanager
    def _time_of(self, kind: list[list[float]], name: str) -> Iterator[None]:
        self.events[name] += 1
        times = [time.monotonic(), float("inf")]
        kind.append(times)
        try:
            yield
        finally:
            times[1] = time.monotonic()

    def _begin_agent(self) -> None:
        """Start an agent; if that fails (no room for its socket), retry up to a hundred times."""
        for tries in range(100, 0, -1):
            begin = time.monotonic()
            try:
                self._agent = Agent(self._node.start, self._home, "--deadline", str(DEADLINE_SECONDS))
            except AssertionError as failure:
                self.events["agent could not start"] += 1
                if not self.was_bad(begin, time.monotonic()):
                    self.wrongs.append(f"an agent does not start in calm weather: {failure}")
                if tries == 1:
                    raise
                time.sleep(0.2)
            else:
                return

    def _kill(self, choose: random.Random) -> None:
        """Kill the agent and all that it has executed, as systemd and container runtimes do."""
        with self._bad_time("agent killed"):
            os.kill(self._agent.pid, signal.SIGSTOP)  # so that it executes nothing more
            done = subprocess.run(["pgrep", "-P", str(self._agent.pid)], capture_output=True, text=True)
            os.kill(self._agent.pid, signal.SIGKILL)
            for group in done.stdout.split():
                with suppress(ProcessLookupError):
                    os.killpg(int(group), signal.SIGKILL)
            self._forget(self._agent, expected=128 + signal.SIGKILL)
        time.sleep(choose.uniform(0, 0.5))
        self._begin_agent()

    def _restart(self, choose: random.Random) -> None:
        """Restart the agent: no call may fail for this."""
        self.events["agent restarted"] += 1
        self._forget(self._agent, expected=0)
        time.sleep(choose.uniform(0, 0.5))
        self._begin_agent()

    def _upgrade(self, _choose: random.Random) -> None:
        """Start the next agent, which takes over the socket; the old one finishes its calls. No call may fail."""
        self.events["agent upgraded"] += 1
        old = self._agent
        self._begin_agent()
        end = time.monotonic() + _GONE_SECONDS
        while old.is_running and time.monotonic() < end:
            time.sleep(0.05)
        if old.is_running:
            self.wrongs.append(f"an agent whose socket was taken over does not end: {old.log[-2000:]}")
        self._forget(old, expected=0)

    def _take_descriptors(self, choose: random.Random) -> None:
        with self._bad_time("descriptors taken"), suppress(OSError):
            limit = len(os.listdir(f"/proc/{self._agent.pid}/fd")) + choose.randrange(8)
            soft, hard = resource.prlimit(self._agent.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(self._agent.pid, resource.RLIMIT_NOFILE, (limit, hard))
            time.sleep(choose.uniform(0.2, 1.5))
            resource.prlimit(self._agent.pid, resource.RLIMIT_NOFILE, (soft, hard))

    def _stand_still(self, choose: random.Random) -> None:
        """Stop the agent for less than the deadline: calls take longer, and fail only if they have little time left."""
        with self._bad_time("agent stopped"), suppress(OSError):
            os.kill(self._agent.pid, signal.SIGSTOP)
            time.sleep(choose.uniform(0.2, 1.5))
            os.kill(self._agent.pid, signal.SIGCONT)

    def _look_after(self) -> None:
        """Start the agent again if it has exited, as systemd does."""
        if not self._agent.is_running:
            self.events["agent died"] += 1
            self.wrongs.append(f"an agent died: {self._agent.log[-3000:]}")
            self._forget(self._agent, expected=None)
            self._begin_agent()

    def _forget(self, agent: Agent, *, expected: int | None) -> None:
        """Check that the agent has exited, and with which status."""
        status = agent.end()
        self._note_log(agent)
        if expected is not None and status != expected:
            self.wrongs.append(f"an agent exited with {status}, not {expected}: {agent.log[-3000:]}")

    def _note_log(self, agent: Agent) -> None:
        """Record log lines that an agent must never write."""
        for said in ("Traceback", "call failed in the agent"):
            before, found, after = agent.log.partition(said)
            if found:
                self.wrongs.append(f"an agent said: {before[-200:]}{found}{after[:3000]}")
        self.events["calls served"] += agent.served


def _meets(times: list[list[float]], begin: float, end: float) -> bool:
    return any(since <= end and begin <= until for since, until in list(times))


def _write_at_last(file: Path, text: str) -> None:
    """Write the file whole, as soon as there is room for it."""
    for _ in range(200):
        with suppress(OSError):
            write_whole(file, text)
            return
        time.sleep(0.05)
    write_whole(file, text)


def _fill_with_bytes(filler: Path) -> None:
    """Write bytes until there is no room (OSError)."""
    with filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


def _fill_with_files(filler: Path) -> None:
    """Create files until there can be no more (OSError)."""
    filler.mkdir()
    for number in range(1 << 20):
        (filler / str(number)).touch()


def _empty(filler: Path) -> None:
    if filler.is_dir():
        for file in filler.iterdir():
            file.unlink()
        filler.rmdir()
    else:
        filler.unlink(missing_ok=True)

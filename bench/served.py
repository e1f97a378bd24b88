"""An agent for measurements: started, its CPU time read, and checked to have served every measured call."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import lab

SOCKET = Path("/run/slash24/cni.sock")
LOG = Path("/run/agent.log")
START_SECONDS = 20
LOG_SECONDS = 5  # it replies first and logs afterwards
_CPUCLOCK_SCHED = 2  # of the clocks in the kernel's encoding of a process's clock id, the scheduler's


@dataclass(frozen=True)
class Agent:
    """A process that serves calls."""

    pid: int

    def cpu(self) -> float:
        """Milliseconds of CPU time of all its threads so far, to the nanosecond (clock_getcpuclockid(3))."""
        return time.clock_gettime((~self.pid << 3) | _CPUCLOCK_SCHED) * 1000

    def resident(self) -> float:
        """Its memory in MB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+)", status, re.MULTILINE).group(1)) / 1024

    def served(self, network: str) -> int:
        """The number of calls for a network in its log; exits if one of them failed."""
        calls = [line for line in LOG.read_text().splitlines() if f" network={network} " in line]
        if failed := [line for line in calls if not line.endswith(" outcome=0")]:
            sys.exit(f"bench: failed in the agent: {failed[0]}")
        return len(calls)

    def must_have_served(self, network: str, calls: int) -> None:
        """Exit unless the agent served all those calls."""
        deadline = time.monotonic() + LOG_SECONDS
        while self.served(network) < calls and time.monotonic() < deadline:
            time.sleep(0.01)
        if (served := self.served(network)) != calls:
            sys.exit(f"bench: the agent served {served} calls for {network}, not {calls}:\n{LOG.read_text()[-2000:]}")


@contextmanager
def agent(argv: Sequence[str]) -> Iterator[Agent]:
    """An agent that listens; terminated at the end of the body."""
    with open(LOG, "wb") as log:
        process = subprocess.Popen(argv, stderr=log, cwd=lab.ROOT)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not SOCKET.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"bench: the agent does not listen: {LOG.read_text()}")
            time.sleep(0.01)
        yield Agent(process.pid)
    finally:
        process.terminate()
        process.wait(START_SECONDS)

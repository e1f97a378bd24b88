"""Pod sandboxes of containerd's CRI: what the calls of plugins add to the time and CPU time of each.

    build/venv/bin/python -m bench.sandboxes [--rounds N] [--row N] [--together N] [--publish DIR]

Debian's containerd runs on a node of its own (tests/runtimes/machine.py), and crictl starts and stops pods. The suites
take turns: an empty plugin (bench/empty.c), ours with an agent, and the reference's; then an empty plugin and ours
without an agent. Another suite is another folder, mounted over that in which containerd looks. Pods in a row: every
suite starts its first pod, then its second, and so on. Needs `tests/tools.sh` and `tests/runtimes/fetch.sh`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from tabulate import tabulate

from bench import lab, report
from tests.runtimes.engines import NET_D, Agent, Containerd
from tests.runtimes.machine import Machine

PLACE = "sandboxes: written by bench.sandboxes"
BIN = "/usr/lib/cni"  # where Debian's containerd looks
GROUP = "/sys/fs/cgroup/bench"
SETTLE_SECONDS = 0.1

EMPTY, WARM, COLD, REFERENCE = "empty plugin", "slash24", "slash24 without an agent", "reference"
NETWORK = {
    "cniVersion": "1.0.0",
    "name": "sandboxes",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.24.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
PLUGINS = ("bridge", "portmap", "loopback")  # containerd calls loopback by itself

Cost = tuple[float, float]
"""What a pod takes: milliseconds, and those of CPU time."""


class Node:
    """containerd, whose plugins can be exchanged, and the CPU time of all that it starts."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._containerd = Containerd(machine, lab.REFERENCE / "crictl")
        machine.run(["mkdir", "-p", GROUP, BIN, NET_D])
        machine.path(f"{NET_D}/10-sandboxes.conflist").write_text(json.dumps(NETWORK))
        self._count("containerd")
        self._containerd.use("sandboxes")

    def use(self, folder: Path) -> None:
        """Let containerd call the plugins of a folder."""
        self._machine.run(["sh", "-ec", 'umount "$0" 2>/dev/null || :; mount --bind "$1" "$0"', BIN, folder])

    @contextmanager
    def agent(self, folder: Path) -> Iterator[None]:
        """The agent of that folder, which must serve calls of all plugins."""
        agent = Agent(self._machine, f"{folder}/slash24-agent")
        self._count("slash24-agent")
        yield
        agent.end()
        if not agent.served() >= {(verb, plugin, "0") for verb in ("ADD", "DEL") for plugin in PLUGINS}:
            sys.exit(f"bench: the agent has served only {agent.served()}")

    def start(self, names: Sequence[str]) -> tuple[list[str], Cost]:
        """Start pods at once; returns their IDs, and what each took."""
        return self._timed([["runp", self._containerd.describe(name)] for name in names])

    def stop(self, pods: Sequence[str]) -> Cost:
        """Stop pods at once, and remove them, which is not timed; returns what each took."""
        _, cost = self._timed([["stopp", pod] for pod in pods])
        self._machine.run(self._containerd.command("rmp", *pods))
        return cost

    def close(self) -> None:
        """End containerd."""
        self._containerd.end()

    def _timed(self, commands: Sequence[Sequence[str]]) -> tuple[list[str], Cost]:
        time.sleep(SETTLE_SECONDS)
        spent, started = self._cpu(), time.perf_counter()
        starts = [self._containerd.command(*words) for words in commands]
        processes = [self._machine.start(argv, stdout=subprocess.PIPE, text=True) for argv in starts]
        said = [process.communicate()[0].strip() for process in processes]
        ms = (time.perf_counter() - started) * 1000
        if any(process.returncode for process in processes):
            sys.exit("bench: containerd failed")
        time.sleep(SETTLE_SECONDS)  # for what goes on after its answer
        return said, (ms / len(commands), (self._cpu() - spent) / len(commands))

    def _count(self, program: str) -> None:
        """Count the CPU time of a running program, and of all that it will start."""
        self._machine.run(["sh", "-ec", f"echo $(pidof -s {program}) >{GROUP}/cgroup.procs"])

    def _cpu(self) -> float:
        """Milliseconds so far."""
        return int(self._machine.path(f"{GROUP}/cpu.stat").read_text().split()[1]) / 1000


class Bench:
    """Suites of plugins on a node: the costs of each."""

    def __init__(self, node: Node, folders: Mapping[str, Path], row: int, together: int) -> None:
        self._node, self._folders, self._row, self._together = node, folders, row, together
        self.costs: dict[str, dict[str, list[Cost]]] = defaultdict(lambda: defaultdict(list))

    def take_round(self, number: int) -> None:
        """All suites once; every other round begins with the last of them."""
        with self._node.agent(self._folders[WARM]):
            self._take([EMPTY, WARM, REFERENCE], number)
        self._take([EMPTY, COLD], number)

    def _take(self, suites: Sequence[str], number: int) -> None:
        suites = suites[:: -1 if number % 2 else 1]
        started = defaultdict(list)
        for pod in range(self._row):
            for suite in suites:
                started[suite] += self._start(suite, [f"{pod}-{suites.index(suite)}"], "in a row")
        for pod in range(self._row):
            for suite in suites:
                self._stop(suite, [started[suite][pod]], "in a row")
        for suite in suites:
            pods = self._start(suite, [f"pod-{pod}" for pod in range(self._together)], f"{self._together} at once")
            self._stop(suite, pods, f"{self._together} at once")

    def _start(self, suite: str, names: Sequence[str], how: str) -> list[str]:
        self._node.use(self._folders[suite])
        pods, cost = self._node.start(names)
        self.costs[f"start, {how}"][suite].append(cost)
        return pods

    def _stop(self, suite: str, pods: Sequence[str], how: str) -> None:
        self._node.use(self._folders[suite])
        cost = self._node.stop(pods)
        self.costs[f"stop, {how}"][suite].append(cost)

    def rows(self) -> list[tuple[str, ...]]:
        """For each cost the empty plugin's median, what the others take more, and ratios to the reference's."""
        table = []
        for what, suites in self.costs.items():
            for index, unit in enumerate(("ms", "CPU, ms")):
                medians = {suite: median(cost[index] for cost in costs) for suite, costs in suites.items()}
                warm, cold, theirs = (medians[suite] - medians[EMPTY] for suite in (WARM, COLD, REFERENCE))
                cells = [f"{value:.1f}" for value in (medians[EMPTY], warm, cold, theirs)]
                table.append((f"{what}: {unit}", *cells, f"{warm / theirs:.2f}", f"{cold / theirs:.2f}"))
        return table


def main() -> None:
    """Measure, print, and publish if asked to."""
    parser = argparse.ArgumentParser(description="Times pod sandboxes of containerd, above those of an empty plugin.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--row", type=int, default=30, help="pods in a row (default: 30)")
    parser.add_argument("--together", type=int, default=50, help="pods at once (default: 50)")
    parser.add_argument("--publish", metavar="DIR", type=Path, help="put the figures into performance.md there")
    parser.add_argument("--bin", type=Path, default=lab.OURS, help="the folder of our plugins (default: dist/bin)")
    options = parser.parse_args()
    if options.publish:
        report.around(options.publish, PLACE)
    empty = lab.ROOT / "build" / "bench" / "empty"
    program = lab.compiled(lab.ROOT / "bench" / "empty.c", empty / PLUGINS[0])
    for name in PLUGINS[1:]:
        shutil.copy(program, empty / name)
    ours = options.bin.resolve()
    folders = {EMPTY: empty, WARM: ours, COLD: ours, REFERENCE: lab.REFERENCE.resolve()}
    with ExitStack() as stack:
        machine = Machine()
        stack.callback(machine.close)
        node = Node(machine)
        stack.callback(node.close)
        bench = Bench(node, folders, options.row, options.together)
        for number in range(options.rounds):
            bench.take_round(number)
    headers = ("a pod", EMPTY, *(f"{suite}, above" for suite in (WARM, COLD, REFERENCE)), "ratio", "ratio, no agent")
    styles = ("simple", "github")
    simple, github = (tabulate(bench.rows(), headers, tablefmt=style, disable_numparse=True) for style in styles)
    note = f"Medians of {options.rounds} rounds, {options.rounds * options.row} pods in a row. {lab.machine()}."
    print(f"{simple}\n\n{note}")
    if options.publish:
        report.fill(options.publish, PLACE, (github, note))


if __name__ == "__main__":
    main()

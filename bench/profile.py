"""Where a call that an agent serves spends its time.

    build/venv/bin/python -m bench.profile [--rounds N] [--seconds S] [--publish DIR] [--bin DIR]

Two tables. The first breaks calls down: a whole call; the kernel's share (bench/floor.py); a call of VERSION, which
takes only launcher and agent; a process that does nothing. The second is the agent's CPU time by area, sampled with
py-spy during a series of calls. This agent runs from source.
"""

import argparse
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tabulate import tabulate

from bench import cni, floor, lab, report, served
from bench.warm import CASES

SAMPLES = Path("/run/samples")
RATE = 500  # a second
IDLE = re.compile(r";(Server\._run \(agent/server|Condition\.wait \(threading)\.py:\d+\)$")  # waits, or wakes up
PY_SPY = Path(sys.executable).with_name("py-spy")

# The area of a sample is the first that matches its innermost frame of ours.
AREAS = (
    (r"linux/netlink/", "kernel, by netlink"),
    (r"linux/(netns|sysctls)\.py", "kernel, namespaces and sysctls"),
    (r"linux/", "linux/: encoding and decoding of messages"),
    (r"rules/", "rules/: nftables features"),
    (r"(ipam|state)/", "ipam/, state/: leases and other files"),
    (r"spec/", "spec/: request, configuration, result"),
    (r"plugins/", "plugins/: the plugin itself"),
    (r"agent/", "agent/: requests, replies, threads, the log"),
)


NOTHING = "nothing"
COURSE = (
    "starting a process",
    "launcher, socket, agent",
    "kernel (the floor)",
    "the rest: the plugin in Python",
    "in all",
)


def parts(suite: lab.Suite, case: str, rounds: int) -> dict[str, float]:
    """Median milliseconds of calls, of the floor, and of an empty process, alternating."""
    conf = cni.configuration(CASES[case], "slash24")
    took = {}
    for number in range(cni.WARM_UP + rounds):
        calls = {NOTHING: lab.timed([str(floor.PROGRAM)], {})}
        calls |= {verb: lab.call(suite, verb, conf, "pod") for verb in ("VERSION", "ADD", "DEL")}
        calls |= {
            f"floor {verb}": lab.timed([*floor.words(verb.lower()), *floor.CASES[case]], {}) for verb in cni.VERBS
        }
        if number >= cni.WARM_UP:
            for what, call in calls.items():
                took.setdefault(what, []).append(call.ms)
    return {what: median(values) for what, values in took.items()}


def course(suite: lab.Suite, rounds: int) -> list[tuple[str | float, ...]]:
    """The first table's rows: a part, and its milliseconds for each verb of each case."""
    columns = []
    for case in CASES:
        found = parts(suite, case, rounds)
        carrying = found["VERSION"] - found[NOTHING]
        for verb in cni.VERBS:
            kernel = found[f"floor {verb}"] - found[NOTHING]
            rest = found[verb] - found["VERSION"] - kernel
            columns.append((found[NOTHING], carrying, kernel, rest, found[verb]))
    return list(zip(COURSE, *columns, strict=True))


def sample(agent: served.Agent, suite: lab.Suite, conf: dict, seconds: float) -> tuple[Counter, float]:
    """(samples by area, ms of CPU time for ADD and DEL) of an agent that is kept busy for that long."""
    argv = [str(PY_SPY), "record", "--format", "raw", "--rate", str(RATE), "--duration", f"{seconds:.0f}"]
    argv += ["--nonblocking", "--output", str(SAMPLES), "--pid", str(agent.pid)]
    spy = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    turns, before = 0, agent.cpu()
    while spy.poll() is None:
        cni.take_turn(suite, conf)
        turns += 1
    if spy.returncode:
        sys.exit("bench: py-spy failed")
    return by_area(SAMPLES.read_text()), (agent.cpu() - before) / turns


def by_area(raw: str) -> Counter:
    """Samples by area, from folded stacks: frames from the outermost inwards, separated by ";", and a count."""
    areas = Counter()
    for line in raw.splitlines():
        stack, count = line.rsplit(" ", 1)
        if not IDLE.search(stack):
            areas[_area(stack.split(";"))] += int(count)
    return areas


def _area(frames: list[str]) -> str:
    for frame in reversed(frames):
        for pattern, area in AREAS:
            if re.search(rf"\((?:{re.escape(str(lab.ROOT))}/)?{pattern}", frame):
                return area
    return "other"


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Tells what calls that an agent serves spend their time on.")
    parser.add_argument("--rounds", type=int, default=30, help="calls to take medians of (default: 30)")
    parser.add_argument("--seconds", type=float, default=15, help="how long to sample (default: 15)")
    parser.add_argument("--publish", metavar="DIR", type=Path, help="put both tables into performance.md there")
    parser.add_argument("--bin", type=Path, default=lab.OURS, help="the folder of our plugins (default: dist/bin)")
    options = parser.parse_args()
    folder = options.bin.resolve()
    publish = options.publish.resolve() if options.publish else None
    if publish:
        report.around(publish, report.PROFILE)
    floor.build()
    lab.enter()
    lab.add_netns(["pod"])
    floor.prepare()
    os.chdir(lab.ROOT)
    with served.agent([sys.executable, "-m", "agent", "--home", str(folder)]) as agent:
        suite = lab.Suite(folder, agent_cpu=agent.cpu)
        rows = course(suite, options.rounds)
        samples = [sample(agent, suite, cni.configuration(case, "slash24"), options.seconds) for case in CASES.values()]
    print("\n\n".join(tables(rows, samples, "simple")))
    if publish:
        report.fill(publish, report.PROFILE, tables(rows, samples, "github"))


def tables(
    rows: Sequence[tuple[str | float, ...]], samples: Sequence[tuple[Counter, float]], style: str
) -> tuple[str, str]:
    """Both tables, in a style of tabulate."""
    headers = ("milliseconds", *(f"{verb}, {case}" for case in CASES for verb in cni.VERBS))
    spent = {
        area: [f"{cpu * areas[area] / areas.total():.2f} ({areas[area] / areas.total():.0%})" for areas, cpu in samples]
        for area in dict.fromkeys(area for areas, _ in samples for area, _ in areas.most_common())
    }
    cells = [(area, *values) for area, values in spent.items()]
    cells.append(("in all", *(f"{cpu:.2f}" for _, cpu in samples)))
    cases = ("CPU time of the agent, ms, ADD and DEL", *CASES)
    return (
        tabulate(rows, headers, tablefmt=style, floatfmt=".2f"),
        tabulate(cells, cases, tablefmt=style, disable_numparse=True, colalign=("left", *["right"] * len(samples))),
    )


if __name__ == "__main__":
    main()

"""ADD and DEL of the frozen plugins without an agent, compared with the Go reference's, alternating in one run.

    build/venv/bin/python -m bench.cni [--rounds N] [--json FILE]

The two suites share the kernel but nothing else: each has its own bridge, network name and folder of leases. A call is
timed from the start of the executable to its end, as a runtime experiences it. Ratios are ours to the reference's.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from tabulate import tabulate

from bench import lab

WARM_UP = 2
VERBS = {"ADD": "add", "DEL": "delete"}

RANGES_V4 = [{"subnet": "10.24.0.0/16"}]
RANGES_V6 = [{"subnet": "fd00:24::/64"}]
DEFAULT_V4, DEFAULT_V6 = {"dst": "0.0.0.0/0"}, {"dst": "::/0"}

CASES = {
    "L2": {"ipam": {}},
    "IPv4, gateway": {"isGateway": True, "ipam": {"ranges": [RANGES_V4], "routes": [DEFAULT_V4]}},
    "IPv4 and IPv6, gateway": {
        "isGateway": True,
        "ipam": {"ranges": [RANGES_V4, RANGES_V6], "routes": [DEFAULT_V4, DEFAULT_V6]},
    },
    "IPv4, gateway, masquerade": {
        "isGateway": True,
        "ipMasq": True,
        "ipam": {"ranges": [RANGES_V4], "routes": [DEFAULT_V4]},
    },
}


def configuration(case: str, suite: str) -> dict:
    """The network configuration of a case for one of the suites."""
    number = list(CASES).index(case)
    conf = {"cniVersion": "1.0.0", "name": f"{suite}{number}", "type": "bridge", "bridge": f"{suite}{number}"}
    conf |= CASES[case]
    if conf["ipam"]:
        conf["ipam"] = {"type": "host-local", "dataDir": f"/run/leases-{suite}", **conf["ipam"]}
    return conf


@dataclass(frozen=True)
class Turn:
    """ADD and DEL of a pod, and the CPU time of both in milliseconds, including an agent's."""

    add: lab.Call
    delete: lab.Call
    cpu: float


def measure(case: str, suites: Mapping[str, lab.Suite], rounds: int) -> dict[str, list[Turn]]:
    """The runs of each suite in a case."""
    return alternate({suite: partial(take_turn, suites[suite], configuration(case, suite)) for suite in suites}, rounds)


def alternate(takers: Mapping[str, Callable[[], Turn]], rounds: int) -> dict[str, list[Turn]]:
    """The runs of each suite; they alternate, and so does which goes first."""
    turns = {suite: [] for suite in takers}
    for number in range(WARM_UP + rounds):
        for suite in sorted(takers, reverse=bool(number % 2)):
            turn = takers[suite]()
            if number >= WARM_UP:
                turns[suite].append(turn)
    return turns


def take_turn(suite: lab.Suite, conf: dict) -> Turn:
    """ADD and DEL for the pod."""
    return turn_of(suite, lambda verb: lab.call(suite, verb, conf, "pod"))


def turn_of(suite: lab.Suite, call: Callable[[str], lab.Call]) -> Turn:
    """ADD and DEL by `call`, and the CPU time of the suite's agent."""
    before = suite.agent_cpu()
    add, delete = (call(verb) for verb in VERBS)
    time.sleep(lab.SETTLE_SECONDS)  # an agent may still be working after its reply
    return Turn(add, delete, add.cpu + delete.cpu + suite.agent_cpu() - before)


def summary(case: str, turns: Mapping[str, list[Turn]]) -> list[dict[str, object]]:
    """One row per verb: medians in milliseconds, and the ratio of ours to the reference's."""
    rows = []
    for verb, name in VERBS.items():
        calls = {suite: [getattr(turn, name) for turn in turns[suite]] for suite in turns}
        ours, theirs = (median(call.ms for call in calls[suite]) for suite in ("slash24", "reference"))
        cpu, their_cpu = (median(call.cpu for call in calls[suite]) for suite in ("slash24", "reference"))
        fastest = min(call.ms for call in calls["slash24"])
        row = {"case": case, "verb": verb, "slash24": ours, "reference": theirs, "ratio": ours / theirs}
        rows.append(row | {"fastest": fastest, "cpu": cpu, "their cpu": their_cpu})
    return rows


def times(turns: Mapping[str, list[Turn]]) -> dict[str, dict[str, list[float]]]:
    """All times in milliseconds: suite -> verb -> list."""
    return {
        suite: {verb: [getattr(turn, name).ms for turn in taken] for verb, name in VERBS.items()}
        for suite, taken in turns.items()
    }


def main() -> None:
    """Measure all cases and report."""
    parser = argparse.ArgumentParser(description="Times ADD and DEL against the Go reference plugins, in milliseconds.")
    parser.add_argument("--rounds", type=int, default=30, help="timed calls of each kind (default: 30)")
    parser.add_argument("--json", metavar="FILE", help="write every single time there")
    parser.add_argument("--bin", type=Path, default=lab.OURS, help="the folder of our plugins (default: dist/bin)")
    options = parser.parse_args()
    suites = {"slash24": lab.Suite(options.bin.resolve()), "reference": lab.Suite(lab.REFERENCE)}
    out = open(options.json, "w") if options.json else None  # noqa: SIM115  (before the file system changes under us)
    lab.enter()
    lab.run("ip", "netns", "add", "pod")
    measured = {case: measure(case, suites, options.rounds) for case in CASES}
    rows = [row for case, turns in measured.items() for row in summary(case, turns)]
    print(tabulate(rows, headers="keys", floatfmt=".1f"))
    print(f"\nmedians of {options.rounds}, ms; {lab.machine()}")
    if out:
        with out:
            report = {"machine": lab.machine(), "rounds": options.rounds, "medians": rows}
            report["milliseconds"] = {case: times(turns) for case, turns in measured.items()}
            json.dump(report, out, indent=2)


if __name__ == "__main__":
    main()

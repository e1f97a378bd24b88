"""Calls served by an agent compared with the Go reference's plugins, alternating in one run.

    build/venv/bin/python -m bench.warm [--rounds N] [--pods N ...] [--publish DIR] [--bin DIR] [--agent COMMAND]

A call is timed from the start of the executable to its end, as a runtime experiences it. The CPU time of a pod is that
of both its calls, including the agent's. Ratios are ours to the reference's. `--publish docs` writes the results to
docs/performance.md, performance.json and performance.svg.
"""

import argparse
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import burst, chain, cni, crowd, floor, lab, report, served
from bench.figures import AT_ONCE, Report, Row

CASES = {"gateway": "IPv4, gateway", "ipMasq": "IPv4, gateway, masquerade"}
SIZES = (10, 250, 1000)
OTHER = "other"
COLD, NO_SOCKET = "cold", "/run/nobody.sock"
GOALS = {"gateway": {"ADD": 0.40, "DEL": 0.25, "CPU": 0.40}, "ipMasq": {"ADD": 0.15, "DEL": 0.05, "CPU": 0.15}}
CHAIN_GOALS = {"ADD": 0.35, "DEL": 0.20}
BURST_GOALS = {"ADD": 0.40, "DEL": 0.30}

Suites = Mapping[str, lab.Suite]


def single(suites: Suites, agent: served.Agent, rounds: int) -> tuple[list[Row], list[Row]]:
    """A pod added and deleted on a node that has another pod: rows of calls, and of CPU time."""
    rows, cpu = [], []
    for name, case in CASES.items():
        for suite in suites:
            lab.call(suites[suite], "ADD", cni.configuration(case, suite), f"{OTHER}-{suite}")
        turns = cni.measure(case, suites, rounds)
        agent.must_have_served(cni.configuration(case, "slash24")["name"], 1 + 2 * (cni.WARM_UP + rounds))
        for verb, goal in GOALS[name].items():
            what = f"CPU time of a pod, {name}" if verb == "CPU" else f"{verb}, bridge, {name}"
            (cpu if verb == "CPU" else rows).append(row_of(what, turns, verb, goal))
        for suite in suites:
            lab.call(suites[suite], "DEL", cni.configuration(case, suite), f"{OTHER}-{suite}")
    return rows, cpu


def lonely(suites: Suites, agent: served.Agent, rounds: int) -> list[Row]:
    """The same with `ipMasq`, for the only pod on the node, so that what pods of a subnet share is made each time."""
    network = cni.configuration(CASES["ipMasq"], "slash24")["name"]
    before = agent.served(network)
    turns = cni.measure(CASES["ipMasq"], suites, rounds)
    agent.must_have_served(network, before + 2 * (cni.WARM_UP + rounds))
    return [row_of(f"{verb} of the only pod, ipMasq", turns, verb, None) for verb in cni.VERBS]


def unserved(suites: Suites, agent: served.Agent, rounds: int) -> list[Row]:
    """The same calls without an agent."""
    cold = lab.Suite(suites["slash24"].folder, {"SLASH24_SOCKET": NO_SOCKET})
    rows = []
    for name, case in CASES.items():
        turns = cni.measure(case, {COLD: cold, "reference": suites["reference"]}, rounds)
        agent.must_have_served(cni.configuration(case, COLD)["name"], 0)
        rows += [row_of(f"{verb} without an agent, {name}", turns, verb, None, ours=COLD) for verb in cni.VERBS]
    return rows


def row_of(
    what: str, turns: Mapping[str, Sequence[cni.Turn]], verb: str, goal: float | None, *, ours: str = "slash24"
) -> Row:
    """A row of the runs of `ours` and of the reference."""
    return Row(what, "ms", of_verb(turns[ours], verb), of_verb(turns["reference"], verb), goal)


def of_verb(turns: Sequence[cni.Turn], verb: str) -> list[float]:
    """The milliseconds of a call in each run, or its CPU time."""
    return [turn.cpu if verb == "CPU" else getattr(turn, cni.VERBS[verb]).ms for turn in turns]


def chained(suites: Suites, agent: served.Agent, rounds: int) -> list[Row]:
    """A network configuration list, run by cnitool."""
    turns = chain.measure(suites, rounds)
    agent.must_have_served(chain.network("slash24"), 2 * len(chain.PLUGINS) * (cni.WARM_UP + rounds))
    what = "bridge + 2 ports + bandwidth, by cnitool"
    return [row_of(f"{verb}, {what}", turns, verb, goal) for verb, goal in CHAIN_GOALS.items()]


def at_once(suites: Suites, agent: served.Agent, rounds: int) -> list[Row]:
    """Many pods at once."""
    configurations = {
        suite: cni.configuration(CASES["gateway"], suite) | {"name": f"{suite}-burst"} for suite in suites
    }
    took = burst.measure(configurations, suites, rounds)
    agent.must_have_served("slash24-burst", 2 * burst.PODS * (burst.WARM_UP + rounds))
    return [
        Row(f"{AT_ONCE}, all {verb}s", "ms", took["slash24"][verb], took["reference"][verb], goal)
        for verb, goal in BURST_GOALS.items()
    ]


def measure(suites: Suites, agent: served.Agent, rounds: int, sizes: Sequence[int]) -> Report:
    """Measure everything, the node with many pods last."""
    few = max(3, rounds // 3)
    rows, cpu = single(suites, agent, rounds)
    rows += [*chained(suites, agent, 2 * few), *at_once(suites, agent, few), *cpu]
    rows += [*lonely(suites, agent, 2 * few), *unserved(suites, agent, 2 * few)]
    floor.prepare()
    floors, burst_floor, starting = floor.measure(rounds), burst.floor_of(few), burst.starting(few)
    resident = agent.resident()
    network = cni.configuration(crowd.CASE, "slash24")["name"]
    before = agent.served(network)
    growth = crowd.summary(crowd.measure(suites, sizes, few))
    agent.must_have_served(network, before + crowd.calls(sizes, few))
    return Report(lab.machine(), rounds, rows, growth, floors, burst_floor, starting, resident)


def main() -> None:
    """Measure, print, and publish if asked to."""
    parser = argparse.ArgumentParser(description="Times calls that an agent serves against the Go reference plugins.")
    parser.add_argument("--rounds", type=int, default=30, help="timed calls of each kind (default: 30)")
    parser.add_argument("--pods", type=int, nargs="+", default=SIZES, help="pods on the node (default: 10 250 1000)")
    parser.add_argument("--publish", metavar="DIR", type=Path, help="put the figures into performance.* there")
    parser.add_argument("--bin", type=Path, default=lab.OURS, help="the folder of our plugins (default: dist/bin)")
    parser.add_argument("--agent", metavar="COMMAND", help="how to start the agent (default: slash24-agent of --bin)")
    options = parser.parse_args()
    folder = options.bin.resolve()
    command = shlex.split(options.agent) if options.agent else [str(folder / "slash24-agent")]
    publish = options.publish.resolve() if options.publish else None
    if publish:
        report.around(publish, report.FIGURES)
    started = time.monotonic()
    floor.build()
    lab.enter()
    lab.add_netns(["pod", *(f"{OTHER}-{suite}" for suite in ("slash24", "reference"))])
    with served.agent(command) as agent:
        suites = {"slash24": lab.Suite(folder, agent_cpu=agent.cpu), "reference": lab.Suite(lab.REFERENCE)}
        measured = measure(suites, agent, options.rounds, sorted(options.pods))
    print(report.text(measured))
    print(f"\nmeasured in {time.monotonic() - started:.0f} s")
    if publish:
        report.publish(measured, publish)


if __name__ == "__main__":
    main()

"""ADD and DEL of the frozen plugins against the Go reference's, taking turns in one run.

    build/venv/bin/python -m bench.cni [--rounds N] [--json FILE]

The two suites share the kernel but nothing else: each has its own bridge, network name and folder of leases. A call is
timed from the start of the executable to its end, as a runtime waits for it. Ratios are ours to the reference's.
"""

import argparse
import json
import os
import platform
from pathlib import Path
from statistics import median

from tabulate import tabulate

from bench import lab

WARM_UP = 2

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


def measure(case: str, suites: dict[str, Path], rounds: int) -> dict[str, dict[str, list[lab.Call]]]:
    """The calls of each suite by verb; the suites take turns, and take turns in going first."""
    calls = {suite: {"ADD": [], "DEL": []} for suite in suites}
    for turn in range(WARM_UP + rounds):
        for suite in sorted(suites, reverse=bool(turn % 2)):
            for verb in ("ADD", "DEL"):
                called = lab.call(suites[suite], verb, configuration(case, suite), "pod")
                if turn >= WARM_UP:
                    calls[suite][verb].append(called)
    return calls


def summary(case: str, calls: dict[str, dict[str, list[lab.Call]]]) -> list[dict[str, object]]:
    """One row a verb: medians in milliseconds, and ours to the reference's."""
    rows = []
    for verb in ("ADD", "DEL"):
        ours, theirs = (median(call.ms for call in calls[suite][verb]) for suite in ("slash24", "reference"))
        cpu, their_cpu = (median(call.cpu for call in calls[suite][verb]) for suite in ("slash24", "reference"))
        fastest = min(call.ms for call in calls["slash24"][verb])
        row = {"case": case, "verb": verb, "slash24": ours, "reference": theirs, "ratio": ours / theirs}
        rows.append(row | {"fastest": fastest, "cpu": cpu, "their cpu": their_cpu})
    return rows


def times(measured: dict[str, dict[str, dict[str, list[lab.Call]]]]) -> dict:
    """Every single time in milliseconds: case -> suite -> verb -> list."""
    return {
        case: {suite: {verb: [call.ms for call in calls[verb]] for verb in calls} for suite, calls in suites.items()}
        for case, suites in measured.items()
    }


def main() -> None:
    """Measure all cases and report."""
    parser = argparse.ArgumentParser(description="Times ADD and DEL against the Go reference plugins, in milliseconds.")
    parser.add_argument("--rounds", type=int, default=30, help="timed calls of each kind (default: 30)")
    parser.add_argument("--json", metavar="FILE", help="write every single time there")
    parser.add_argument("--bin", type=Path, default=lab.OURS, help="the folder of our plugins (default: dist/bin)")
    options = parser.parse_args()
    suites = {"slash24": options.bin.resolve(), "reference": lab.REFERENCE}
    out = open(options.json, "w") if options.json else None  # noqa: SIM115  (before the file system changes under us)
    lab.enter()
    lab.run("ip", "netns", "add", "pod")
    measured = {case: measure(case, suites, options.rounds) for case in CASES}
    rows = [row for case, calls in measured.items() for row in summary(case, calls)]
    print(tabulate(rows, headers="keys", floatfmt=".1f"))
    machine = f"Linux {platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    print(f"\nmedians of {options.rounds}, ms; {machine}")
    if out:
        with out:
            report = {"machine": machine, "rounds": options.rounds, "medians": rows, "milliseconds": times(measured)}
            json.dump(report, out, indent=2)


if __name__ == "__main__":
    main()

"""ADD and DEL of a pod while policies are in force, against a node without policies.

    build/venv/bin/python -m bench.policy_add [--rounds N] [--bin DIR] [--json FILE] [--publish DIR]

Two nodes with a daemon that differ in `[policy] enabled` alone, and have a pod already; first with an agent each, then
without. The pods of the second are selected by ten policies; its ADD answers when these are in force. Calls alternate,
and so does which goes first. A process in each node's namespaces calls the launcher and measures the time until it has
ended.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import median, quantiles

from tabulate import tabulate

from bench import lab, report
from bench.policy_node import CONFLIST, DOCUMENTS, PolicyNode, document

POLICIES, WARM_UP = 10, 5
PAGE, PLACE = "policy-cost.md", "calls: written by bench.policy_add"
VERBS = ("ADD", "DEL")
WAYS = {"through the agent": True, "without an agent": False}


def serve() -> None:
    """Call what each line of stdin describes; prints the milliseconds that each call took."""
    for line in sys.stdin:
        asked = json.loads(line)
        called = lab.timed(asked["argv"], asked["env"], asked["stdin"].encode())
        print(called.ms, flush=True)


class Caller:
    """A process in a node's namespaces that calls our plugin."""

    def __init__(self, node: PolicyNode, folder: Path) -> None:
        conflist = json.loads(node.node.path(CONFLIST).read_text())
        self._conf = {"cniVersion": "1.0.0", "name": conflist["name"], **conflist["plugins"][0]}
        args = {"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod"}
        self._suite = lab.Suite(folder, args)
        argv = [sys.executable, "-m", "bench.policy_add", "--serve"]
        pipe = subprocess.PIPE
        self._process = node.node.start(argv, stdin=pipe, stdout=pipe, text=True, env={"PYTHONPATH": str(lab.ROOT)})

    def call(self, verb: str) -> float:
        """Milliseconds of a call for the pod."""
        argv = [str(self._suite.folder / str(self._conf["type"]))]
        asked = {"argv": argv, "env": self._suite.environment(verb, "pod"), "stdin": json.dumps(self._conf)}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def callers(folder: Path, *, has_agent: bool) -> Iterator[tuple[Caller, Caller]]:
    """Of a node without policies, and of one with."""
    made = partial(PolicyNode, folder, has_agent=has_agent)
    with closing(made()) as without, closing(made()) as enforced:
        without.start(None)
        enforced.start({"documents": DOCUMENTS})
        for node in (without, enforced):
            node.wait_until_ready()
            node.attach("resident")
            node.node.pod("pod")
        rules = [{"from": [{"podSelector": {"matchLabels": {"app": f"peer-{n}"}}}]} for n in range(POLICIES)]
        spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{}]}
        documents = [
            document("NetworkPolicy", f"policy-{n}", "default", spec={**spec, "ingress": [rule]})
            for n, rule in enumerate(rules)
        ]
        pods = [document("Pod", name, "default", labels={"app": name}) for name in ("pod", "resident")]
        enforced.write("policies", [*pods, *documents])
        enforced.wait_for_policies([policy["metadata"]["name"] for policy in documents])
        with closing(Caller(without, folder)) as one, closing(Caller(enforced, folder)) as two:
            yield one, two


def measure(pair: tuple[Caller, Caller], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """By verb: milliseconds without policies and with them, of each call."""
    found: dict[str, list[tuple[float, float]]] = {verb: [] for verb in VERBS}
    for turn in range(WARM_UP + rounds):
        for verb, calls in found.items():
            order = [0, 1] if turn % 2 else [1, 0]
            got = {place: pair[place].call(verb) for place in order}
            if turn >= WARM_UP:
                calls.append((got[0], got[1]))
    return found


def table(found: dict[str, list[tuple[float, float]]], style: str) -> str:
    """Medians and the ratio of the medians, and the 99th percentiles."""
    rows = []
    for verb, calls in found.items():
        before, after = ([call[place] for call in calls] for place in (0, 1))
        last = [f"{quantiles(times, n=100)[98]:.1f}" for times in (before, after)]
        ratio = median(after) / median(before)
        rows.append((verb, f"{median(before):.2f}", f"{median(after):.2f}", f"{ratio:.2f}", *last))
    headers = ("call", "without policies, ms", "with, ms", "ratio", "99th percentile without", "with")
    return tabulate(rows, headers, tablefmt=style, disable_numparse=True)


def main() -> None:
    """Measure, print, and publish if asked to."""
    parser = argparse.ArgumentParser(description="Times of calls with policies in force, against none.")
    parser.add_argument("--rounds", type=int, default=200, help="timed calls of each verb on each node (default: 200)")
    parser.add_argument("--bin", type=Path, default=lab.OURS, help="the folder of our executables (default: dist/bin)")
    parser.add_argument("--json", metavar="FILE", help="write every single time there")
    parser.add_argument("--publish", metavar="DIR", type=Path, help=f"put the table into {PAGE} there")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    found = {}
    for way, has_agent in WAYS.items():
        with callers(options.bin.resolve(), has_agent=has_agent) as pair:
            found |= {f"{verb} {way}": calls for verb, calls in measure(pair, options.rounds).items()}
    note = f"{options.rounds} calls of each; {lab.machine()}."
    print(f"{table(found, 'simple')}\n\n{note}")
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": lab.machine(), "calls": found}, indent=1) + "\n")
    if options.publish:
        report.fill(options.publish.resolve(), PLACE, (table(found, "github"), note), PAGE)


if __name__ == "__main__":
    main()

"""What a packet pays for policies: connections and streams between two pods of a node.

    build/venv/bin/python -m bench.policy_packets [--rounds N] [--seconds S] [--bin DIR] [--json FILE] [--publish DIR]

Three nodes that differ in `[policy]` alone: one enforces the policies; one would, but has none; one has
`enabled = false`. Each turn has a run on each of them, in an order that changes. The policies on the pod allow
connections from pods with other labels, all but one, whose turn comes last; those on other pods of the node are like
them. "connections": opened one after the other, a byte there and back on each. Ratios are of runs of the same turn; the
median is told.
"""

import argparse
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import cycle, permutations
from pathlib import Path
from statistics import median

from tabulate import tabulate

from bench import lab, report
from bench.policy_node import BIN, DOCUMENTS, PORT, PolicyNode, document, wait_until

OWN, OTHERS = (1, 10, 100), (0, 10, 1000)
OTHER_PODS = 10
WARM_UP = 1
PROGRAM, SOURCE = BIN / "connections", lab.ROOT / "bench" / "connections.c"
KINDS = {"open": "connections", "stream": "stream"}
ENFORCED, WITHOUT, DISABLED = "enforced", "without", "disabled"
TABLES = {ENFORCED: {"documents": DOCUMENTS}, WITHOUT: {"documents": DOCUMENTS}, DISABLED: None}
AGAINST = {WITHOUT: "no policy", DISABLED: "disabled"}
PAGE, PLACE = "policy-cost.md", "packets: written by bench.policy_packets"


def policies(count: int, selected: str) -> list[dict]:
    """That many policies for the pods with a label; the last one allows the client."""
    found = []
    for number in range(count):
        peer = "client" if number == count - 1 else f"stranger-{number}"
        rule = {"from": [{"podSelector": {"matchLabels": {"app": peer}}}], "ports": [{"port": int(PORT)}]}
        spec = {"podSelector": {"matchLabels": {"app": selected}}, "policyTypes": ["Ingress"], "ingress": [rule]}
        found.append(document("NetworkPolicy", f"{selected}-{number}", "default", spec=spec))
    return found


def others(count: int) -> list[dict]:
    """That many policies in all, for the other pods of the node."""
    shares = [count // OTHER_PODS + (place < count % OTHER_PODS) for place in range(OTHER_PODS)]
    return [policy for place, share in enumerate(shares) for policy in policies(share, f"other-{place}")]


def attach_all(node: PolicyNode) -> None:
    """The server, the client and the other pods, each with its name as a label."""
    names = ["server", "client", *(f"other-{place}" for place in range(OTHER_PODS))]
    node.write("pods", [document("Pod", name, "default", labels={"app": name}) for name in names])
    for name in names:
        node.attach(name)


@contextmanager
def nodes(folder: Path) -> Iterator[dict[str, PolicyNode]]:
    """One of each kind; the servers run."""
    with ExitStack() as stack:
        found = {}
        for name, policy in TABLES.items():
            node = found[name] = stack.enter_context(closing(PolicyNode(folder)))
            node.start(policy)
            node.wait_until_ready()
            attach_all(node)
            argv = [PROGRAM, "serve", PORT]
            server = node.pods["server"].start(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(server.wait)
            stack.callback(server.kill)
            wait_until(lambda node=node: listens(node), "the server listens")
        yield found


def listens(node: PolicyNode) -> bool:
    """Whether the server has its port."""
    return bool(node.pods["server"].run(["ss", "-Hltn", f"sport = :{PORT}"]).stdout)


def run(node: PolicyNode, kind: str, seconds: float) -> float:
    """One run, from client to server: connections, or MB, a second."""
    argv = [PROGRAM, kind, node.addresses["server"], PORT, str(seconds)]
    return float(node.pods["client"].run(argv).stdout)


def compare(found: Mapping[str, PolicyNode], rounds: int, seconds: float) -> dict[str, list[dict[str, float]]]:
    """By kind: turns, each with a run on each node."""
    turns: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    orders = cycle(permutations(found))
    for turn in range(WARM_UP + rounds):
        order = next(orders)
        for kind, runs in turns.items():
            got = {name: run(found[name], kind, seconds) for name in order}
            if turn >= WARM_UP:
                runs.append(got)
    return turns


def measure(found: Mapping[str, PolicyNode], rounds: int, seconds: float) -> list[dict[str, object]]:
    """A row for each number of policies."""
    rows = []
    for own, other in [(0, 0), *((own, other) for own in OWN for other in OTHERS)]:
        wanted = [*policies(own, "server"), *others(other)]
        found[ENFORCED].write("policies", wanted)
        found[ENFORCED].wait_for_policies([policy["metadata"]["name"] for policy in wanted])
        rows.append({"policies on the pod": own, "on others": other, "runs": compare(found, rounds, seconds)})
    return rows


def summary(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The medians of the ratios."""
    lines = []
    for row in rows:
        line = {key: value for key, value in row.items() if key != "runs"}
        for base, against in AGAINST.items():
            for kind, name in KINDS.items():
                ratios = [turn[ENFORCED] / turn[base] for turn in row["runs"][kind]]
                line[f"{name} / {against}"] = f"{median(ratios):.3f}"
        lines.append(line)
    return lines


def main() -> None:
    """Measure, print, and publish if asked to."""
    parser = argparse.ArgumentParser(description="Connections and streams with and without policies.")
    parser.add_argument("--rounds", type=int, default=25, help="timed turns of each kind (default: 25)")
    parser.add_argument("--seconds", type=float, default=0.2, help="of each run (default: 0.2)")
    parser.add_argument("--bin", type=Path, default=lab.OURS, help="the folder of our executables (default: dist/bin)")
    parser.add_argument("--json", metavar="FILE", help="write every single run there")
    parser.add_argument("--publish", metavar="DIR", type=Path, help=f"put the table into {PAGE} there")
    options = parser.parse_args()
    lab.compiled(SOURCE, PROGRAM)
    with nodes(options.bin.resolve()) as found:
        rows = measure(found, options.rounds, options.seconds)
    note = f"Medians of {options.rounds} turns of runs of {options.seconds:g} s; {lab.machine()}."
    print(f"{tabulate(summary(rows), headers='keys', disable_numparse=True)}\n\n{note}")
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": lab.machine(), "rows": rows}, indent=1) + "\n")
    if options.publish:
        text = tabulate(summary(rows), headers="keys", tablefmt="github", disable_numparse=True)
        report.fill(options.publish.resolve(), PLACE, (text, note), PAGE)


if __name__ == "__main__":
    main()

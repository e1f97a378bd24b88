"""What a packet pays for policies: connections and streams between two pods of a node, against a node without policies.

    build/venv/bin/python -m bench.policy_packets [--rounds N] [--seconds S] [--bin DIR] [--json FILE] [--publish DIR]

Two nodes that differ in `[policy] enabled` alone; each run on one is followed by one on the other, and so does which
goes first. The policies on the pod allow connections from pods with other labels, all but one, whose turn comes last;
those on other pods of the node are like them. "connections": opened one after the other, a byte there and back on each.
Ratios are of runs next to each other; the median is told.
"""

import argparse
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
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
def nodes(folder: Path) -> Iterator[tuple[PolicyNode, PolicyNode]]:
    """One without policies, one with; the servers run."""
    with closing(PolicyNode(folder)) as without, closing(PolicyNode(folder)) as enforced:
        servers = []
        try:
            for node, policy in ((without, None), (enforced, {"documents": DOCUMENTS})):
                node.start(policy)
                node.wait_until_ready()
                attach_all(node)
                argv = [PROGRAM, "serve", PORT]
                servers.append(node.pods["server"].start(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
                wait_until(lambda node=node: listens(node), "the server listens")
            yield without, enforced
        finally:
            for server in servers:
                server.kill()
                server.wait()


def listens(node: PolicyNode) -> bool:
    """Whether the server has its port."""
    return bool(node.pods["server"].run(["ss", "-Hltn", f"sport = :{PORT}"]).stdout)


def run(node: PolicyNode, kind: str, seconds: float) -> float:
    """One run, from client to server: connections, or MB, a second."""
    argv = [PROGRAM, kind, node.addresses["server"], PORT, str(seconds)]
    return float(node.pods["client"].run(argv).stdout)


def compare(pair: Sequence[PolicyNode], rounds: int, seconds: float) -> dict[str, list[tuple[float, float]]]:
    """By kind: runs without policies and with them, next to each other."""
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for turn in range(WARM_UP + rounds):
        for kind, runs in found.items():
            order = [0, 1] if turn % 2 else [1, 0]
            got = {place: run(pair[place], kind, seconds) for place in order}
            if turn >= WARM_UP:
                runs.append((got[0], got[1]))
    return found


def measure(pair: Sequence[PolicyNode], rounds: int, seconds: float) -> list[dict[str, object]]:
    """A row for each number of policies."""
    rows = []
    for own, other in [(0, 0), *((own, other) for own in OWN for other in OTHERS)]:
        wanted = [*policies(own, "server"), *others(other)]
        pair[1].write("policies", wanted)
        pair[1].wait_for_policies([policy["metadata"]["name"] for policy in wanted])
        rows.append({"policies on the pod": own, "on others": other, "runs": compare(pair, rounds, seconds)})
    return rows


def summary(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The medians of the ratios, with to without."""
    found = []
    for row in rows:
        line = {key: value for key, value in row.items() if key != "runs"}
        for kind, name in KINDS.items():
            line[name] = f"{median(after / before for before, after in row['runs'][kind]):.3f}"
        found.append(line)
    return found


def main() -> None:
    """Measure, print, and publish if asked to."""
    parser = argparse.ArgumentParser(description="Connections and streams with policies, against none.")
    parser.add_argument("--rounds", type=int, default=15, help="timed runs of each kind (default: 15)")
    parser.add_argument("--seconds", type=float, default=0.7, help="of each run (default: 0.7)")
    parser.add_argument("--bin", type=Path, default=lab.OURS, help="the folder of our executables (default: dist/bin)")
    parser.add_argument("--json", metavar="FILE", help="write every single run there")
    parser.add_argument("--publish", metavar="DIR", type=Path, help=f"put the table into {PAGE} there")
    options = parser.parse_args()
    lab.compiled(SOURCE, PROGRAM)
    with nodes(options.bin.resolve()) as pair:
        rows = measure(pair, options.rounds, options.seconds)
    note = f"Medians of {options.rounds} pairs of runs of {options.seconds:g} s; {lab.machine()}."
    print(f"{tabulate(summary(rows), headers='keys', disable_numparse=True)}\n\n{note}")
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": lab.machine(), "rows": rows}, indent=1) + "\n")
    if options.publish:
        text = tabulate(summary(rows), headers="keys", tablefmt="github", disable_numparse=True)
        report.fill(options.publish.resolve(), PLACE, (text, note), PAGE)


if __name__ == "__main__":
    main()

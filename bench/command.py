"""How long `slash24` takes to start, and its commands that look, on the node of the documentation's transcripts.

    build/venv/bin/python -m bench.command [--rounds N]

Beside it, in the same rounds, a plugin that answers VERSION without an agent: a frozen program that
does next to nothing.
"""

import argparse
import time
from statistics import median

from tabulate import tabulate

from bench import lab
from tests.netns.cni import PATH
from tests.netns.transcripts import BIN, scene

FLOOR, VERSION = "a plugin, cold", {"CNI_COMMAND": "VERSION", "SLASH24_SOCKET": "/run/no-agent"}
COMMANDS = ("--version", "--help", "status", "pods", "leases", "gc", "validate --no-trial", "switch")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Times of slash24's commands, in milliseconds.")
    parser.add_argument("--rounds", type=int, default=20, help="calls to take medians of (default: 20)")
    rounds = parser.parse_args().rounds
    cases = {FLOOR: ["bridge"]} | {f"slash24 {words}": ["slash24", *words.split()] for words in COMMANDS}
    taken: dict[str, list[float]] = {name: [] for name in cases}
    with scene(lab.OURS) as node:
        for turn in range(rounds + 1):  # the first warms up
            for name, argv in cases.items():
                env = {"PATH": f"{BIN}:{PATH}", **(VERSION if name == FLOOR else {})}
                start = time.monotonic()
                node.run([f"{BIN}/{argv[0]}", *argv[1:]], stdin='{"cniVersion": "1.0.0"}', env=env, check=False)
                if turn:
                    taken[name].append((time.monotonic() - start) * 1000)
    floor = median(taken[FLOOR])
    rows = [(name, median(each), median(each) / floor) for name, each in taken.items()]
    print(tabulate(rows, headers=("command", "ms", f"of {FLOOR}"), floatfmt=(".0f", ".0f", ".1f")))


if __name__ == "__main__":
    main()

"""The cost of a pod on a node that already has many masqueraded pods, each suite's created by itself.

The floor (bench/floor.py) runs on a bridge with as many pods, since the kernel's share grows too.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median

from bench import burst, cni, floor, lab

CASES = {"gateway": {"ipMasq": False}, "ipMasq": {"ipMasq": True}}
CASE = "IPv4, gateway, masquerade"
QUIET_SECONDS = 8  # until new pods have announced themselves to all others
FLOOR = "C program"

_AT_ONCE = 25  # few enough for iptables, which runs one at a time


def measure(
    suites: Mapping[str, lab.Suite], sizes: Sequence[int], rounds: int
) -> dict[int, dict[str, dict[str, list[cni.Turn]]]]:
    """The runs of one more pod: number of pods on the node -> case -> suite -> list; `sizes` ascend."""
    measured, there = {}, 0
    for size in sizes:
        for suite in suites:
            fill(suite, suites[suite], there, size)
        there = size
        time.sleep(QUIET_SECONDS)
        measured[size] = {case: one_more(case, suites, rounds) for case in CASES}
    return measured


def calls(sizes: Sequence[int], rounds: int) -> int:
    """The number of calls of each suite in `measure`."""
    return max(sizes) + len(sizes) * len(CASES) * len(cni.VERBS) * (cni.WARM_UP + rounds)


def fill(name: str, suite: lab.Suite, there: int, size: int) -> None:
    """Create pods until a suite has `size`; it already has `there`."""
    pods = burst.names(f"{name}-", size)[there:]
    lab.add_netns(pods)
    lab.silence(pods)
    for at in range(0, len(pods), _AT_ONCE):
        burst.together(suite, "ADD", cni.configuration(CASE, name), pods[at : at + _AT_ONCE], settle=0)


def one_more(case: str, suites: Mapping[str, lab.Suite], rounds: int) -> dict[str, list[cni.Turn]]:
    """The runs of each suite in its network of many pods."""
    confs = {name: cni.configuration(CASE, name) | CASES[case] for name in suites}
    takers = {name: partial(cni.take_turn, suite, confs[name]) for name, suite in suites.items()}
    bridge = confs["slash24"]["bridge"]
    takers[FLOOR] = partial(cni.turn_of, lab.Suite(floor.PROGRAM), _floor(bridge, *floor.CASES[case]))
    return cni.alternate(takers, rounds)


def _floor(bridge: str, *more: str) -> Callable[[str], lab.Call]:
    return lambda verb: lab.timed([*floor.words(verb.lower(), bridge), *more], {})


def summary(measured: Mapping[int, dict[str, dict[str, list[cni.Turn]]]]) -> list[dict[str, object]]:
    """A row per case and verb: medians in ms by suite and number of pods, and the growth from first to last."""
    rows = []
    for case in CASES:
        for verb, name in cni.VERBS.items():
            for suite in ("slash24", "reference", FLOOR):
                turns = {size: measured[size][case][suite] for size in measured}
                ms = {size: median(getattr(turn, name).ms for turn in turns[size]) for size in measured}
                rows.append({"case": case, "verb": verb, "of": suite} | _growing(ms))
    return rows


def _growing(ms: Mapping[int, float]) -> dict[str, float]:
    return {str(size): value for size, value in ms.items()} | {"growth": ms[max(ms)] / ms[min(ms)]}

"""The floor: the kernel's share of ADD and DEL, measured with a C program that does nothing else."""

from pathlib import Path

from bench import lab

PROGRAM = lab.ROOT / "build" / "bench" / "floor"
SOURCE = lab.ROOT / "bench" / "floor.c"
WARM_UP = 2
CASES = {"gateway": (), "ipMasq": ("nft",)}
VERBS = {"add": "ADD", "del": "DEL", "wait": "DEL, until the kernel replies"}

_BRIDGE, _GATEWAY = "floor0", "10.25.0.1"


def build() -> Path:
    """Compile the program."""
    return lab.compiled(SOURCE, PROGRAM)


def prepare() -> None:
    """Create what exists before the first pod: the bridge with its gateway, and the set of pods."""
    lab.run("ip", "link", "add", _BRIDGE, "type", "bridge")
    lab.run("ip", "addr", "add", f"{_GATEWAY}/16", "dev", _BRIDGE)
    lab.run("ip", "link", "set", _BRIDGE, "up")
    lab.run("nft", "add table inet floor; add set inet floor pods { type ipv4_addr; }")


def words(verb: str, bridge: str = _BRIDGE, *, pod: str = "pod", host: int = 2) -> list[str]:
    """The command that creates or deletes a pod's interface; `verb`: one of VERBS, `host`: the end of its address."""
    link = (bridge, f"floor-{pod}", f"10.25.0.{host}", "16", _GATEWAY)
    return [str(PROGRAM), verb, f"/run/netns/{pod}", *link]


def measure(rounds: int) -> dict[str, dict[str, list[lab.Call]]]:
    """The runs by case and verb; for every second link, until the kernel has destroyed it."""
    calls = {case: {verb: [] for verb in VERBS.values()} for case in CASES}
    for number in range(2 * (WARM_UP + rounds)):
        for case, more in CASES.items():
            for word in ("add", "wait" if number % 2 else "del"):
                called = lab.timed([*words(word), *more], {})
                if number >= 2 * WARM_UP:
                    calls[case][VERBS[word]].append(called)
    return calls

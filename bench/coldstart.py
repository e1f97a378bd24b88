"""Where a cold ADD (bridge, host-local, gateway) spends its time.

    build/venv/bin/python -m bench.coldstart [--rounds N]

Two tables. The first shows the phases of a call, derived from its system calls with strace, which slows it down by
about 20 %. The second shows its imports by package, measured by an interpreter frozen with `-X importtime`.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import median

from tabulate import tabulate

from bench import lab
from bench.cni import configuration
from plugins.__main__ import TYPES

CASE = "IPv4, gateway"
PROFILED = lab.ROOT / "build" / "profile" / "bin"
GROUPS = dict.fromkeys(("spec", "state", "ipam", "linux", "rules", "plugins"), "slash24") | {
    "pyroute2": "pyroute2",
}

# The phases, each starting with the first system call that matches after the previous one.
COURSE = (
    (r"execve\(", "launcher: look for an agent, start the frozen plugin"),
    (r"ld\.so\.cache", "bootloader: set LD_LIBRARY_PATH, start over"),
    (r"libpython[^\"]*\", ", "load libpython"),
    (r"base_library\.zip\", ", "interpreter, PyInstaller's importer, all early imports"),
    (r"\"/run/netns/pod\", ", "the work: netlink, sysctls, leases, and late imports"),
    (r"exit_group\(", "exit"),
    (r"\+\+\+ exited", ""),
)


def freeze_profiled() -> Path:
    """Freeze the plugins with an interpreter that logs its imports to stderr; returns their folder."""
    argv = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "ERROR"]
    argv += ["--distpath", PROFILED, "--workpath", lab.ROOT / "build" / "profile-work", "freeze/slash24.spec"]
    env = os.environ | {"FREEZE_OPTIONS": "X importtime", "PYTHONHASHSEED": "1"}
    done = subprocess.run(argv, cwd=lab.ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"bench: freezing failed: {done.stderr}")
    for kind in TYPES:
        shutil.copy(lab.OURS / kind, PROFILED)
    return PROFILED


def parse_imports(stderr: str) -> dict[str, int]:
    """The microseconds of each module without its imports, in import order, from `-X importtime` output."""
    lines = re.findall(r"^import time:\s+(\d+) \|\s+\d+ \| +(\S+)$", stderr, re.MULTILINE)
    return {name: int(own) for own, name in lines}


def course(trace: str) -> list[tuple[str, float]]:
    """(phase, milliseconds) of a call, from `strace -ttt` output."""
    lines, at, marks = trace.splitlines(), 0, []
    for pattern, what in COURSE:
        at = next(index for index in range(at, len(lines)) if re.search(pattern, lines[index]))
        marks.append((what, float(lines[at].split()[1])))
    return [(what, (after - start) * 1000) for (what, start), (_, after) in pairwise(marks)]


def traced_add(conf: dict) -> str:
    """The relevant system calls of one ADD, with their times."""
    trace = Path("/run/trace")
    strace = ("strace", "-f", "--seccomp-bpf", "-ttt", "-o", str(trace), "-e", "trace=execve,openat,exit_group")
    lab.call(lab.Suite(lab.OURS), "ADD", conf, "pod", under=strace)
    return trace.read_text()


def imports_of_add(folder: Path, conf: dict) -> dict[str, int]:
    """The modules that an ADD of the profiled plugins imports, and the microseconds of each."""
    with open("/run/stderr", "wb+") as stderr:
        saved = os.dup(2)
        os.dup2(stderr.fileno(), 2)
        try:
            lab.call(lab.Suite(folder), "ADD", conf, "pod")
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        stderr.seek(0)
        return parse_imports(stderr.read().decode())


def by_group(imports: dict[str, int]) -> list[tuple[str, int, float]]:
    """(package, modules, milliseconds) of the imports, the most expensive first."""
    groups: dict[str, list[int]] = defaultdict(list)
    for name, own in imports.items():
        package = name.partition(".")[0]
        groups[GROUPS.get(package, "Python")].append(own)
    return sorted(((who, len(own), sum(own) / 1000) for who, own in groups.items()), key=lambda row: -row[2])


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Tells what a cold ADD spends its time on.")
    parser.add_argument("--rounds", type=int, default=15, help="calls to take medians of (default: 15)")
    rounds = parser.parse_args().rounds
    profiled = freeze_profiled()
    lab.enter()
    lab.run("ip", "netns", "add", "pod")
    conf = configuration(CASE, "slash24")
    plain, courses, imports = [], [], []
    for turn in range(rounds + 1):  # the first warms up
        add = lab.call(lab.Suite(lab.OURS), "ADD", conf, "pod").ms
        lab.call(lab.Suite(lab.OURS), "DEL", conf, "pod")
        trace = course(traced_add(conf))
        lab.call(lab.Suite(lab.OURS), "DEL", conf, "pod")
        told = imports_of_add(profiled, conf)
        lab.call(lab.Suite(lab.OURS), "DEL", conf, "pod")
        if turn:
            plain.append(add)
            courses.append(trace)
            imports.append(told)
    steps = [(what, median(dict(one)[what] for one in courses)) for what, _ in courses[0]]
    print(tabulate([*steps, ("in all", sum(ms for _, ms in steps))], headers=("an ADD, traced", "ms"), floatfmt=".1f"))
    print(f"\nuntraced, from start to end: {median(plain):.1f} ms\n")
    medians = {name: int(median(one.get(name, 0) for one in imports)) for name in imports[0]}
    print(tabulate(by_group(medians), headers=("imports of", "modules", "ms"), floatfmt=".1f"))
    costliest = [(name, own / 1000) for name, own in sorted(medians.items(), key=lambda item: -item[1])[:12]]
    print("\n" + tabulate(costliest, headers=("most expensive modules", "ms"), floatfmt=".2f"))


if __name__ == "__main__":
    main()

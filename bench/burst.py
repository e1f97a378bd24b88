"""Many pods at once: calls started as fast as one process can start them, and the time until the last one ends.

Starting processes costs both suites the same. It is reported as the time for as many processes that do nothing.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import floor, lab

PODS = 100
SETTLE_SECONDS = 0.5  # for the kernel to destroy a hundred links
WARM_UP = 1

_OUTPUT = "/run/burst.out"


def together(suite: lab.Suite, verb: str, conf: Mapping[str, object], pods: Sequence[str], *, settle: float) -> float:
    """Milliseconds from the first start to the last end of a call for each of the pods; exits if one fails.

    `settle`: seconds to wait first, for the kernel to finish earlier work.
    """
    stdin = Path("/run/burst.json")
    stdin.write_text(json.dumps(conf))
    executable = str(suite.folder / str(conf["type"]))
    starts = [([executable], suite.environment(verb, pod)) for pod in pods]
    time.sleep(settle)
    return start_all(starts, str(stdin))


def start_all(starts: Sequence[tuple[Sequence[str], Mapping[str, str]]], stdin: str = "/dev/null") -> float:
    """The same for any programs, each with its arguments and environment."""
    # Opened by each child, since they would share the file offset of an inherited descriptor.
    files = [(os.POSIX_SPAWN_OPEN, 0, stdin, os.O_RDONLY, 0)]
    files += [(os.POSIX_SPAWN_OPEN, 1, _OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)]
    Path(_OUTPUT).write_bytes(b"")
    started = time.perf_counter()
    children = [os.posix_spawn(argv[0], argv, env, file_actions=files) for argv, env in starts]
    statuses = [os.waitpid(child, 0)[1] for child in children]
    ms = (time.perf_counter() - started) * 1000
    if failed := sum(map(bool, statuses)):
        sys.exit(f"bench: {failed} of {len(statuses)} calls failed: {Path(_OUTPUT).read_text()[-2000:]}")
    return ms


def names(prefix: str, count: int) -> list[str]:
    """The names of that many pods."""
    return [f"{prefix}{number}" for number in range(count)]


def measure(conf_of: Mapping[str, dict], suites: Mapping[str, lab.Suite], rounds: int) -> dict[str, dict[str, list]]:
    """Milliseconds for PODS pods: suite -> verb -> list; the suites alternate, and so does which goes first.

    `conf_of`: the network configuration by suite.
    """
    pods = names("burst", PODS)
    lab.add_netns(pods)
    took = {suite: {"ADD": [], "DEL": []} for suite in suites}
    for number in range(WARM_UP + rounds):
        for suite in sorted(suites, reverse=bool(number % 2)):
            for verb in ("ADD", "DEL"):
                ms = together(suites[suite], verb, conf_of[suite], pods, settle=SETTLE_SECONDS)
                if number >= WARM_UP:
                    took[suite][verb].append(ms)
    return took


def floor_of(rounds: int) -> dict[str, list[float]]:
    """Milliseconds by verb for a C program (bench/floor.py), in the namespaces that `measure` created."""
    took = {"ADD": [], "DEL": []}
    for number in range(WARM_UP + rounds):
        for verb in took:
            argvs = [floor.words(verb.lower(), pod=pod, host=at + 2) for at, pod in enumerate(names("burst", PODS))]
            time.sleep(SETTLE_SECONDS)
            ms = start_all([(argv, {}) for argv in argvs])
            if number >= WARM_UP:
                took[verb].append(ms)
    return took


def starting(rounds: int) -> list[float]:
    """Milliseconds for starting and waiting for PODS processes that do nothing."""
    return [start_all([([str(floor.PROGRAM)], {})] * PODS) for _ in range(WARM_UP + rounds)][WARM_UP:]

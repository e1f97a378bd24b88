"""Fifty pods are added and deleted on seven networks while the node fails: afterwards nothing is left or lost."""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos.leftovers import UPLINK, problems, sysctls
from tests.chaos.networks import write_foreign
from tests.chaos.runtime import Folders, Runtime
from tests.chaos.weather import Weather
from tests.netns.node import Node, wait_until

pytestmark = [pytest.mark.cold(reason="brings agents of its own"), pytest.mark.alone]

PODS, WORKERS = 50, 12
ROUND_SECONDS = 30
LINKS = ("all", "default", UPLINK, "lo")
TO_FORWARD = {
    "ipv4/ip_forward": "1",
    **{f"{ip}/conf/{link}/forwarding": "1" for ip in ("ipv4", "ipv6") for link in LINKS},
    "ipv4/conf/all/accept_redirects": "0",  # set by the kernel when the node forwards
    f"ipv6/conf/{UPLINK}/accept_ra": "2",  # so that the node keeps routes from router advertisements
}
"""All that may be another setting of the node afterwards."""


class Chaos:
    """One run: rounds of chaos, each followed by a calm phase in which the node is checked."""

    def __init__(self, node: Node, runtime: Runtime, weather: Weather, seed: int) -> None:
        self.node, self.runtime, self.weather, self.seed = node, runtime, weather, seed
        self.rounds = self.only_by_gc = 0
        self.settings = sysctls(node)

    def round(self, seconds: float) -> None:
        """Chaos for this long; seed and round determine all choices."""
        self.rounds += 1
        stop = threading.Event()
        seeds = random.Random(f"{self.seed} {self.rounds}")
        disturbing = (self.weather.rage, self.weather.flood, self.weather.mislead)
        with ThreadPoolExecutor(WORKERS + len(disturbing)) as threads:
            running = [threads.submit(self._work, stop, random.Random(seeds.random())) for _ in range(WORKERS)]
            running += [threads.submit(disturb, stop, random.Random(seeds.random())) for disturb in disturbing]
            try:
                time.sleep(seconds)
            finally:
                stop.set()
            for each in running:
                each.result()

    def _work(self, stop: threading.Event, choose: random.Random) -> None:
        while not stop.is_set():
            self.runtime.step(choose)

    def calm(self, *, kept: bool) -> None:
        """Delete dirty pods, and living ones unless `kept`; then the node has nothing but the state of the living pods.

        This holds before GC: DEL alone leaves nothing behind, except for calls whose caller did not wait.
        """
        self.runtime.repair()
        self.runtime.settle(random.Random(self.seed), kept=kept)
        living = self.runtime.living()
        wait_until(lambda: not problems(self.node, living, self.weather.agents), timeout=15)
        self.only_by_gc += len(problems(self.node, living, self.weather.agents))
        for network in self.runtime.networks:
            self.runtime.gc(network, choose=None)
        wrongs = [*self.runtime.wrongs, *self.weather.wrongs, *problems(self.node, living, self.weather.agents)]
        assert not wrongs, "\n".join([f"round {self.rounds} of --seed {self.seed}:", *wrongs])

    def changed_settings(self) -> dict[str, str]:
        """The node's sysctls that differ from before, with their current values."""
        now = sysctls(self.node)
        return {name: now.get(name, "gone") for name, was in self.settings.items() if now.get(name) != was}

    def report(self) -> dict:
        """The counts of the run."""
        calls = sorted(self.runtime.calls.items())
        return {
            "seed": self.seed,
            "rounds": self.rounds,
            "calls": {f"{verb} {outcome}": count for (verb, outcome), count in calls},
            "events": dict(sorted(self.weather.events.items())),
            "leftovers that only GC removed": self.only_by_gc,
        }


@pytest.fixture
def chaos(
    node: Node, bin_dir: Path, reference_bin: Path, tmp_path: Path, report: dict, pytestconfig: pytest.Config
) -> Iterator[Chaos]:
    """A node with weather and a runtime; the report is written even if the test fails."""
    write_foreign(tmp_path)
    chosen = pytestconfig.getoption("--seed")
    seed = random.SystemRandom().randrange(1 << 32) if chosen is None else chosen
    weather = Weather(node, bin_dir)
    made = Chaos(node, Runtime(node, Folders(bin_dir, tmp_path, reference_bin), weather, PODS), weather, seed)
    try:
        yield made
    finally:
        report |= made.report()
        weather.end()
        report["events"] = made.report()["events"]


def test_nothing_is_lost_and_nothing_is_left(chaos: Chaos, pytestconfig: pytest.Config) -> None:
    """Whatever fails in agent and disk: replies are well-formed, living pods intact, deleted ones leave nothing."""
    end = time.monotonic() + pytestconfig.getoption("--seconds")
    while (left := end - time.monotonic()) > 1:
        chaos.round(min(left, ROUND_SECONDS))
        chaos.calm(kept=True)
    chaos.calm(kept=False)
    assert chaos.runtime.living() == []
    assert chaos.changed_settings().items() <= TO_FORWARD.items()
    assert chaos.runtime.calls["ADD", "ok"] > PODS
    assert chaos.runtime.calls["CHECK", "ok"] > 0

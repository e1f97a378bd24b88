"""Policies, labels and pods change, daemons, agents and tables are disturbed, while all pods talk to all others.

Nothing arrives that no policy in force could have allowed; what is allowed gets through; nothing is left over.
"""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.policy_changes import NAMESPACES, POLICIES, Choices
from tests.chaos.policy_judge import Judge, accounts_in, shown
from tests.chaos.policy_leftovers import forbidden_connections, used, wrong_pod_files
from tests.chaos.policy_nodes import WAIT_SECONDS, PolicyNodes, policy_nodes
from tests.netns.node import wait_until
from tests.policy.cluster import namespace
from tests.system.daemons import Served

pytestmark = [pytest.mark.cold(reason="brings agents of its own"), pytest.mark.alone]

PODS = 3
"""Of a node, which has five addresses of IPv4."""
RESTORED_SECONDS = 20
CALM_SECONDS, SWEPT_SECONDS = 3, 20
GROWN_MB = 30
"""The most by which a daemon's memory may grow."""
DAMAGES = (
    "nft delete table inet slash24_policy",
    "nft delete table bridge slash24_policy",
    "nft delete table inet slash24_policy; nft delete table bridge slash24_policy",
    "nft flush chain inet slash24_policy forward",
    "nft flush chain inet slash24_policy connection",
    "nft insert rule inet slash24_policy connection accept",
    "nft flush map inet slash24_policy ingress4; nft flush map inet slash24_policy egress6",
    "nft flush set inet slash24_policy isolated4",
    "nft flush set inet slash24_policy pods6",
    "nft flush map bridge slash24_policy gateways",
)


class Chaos:
    """One run; the seed determines all choices."""

    def __init__(self, nodes: PolicyNodes, seed: int) -> None:
        self.nodes, self.seed = nodes, seed
        self.choose = random.Random(seed)
        self.choices = Choices(self.choose, nodes.networks())
        self.events: Counter[str] = Counter()
        self.wrongs: list[str] = []
        self._count = 0
        self._memory: dict[int, int] = {}

    def begin(self) -> None:
        """The first pods and policies."""
        for name in NAMESPACES:
            self.nodes.write(namespace(name, **self.choices.namespace_labels()))
        for one in self.nodes.nodes:
            for _ in range(PODS):
                self.add_pod(one)
        for _ in range(3):
            self.change_policy()
        self.nodes.await_force()
        self.nodes.await_decisions()

    def step(self) -> None:
        """Something happens."""
        happenings: tuple[tuple[Callable[[], None], int], ...] = (
            (self.change_policy, 8),
            (self.change_labels, 4),
            (self.replace_pod, 6),
            (self.kill_daemon, 2),
            (self.stop_daemon, 2),
            (self.kill_agent, 1),
            (self.damage, 2),
            (self.reconfigure, 1),
        )
        (happening,) = self.choose.choices([each for each, _ in happenings], [weight for _, weight in happenings])
        self.events[happening.__name__.replace("_", " ")] += 1
        happening()
        self.nodes.await_force()
        self.nodes.await_decisions()
        self._watch_memory()
        if self.choose.random() < 0.5:
            self.nodes.await_cut()
            time.sleep(self.choose.uniform(0, 0.6))

    def change_policy(self) -> None:
        """A policy is created, changed (several times in a row), or deleted."""
        policies = self.nodes.find("NetworkPolicy", "ClusterNetworkPolicy")
        if policies and self.choose.random() < 0.25 + len(policies) / 20:
            self.nodes.delete_document(self.choose.choice(policies))
            return
        number, where = self.choose.randrange(POLICIES), self.choose.choice((*NAMESPACES, ""))
        for _ in range(self.choose.choice((1, 1, 1, 4))):
            self.nodes.write(
                self.choices.network_policy(where, number) if where else self.choices.cluster_policy(number)
            )

    def change_labels(self) -> None:
        """A pod or a namespace gets other labels."""
        document = self.choose.choice(self.nodes.find("Pod", "Namespace"))
        is_pod = document["kind"] == "Pod"
        labels = self.choices.labels() if is_pod else self.choices.namespace_labels()
        self.nodes.write({**document, "metadata": {**document["metadata"], "labels": labels}})

    def replace_pod(self, node: Served | None = None) -> None:
        """A pod is deleted, and another one takes its place: at once, or when everybody knows that it is gone."""
        lives = [life for life, _, _ in self.nodes.pods.values()]
        number = self.choose.choice([life.number for life in lives if node in (None, self.nodes.node(life.node))])
        life = self.nodes.pods[number][0]
        (document,) = (one for one in self.nodes.find("Pod") if one["metadata"]["name"] == number)
        self.nodes.end(number, first_talker=self.choose.random() < 0.5)
        if self.choose.random() < 0.5:
            self.nodes.delete_document(document)
            self.add_pod(self.nodes.node(life.node))
        else:
            self.add_pod(self.nodes.node(life.node))
            self.nodes.await_force()
            self.nodes.delete_document(document)

    def add_pod(self, node: Served) -> None:
        """A pod that talks before it is attached."""
        self._count += 1
        number = f"p{self._count}"
        self.nodes.begin(number, node, self.choose.choice(NAMESPACES), **self.choices.labels())
        if self.choose.random() < 0.7:
            self.nodes.await_force()
        assert self.nodes.attach(number), self.nodes.logs
        self.nodes.await_force()
        self.nodes.publish(number)

    def kill_daemon(self) -> None:
        """Something happens while a daemon is dead."""
        node = self.choose.choice(self.nodes.nodes)
        self.nodes.kill(node)
        self._meanwhile(node)
        self.nodes.restart(node)

    def stop_daemon(self) -> None:
        """Something happens while a daemon stands still."""
        node = self.choose.choice(self.nodes.nodes)
        self.nodes.stop(node)
        self._meanwhile(node)
        self.nodes.go_on(node)

    def reconfigure(self) -> None:
        """A daemon is restarted with another configuration."""
        node = self.choose.choice(self.nodes.nodes)
        self.nodes.kill(node, signal.SIGTERM)
        changes = {"log": self.choose.random() < 0.5, "metadataAccess": self.choose.choice(("allow", "deny"))}
        wait = self.choose.choice((0, WAIT_SECONDS))
        self.nodes.restart(node, policy={**node.config["policy"], "policyWait": wait, **changes})

    def kill_agent(self) -> None:
        """An agent is killed."""
        self.nodes.kill_agent(self.choose.choice(self.nodes.nodes))

    def damage(self, node: Served | None = None) -> None:
        """Somebody damages a table; the daemon makes it as it was."""
        node = node or self.choose.choice(self.nodes.nodes)
        self.nodes.await_force()
        damage = self.choose.choice(DAMAGES)
        before, begin = self._essential(node), time.monotonic()
        excuse = self.nodes.history.damage(node.name, begin)
        node.node.run(["sh", "-c", damage], check=False)
        restored = node.name in self.nodes.down or wait_until(
            lambda: self._essential(node) == before, timeout=RESTORED_SECONDS
        )
        excuse[1] = time.monotonic()
        time.sleep(1)  # until it begins to cut
        self.nodes.await_cut()
        excuse[2] = time.monotonic()
        if not restored:
            lost = sorted(before ^ self._essential(node))
            self.wrongs.append(f"{node.name}: not restored after {damage!r}: {lost[:5]} {node.daemon.log[-2000:]}")

    def _watch_memory(self) -> None:
        """A daemon's memory does not grow without bound."""
        for one in self.nodes.nodes:
            pid = one.daemon.process.pid
            now = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 // 1_000_000
            if now > self._memory.setdefault(pid, now) + GROWN_MB:
                self.wrongs.append(f"{one.name}: the daemon has {now} MB, and had {self._memory[pid]}")

    def _essential(self, node: Served) -> set[str]:
        """The rules, without sets and chains that are no longer used, and are deleted some time."""
        return used(self.nodes.rules(node))

    def _meanwhile(self, node: Served) -> None:
        """One document changes, or a pod is replaced, or nothing happens."""
        self.choose.choice((self.change_policy, self.change_labels, lambda: self.replace_pod(node), lambda: None))()
        time.sleep(self.choose.uniform(0, 0.8))

    def calm(self) -> None:
        """No pod talks any more; then nothing is left that should not be."""
        self.nodes.quiet()
        self.nodes.await_cut()
        for one in self.nodes.nodes:
            self.wrongs += [*forbidden_connections(self.nodes, one), *wrong_pod_files(self.nodes, one)]
        wait_until(lambda: all(_is_swept(self.nodes.rules(one)) for one in self.nodes.nodes), timeout=SWEPT_SECONDS)
        kept = {one.name: self.nodes.rules(one) for one in self.nodes.nodes}
        for one in self.nodes.nodes:
            self.nodes.kill(one)
            one.node.run(["sh", "-c", DAMAGES[2]])
            self.nodes.restart(one)
        self.nodes.await_force()
        self.nodes.await_decisions()
        for one in self.nodes.nodes:
            if not wait_until(lambda one=one: self.nodes.rules(one) == kept[one.name], timeout=5):
                fresh, old = set(self.nodes.rules(one)), set(kept[one.name])
                self.wrongs += [f"{one.name}: left over: {line}" for line in sorted(old - fresh)]
                self.wrongs += [f"{one.name}: was missing: {line}" for line in sorted(fresh - old)]

    def judge(self) -> dict[str, int]:
        """Compare what the pods have written down; returns what was counted."""
        judge = Judge(self.nodes.history, accounts_in(self.nodes.accounts, self.nodes.history.lives))
        self.wrongs += [*judge.wrongs(), *self.nodes.problems()]
        return dict(sorted(judge.counts.items()))


def _is_swept(lines: list[str]) -> bool:
    return used(lines) == set(lines)


@pytest.fixture
def chaos(
    tmp_path: Path, bin_dir: Path, reference_bin: Path, report: dict, pytestconfig: pytest.Config
) -> Iterator[Chaos]:
    """Two nodes with pods that talk; the report is written even if the test fails."""
    chosen = pytestconfig.getoption("--seed")
    seed = random.SystemRandom().randrange(1 << 32) if chosen is None else chosen
    with policy_nodes(("left", "left"), tmp_path, bin_dir, reference_bin) as nodes:
        made = Chaos(nodes, seed)
        report["seed"] = seed
        made.begin()
        try:
            yield made
        finally:
            report["events"] = dict(sorted(made.events.items()))


def test_no_policy_is_ever_not_in_force(chaos: Chaos, report: dict, pytestconfig: pytest.Config) -> None:
    """Whatever changes or is disturbed: forbidden packets never arrive, allowed ones do, and nothing is left over."""
    end = time.monotonic() + pytestconfig.getoption("--seconds") - CALM_SECONDS
    while time.monotonic() < end:
        chaos.step()
    time.sleep(CALM_SECONDS)
    chaos.calm()
    report["packets"] = chaos.judge()
    assert not chaos.wrongs, f"--seed {chaos.seed}: {shown(chaos.wrongs)}"
    assert report["packets"]["new must arrive"] > 0
    assert report["packets"]["long arrived"] > 0

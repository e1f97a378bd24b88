"""Many pods that are added at once, and talk from before that, while the daemon is killed."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos.policy_changes import APPS
from tests.chaos.policy_judge import Judge, accounts_in, shown
from tests.chaos.policy_leftovers import wrong_pod_files
from tests.chaos.policy_nodes import PolicyNodes, policy_nodes
from tests.policy.cluster import namespace
from tests.policy.writing import BOTH, INGRESS, labels, pods, policy, rule

pytestmark = [pytest.mark.cold(reason="brings agents of its own"), pytest.mark.alone]

CROWD = 30


@pytest.fixture
def crowded(tmp_path: Path, bin_dir: Path, reference_bin: Path) -> Iterator[PolicyNodes]:
    """A node with room for many pods; those labelled "a" are isolated."""
    with policy_nodes(("left",), tmp_path, bin_dir, reference_bin, allocate=(26, 122), seconds=3) as nodes:
        nodes.write(namespace("x", team="red"))
        nodes.write(policy("x", "closed", subject=labels(app="a"), types=BOTH, ingress=[], egress=[]))
        nodes.write(policy("x", "half", subject=labels(app="b"), types=[INGRESS], ingress=[rule(INGRESS, [pods()])]))
        nodes.await_force()
        yield nodes


def test_a_crowd_that_talks_before_it_is_added_is_held(crowded: PolicyNodes) -> None:
    """Thirty pods at once, while the daemon is killed: nothing passes before policies are known, nor after it."""
    (node,) = crowded.nodes
    numbers = [f"p{number}" for number in range(CROWD)]
    for place, number in enumerate(numbers):
        crowded.begin(number, node, "x", app=APPS[place % len(APPS)])
    crowded.await_force()
    with ThreadPoolExecutor(CROWD) as threads:
        first = [threads.submit(crowded.attach, number) for number in numbers[: CROWD // 2]]
        assert first[0].result(), crowded.logs
        crowded.kill(node)
        rest = [threads.submit(crowded.attach, number) for number in numbers[CROWD // 2 :]]
        assert all(each.result() for each in (*first, *rest)), crowded.logs
    time.sleep(3)  # all of them talk
    crowded.restart(node)
    for number in numbers:
        crowded.publish(number)
    crowded.await_force()
    crowded.await_decisions()
    crowded.await_cut()
    time.sleep(8)
    crowded.quiet()
    judge = Judge(crowded.history, accounts_in(crowded.accounts, crowded.history.lives))
    wrongs = [*judge.wrongs(), *crowded.problems(), *wrong_pod_files(crowded, node)]
    assert not wrongs, shown(wrongs)
    assert judge.counts["new must arrive"] > 0

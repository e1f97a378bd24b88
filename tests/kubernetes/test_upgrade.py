"""An upgrade of slash24 and its removal, under running pods."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.slash24 import CONTAINERS, DAEMON_SET, IMAGE, MANIFEST, NAMESPACE, install, wait_for_daemons
from tests.kubernetes.traffic import streaming
from tests.kubernetes.workload import Pod, assert_all_reach_each_other, remove, run, servers
from tests.system.probes import probing

pytestmark = pytest.mark.xdist_group("cluster")

NEWER = f"{IMAGE.rpartition(':')[0]}:newer"


@pytest.fixture(scope="module")
def web(cluster: Cluster) -> Iterator[list[Pod]]:
    """A pod on each node."""
    yield run(cluster, servers("web"))
    remove(cluster, "deployment/web")


@contextmanager
def pods_starting(cluster: Cluster) -> Iterator[list[int]]:
    """Pods start and end on all nodes meanwhile; yields the number of rounds so far. AssertionError if one does not."""
    rounds, is_over = [0], threading.Event()

    def start_and_end() -> None:
        for number in itertools.count():
            run(cluster, servers(f"short-{number}"))
            remove(cluster, f"deployment/short-{number}")
            rounds[0] += 1
            if is_over.is_set():
                return

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(start_and_end)
        try:
            yield rounds
        finally:
            is_over.set()
        done.result()


def failures(cluster: Cluster) -> list[str]:
    """What the kubelets have reported about pods whose network was not made or not removed."""
    events = cluster.get("events", "-A")["items"]
    return [event["message"] for event in events if event["reason"] in ("FailedCreatePodSandBox", "FailedKillPod")]


def test_an_upgrade_is_not_noticed(cluster: Cluster, web: list[Pod]) -> None:
    """Connections go on, no packet is lost, and pods start and end, while the daemons are replaced, there and back."""
    first, _, last = web
    cluster.on_all(lambda node: node.run(["ctr", "-n", "k8s.io", "images", "tag", "--force", IMAGE, NEWER]))
    before = failures(cluster)
    with (
        streaming(first.host, last.host, last.address(4)) as stream,
        probing(last.host, first.address(6)) as loss,
        pods_starting(cluster) as rounds,
    ):
        cluster.kubectl("set", "image", *NAMESPACE, DAEMON_SET, *(f"{name}={NEWER}" for name in CONTAINERS))
        wait_for_daemons(cluster)
        cluster.kubectl("rollout", "undo", *NAMESPACE, DAEMON_SET)
        wait_for_daemons(cluster)
    print(f"{rounds[0]} rounds of pods; {stream}; {loss}")
    assert rounds[0] > 1
    assert stream.words > 100
    assert loss.lost <= 1  # the last one may still be under way
    assert failures(cluster) == before
    assert_all_reach_each_other(web)


def test_removal_leaves_pods_connected(cluster: Cluster, web: list[Pod]) -> None:
    """`kubectl delete` ends the daemons, not the network; new pods start, held until the manifest is applied again."""
    first, _, last = web
    with streaming(first.host, last.host, last.address(6)), probing(last.host, first.address(4)) as loss:
        cluster.kubectl("delete", "-f", MANIFEST, "--timeout=90s")
        late = run(cluster, servers("late"))
        assert_all_reach_each_other(web)
        assert not late[0].host.reaches(last.address(4), timeout=1)
        install(cluster)
    assert loss.lost <= 1
    for pod in late:
        assert pod.host.reaches(first.address(4), timeout=30)
    assert_all_reach_each_other([*web, *late])
    remove(cluster, "deployment/late")

"""A cluster of Kubernetes for the whole tier, whose pods' network is slash24's."""

from collections.abc import Iterator

import pytest

from tests.kubernetes.cluster import FOLDER, Cluster
from tests.kubernetes.slash24 import NAMESPACE, archive, install, traces
from tests.netns.fixtures import untouched_machine  # noqa: F401 (fixture)

_LINES = 25
"""How many lines of each program are shown."""

_CLUSTER = pytest.StashKey[Cluster]()


@pytest.fixture(scope="session")
def bare_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The cluster without a network for pods."""
    request.getfixturevalue("untouched_machine")
    made = request.config.stash[_CLUSTER] = Cluster()
    try:
        made.start([archive()], "nftables")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def original_traces(bare_cluster: Cluster) -> dict[str, dict[str, str]]:
    """What each node had before slash24 was installed."""
    return {name: traces(node) for name, node in bare_cluster.nodes.items()}


@pytest.fixture(scope="session")
def cluster(bare_cluster: Cluster, original_traces: dict[str, dict[str, str]]) -> Cluster:
    """The cluster with slash24, installed by its manifest."""
    assert {bare_cluster.condition(name, "Ready")["status"] for name in bare_cluster.nodes} == {"False"}
    install(bare_cluster)
    return bare_cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Show the state of the cluster, and what its programs printed last, if a test of it fails."""
    report = yield
    cluster = item.config.stash.get(_CLUSTER, None)
    if report.failed and cluster and "bare_cluster" in item.fixturenames:
        report.sections.append(("cluster", _state(cluster)))
    return report


def _state(cluster: Cluster) -> str:
    wide = ("-A", "-o", "wide", "--sort-by=.metadata.creationTimestamp")
    ours = ("--selector=app.kubernetes.io/name=slash24", "--all-containers", "--prefix", f"--tail={_LINES}")
    texts = []
    if cluster.api:
        texts = [cluster.kubectl("get", kind, *wide, check=False) for kind in ("nodes", "pods", "events")]
        texts.append(cluster.kubectl("logs", *NAMESPACE, *ours, check=False))
    for log in sorted(FOLDER.rglob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-_LINES:]
        texts.append("\n".join([f"--- {log.relative_to(FOLDER)}", *lines]))
    return "\n".join(texts)

"""A cluster of Kubernetes for the whole tier, whose pods' network is slash24's."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.cluster import FOLDER, Cluster
from tests.kubernetes.machine import CONFLISTS, PLUGINS
from tests.netns.fixtures import untouched_machine  # noqa: F401 (fixture)
from tests.system.underlay import CLUSTER

_LINES = 25
"""How many lines of each program are shown."""

_CONFLIST = {
    "cniVersion": "1.0.0",
    "name": "slash24",
    "plugins": [{"type": "vxlan"}, {"type": "portmap", "capabilities": {"portMappings": True}}],
}


@pytest.fixture(scope="session")
def bare_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The cluster without a network for pods."""
    request.getfixturevalue("untouched_machine")
    made = Cluster()
    try:
        made.start([], "nftables")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def cluster(bare_cluster: Cluster, bin_dir: Path) -> Cluster:
    """The cluster with ready nodes: plugins and their files are on every node."""
    subnets = bare_cluster.pod_cidrs()
    peers = [{"name": name, "addresses": bare_cluster.addresses(name), "podCIDRs": subnets[name]} for name in subnets]
    for name, node in bare_cluster.nodes.items():
        node.run(["cp", "-a", f"{bin_dir}/.", PLUGINS])
        node.run(["mkdir", "-p", "/run/slash24"])
        own = {"podCIDRs": subnets[name], "clusterCIDRs": CLUSTER}
        for file, content in (("node", own), ("peers", {"peers": peers})):
            node.path(f"/run/slash24/{file}.json").write_text(json.dumps(content))
        node.path(f"{CONFLISTS}/.new").write_text(json.dumps(_CONFLIST))
        node.path(f"{CONFLISTS}/.new").rename(node.path(f"{CONFLISTS}/10-slash24.conflist"))
    bare_cluster.kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s")
    return bare_cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Show the state of the cluster, and what its programs printed last, if a test of it fails."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("bare_cluster") or getattr(item, "funcargs", {}).get("cluster")
    if report.failed and cluster:
        report.sections.append(("cluster", _state(cluster)))
    return report


def _state(cluster: Cluster) -> str:
    wide = ("-A", "-o", "wide", "--sort-by=.metadata.creationTimestamp")
    texts = [cluster.kubectl("get", kind, *wide, check=False) for kind in ("nodes", "pods", "events")]
    for log in sorted(FOLDER.rglob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-_LINES:]
        texts.append("\n".join([f"--- {log.relative_to(FOLDER)}", *lines]))
    return "\n".join(texts)

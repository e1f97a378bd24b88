"""What the configuration adds to policies: the metadata service of a cloud, and what pods may reach on their node."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.policy import model
from tests.policy.writing import (
    BOTH,
    EGRESS,
    Document,
    block,
    cluster_policy,
    labels,
    named,
    one_way,
    policy,
    port,
    rule,
    says,
    tenants,
    to_port,
)
from tests.system.daemons import Cluster
from tests.system.policy_cluster import LAYOUTS, PolicyCluster, policy_cluster
from tests.system.policy_matrix import Party

pytestmark = pytest.mark.cold(reason="its nodes have agents of their own")

EXCEPTIONS = [{"namespace": "y"}, {"namespace": "z", "labels": {"app": "web", "tier": "front"}}]
NODE_ACCESS = ["tcp/80", "udp/81-90", "sctp/80"]
SERVICE4, SERVICE6 = model.METADATA

CASES: dict[str, list[Document]] = {
    "no policy": [],
    "no egress": [policy(where, "deny", types=BOTH) for where in "xyz"],
    "egress to the service": [
        one_way(EGRESS, where, [rule(EGRESS, [block(f"{SERVICE4}/32"), block(f"{SERVICE6}/128")], [port(80)])])
        for where in "xyz"
    ],
    "cluster-wide, to the service": [
        cluster_policy("one", "Admin", 1, egress=[says("Accept", EGRESS, {"networks": [f"{SERVICE4}/32"]})]),
        policy("y", "deny", types=[EGRESS]),
    ],
    "cluster-wide, not to the service": [
        cluster_policy("one", "Admin", 1, egress=[says("Deny", EGRESS, {"networks": [f"{SERVICE6}/128"]})])
    ],
    "cluster-wide, to nodes": [
        cluster_policy("one", "Admin", 1, egress=[says("Accept", EGRESS, {"nodes": {}})]),
        *(policy(where, "deny", types=[EGRESS]) for where in "xyz"),
    ],
    "cluster-wide, not to a port of nodes": [
        cluster_policy("one", "Admin", 1, egress=[says("Deny", EGRESS, {"nodes": {}}, protocols=[to_port("TCP", 80)])])
    ],
    "cluster-wide, not to one node": [
        cluster_policy(
            "one", "Admin", 1, subject=tenants(named("x")), egress=[says("Deny", EGRESS, {"nodes": labels(zone="one")})]
        )
    ],
    "a baseline, not to nodes": [
        cluster_policy("one", "Baseline", 1, egress=[says("Deny", EGRESS, {"nodes": {}})]),
        one_way(EGRESS, "x", [rule(EGRESS, [block("10.0.0.0/8")])]),
    ],
    "cluster-wide, nowhere": [
        cluster_policy("one", "Admin", 1, egress=[says("Deny", EGRESS, {"networks": ["0.0.0.0/0", "::/0"]})])
    ],
}


def metadata_service(cluster: Cluster) -> Iterable[Party]:
    """The service, on the fabric: nodes reach it by their default route."""
    fabric = cluster.underlay.fabric
    host = fabric.pod("metadata")
    fabric.run(["ip", "link", "add", "cloud", "type", "veth", "peer", "name", "eth0", "netns", "metadata"])
    for side, link, addresses in ((fabric, "cloud", ("169.254.169.253/30", "fd00:ec2::253/64")), (host, "eth0", None)):
        side.run(["sh", "-c", f"echo 0 >/proc/sys/net/ipv6/conf/{link}/accept_dad"])
        side.run(["ip", "link", "set", link, "up"])
        for address in addresses or (f"{SERVICE4}/30", f"{SERVICE6}/64"):
            side.run(["ip", "addr", "add", address, "dev", link])
    host.run(["ip", "route", "add", "default", "via", "169.254.169.253"])
    host.run(["ip", "route", "add", "default", "via", "fd00:ec2::253"])
    yield Party("metadata", model.Outside(SERVICE4), host, {4: SERVICE4, 6: SERVICE6})


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(f"policies on {name}")) for name in LAYOUTS],
)
def policies(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, bin_dir: Path, reference_bin: Path
) -> Iterator[PolicyCluster]:
    """Nine pods on nodes that restrict both."""
    keys = {"metadataAccess": "deny", "metadataExceptions": EXCEPTIONS, "nodeAccess": NODE_ACCESS}
    settings = model.Settings(is_metadata_denied=True, metadata_exceptions=EXCEPTIONS, node_access=NODE_ACCESS)
    folder = tmp_path_factory.mktemp("policies")
    with policy_cluster(
        request.param, folder, bin_dir, reference_bin, policy=keys, settings=settings, more=metadata_service
    ) as made:
        yield made


@pytest.mark.parametrize("name", CASES)
def test_the_node_and_the_metadata_service(policies: PolicyCluster, name: str) -> None:
    """Both are for those that the configuration names, and only if policies allow it, too."""
    documents = policies.documents(CASES[name])
    policies.enforce(documents)
    found = policies.differences(documents)
    assert not found, found

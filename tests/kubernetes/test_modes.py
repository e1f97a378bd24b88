"""The other mode: kubenet, on an underlay that routes the pods' subnets where the nodes do not share a link."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress

import pytest

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.slash24 import install, traces, uninstall
from tests.kubernetes.workload import (
    HOST_PORT,
    assert_all_reach_each_other,
    over_http,
    remove,
    run,
    servers,
    service,
)
from tests.netns.node import Host, wait_until
from tests.system.underlay import CLUSTER

pytestmark = pytest.mark.xdist_group("cluster")

KUBENET = f"""
mode = "kubenet"
registry = "kubernetes"
cluster = {json.dumps(CLUSTER)}

[conflist]
plugins = [{{type = "portmap", capabilities = {{portMappings = true}}}}]
"""


@pytest.fixture
def router(cluster: Cluster) -> Iterator[None]:
    """The router between the links has a route to each node's subnets, as a cloud's table of routes has."""
    routes = [
        (subnet, address)
        for name, subnets in cluster.pod_cidrs().items()
        for subnet, address in zip(subnets, cluster.addresses(name), strict=True)
    ]
    for subnet, address in routes:
        cluster.underlay.fabric.run(["ip", "route", "add", subnet, "via", address])
    yield
    for subnet, _ in routes:
        cluster.underlay.fabric.run(["ip", "route", "del", subnet])


@pytest.fixture
def kubenet(cluster: Cluster, original_traces: Mapping[str, dict[str, str]], router: None) -> Iterator[None]:
    """The cluster with the other mode; afterwards with that of the manifest again."""
    uninstall(cluster)
    for name, node in cluster.nodes.items():
        assert wait_until(lambda name=name: cluster.condition(name, "Ready")["status"] == "False", timeout=60)
        assert traces(node) == original_traces[name]
    install(cluster, KUBENET)
    yield
    uninstall(cluster)
    install(cluster)


def test_kubenet_in_place_of_vxlan(cluster: Cluster, kubenet: None) -> None:
    """Uninstalled, a node is as it was before; then the manifest with the other mode makes the other network."""
    web = run(cluster, servers("web", host_port=HOST_PORT), service("web", "web"))
    assert_all_reach_each_other(web)
    names = {pod.name for pod in web}
    for address in cluster.get("service", "web")["spec"]["clusterIPs"]:
        for client in (*(pod.host for pod in web), *cluster.nodes.values()):
            assert wait_until(lambda client=client, address=address: is_answered(client, address, names), timeout=30)
    assert over_http(cluster.underlay.outside, cluster.addresses("a")[0], HOST_PORT, "/hostname") == web[0].name
    assert all("vxlan" not in node.run(["ip", "-d", "link"]).stdout for node in cluster.nodes.values())
    remove(cluster, "deployment/web", "service/web")


def is_answered(client: Host, address: str, names: Collection[str]) -> bool:
    """Whether one of the pods answers for the Service."""
    with suppress(OSError):
        return over_http(client, address, 80, "/hostname") in names
    return False

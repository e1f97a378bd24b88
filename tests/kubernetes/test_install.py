"""What the API tells of the network after `kubectl apply`."""

from collections.abc import Iterator

import pytest

from tests.kubernetes.apiserver import STRATEGIC
from tests.kubernetes.cluster import NODES, Cluster
from tests.netns.node import wait_until

pytestmark = pytest.mark.xdist_group("cluster")


@pytest.fixture
def rival(cluster: Cluster) -> Iterator[str]:
    """A Node that claims a subnet of node a, and has no kubelet."""
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "rival"},
            "spec": {"podCIDRs": cluster.pod_cidrs()["a"], "podCIDR": cluster.pod_cidrs()["a"][0]},
        }
    )
    addresses = [{"type": "InternalIP", "address": address} for address in ("192.0.2.99", "2001:db8:1::99")]
    cluster.api.request("PATCH", "/api/v1/nodes/rival/status", {"status": {"addresses": addresses}}, kind=STRATEGIC)
    yield "rival"
    cluster.kubectl("delete", "node", "rival")


def warnings(cluster: Cluster, name: str) -> list[str]:
    """The warnings of slash24 among the Events of a Node."""
    events = cluster.get("events", "--field-selector", f"involvedObject.name={name},type=Warning")["items"]
    return [event["message"] for event in events if "slash24" in event.get("reportingComponent", "")]


@pytest.mark.parametrize("name", NODES)
def test_a_node_becomes_ready_by_the_manifest_alone(cluster: Cluster, name: str) -> None:
    """The kubelet finds a network, and the condition of the network says that it works."""
    assert cluster.condition(name, "Ready")["status"] == "True"
    found = cluster.condition(name, "NetworkUnavailable")
    assert (found["status"], found["reason"]) == ("False", "RoutesInPlace")
    taints = cluster.get("node", name)["spec"].get("taints", [])
    assert "node.kubernetes.io/network-unavailable" not in [taint["key"] for taint in taints]


def test_two_nodes_with_one_subnet_are_an_event(cluster: Cluster, rival: str) -> None:
    """The older one keeps it, and every other node says so."""
    for name in NODES:
        assert wait_until(lambda name=name: any(rival in one for one in warnings(cluster, name)), timeout=60), name
        assert cluster.condition(name, "NetworkUnavailable")["status"] == "False"

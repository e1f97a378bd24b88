"""Nodes leave and join while the others' pods go on."""

import pytest

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.traffic import streaming
from tests.kubernetes.workload import assert_all_reach_each_other, pods, remove, run, servers
from tests.netns.node import wait_until

pytestmark = pytest.mark.xdist_group("cluster")


def routed(cluster: Cluster, name: str) -> set[str]:
    """The destinations of a node's routes to peers."""
    node = cluster.nodes[name]
    return {dst for dst, route in node.routes().items() if route.get("protocol") == "24"}


def test_a_node_is_drained_deleted_and_added_again(cluster: Cluster) -> None:
    """It gets other subnets; the other nodes' routes follow, and their pods do not notice."""
    one, leaving, other = run(cluster, servers("moving"))
    former = cluster.pod_cidrs()["b"]
    assert leaving.node.name == "b"
    with streaming(one.host, other.host, other.address(4)):
        cluster.kubectl("drain", "b", "--ignore-daemonsets", "--force", "--timeout=60s")
        leaving.node.stop("kubelet")
        cluster.kubectl("delete", "node", "b")
        assert wait_until(lambda: not routed(cluster, "a").intersection(former), timeout=60)
        cluster.start_kubelet("b")
        cluster.start_proxy("b", "nftables")  # which has ended with its Node
        cluster.wait_until_ready()
        cluster.kubectl("rollout", "status", "deployment/moving", "--timeout=90s")
        assert not set(cluster.pod_cidrs()["b"]).intersection(former)
    assert_all_reach_each_other(pods(cluster, "moving"))
    remove(cluster, "deployment/moving")

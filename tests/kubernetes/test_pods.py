"""Pods of a Deployment on all nodes: they have addresses, and reach each other, nodes, the world and the API server."""

from collections.abc import Iterator

import pytest

from tests.kubernetes.cluster import NODES, SERVICES, Cluster
from tests.kubernetes.machine import KubernetesNode
from tests.kubernetes.workload import (
    HOST_PORT,
    Pod,
    assert_all_reach_each_other,
    over_http,
    over_https,
    remove,
    run,
    servers,
)
from tests.netns.node import ask, wait_until
from tests.system.underlay import OUTSIDE

pytestmark = pytest.mark.xdist_group("cluster")


@pytest.fixture(scope="module")
def web(cluster: Cluster) -> Iterator[list[Pod]]:
    """A pod on each node, with a host port."""
    yield run(cluster, servers("web", host_port=HOST_PORT))
    remove(cluster, "deployment/web")


def test_pods_of_all_nodes_reach_each_other(web: list[Pod]) -> None:
    """Over ICMP, TCP and UDP of both IP versions; each sees the other's own address."""
    assert sorted(pod.node.name for pod in web) == sorted(NODES)
    assert_all_reach_each_other(web)


def test_pods_have_addresses_of_their_node(cluster: Cluster, web: list[Pod]) -> None:
    """One from each of the subnets that the control plane has given the node."""
    subnets = cluster.pod_cidrs()
    for pod in web:
        assert len(pod.addresses) == 2
        for address, subnet in zip(pod.addresses, subnets[pod.node.name], strict=True):
            assert address.startswith(subnet.partition("/")[0].rstrip("0").rstrip(":"))


def test_nodes_and_pods_reach_each_other(cluster: Cluster, web: list[Pod]) -> None:
    """Nodes reach pods everywhere, and pods reach all nodes."""
    for pod in web:
        for name, node in cluster.nodes.items():
            for version, address in zip((4, 6), cluster.addresses(name), strict=True):
                assert pod.host.reaches(address)
                over_http(node, pod.address(version))


def test_host_ports_lead_to_the_pod_of_the_node(cluster: Cluster, web: list[Pod]) -> None:
    """From every node and from outside, to the addresses of both IP versions."""
    for pod in web:
        for address in cluster.addresses(pod.node.name):
            for client in (*cluster.nodes.values(), cluster.underlay.outside):
                if client is not pod.node:
                    assert over_http(client, address, HOST_PORT, "/hostname") == pod.name


def test_pods_reach_hosts_outside(cluster: Cluster, web: list[Pod]) -> None:
    """A host that has no route to pods sees the address of their node."""
    for pod in web:
        for address, own in zip(OUTSIDE, cluster.addresses(pod.node.name), strict=True):
            for kind in ("tcp", "udp"):
                assert ask(pod.host, cluster.underlay.outside, address, 9000, kind) == own


def test_pods_reach_the_api_server(cluster: Cluster, web: list[Pod]) -> None:
    """By the address of its Service, with the token that the kubelet has mounted."""
    address = SERVICES[0].replace("0.0/16", "0.1")
    for pod in web:
        volumes = pod.node.path(f"/var/lib/kubelet/pods/{pod.uid}/volumes/kubernetes.io~projected")
        (secret,) = volumes.iterdir()
        token = (secret / "token").read_text()
        version = over_https(pod.host, address, 443, str(cluster.api.ca), "/version", token)
        assert version["gitVersion"] == cluster.get("node", pod.node.name)["status"]["nodeInfo"]["kubeletVersion"]


def test_pods_that_have_ended_leave_nothing(cluster: Cluster, web: list[Pod]) -> None:
    """No link, lease, rule, namespace or cached result of 15 pods that were started and deleted at once."""
    before = {name: leftovers(node) for name, node in cluster.nodes.items()}
    assert len(run(cluster, servers("crowd", replicas=15))) == 15
    remove(cluster, "deployment/crowd")
    for name, node in cluster.nodes.items():
        assert wait_until(lambda name=name, node=node: leftovers(node) == before[name], timeout=30), leftovers(node)


def leftovers(node: KubernetesNode) -> str:
    """What a pod may leave on its node, as text."""
    commands = ("ls /sys/class/net", "ls /run/netns", "nft list ruleset | grep v1:", "find /var/lib/cni -type f | sort")
    return node.run(["sh", "-c", "; ".join(commands)]).stdout

"""Services by kube-proxy, in each of its modes, over slash24's network."""

from collections.abc import Iterator, Sequence

import pytest

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.workload import Pod, over_http, over_udp, remove, run, servers, service, without_port
from tests.netns.node import Host, wait_until
from tests.system.underlay import OUTSIDE

pytestmark = pytest.mark.xdist_group("cluster")

NODE_PORT, LOCAL_PORT = 30080, 30082


@pytest.fixture(scope="module")
def web(cluster: Cluster) -> Iterator[list[Pod]]:
    """A pod on each node, with a Service before all of them, and one whose node ports lead to pods of the same node."""
    ports = service("web", "web", type="NodePort")
    ports["spec"]["ports"][0]["nodePort"] = NODE_PORT
    local = service("local", "web", type="NodePort", externalTrafficPolicy="Local")
    local["spec"]["ports"][0]["nodePort"] = LOCAL_PORT
    yield run(cluster, servers("web"), ports, local)
    remove(cluster, "deployment/web", "service/web", "service/local")


@pytest.fixture(scope="module")
def alone(cluster: Cluster) -> Iterator[Pod]:
    """The only pod behind a Service."""
    (pod,) = run(cluster, servers("alone", replicas=1, node="b"), service("alone", "alone"))
    yield pod
    remove(cluster, "deployment/alone", "service/alone")


@pytest.fixture(scope="module", params=["nftables", "iptables"])
def proxy(request: pytest.FixtureRequest, cluster: Cluster, web: list[Pod], alone: Pod) -> None:
    """kube-proxy on all nodes in this mode, with the Services in its rules, and none of the other mode's."""
    for name in cluster.nodes:
        cluster.start_proxy(name, request.param)
    wanted = [address for name in ("web", "local", "alone") for address in addresses(cluster, name)]
    for node in cluster.nodes.values():
        assert wait_until(lambda node=node: serving(node, wanted) == {request.param}, timeout=60)
        for address in wanted:
            assert wait_until(lambda node=node, address=address: is_served(node, address), timeout=60)


def serving(node: Host, services: Sequence[str]) -> set[str]:
    """The modes whose rules on the node have all of these addresses."""
    rules = {
        "nftables": [["nft", "list", "table", family, "kube-proxy"] for family in ("ip", "ip6")],
        "iptables": [["iptables-save", "-t", "nat"], ["ip6tables-save", "-t", "nat"]],
    }
    texts = {mode: "".join(node.run(argv, check=False).stdout for argv in commands) for mode, commands in rules.items()}
    return {mode for mode, text in texts.items() if all(address in text for address in services)}


def is_served(client: Host, address: str) -> bool:
    """Whether a Service has pods: its rules refuse connections before."""
    try:
        return bool(over_http(client, address, 80))
    except OSError:
        return False


def addresses(cluster: Cluster, name: str) -> list[str]:
    """The addresses of a Service."""
    return cluster.get("service", name)["spec"]["clusterIPs"]


def test_a_service_leads_to_its_pods(cluster: Cluster, web: list[Pod], proxy: None) -> None:
    """From pods and nodes, over TCP and UDP of both IP versions."""
    names = {pod.name for pod in web}
    for address in addresses(cluster, "web"):
        for client in (*(pod.host for pod in web), *cluster.nodes.values()):
            assert over_http(client, address, 80, "/hostname") in names
            assert over_udp(client, address, 81, "hostname") in names


def test_pods_keep_their_address_to_a_service(cluster: Cluster, web: list[Pod], alone: Pod, proxy: None) -> None:
    """The server sees the pod's own address."""
    for client in web:
        for address in addresses(cluster, "alone"):
            assert without_port(over_http(client.host, address, 80)) in client.addresses
            assert without_port(over_udp(client.host, address, 81)) in client.addresses


def test_a_pod_reaches_itself_through_a_service(cluster: Cluster, alone: Pod, proxy: None) -> None:
    """Its packets return through the bridge's port on which they came."""
    for address in addresses(cluster, "alone"):
        assert over_http(alone.host, address, 80, "/hostname") == alone.name
        assert over_udp(alone.host, address, 81, "hostname") == alone.name


def test_node_ports_lead_to_pods_of_any_node(cluster: Cluster, web: list[Pod], proxy: None) -> None:
    """From the other nodes and from outside."""
    names = {pod.name for pod in web}
    for name, node in cluster.nodes.items():
        for client in (*cluster.nodes.values(), cluster.underlay.outside):
            if client is not node:
                for address in cluster.addresses(name):
                    assert over_http(client, address, NODE_PORT, "/hostname") in names


def test_local_node_ports_keep_the_address_of_clients(cluster: Cluster, web: list[Pod], proxy: None) -> None:
    """With externalTrafficPolicy Local the pod on the node answers, and sees who asks."""
    for pod in web:
        for address, outside in zip(cluster.addresses(pod.node.name), OUTSIDE, strict=True):
            client = cluster.underlay.outside
            assert over_http(client, address, LOCAL_PORT, "/hostname") == pod.name
            assert without_port(over_http(client, address, LOCAL_PORT)) == outside

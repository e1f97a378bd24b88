"""The model that the tests compare slash24 with says what the documentation of Kubernetes says of its own examples."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given

from tests.policy import random_clusters
from tests.policy.model import ICMP, SCTP, TCP, UDP, Node, Outside, Pod, Settings, allows

WEB, DB, OTHER = Pod("shop", "web"), Pod("shop", "db"), Pod("lab", "db")
HERE, THERE = Node("n1"), Node("n2")


def _pod(pod: Pod, ip: str, ports: Sequence[Mapping] = (), **labels: str) -> dict:
    meta = {"namespace": pod.namespace, "name": pod.name, "labels": labels}
    spec = {"nodeName": "n1", "containers": [{"name": "c", "ports": list(ports)}]}
    return {"kind": "Pod", "metadata": meta, "spec": spec, "status": {"podIPs": [{"ip": ip}]}}


def _node(name: str, ip: str) -> dict:
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": {"zone": name}},
        "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
    }


CLUSTER = [
    {"kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "red"}}},
    _node("n1", "192.0.2.1"),
    _node("n2", "192.0.2.2"),
    _pod(WEB, "10.0.0.1", app="web"),
    _pod(DB, "10.0.0.2", [{"name": "sql", "containerPort": 5432}], app="db"),
    _pod(OTHER, "10.0.0.3", [{"name": "sql", "containerPort": 5433}], app="db"),
]


def _policy(spec: Mapping, namespace: str = "shop", name: str = "p") -> dict:
    return {"kind": "NetworkPolicy", "metadata": {"namespace": namespace, "name": name}, "spec": spec}


def _cluster_policy(tier: str, priority: int, **rules: Sequence[Mapping]) -> dict:
    spec = {"tier": tier, "priority": priority, "subject": {"namespaces": {}}, **rules}
    return {"kind": "ClusterNetworkPolicy", "metadata": {"name": f"{tier}{priority}".lower()}, "spec": spec}


def _rule(action: str, **more: object) -> dict:
    return {"action": action, "from": [{"namespaces": {}}], **more}


def test_without_policies_everything_passes() -> None:
    """Pods are not isolated by default."""
    for protocol in (TCP, UDP, SCTP, ICMP):
        assert allows(CLUSTER, WEB, OTHER, protocol, 80)


def test_a_policy_without_rules_isolates_the_pods_it_selects_for_ingress_alone() -> None:
    """But for themselves and their own node."""
    documents = [*CLUSTER, _policy({"podSelector": {"matchLabels": {"app": "db"}}})]
    assert not allows(documents, WEB, DB, TCP, 80)
    assert not allows(documents, THERE, DB, TCP, 80)
    assert not allows(documents, Outside("203.0.113.9"), DB, UDP, 80)
    assert allows(documents, DB, WEB, TCP, 80)
    assert allows(documents, DB, DB, TCP, 80)
    assert allows(documents, HERE, DB, TCP, 80)
    assert allows(documents, WEB, OTHER, TCP, 80)


def test_one_peer_with_two_selectors_is_not_two_peers() -> None:
    """The first selects pods of namespaces, the others pods of the policy's namespace or all of namespaces."""
    pods, namespaces = {"matchLabels": {"app": "web"}}, {"matchLabels": {"kubernetes.io/metadata.name": "lab"}}
    one = [{"podSelector": pods, "namespaceSelector": namespaces}]
    two = [{"podSelector": pods}, {"namespaceSelector": namespaces}]
    for peers, is_allowed in ((one, False), (two, True)):
        documents = [*CLUSTER, _policy({"podSelector": {}, "ingress": [{"from": peers}]})]
        assert allows(documents, WEB, DB, TCP, 80) is is_allowed
        assert allows(documents, OTHER, DB, TCP, 80) is is_allowed


def test_a_block_has_exceptions() -> None:
    """And it is about pods as about anybody."""
    block = {"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.3/32"]}}
    documents = [*CLUSTER, _policy({"podSelector": {}, "ingress": [{"from": [block]}]})]
    assert allows(documents, WEB, DB, TCP, 80)
    assert not allows(documents, OTHER, DB, TCP, 80)


@pytest.mark.parametrize(
    ("port", "passing"),
    [
        ({"port": "sql"}, {(TCP, 5432)}),
        ({"port": 79, "endPort": 81}, {(TCP, 79), (TCP, 80), (TCP, 81)}),
        ({}, {(TCP, 79), (TCP, 80), (TCP, 81), (TCP, 82), (TCP, 5432)}),
        ({"protocol": UDP, "port": 80}, {(UDP, 80)}),
    ],
)
def test_ports(port: dict, passing: set) -> None:
    """TCP is the default; a name is that of the destination's port; endPort is inclusive."""
    documents = [*CLUSTER, _policy({"podSelector": {}, "ingress": [{"ports": [port]}]})]
    asked = [(protocol, number) for protocol in (TCP, UDP) for number in (79, 80, 81, 82, 5432)]
    assert {one for one in asked if allows(documents, WEB, DB, *one)} == passing
    assert not allows(documents, WEB, DB, ICMP, 0)


@pytest.mark.parametrize(
    ("spec", "directions"),
    [
        ({}, "in"),
        ({"egress": []}, "in"),
        ({"egress": [{"ports": [{"port": 1}]}]}, "in out"),
        ({"policyTypes": ["Egress"], "ingress": [{"ports": [{"port": 1}]}]}, "out"),
        ({"policyTypes": ["Ingress"], "egress": [{"ports": [{"port": 1}]}]}, "in"),
    ],
)
def test_policy_types_default_to_the_sections_with_rules(spec: dict, directions: str) -> None:
    """Ingress always, Egress if there is a rule."""
    documents = [*CLUSTER, _policy({"podSelector": {}, **spec})]
    assert allows(documents, OTHER, DB, TCP, 80) is ("in" not in directions)
    assert allows(documents, DB, OTHER, TCP, 80) is ("out" not in directions)


def test_tiers_are_asked_in_turn() -> None:
    """Admin, lower priorities first; Pass leads to NetworkPolicies; Baseline is for pods that none of them selects."""
    deny, keep = _rule("Deny"), _rule("Pass", protocols=[{"tcp": {"destinationPort": {"number": 80}}}])
    admin = [_cluster_policy("Admin", 2, ingress=[deny]), _cluster_policy("Admin", 1, ingress=[keep])]
    assert not allows([*CLUSTER, *admin], WEB, DB, TCP, 81)
    assert allows([*CLUSTER, *admin], WEB, DB, TCP, 80)
    assert not allows([*CLUSTER, *admin, _policy({"podSelector": {}})], WEB, DB, TCP, 80)
    baseline = _cluster_policy("Baseline", 1, ingress=[deny])
    assert not allows([*CLUSTER, baseline], WEB, DB, TCP, 80)
    assert allows([*CLUSTER, baseline, _policy({"podSelector": {}, "ingress": [{}]})], WEB, DB, TCP, 80)
    assert not allows([*CLUSTER, baseline, _policy({"podSelector": {}, "ingress": [{}]})], WEB, OTHER, TCP, 80)


def test_only_cluster_wide_policies_and_node_access_restrict_what_a_pod_sends_to_its_node() -> None:
    """NetworkPolicies restrict what it sends to other nodes."""
    isolated = [*CLUSTER, _policy({"podSelector": {}, "policyTypes": ["Egress"]})]
    assert allows(isolated, WEB, HERE, TCP, 80)
    assert not allows(isolated, WEB, THERE, TCP, 80)
    few = Settings(node_access=["tcp/53", "tcp/100-200"])
    assert [port for port in (52, 53, 99, 150, 200, 201) if allows(isolated, WEB, HERE, TCP, port, settings=few)] == [
        *(53, 150, 200),
    ]
    assert allows(isolated, WEB, HERE, ICMP, 0, settings=few)
    assert allows(CLUSTER, WEB, THERE, TCP, 80, settings=few)
    to_nodes = {"action": "Deny", "to": [{"nodes": {"matchLabels": {"zone": "n1"}}}]}
    assert not allows([*CLUSTER, _cluster_policy("Admin", 1, egress=[to_nodes])], WEB, HERE, TCP, 80)
    assert allows([*CLUSTER, _cluster_policy("Admin", 1, egress=[to_nodes])], WEB, THERE, TCP, 80)


def test_metadata_is_for_exceptions_only() -> None:
    """By namespace and labels."""
    service = Outside("169.254.169.254")
    denied = Settings(is_metadata_denied=True, metadata_exceptions=[{"namespace": "shop", "labels": {"app": "db"}}])
    assert [pod for pod in (WEB, DB, OTHER) if allows(CLUSTER, pod, service, TCP, 80, settings=denied)] == [DB]
    assert allows(CLUSTER, WEB, service, TCP, 80)
    assert allows(CLUSTER, HERE, service, TCP, 80, settings=denied)


@given(random_clusters.histories())
def test_it_has_an_answer_for_every_connection_of_random_clusters(history: tuple) -> None:
    """And for what becomes of them."""
    documents, following = history
    for change in following:
        documents = random_clusters.changed(documents, change)
    for connection in list(random_clusters.connections(documents))[::97]:
        assert connection.is_allowed(documents) in (True, False)

"""Policies and translated connections: those to Services by kube-proxy, and those to host ports by portmap.

They hold for the pod that a connection leads to, and for the address that it comes from.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.policy import model
from tests.policy.cluster import pod as pod_document
from tests.policy.writing import (
    BOTH,
    EGRESS,
    INGRESS,
    Document,
    all_in,
    block,
    cluster_policy,
    labels,
    named,
    one_way,
    pods,
    policy,
    port,
    rule,
    says,
    tenants,
)
from tests.system.daemons import Cluster
from tests.system.kube_proxy import MODES, Service
from tests.system.policy_cluster import PolicyCluster, add_pod, policy_cluster
from tests.system.policy_matrix import Party, Probe, by_model
from tests.system.underlay import CLUSTER

pytestmark = [
    pytest.mark.cold(reason="its nodes have agents of their own"),
    pytest.mark.xdist_group("policies and services"),
]

SERVICE = {4: "10.96.0.1", 6: "fd00:96::1"}
SERVICES = [block("10.96.0.0/16"), block("fd00:96::/64")]
SERVICE_PORT, HOST_PORT = 8080, 9080
TARGET = "x/a"

CASES: dict[str, list[Document]] = {
    "no policy": [],
    "no ingress": [policy("x", "deny", types=[INGRESS])],
    "nothing at all": [policy(where, "deny", types=BOTH) for where in "xyz"],
    "ingress from a namespace": [one_way(INGRESS, "x", [rule(INGRESS, [all_in(named("y"))])])],
    "ingress from pods, to the pod's port": [one_way(INGRESS, "x", [rule(INGRESS, [pods({}, {})], [port("web")])])],
    "ingress to the Service's and the node's port": [
        one_way(INGRESS, "x", [rule(INGRESS, None, [port(SERVICE_PORT), port(HOST_PORT)])])
    ],
    "ingress from outside": [
        one_way(INGRESS, "x", [rule(INGRESS, [block("{outside_4}/32"), block("{outside_6}/128")])])
    ],
    "ingress from nodes": [one_way(INGRESS, "x", [rule(INGRESS, [block("192.0.2.0/24"), block("2001:db8:1::/64")])])],
    "egress to the pod": [one_way(EGRESS, "y", [rule(EGRESS, [pods(labels(app="web"), named("x"))], [port(80)])])],
    "egress to the Service's address": [one_way(EGRESS, "y", [rule(EGRESS, SERVICES)])],
    "egress to the Service's port": [one_way(EGRESS, "y", [rule(EGRESS, None, [port(SERVICE_PORT), port(HOST_PORT)])])],
    "cluster-wide, to the pod": [
        cluster_policy(
            "one", "Admin", 1, subject=tenants(named("z")), egress=[says("Deny", EGRESS, tenants(named("x")))]
        )
    ],
}


def _enforced(policies: PolicyCluster, name: str, probes: Sequence[Probe], target_port: int) -> str:
    """What of the probes goes wrong while the case is in force, if they lead to a port of their target."""
    documents = policies.documents(CASES[name])
    policies.enforce(documents)
    expect = by_model(policies.probers, documents)
    return policies.probers.differences(lambda probe: expect(replace(probe, port=target_port)), probes)


def _probes(sources: Iterable[Party], target: Party, addresses: dict[int, str], port: int) -> list[Probe]:
    return [
        Probe(source, target, kind, port, version, address)
        for source in sources
        for version, address in addresses.items()
        for kind in (model.TCP, model.UDP)
    ]


@pytest.fixture(scope="module", params=["iptables", "nftables"])
def proxied(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, bin_dir: Path, reference_bin: Path
) -> Iterator[PolicyCluster]:
    """Three nodes with kube-proxy's rules for a Service whose only pod is x/a."""
    with policy_cluster("three nodes", tmp_path_factory.mktemp("services"), bin_dir, reference_bin) as made:
        target = next(one for one in made.parties if one.name == TARGET)
        services = [Service(SERVICE[version], SERVICE_PORT, target.addresses[version], 80) for version in (4, 6)]
        for node in made.nodes:
            MODES[request.param](node.node, services, CLUSTER)
        for network, address in zip(("10.96.0.0/16", "fd00:96::/64"), made.nodes[0].addresses, strict=True):
            for host, via in ((made.cluster.underlay.fabric, address),):
                host.run(["ip", "route", "add", network, "via", via])
        yield made


@pytest.mark.parametrize("name", CASES)
def test_a_service_is_reached_by_those_that_may_reach_its_pod(proxied: PolicyCluster, name: str) -> None:
    """From pods of all nodes, from the pod itself, from its node, and from outside."""
    target = next(one for one in proxied.parties if one.name == TARGET)
    sources = [one for one in proxied.parties if one.is_pod or one.name in ("n1", "outside")]
    found = _enforced(proxied, name, _probes(sources, target, SERVICE, SERVICE_PORT), 80)
    assert not found, found


PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}
MAPPINGS = [{"hostPort": HOST_PORT, "containerPort": 80, "protocol": protocol} for protocol in ("tcp", "udp")]


def published(cluster: Cluster) -> Iterator[Party]:
    """The pod x/h, which has ports of its node."""
    (node,) = cluster.nodes
    pod = add_pod(node, "x", "h", capabilities={"portMappings": MAPPINGS})
    addresses = {version: node.address(pod, version) for version in (4, 6)}
    yield Party("x/h", model.Pod("x", "h", tuple(addresses.values()), node.name), pod, addresses)


@pytest.fixture(scope="module")
def forwarded(tmp_path_factory: pytest.TempPathFactory, bin_dir: Path, reference_bin: Path) -> Iterator[PolicyCluster]:
    """A node with a pod that has ports of the node, and nine others."""
    folder = tmp_path_factory.mktemp("ports")
    with policy_cluster("one node", folder, bin_dir, reference_bin, plugins=[PORTMAP], more=published) as made:
        target = made.parties[-1]
        labels = {"app": "web"}
        ips = list(target.addresses.values())
        made.base.append(pod_document("x", "h", labels=labels, ports=[("web", "TCP", 80)], ips=ips, node="n1"))
        yield made


@pytest.mark.parametrize("name", CASES)
def test_a_host_port_is_reached_by_those_that_may_reach_its_pod(forwarded: PolicyCluster, name: str) -> None:
    """From pods of the node, from the pod itself, from the node, and from outside."""
    target, (node,) = forwarded.parties[-1], forwarded.nodes
    addresses = dict(zip((4, 6), node.addresses, strict=True))
    found = _enforced(forwarded, name, _probes(forwarded.parties, target, addresses, HOST_PORT), 80)
    assert not found, found

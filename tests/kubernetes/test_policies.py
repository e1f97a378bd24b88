"""Policies of the API in the cluster: nine pods on three nodes, with kube-proxy, and real packets between all of them.

They are compared with the model of the API, which is given what the API server has.
"""

import time
from collections.abc import Iterator

import pytest

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.hammering import hammering
from tests.kubernetes.policing import PATHS, Policed, await_force, is_served, make_crd, page, policed, put_policies
from tests.kubernetes.workload import HTTP, UDP, over_http, over_udp, pods, remove, run, servers
from tests.netns.node import Host, wait_until
from tests.policy.cases import CASES, chosen
from tests.policy.writing import (
    BOTH,
    INGRESS,
    all_in,
    cluster_policy,
    named,
    one_way,
    policy,
    rule,
    says,
    tenants,
)

pytestmark = pytest.mark.xdist_group("cluster")

_CRD_SECONDS = 90
"""The daemon asks once a minute for a kind that the API does not have."""


_REFUSED = ("that has no document", "gets another number")
"""What the API server does not take: policies of a namespace that is not there, other ports of a pod."""

CHOSEN = [name for name in chosen(0) if not any(words in name for words in _REFUSED)]


@pytest.fixture(scope="module")
def crd(cluster: Cluster) -> None:
    """The API has ClusterNetworkPolicies from now on; the daemons have been running before."""
    assert not is_served(cluster.api, PATHS["ClusterNetworkPolicy"])
    make_crd(cluster.api)
    assert wait_until(lambda: is_served(cluster.api, PATHS["ClusterNetworkPolicy"]), timeout=30)


@pytest.fixture(scope="module")
def policies(cluster: Cluster, crd: None) -> Iterator[Policed]:
    """The pods, and what they send each other."""
    with policed(cluster) as made:
        yield made


def test_cluster_policies_are_enforced_once_their_crd_is_there(cluster: Cluster, policies: Policed) -> None:
    """Without a restart of the daemons."""
    deny = cluster_policy("deny", "Admin", 1, ingress=[says("Deny", INGRESS, tenants(named("z")))])
    put_policies(cluster.api, [deny])
    name = "ClusterNetworkPolicy/deny"
    for node in cluster.nodes.values():
        is_there = wait_until(
            lambda node=node: name in page(node, "policies/documents").get("documents", {}), timeout=_CRD_SECONDS
        )
        assert is_there, page(node, "policies")
    assert not policies.differences()


@pytest.mark.parametrize("name", CHOSEN)
def test_packets_pass_as_the_api_says(policies: Policed, name: str) -> None:
    """Between pods, nodes and a host outside, to a Service and a host port; after each step of the case."""
    for number, step in enumerate(CASES[name], start=1):
        policies.enforce(step)
        found = policies.differences()
        assert not found, f"step {number} of {len(CASES[name])}:\n{found}"


@pytest.fixture
def restricted(cluster: Cluster) -> Iterator[None]:
    """In the namespace "default" all is denied, but pods of the namespace x are let in."""
    rules = [rule(INGRESS, [all_in(named("x"))])]
    put_policies(cluster.api, [policy("default", "deny", types=BOTH), one_way(INGRESS, "default", rules)])
    await_force(cluster)
    yield
    put_policies(cluster.api, [])


@pytest.mark.parametrize(
    "probe", [{"httpGet": {"path": "/hostname", "port": HTTP}}, {"tcpSocket": {"port": HTTP}}], ids=["http", "tcp"]
)
def test_the_kubelet_s_probes_reach_pods_to_which_all_is_denied(cluster: Cluster, probe: dict) -> None:
    """So that they become ready, and stay so under a liveness probe."""
    put_policies(cluster.api, [policy("default", "deny", types=BOTH)])
    await_force(cluster)
    probed = servers("probed")
    (container,) = probed["spec"]["template"]["spec"]["containers"]
    container["readinessProbe"] = {**probe, "periodSeconds": 1}
    container["livenessProbe"] = {**probe, "periodSeconds": 1, "failureThreshold": 2}
    made = run(cluster, probed)
    try:
        time.sleep(4)  # more than a pod that fails would be left alone for
        items = cluster.get("pods", "-l", "app=probed")["items"]
        assert [one["status"]["containerStatuses"][0]["restartCount"] for one in items] == [0] * len(made)
        first, _, last = made
        with pytest.raises(OSError, match="timed out|refused"):
            over_http(first.host, last.address(4))
    finally:
        remove(cluster, "deployment/probed")
        put_policies(cluster.api, [])


def _party(policies: Policed, name: str) -> Host:
    return next(one.host for one in policies.parties if one.name == name)


def test_new_pods_are_reached_by_those_that_may_and_never_by_others(
    cluster: Cluster, policies: Policed, restricted: None
) -> None:
    """From their first moment: two that may not, on the same node and on another one, send to all addresses at once."""
    near, far, friend = (_party(policies, name) for name in ("y/a", "z/b", "x/c"))
    subnet = cluster.pod_cidrs()["a"][0]
    run(cluster, servers("scaled", replicas=1, node="a"))
    try:
        with hammering(near, subnet, UDP) as one, hammering(far, subnet, UDP) as other:
            cluster.kubectl("scale", "deployment/scaled", "--replicas=8")
            answered: set[str] = set()
            assert wait_until(lambda: len(_ask_ready(cluster, friend, answered)) == 8, timeout=90), answered
        addresses = {pod.address(4) for pod in pods(cluster, "scaled")}
        print(one.rounds, other.rounds, sorted(addresses))
        assert min(one.rounds, other.rounds) > 50
        assert not addresses & (one.reached | other.reached)
        allowed = {party.addresses[4] for party in policies.parties if party.name in ("x/a", "y/a", "z/a")}
        assert allowed <= one.reached | other.reached  # which shows that hammering finds those that may be reached
    finally:
        remove(cluster, "deployment/scaled")


def _ask_ready(cluster: Cluster, friend: Host, answered: set[str]) -> set[str]:
    """Add the pods that have become ready, each of which must answer at the first attempt; those that are so far."""
    for item in cluster.get("pods", "-l", "app=scaled")["items"]:
        ready = [one for one in item["status"].get("conditions", ()) if one["type"] == "Ready"]
        name, status = item["metadata"]["name"], item["status"]
        if ready and ready[0]["status"] == "True" and name not in answered:
            for one in status["podIPs"]:
                assert over_http(friend, one["ip"], path="/hostname") == name
                assert over_udp(friend, one["ip"], word="hostname") == name
            answered.add(name)
    return answered

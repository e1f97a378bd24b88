"""Policies of the API in the cluster: nine pods on three nodes, with kube-proxy, and real packets between all of them.

They are compared with the model of the API, which is given what the API server has.
"""

from collections.abc import Iterator

import pytest

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.policing import PATHS, Policed, is_served, make_crd, page, policed, put_policies
from tests.netns.node import wait_until
from tests.policy.cases import CASES
from tests.policy.writing import INGRESS, cluster_policy, named, says, tenants

pytestmark = pytest.mark.xdist_group("cluster")

_CRD_SECONDS = 90
"""The daemon asks once a minute for a kind that the API does not have."""


def _chosen() -> Iterator[str]:
    """Names of cases: a third of those for ingress, another third of those for egress; all that are about both.

    What the API server does not take is left out: policies of a namespace that is not there, other ports of a pod.
    """
    turns = {"ingress": 0, "egress": 1}
    seen: dict[str, int] = {}
    for name in CASES:
        if "that has no document" in name or "gets another number" in name:
            continue
        direction = next((one for one in turns if one in name.partition(":")[0]), "")
        if not direction:
            yield name
            continue
        place = seen.setdefault(name.replace(direction, "", 1), len(seen))
        if place % 3 == turns[direction]:
            yield name


CHOSEN = list(_chosen())


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

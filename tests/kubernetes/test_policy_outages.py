"""Policies while the API server is missing, for the whole cluster or for the daemon of one node."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.kubernetes.cluster import SERVICES, Cluster
from tests.kubernetes.machine import KubernetesNode
from tests.kubernetes.policing import await_force, page, put_policies
from tests.kubernetes.workload import HTTP, Pod, over_http, remove, run, servers
from tests.netns.node import Host, wait_until
from tests.policy.writing import BOTH, EGRESS, INGRESS, labels, one_way, policy, rule
from tests.policy.writing import pods as like

pytestmark = pytest.mark.xdist_group("cluster")

_CUT = """
table ip cut {{
    chain output {{
        type filter hook output priority -300
        ip daddr {address} tcp dport 443 reject with tcp reset
    }}
    chain input {{ # a word that comes in by an open watch would be heard before its acknowledgement is rejected
        type filter hook input priority 200
        ip saddr {address} tcp sport 443 drop
    }}
}}
"""


@pytest.fixture(scope="module")
def web(cluster: Cluster) -> Iterator[list[Pod]]:
    """A pod on each node, to which "friend" alone may speak."""
    friends = [like(labels(app="friend"))]
    put_policies(
        cluster.api,
        [
            policy("default", "deny", subject=labels(app="web"), types=BOTH),
            one_way(INGRESS, "default", [rule(INGRESS, friends)], subject=labels(app="web"), name="in"),
            one_way(EGRESS, "default", [rule(EGRESS, friends)], subject=labels(app="web"), name="out"),
        ],
    )
    yield run(cluster, servers("web"))
    remove(cluster, "deployment/web")
    put_policies(cluster.api, [])


@pytest.fixture(scope="module")
def friend(cluster: Cluster) -> Iterator[Pod]:
    """A pod that may speak to those, and is not restricted."""
    (pod,) = run(cluster, servers("friend", replicas=1, node="b"))
    yield pod
    remove(cluster, "deployment/friend")


@pytest.fixture(scope="module")
def foe(cluster: Cluster) -> Iterator[Pod]:
    """A pod that may not."""
    (pod,) = run(cluster, servers("foe", replicas=1, node="b"))
    yield pod
    remove(cluster, "deployment/foe")


def is_reached(client: Host, address: str, port: int = HTTP) -> bool:
    """Whether a server answers."""
    try:
        return bool(over_http(client, address, port))
    except OSError:
        return False


def assert_in_force(web: list[Pod], friend: Pod, foe: Pod) -> None:
    """Assert that the friend reaches all, and the foe none."""
    addresses = [address for pod in web for address in pod.addresses]
    assert all(is_reached(friend.host, address) for address in addresses)
    with ThreadPoolExecutor() as pool:  # each waits for seconds
        assert not any(pool.map(lambda address: is_reached(foe.host, address), addresses))


def test_policies_stay_in_force_without_an_api_server(cluster: Cluster, web: list[Pod], friend: Pod, foe: Pod) -> None:
    """And follow it again when it is back."""
    await_force(cluster)
    assert_in_force(web, friend, foe)
    cluster.api.stop()
    try:
        lost = wait_until(lambda: not page(web[0].node, "policies").get("connected", True), timeout=60)
        assert lost, page(web[0].node, "policies")
        assert_in_force(web, friend, foe)
    finally:
        cluster.api.start()
    cluster.wait_until_ready()
    await_force(cluster)
    assert wait_until(lambda: page(web[0].node, "policies").get("connected"), timeout=60)
    assert_in_force(web, friend, foe)


@contextmanager
def cut_off(node: KubernetesNode) -> Iterator[None]:
    """The node's daemon does not reach the API server by its Service meanwhile; the kubelet has another way."""
    address = SERVICES[0].replace("0.0/16", "0.1")
    node.run(["nft", "-f", "-"], stdin=_CUT.format(address=address))
    try:
        yield
    finally:
        node.run(["nft", "delete", "table", "ip", "cut"])


def held(node: KubernetesNode, name: str) -> bool | None:
    """Whether the pods of a Deployment are held; None if the node does not know any."""
    found = [one["held"] for one in page(node, "policies").get("pods", ()) if one["pod"].startswith(f"default/{name}-")]
    return all(found) if found else None


def test_a_pod_that_the_daemon_cannot_know_is_held(cluster: Cluster, web: list[Pod], friend: Pod) -> None:
    """It starts and is ready, but reaches nobody and nobody reaches it until the API server answers."""
    node = cluster.nodes["a"]
    with cut_off(node):
        (late,) = run(cluster, servers("late", replicas=1, node="a"))
        assert held(node, "late") is True
        for address in late.addresses:
            assert is_reached(node, address)
            assert not is_reached(friend.host, address)
        assert not is_reached(late.host, friend.address(4))
        assert is_reached(friend.host, web[0].address(4))
    assert wait_until(lambda: held(node, "late") is False, timeout=90), page(node, "policies")
    for address in late.addresses:
        assert is_reached(friend.host, address)
    assert is_reached(late.host, friend.address(6))
    remove(cluster, "deployment/late")

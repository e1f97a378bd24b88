"""Policies while the API server, rights, or the daemons themselves are missing; and switched off."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.kubernetes.apiserver import MERGE
from tests.kubernetes.cluster import SERVICES, Cluster
from tests.kubernetes.hammering import hammering
from tests.kubernetes.machine import KubernetesNode
from tests.kubernetes.policing import await_force, page, put_policies
from tests.kubernetes.slash24 import CONTAINERS, DAEMON_SET, IMAGE, NAMESPACE, install, wait_for_daemons
from tests.kubernetes.traffic import streaming
from tests.kubernetes.workload import HTTP, UDP, Pod, over_http, pods, remove, run, servers
from tests.netns.node import Host, wait_until
from tests.policy.writing import BOTH, EGRESS, INGRESS, labels, one_way, policy, rule
from tests.policy.writing import pods as like

pytestmark = pytest.mark.xdist_group("cluster")

CLUSTER_ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/slash24"
NEWER = f"{IMAGE.rpartition(':')[0]}:newer"
CONFLIST = "/etc/cni/net.d/10-slash24.conflist"
SWITCHED_OFF = 'mode = "vxlan"\nregistry = "kubernetes"\n[vxlan]\ndirectRouting = true\n[policy]\nenabled = false\n'
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
TABLE = ["nft", "list", "table", "inet", "slash24_policy"]


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


def daemon_pod(cluster: Cluster, name: str) -> dict:
    """The pod of the DaemonSet on a node; {} while it is replaced."""
    items = cluster.get("pods", *NAMESPACE, "--field-selector", f"spec.nodeName={name}")["items"]
    return next((one for one in items if "deletionTimestamp" not in one["metadata"]), {})


def test_a_missing_right_is_named(cluster: Cluster, web: list[Pod], friend: Pod, foe: Pod) -> None:
    """By the readiness of a daemon that starts without it; what was in force before stays so."""
    node = cluster.nodes["a"]
    rules = cluster.api.request("GET", CLUSTER_ROLE)["rules"]
    less = [one for one in rules if "networkpolicies" not in one["resources"]]
    assert len(less) == len(rules) - 1
    cluster.api.request("PATCH", CLUSTER_ROLE, {"rules": less}, kind=MERGE)
    try:
        cluster.kubectl("delete", "pod", *NAMESPACE, daemon_pod(cluster, "a")["metadata"]["name"], "--timeout=90s")
        wanted = 'must allow to list and watch "networkpolicies" of the API group "networking.k8s.io"'
        named = wait_until(lambda: wanted in "".join(page(node, "readyz").get("problems", ())), timeout=90)
        assert named, page(node, "readyz")
        unready = wait_until(lambda: page(node, "readyz").get("reason") == "PoliciesNotInForce", timeout=30)
        assert unready, page(node, "readyz")
        assert not page(node, "readyz")["ready"]
        assert_in_force(web, friend, foe)
    finally:
        cluster.api.request("PATCH", CLUSTER_ROLE, {"rules": rules}, kind=MERGE)
    wait_for_daemons(cluster)
    await_force(cluster)
    assert page(node, "readyz")["problems"] == []
    assert_in_force(web, friend, foe)


def test_an_upgrade_lets_nothing_pass(cluster: Cluster, web: list[Pod], friend: Pod, foe: Pod) -> None:
    """While the daemons are replaced, there and back, the foe never reaches a pod, also one that starts meanwhile."""
    cluster.on_all(lambda node: node.run(["ctr", "-n", "k8s.io", "images", "tag", "--force", IMAGE, NEWER]))
    first, last = web[0], web[-1]
    subnets = [cluster.pod_cidrs()[pod.node.name][0] for pod in (first, last)]
    with (
        streaming(friend.host, last.host, last.address(4)) as stream,
        hammering(foe.host, subnets[0], UDP) as one,
        hammering(foe.host, subnets[1], UDP) as other,
    ):
        cluster.kubectl("set", "image", *NAMESPACE, DAEMON_SET, *(f"{name}={NEWER}" for name in CONTAINERS))
        for replicas in (6, 3):
            cluster.kubectl("scale", "deployment/web", f"--replicas={replicas}")
            cluster.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
            addresses = {pod.address(4) for pod in pods(cluster, "web")}
            assert not addresses & (one.reached | other.reached)
        wait_for_daemons(cluster)
        cluster.kubectl("rollout", "undo", *NAMESPACE, DAEMON_SET)
        wait_for_daemons(cluster)
    print(one.rounds, other.rounds, stream)
    assert min(one.rounds, other.rounds) > 100
    assert stream.words > 100
    assert not {pod.address(4) for pod in web} & (one.reached | other.reached)


def restart(cluster: Cluster) -> None:
    """Replace the daemons, as after a change of their configuration."""
    cluster.kubectl("rollout", "restart", *NAMESPACE, DAEMON_SET)
    wait_for_daemons(cluster)


def test_policies_that_are_switched_off_leave_nothing(cluster: Cluster, friend: Pod, foe: Pod) -> None:
    """No table and no key of the configuration for runtimes; and switched on, they are in force for running pods."""
    put_policies(cluster.api, [policy("default", "deny", subject=labels(app="friend"), types=BOTH)])
    await_force(cluster)
    assert not is_reached(foe.host, friend.address(4))
    install(cluster, SWITCHED_OFF)
    restart(cluster)
    for node in cluster.nodes.values():
        assert node.run(TABLE, check=False).returncode != 0
        assert "policyWait" not in node.path(CONFLIST).read_text()
    assert is_reached(foe.host, friend.address(4))
    (late,) = run(cluster, servers("late", replicas=1, node="b"))
    assert is_reached(late.host, friend.address(4))
    install(cluster)
    restart(cluster)
    await_force(cluster)
    assert wait_until(lambda: not is_reached(foe.host, friend.address(4)), timeout=10)
    assert not is_reached(late.host, friend.address(6))
    remove(cluster, "deployment/late")

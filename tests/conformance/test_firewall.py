"""`firewall` after `bridge`: pods' traffic passes on a node that drops, policies apply, and DEL removes the rules."""

from collections.abc import Mapping

import pytest

from tests.conformance.support import DUAL, Refused, addresses, network
from tests.netns.cni import CNI, with_prev
from tests.netns.node import OUTSIDE_V4, OUTSIDE_V6, Host, Node, Pod, ask


def walled(version: str = "1.1.0", **keys: object) -> dict:
    """The plugin's configuration."""
    return {"cniVersion": version, "name": "net", "type": "firewall", **keys}


def connected(cni: CNI, pod: Pod, version: str = "1.1.0") -> dict:
    """The result of `bridge` for the pod, dual stack, once its gateway replies."""
    result = cni.add(network(DUAL, version=version), pod)
    assert pod.reaches("fd00:1::1", timeout=15)
    return result


@pytest.fixture
def outside(node: Node) -> Pod:
    """A host outside the node."""
    return node.outside()


@pytest.fixture
def dropping(node: Node) -> Node:
    """A node that does not forward by default, as Docker configures it."""
    for program in ("iptables", "ip6tables"):
        node.run([program, "-P", "FORWARD", "DROP"])
    return node


def talks(client: Host, server: Host, address: str) -> bool:
    """Whether the client gets a reply from the server."""
    try:
        ask(client, server, address, 80, "tcp")
    except (TimeoutError, ConnectionError):
        return False
    return True


def rules_of(node: Node, address: str) -> list[str]:
    """The iptables rules that contain an address."""
    program = "ip6tables" if ":" in address else "iptables"
    return [line for line in node.run([program, "-S"]).stdout.splitlines() if f" {address}/" in line]


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
def test_the_result_is_passed_on(cni: CNI, pod: Pod, version: str) -> None:
    """The result is prevResult, unchanged."""
    result = connected(cni, pod, version)
    assert cni.add(with_prev(walled(version), result), pod) == result


def test_without_prev_result_add_is_an_error(cni: CNI, pod: Pod, refused: Refused) -> None:
    """A chained plugin without prevResult has no pod and returns an error."""
    with refused():
        cni.add(walled(), pod)


@pytest.mark.parametrize("backend", ["", "iptables"])
def test_a_dropping_node_lets_pods_through(cni: CNI, dropping: Node, pod: Pod, outside: Pod, backend: str) -> None:
    """The pod reaches outside hosts, which cannot open connections to the pod, in both families."""
    result = cni.add(with_prev(walled(backend=backend), connected(cni, pod)), pod)
    assert talks(pod, outside, OUTSIDE_V4)
    assert talks(pod, outside, OUTSIDE_V6)
    assert not talks(outside, pod, addresses(result)[0])
    cni.check(walled(backend=backend), pod, result)


def test_the_administrators_chain_comes_first(cni: CNI, dropping: Node, pod: Pod, outside: Pod) -> None:
    """CNI-ADMIN exists, and what it drops is dropped."""
    cni.add(with_prev(walled(), connected(cni, pod)), pod)
    dropping.run(["iptables", "-A", "CNI-ADMIN", "-j", "DROP"])
    assert not talks(pod, outside, OUTSIDE_V4)


def test_bridges_are_kept_apart(cni: CNI, pod: Pod, other: Pod) -> None:
    """The policy same-bridge drops traffic between bridges."""
    far = {**network(DUAL, bridge="br9"), "name": "far"}
    far["ipam"] = {"type": "host-local", "subnet": "10.9.2.0/24"}
    there = cni.add(far, other)
    here = connected(cni, pod)
    cni.add(with_prev(walled(ingressPolicy="same-bridge"), here), pod)
    cni.add(with_prev({**walled(ingressPolicy="same-bridge"), "name": "far"}, there), other)
    assert not talks(pod, other, addresses(there)[0])
    assert not talks(other, pod, addresses(here)[0])
    assert pod.reaches("10.1.2.1")


def test_an_unknown_policy_is_refused_before_any_work(cni: CNI, node: Node, pod: Pod, refused: Refused) -> None:
    """An unknown policy is an error and leaves nothing behind."""
    prev = connected(cni, pod)
    before = node.ruleset()
    with refused():
        cni.add(with_prev(walled(ingressPolicy="zz"), prev), pod)
    assert node.ruleset() == before


@pytest.mark.parametrize("broken", ["nothing", "no prevResult", "no namespace", "unknown policy"])
def test_del_leaves_nothing(cni: CNI, dropping: Node, pod: Pod, other: Pod, broken: str) -> None:
    """DEL removes the pod's rules and keeps another pod's. A repeated DEL succeeds."""
    kept = cni.add(with_prev(walled(), connected(cni, other)), other)
    prev: Mapping | None = cni.add(with_prev(walled(), connected(cni, pod)), pod)
    v4, v6 = addresses(prev)
    conf, variables = walled(), {}
    match broken:
        case "no prevResult":
            prev = None
        case "no namespace":
            variables = {"netns": None}
        case "unknown policy":
            conf = walled(ingressPolicy="zz")
    for _ in range(2):
        cni.delete(conf, pod, prev, **variables)
    assert rules_of(dropping, v4) == rules_of(dropping, v6) == []
    cni.check(walled(), other, kept)


def test_a_policy_goes_with_the_last_pod(cni: CNI, node: Node, pod: Pod) -> None:
    """After the last DEL no rule names the bridge."""
    result = cni.add(with_prev(walled(ingressPolicy="isolated"), connected(cni, pod)), pod)
    assert "br0" in node.ruleset()
    cni.delete(walled(ingressPolicy="isolated"), pod, result)
    assert "br0" not in node.ruleset()


DAMAGES = {
    "the pod's rules removed": "iptables -F CNI-FORWARD",
    "the way in removed": "iptables -F FORWARD",
    "policy removed": "nft flush chain inet slash24_firewall forward 2>/dev/null || iptables -F CNI-ISOLATION-STAGE-1",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_check_fails_when(cni: CNI, dropping: Node, pod: Pod, damage: str, refused: Refused) -> None:
    """CHECK passes after ADD, and fails when something is missing."""
    conf = walled(ingressPolicy="same-bridge")
    result = cni.add(with_prev(conf, connected(cni, pod)), pod)
    cni.check(conf, pod, result)
    dropping.run(["sh", "-ec", DAMAGES[damage]])
    with refused():
        cni.check(conf, pod, result)


def test_gc_removes_what_is_stale(cni: CNI, dropping: Node, pod: Pod, other: Pod) -> None:
    """GC removes the rules of an attachment that is not on the list and keeps the others."""
    kept = cni.add(with_prev(walled(), connected(cni, other)), other)
    stale = cni.add(with_prev(walled(), connected(cni, pod)), pod)
    pod.vanish()
    cni.gc(walled(), other)
    assert rules_of(dropping, addresses(stale)[0]) == []
    cni.check(walled(), other, kept)


def test_status(cni: CNI) -> None:
    """STATUS succeeds with empty output when an ADD would succeed."""
    cni.status(walled())

"""Many concurrent calls, as on a node that starts (spec section 3, "Lifecycle & Ordering")."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.support import DUAL, addresses, host_local, leases, mentions, network, on_bridge
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node, Pod

MANY = 20


@pytest.mark.parametrize("masquerade", [False, True], ids=["plain", "ipMasq"])
def test_many_pods_at_once(cni: CNI, node: Node, masquerade: bool) -> None:
    """Twenty concurrent first ADDs succeed, each pod works with addresses of its own, and twenty DELs leave nothing."""
    pods = [node.pod(f"pod{i}") for i in range(MANY)]
    conf = network(DUAL, ipMasq=masquerade)
    with ThreadPoolExecutor(MANY) as threads:
        results = list(threads.map(lambda pod: cni.add(conf, pod), pods))
        given = [address for result in results for address in addresses(result)]
        assert len(set(given)) == 2 * MANY == len(leases(node))
        for pod, result in zip(pods, results, strict=True):
            assert pod.addresses("eth0") == {ip["address"] for ip in result["ips"]}
        assert pods[0].reaches(addresses(results[-1])[0])
        list(threads.map(lambda pair: cni.delete(conf, *pair), zip(pods, results, strict=True)))
    assert leases(node) == {}
    assert on_bridge(node) == set()
    assert mentions(node, "10.1.2.", "fd00:1::") == []


def test_last_address_is_given_once(ipam: CNI, node: Node) -> None:
    """Of ten concurrent ADDs for five free addresses five succeed and five are refused."""
    conf = network(host_local({"subnet": "10.1.2.0/29"}))

    def attempt(index: int) -> str | None:
        try:
            return addresses(ipam.add(conf, Pod(node, f"pod{index}")))[0]
        except CNIFailure:
            return None

    with ThreadPoolExecutor(10) as threads:
        given = list(threads.map(attempt, range(10)))
    assert sorted(address for address in given if address) == [f"10.1.2.{i}" for i in range(2, 7)]
    assert set(leases(node)) == {f"10.1.2.{i}" for i in range(2, 7)}


def test_adds_and_dels_at_once(ipam: CNI, node: Node) -> None:
    """With concurrent ADDs and DELs no address is leased twice, and no DEL releases another pod's address."""
    conf = network()

    def come(name: str) -> str:
        return addresses(ipam.add(conf, Pod(node, name)))[0]

    for index in range(10):
        come(f"old{index}")
    with ThreadPoolExecutor(20) as threads:
        going = [threads.submit(ipam.delete, conf, Pod(node, f"old{i}")) for i in range(10)]
        coming = list(threads.map(come, [f"new{i}" for i in range(10)]))
        assert [call.result() for call in going] == [None] * 10
    assert len(set(coming)) == 10
    assert {owner.split("\r")[0] for owner in leases(node).values()} == {f"new{i}" for i in range(10)}

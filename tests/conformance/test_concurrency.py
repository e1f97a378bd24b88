"""Many calls at once, as a node that starts makes them (spec section 3: plugins must handle being executed concurrently)."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.support import DUAL, addresses, host_local, leases, mentions, network, on_bridge
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node

MANY = 20


@pytest.mark.parametrize("masquerade", [False, True], ids=["plain", "ipMasq"])
def test_many_pods_at_once(cni: CNI, node: Node, masquerade: bool) -> None:
    """Twenty first ADDs at once all succeed with an address each of their own, all work, and twenty DELs leave nothing."""
    pods = [node.pod(f"pod{i}") for i in range(MANY)]
    conf = network(DUAL, ipMasq=masquerade)
    with ThreadPoolExecutor(MANY) as threads:
        results = list(threads.map(lambda pod: cni.add(conf, pod), pods))
        given = [address for result in results for address in addresses(result)]
        assert len(set(given)) == 2 * MANY == len(leases(node))
        assert all(pod.addresses("eth0") == {ip["address"] for ip in r["ips"]} for pod, r in zip(pods, results, strict=True))
        assert pods[0].reaches(addresses(results[-1])[0])
        list(threads.map(lambda pair: cni.delete(conf, *pair), zip(pods, results, strict=True)))
    assert leases(node) == {}
    assert on_bridge(node) == set()
    assert mentions(node, "10.1.2.", "fd00:1::") == []


def test_last_address_is_given_once(ipam: CNI, node: Node) -> None:
    """Of ten ADDs at once for five free addresses five succeed and five are refused."""
    conf = network(host_local({"subnet": "10.1.2.0/29"}))

    def attempt(index: int) -> str | None:
        try:
            return addresses(ipam.call("ADD", conf, containerid=f"pod{index}", netns="/run/netns/any", ifname="eth0"))[0]
        except CNIFailure:
            return None

    with ThreadPoolExecutor(10) as threads:
        given = list(threads.map(attempt, range(10)))
    assert sorted(address for address in given if address) == [f"10.1.2.{i}" for i in range(2, 7)]
    assert set(leases(node)) == {f"10.1.2.{i}" for i in range(2, 7)}


def test_adds_and_dels_at_once(ipam: CNI, node: Node) -> None:
    """While some pods go others come: no address is held twice, and no going pod takes another's."""
    conf = network()

    def come(name: str) -> str:
        return addresses(ipam.call("ADD", conf, containerid=name, netns="/run/netns/any", ifname="eth0"))[0]

    for index in range(10):
        come(f"old{index}")
    with ThreadPoolExecutor(20) as threads:
        going = [threads.submit(ipam.call, "DEL", conf, containerid=f"old{i}", ifname="eth0") for i in range(10)]
        coming = list(threads.map(come, [f"new{i}" for i in range(10)]))
        assert [call.result() for call in going] == [None] * 10
    assert len(set(coming)) == 10
    assert {owner.split("\r")[0] for owner in leases(node).values()} == {f"new{i}" for i in range(10)}

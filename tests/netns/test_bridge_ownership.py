"""Links that `bridge` creates are marked with their owner, so DEL and GC delete theirs, and no others."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from linux.ownership import group_of
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node, wait_until

CONF = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "b0"}
RANGES = [[{"subnet": "10.7.0.0/24"}], [{"subnet": "fd00:7::/64"}]]
IPAM = {"type": "host-local", "dataDir": "/run/leases", "ranges": RANGES}
ROUTED = {**CONF, "isGateway": True, "ipam": IPAM}


def host_end(result: dict) -> str:
    """The name of the host veth."""
    return result["interfaces"][1]["name"]


def test_the_host_veth_names_its_owner(node: Node, cni: CNI) -> None:
    """The alias of the host veth has the network, container ID and interface name."""
    result = cni.add(CONF, node.pod("pod"))
    assert node.links()[host_end(result)]["ifalias"] == "v1:net:pod:eth0"


def test_a_del_after_a_refused_add_keeps_the_existing_interface(node: Node, cni: CNI) -> None:
    """An ADD fails because the pod has an interface of that name; the DEL that follows keeps that interface."""
    pod = node.pod("pod")
    result = cni.add(CONF, pod)
    other = {**CONF, "name": "other", "bridge": "b1"}
    with pytest.raises(CNIFailure, match="has an interface of that name"):
        cni.add(other, pod)
    cni.delete(other, pod)
    cni.check(CONF, pod, result)


def test_del_finds_the_link_of_a_namespace_whose_path_is_lost(node: Node, cni: CNI) -> None:
    """The netns's path is deleted, but a process keeps it alive: DEL deletes the pair by its host veth."""
    pod = node.pod("pod")
    survivor = pod.start(["sleep", "60"])
    try:
        result = cni.add(ROUTED, pod)
        pod.vanish()
        assert host_end(result) in node.links()
        cni.delete(ROUTED, pod, result)
        assert host_end(result) not in node.links()
    finally:
        survivor.kill()
        survivor.wait()


@pytest.mark.parametrize("gateway", [False, True])
def test_the_bridges_mac_does_not_change_as_pods_come_and_go(node: Node, cni: CNI, *, gateway: bool) -> None:
    """A bridge keeps its MAC as ports are added and deleted, with a gateway address or without."""
    conf = ROUTED if gateway else CONF
    pods = [node.pod(f"pod{number}") for number in range(4)]
    macs = set()
    for pod in pods:
        macs.add(cni.add(conf, pod)["interfaces"][0]["mac"])
        macs.add(node.links()["b0"]["address"])
    for pod in pods:
        cni.delete(conf, pod)
        macs.add(node.links()["b0"]["address"])
    assert len(macs) == 1


def test_two_range_sets_of_one_family_have_both_gateways(node: Node, cni: CNI) -> None:
    """For a pod with two IPv4 addresses the bridge has both gateways, CHECK passes, and the pod reaches both."""
    sets = [[{"subnet": "10.7.0.0/24"}], [{"subnet": "10.8.0.0/24"}]]
    conf = {**ROUTED, "ipam": {**IPAM, "ranges": sets}}
    pod = node.pod("pod")
    result = cni.add(conf, pod)
    assert node.addresses("b0") == {"10.7.0.1/24", "10.8.0.1/24"}
    cni.check(conf, pod, result)
    assert pod.reaches("10.7.0.1")
    assert pod.reaches("10.8.0.1")


def test_del_succeeds_with_an_invalid_configuration(node: Node, cni: CNI) -> None:
    """The configuration became invalid after the ADD: DEL still deletes link, leases, masquerade and MAC filter."""
    conf = {**ROUTED, "ipMasq": True, "macspoofchk": True}
    pod = node.pod("pod")
    result = cni.add(conf, pod)
    garbage = {"mtu": "big", "vlan": -1, "ipMasq": "yes", "macspoofchk": 1, "ipam": {**IPAM, "ranges": "all"}}
    spoilt = {**conf, **garbage}
    cni.delete(spoilt, pod, result)
    assert host_end(result) not in node.links()
    assert "v1:" not in node.ruleset()
    assert not [name for name in os.listdir(node.path("/run/leases/net")) if name.startswith(("10.", "fd"))]


def test_failing_adds_do_not_delete_the_bridge_under_concurrent_adds(node: Node, cni: CNI) -> None:
    """Concurrent failing and succeeding ADDs on a node without a bridge: pods of those that succeed are connected."""
    bad = {**ROUTED, "ipam": {**IPAM, "routes": [{"dst": "198.51.100.0/24", "gw": "203.0.113.1"}]}}
    for attempt in range(3):
        pods = [node.pod(f"pod{attempt}-{number}") for number in range(10)]

        def add(number: int, pods: list = pods) -> dict | None:
            with suppress(CNIFailure):
                return cni.add(bad if number % 2 else ROUTED, pods[number])
            return None

        with ThreadPoolExecutor(10) as pool:
            results = list(pool.map(add, range(10)))
        assert [result is not None for result in results] == [True, False] * 5
        for pod, result in zip(pods, results, strict=True):
            if result:
                cni.check(ROUTED, pod, result)
                assert pod.reaches("10.7.0.1")
                cni.delete(ROUTED, pod, result)
        node.run(["ip", "link", "del", "b0"])


def test_gc_deletes_a_link_that_has_no_alias_yet(node: Node, cni: CNI) -> None:
    """An ADD was killed after it created the pair and before it set the alias: the link's group identifies the network.

    Links of other networks and of no network are kept.
    """
    for name, network in (("vethours", "net"), ("vethother", "other")):
        node.run(["ip", "link", "add", name, "group", str(group_of(network)), "type", "veth"])
    node.run(["ip", "link", "add", "vethnobody", "type", "veth"])
    cni.gc(ROUTED)
    assert "vethours" not in node.links()
    assert {"vethother", "vethnobody"} <= set(node.links())


def test_gc_deletes_the_link_of_a_stale_pod(node: Node, cni: CNI) -> None:
    """GC deletes the host veth of a container that is not a valid attachment, and keeps that of a valid one."""
    kept, stale = node.pod("kept"), node.pod("stale")
    results = [cni.add(ROUTED, pod) for pod in (kept, stale)]
    cni.gc(ROUTED, kept)
    assert wait_until(lambda: host_end(results[1]) not in node.links())
    cni.check(ROUTED, kept, results[0])

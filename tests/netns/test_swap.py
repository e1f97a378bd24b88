"""A node switches from the reference suite to ours and back under running pods: each handles what the other made."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.conformance.support import (
    DUAL,
    V4,
    addresses,
    container_interface,
    host_local,
    host_veth,
    layer2,
    leases,
    mentions,
    network,
    on_bridge,
)
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node, Pod, wait_until

SETUPS = {
    "plain": network(DUAL),
    "layer 2": layer2(),
    "iptables masquerade": network(DUAL, ipMasq=True, ipMasqBackend="iptables"),
    "nftables masquerade": network(DUAL, ipMasq=True, ipMasqBackend="nftables"),
    "anti-spoofing": network(DUAL, macspoofchk=True),
    "everything": network(host_local(V4, routes=[{"dst": "10.9.0.0/16"}]), ipMasq=True, macspoofchk=True,
                          hairpinMode=True, promiscMode=False, mtu=1400, dns={"nameservers": ["10.1.2.53"]}),
}  # fmt: skip
every_setup = pytest.mark.parametrize("setup", SETUPS)


def nothing_left(node: Node, mac: str) -> None:
    """Assert that no bridge port, lease or rule of the pod is left."""
    assert wait_until(
        lambda: on_bridge(node) == set()
    )  # the kernel deletes links of a deleted namespace asynchronously
    assert leases(node) == {}
    assert mentions(node, "poda", "10.1.2.2", "fd00:1::2", mac) == []


@every_setup
def test_reference_add_our_check(cni: CNI, reference: CNI, node: Node, setup: str) -> None:
    """Our CHECK passes on a pod that the reference plugin added."""
    conf, pod = SETUPS[setup], node.pod("poda")
    cni.check(conf, pod, reference.add(conf, pod))


@pytest.mark.parametrize("setup", ["iptables masquerade", "nftables masquerade", "anti-spoofing", "everything"])
def test_our_check_reports_missing_rules_of_the_reference(cni: CNI, reference: CNI, node: Node, setup: str) -> None:
    """If the reference's rules for its pod are deleted, our CHECK fails; rules of another pod do not count."""
    conf, pod = SETUPS[setup], node.pod("poda")
    result = reference.add(conf, pod)
    node.run(["nft", "flush", "ruleset"])
    reference.add(conf, node.pod("podb"))
    with pytest.raises(CNIFailure, match=r"10\.1\.2\.2 is not masqueraded|link veth\w+ is not filtered"):
        cni.check(conf, pod, result)


@every_setup
def test_reference_add_our_del(cni: CNI, reference: CNI, node: Node, setup: str) -> None:
    """Our DEL of a pod that the reference plugin added leaves nothing behind, not even the reference's rules."""
    conf, pod = SETUPS[setup], node.pod("poda")
    result = reference.add(conf, pod)
    cni.delete(conf, pod, result)
    nothing_left(node, container_interface(result, pod)["mac"])
    assert "eth0" not in pod.links()


@every_setup
def test_reference_add_our_del_without_namespace(cni: CNI, reference: CNI, node: Node, setup: str) -> None:
    """The same after the pod's namespace is deleted, when only the result still has the addresses."""
    conf, pod = SETUPS[setup], node.pod("poda")
    result = reference.add(conf, pod)
    pod.vanish()
    cni.delete(conf, pod, result)
    nothing_left(node, container_interface(result, pod)["mac"])


@every_setup
def test_reference_add_our_gc(cni: CNI, reference: CNI, node: Node, setup: str) -> None:
    """Our GC releases the leases of stale pods that the reference plugin added, and leaves a valid pod intact."""
    conf, pod, valid = SETUPS[setup], node.pod("poda"), node.pod("podb")
    reference.add(conf, pod)
    kept = reference.add(conf, valid)
    pod.vanish()
    cni.gc(conf, valid)
    assert not [owner for owner in leases(node).values() if owner.startswith("poda")]
    if setup == "layer 2":  # the reference's bridge without addresses changes its MAC, so no CHECK passes
        assert host_veth(kept) in on_bridge(node)
    else:
        reference.check(conf, valid, kept)


@every_setup
def test_our_add_reference_check_and_del(cni: CNI, reference: CNI, node: Node, setup: str) -> None:
    """The reference plugin's CHECK passes on our pod, and its DEL removes link and leases."""
    conf, pod = SETUPS[setup], node.pod("poda")
    result = cni.add(conf, pod)
    if setup != "layer 2":  # on layer 2 its CHECK requires an IPAM plugin
        reference.check(conf, pod, result)
    reference.delete(conf, pod, result)
    assert on_bridge(node) == set()
    assert leases(node) == {}
    assert "eth0" not in pod.links()


@pytest.mark.parametrize("setup", ["iptables masquerade", "anti-spoofing"])
def test_gc_deletes_our_rules_after_the_references_del(cni: CNI, reference: CNI, node: Node, setup: str) -> None:
    """The reference plugin's DEL does not know them."""
    conf, pod = SETUPS[setup], node.pod("poda")
    result = cni.add(conf, pod)
    reference.delete(conf, pod, result)
    cni.gc(conf)
    nothing_left(node, container_interface(result, pod)["mac"])


def test_our_del_leaves_the_containers_other_interface_masqueraded(cni: CNI, reference: CNI, node: Node) -> None:
    """In the reference one chain serves both interfaces of a container; our DEL of one leaves the other masqueraded."""
    conf, pod = network(isDefaultGateway=None, isGateway=True, ipMasq=True, ipMasqBackend="iptables"), node.pod("poda")
    first = reference.add(conf, pod)
    reference.add(conf, pod, ifname="eth1")
    cni.delete(conf, pod, first)
    assert mentions(node, "10.1.2.2") == []
    assert any("jump CNI-" in line for line in mentions(node, "10.1.2.3"))
    cni.delete(conf, pod, None, ifname="eth1")
    assert mentions(node, "10.1.2.", "CNI-") == []


def test_pods_of_both_suites_reach_each_other(cni: CNI, reference: CNI, node: Node) -> None:
    """They share a bridge, and no ADD disturbs the other suite's pods."""
    one, two, three = (node.pod(name) for name in ("one", "two", "three"))
    for plugins, pod in ((reference, one), (cni, two), (reference, three)):
        plugins.add(network(DUAL, ipMasq=True), pod)
    for pod, address in ((one, "10.1.2.3"), (two, "10.1.2.4"), (three, "10.1.2.2"), (three, "fd00:1::3")):
        assert pod.reaches(address)


def test_both_suites_share_one_lease_folder(cni: CNI, reference: CNI, node: Node) -> None:
    """In turn, each continues where the other stopped, refuses what the other allocated, and releases its leases."""
    ours, theirs = replace(cni, plugin="host-local"), replace(reference, plugin="host-local")
    turns = [(ours, theirs)[i % 2] for i in range(6)]
    given = [addresses(turn.add(network(DUAL), Pod(node, f"pod{i}"))) for i, turn in enumerate(turns)]
    assert given == [[f"10.1.2.{i}", f"fd00:1::{i}"] for i in range(2, 8)]
    for turn in (ours, theirs):
        for taken in ("10.1.2.2", "10.1.2.3"):
            with pytest.raises(CNIFailure, match=f"requested IP address {taken} is not available"):
                turn.add(network() | {"runtimeConfig": {"ips": [taken]}}, Pod(node, "new"))
    for i, turn in enumerate(reversed(turns)):
        turn.check(
            network(DUAL), Pod(node, f"pod{i}"), {"cniVersion": "1.1.0", "ips": [{"address": f"10.1.2.{i + 2}/24"}]}
        )
        turn.delete(network(DUAL), Pod(node, f"pod{i}"))
    assert leases(node) == {}


def test_both_suites_allocate_concurrently(cni: CNI, reference: CNI, node: Node) -> None:
    """Twenty ADDs, half by each, allocate twenty addresses; as many DELs, each by the other suite, release them all."""
    ours, theirs = replace(cni, plugin="host-local"), replace(reference, plugin="host-local")
    pods = [Pod(node, f"pod{i}") for i in range(20)]
    with ThreadPoolExecutor(20) as threads:
        given = list(threads.map(lambda i: addresses((ours, theirs)[i % 2].add(network(), pods[i]))[0], range(20)))
        assert len(set(given)) == 20 == len(leases(node))
        list(threads.map(lambda i: (theirs, ours)[i % 2].delete(network(), pods[i]), range(20)))
    assert leases(node) == {}

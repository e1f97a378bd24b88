"""The configuration was changed under running pods: what they have goes with them, and what they use stays."""

import pytest

from tests.conformance.support import DUAL, GATEWAY_V6, V6, host_local, mentions, network
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node

WITH_RULES = network(DUAL, ipMasq=True, macspoofchk=True)
SWITCHED_OFF = {"absent": network(DUAL), "false": network(DUAL, ipMasq=False, macspoofchk=False)}
switched_off = pytest.mark.parametrize("later", SWITCHED_OFF.values(), ids=SWITCHED_OFF)


@switched_off
@pytest.mark.parametrize("gone", [False, True])
def test_del_removes_rules_that_are_configured_no_more(cni: CNI, node: Node, later: dict, gone: bool) -> None:
    """ipMasq and macspoofchk are switched off after the ADD: the next pod with the address must not be masqueraded."""
    pod = node.pod("poda")
    result = cni.add(WITH_RULES, pod)
    assert mentions(node, "poda")
    if gone:
        pod.vanish()
    cni.delete(later, pod, result)
    assert mentions(node, "poda", "10.1.2.2", "fd00:1::2") == []


@switched_off
def test_gc_removes_rules_that_are_configured_no_more(cni: CNI, node: Node, later: dict) -> None:
    """The rules of stale pods go; those of a valid pod, which was added when they were configured, stay."""
    stale, valid = node.pod("stale"), node.pod("valid")
    for pod in (stale, valid):
        cni.add(WITH_RULES, pod)
    cni.gc(later, valid)
    assert mentions(node, "stale") == []
    assert mentions(node, "valid")


def test_an_ipv6_subnet_of_another_length_is_a_conflict(cni: CNI, node: Node) -> None:
    """The gateway is there in the old subnet: the ADD says so, or replaces it if it may, and CHECK agrees."""
    old, new = host_local(V6), host_local({"subnet": "fd00:1::/80"})
    cni.add(network(old), node.pod("old"))
    pod = node.pod("poda")
    with pytest.raises(CNIFailure, match="already has an IP address different from fd00:1::1/80"):
        cni.add(network(new), pod)
    result = cni.add(network(new, forceAddress=True), pod)
    assert node.addresses("br0") == {f"{GATEWAY_V6}/80"}
    cni.check(network(new), pod, result)


def test_two_lengths_for_one_ipv6_address_are_refused(cni: CNI, node: Node) -> None:
    """The kernel would pass over the second, and no CHECK would find it."""
    pod = node.pod("poda")
    addresses = [{"address": "fd00:1::5/64"}, {"address": "fd00:1::5/80"}]
    conf = network({"type": "static", "addresses": addresses}, isDefaultGateway=None)
    with pytest.raises(CNIFailure, match="fd00:1::5/64 and fd00:1::5/80"):
        cni.add(conf, pod)
    assert set(pod.links()) == {"lo"}


@pytest.mark.parametrize(("first", "then"), [("/64", "/80"), ("/80", "/64")])
def test_kubenets_ipv6_subnet_changes_its_length(cni: CNI, node: Node, first: str, then: str) -> None:
    """Pods of either subnet are reached, and CHECK passes for both."""
    pods, results, confs = [node.pod("old"), node.pod("new")], [], []
    for length in (first, then):
        ipam = {"type": "host-local", "ranges": [[{"subnet": f"fd00:1::{length}"}]]}
        confs.append(
            {"cniVersion": "1.1.0", "name": "net", "type": "kubenet", "podCIDR": f"fd00:1::{length}", "ipam": ipam}
        )
        results.append(cni.add(confs[-1], pods[len(results)]))
    for pod, result, conf in zip(pods, results, confs, strict=True):
        cni.check(conf, pod, result)
        assert node.reaches(result["ips"][0]["address"].partition("/")[0])
    assert pods[0].reaches(results[1]["ips"][0]["address"].partition("/")[0])


def test_the_tunnels_ipv6_address_is_given_the_right_length(cni: CNI, node: Node) -> None:
    """The device has its address with another prefix length: it is corrected, and CHECK passes."""
    node.outside()
    node.run(["ip", "-6", "route", "add", "default", "via", "2001:db8:1::2"])
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "vxlan", "podCIDR": "fd00:1::/64"}
    pods = [node.pod("poda"), node.pod("podb")]
    cni.add(conf, pods[0])
    device = "slash24.1"
    for words in (("del", "fd00:1::/128"), ("add", "fd00:1::/64", "nodad")):
        node.run(["ip", "addr", *words, "dev", device])
    result = cni.add(conf, pods[1])
    assert node.addresses(device) == {"fd00:1::/128"}
    cni.check(conf, pods[1], result)

"""A configuration changed under running pods: DEL and GC delete what pods were given, and pods stay connected."""

import pytest

from tests.conformance.support import DUAL, GATEWAY_V6, V6, host_local, mentions, network
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node

WITH_RULES = network(DUAL, ipMasq=True, macspoofchk=True)
SWITCHED_OFF = {"absent": network(DUAL), "false": network(DUAL, ipMasq=False, macspoofchk=False)}
switched_off = pytest.mark.parametrize("later", SWITCHED_OFF.values(), ids=SWITCHED_OFF)


@switched_off
@pytest.mark.parametrize("gone", [False, True])
def test_del_deletes_rules_that_are_no_longer_configured(cni: CNI, node: Node, later: dict, gone: bool) -> None:
    """DEL deletes the rules of ipMasq and macspoofchk, switched off since the ADD: no later pod inherits them."""
    pod = node.pod("poda")
    result = cni.add(WITH_RULES, pod)
    assert mentions(node, "poda")
    if gone:
        pod.vanish()
    cni.delete(later, pod, result)
    assert mentions(node, "poda", "10.1.2.2", "fd00:1::2") == []


@switched_off
def test_gc_deletes_rules_that_are_no_longer_configured(cni: CNI, node: Node, later: dict) -> None:
    """GC deletes the rules of a stale pod and keeps those of a valid pod, which was added with them configured."""
    stale, valid = node.pod("stale"), node.pod("valid")
    for pod in (stale, valid):
        cni.add(WITH_RULES, pod)
    cni.gc(later, valid)
    assert mentions(node, "stale") == []
    assert mentions(node, "valid")


def test_a_changed_ipv6_prefix_length_is_a_conflict(cni: CNI, node: Node) -> None:
    """The bridge has the gateway with the old length: ADD fails, or with forceAddress replaces it, and CHECK passes."""
    old, new = host_local(V6), host_local({"subnet": "fd00:1::/80"})
    cni.add(network(old), node.pod("old"))
    pod = node.pod("poda")
    with pytest.raises(CNIFailure, match="already has an IP address different from fd00:1::1/80"):
        cni.add(network(new), pod)
    result = cni.add(network(new, forceAddress=True), pod)
    assert node.addresses("br0") == {f"{GATEWAY_V6}/80"}
    cni.check(network(new), pod, result)


def test_two_prefix_lengths_for_one_ipv6_address_are_refused(cni: CNI, node: Node) -> None:
    """The kernel would ignore the second prefix length, and CHECK would not find it."""
    pod = node.pod("poda")
    addresses = [{"address": "fd00:1::5/64"}, {"address": "fd00:1::5/80"}]
    conf = network({"type": "static", "addresses": addresses}, isDefaultGateway=None)
    with pytest.raises(CNIFailure, match="fd00:1::5/64 and fd00:1::5/80"):
        cni.add(conf, pod)
    assert set(pod.links()) == {"lo"}


@pytest.mark.parametrize(("first", "then"), [("/64", "/80"), ("/80", "/64")])
def test_a_changed_ipv6_prefix_length_of_kubenet(cni: CNI, node: Node, first: str, then: str) -> None:
    """Pods added before and after the change are reachable, and CHECK passes for both."""
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


def test_the_prefix_length_of_the_vtep_s_ipv6_address_is_corrected(cni: CNI, node: Node) -> None:
    """The VTEP has its address with another prefix length: the next ADD corrects it, and CHECK passes."""
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

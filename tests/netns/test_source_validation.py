"""`sourceAddressValidation`: if enabled, pods can send only from their own addresses."""

import pytest

from tests.conformance.support import DUAL, network
from tests.netns import cluster_tools
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node, Pod

CASES = {
    "bridge": network(DUAL, sourceAddressValidation=True),
    "kubenet": cluster_tools.network("kubenet", sourceAddressValidation=True),
    "vxlan": cluster_tools.network("vxlan", sourceAddressValidation=True),
}
OFF = {
    "bridge": network(DUAL),
    "kubenet": cluster_tools.network("kubenet"),
    "vxlan": cluster_tools.network("vxlan"),
}


@pytest.fixture
def pods(node: Node) -> tuple[Pod, Pod]:
    """Two namespaces for pods, on a node with a default route."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    return node.pod("poda"), node.pod("podb")


def addresses(result: dict) -> list[str]:
    """The addresses of an ADD's result, without prefix lengths."""
    return [ip["address"].partition("/")[0] for ip in result["ips"]]


def reaches_as(pod: Pod, source: str, target: str) -> bool:
    """Whether a ping from that source address of the pod is answered."""
    return pod.run(["ping", "-n", "-c1", "-W1", "-I", source, target], check=False).returncode == 0


def forge(pod: Pod) -> list[str]:
    """Add addresses of the pod's subnets that IPAM did not assign to it; return them."""
    own = next(one for one in pod.addresses("eth0") if ":" not in one)
    forged = own.rpartition(".")[0] + ".99"
    pod.run(["ip", "addr", "add", f"{forged}/24", "dev", "eth0"])
    six = next(one for one in pod.addresses("eth0") if ":" in one).partition("/")[0].rpartition(":")[0] + ":99"
    pod.run(["ip", "addr", "add", f"{six}/64", "dev", "eth0", "nodad"])
    return [forged, six]


@pytest.mark.parametrize("plugin", CASES)
def test_a_pod_can_send_only_from_its_own_addresses(cni: CNI, node: Node, pods: tuple[Pod, Pod], plugin: str) -> None:
    """From these it reaches the gateway and other pods; from addresses that it adds itself, neither."""
    pod, other = pods
    gateways = [ip["gateway"] for ip in cni.add(CASES[plugin], pod)["ips"]]
    targets = [*zip(gateways, addresses(cni.add(CASES[plugin], other)), strict=True)]
    assert all(pod.reaches(target) for pair in targets for target in pair)
    for forged, pair in zip(forge(pod), targets, strict=True):
        assert not any(reaches_as(pod, forged, target) for target in pair)


@pytest.mark.parametrize("plugin", OFF)
def test_if_disabled_a_pod_may_add_addresses(cni: CNI, node: Node, pods: tuple[Pod, Pod], plugin: str) -> None:
    """No nftables rules are made, and an address that the pod adds itself works."""
    pod, other = pods
    cni.add(OFF[plugin], pod)
    targets = addresses(cni.add(OFF[plugin], other))
    assert "slash24_source_validation" not in node.ruleset()
    assert all(reaches_as(pod, forged, target) for forged, target in zip(forge(pod), targets, strict=True))


@pytest.mark.parametrize("plugin", CASES)
def test_check_del_and_gc(cni: CNI, node: Node, pods: tuple[Pod, Pod], plugin: str) -> None:
    """CHECK reports missing elements; DEL and GC delete the pod's elements, even if the key is no longer set."""
    (pod, other), owned = pods, "v1:net:{}:eth0"
    conf = CASES[plugin]
    result = cni.add(conf, pod)
    cni.check(conf, pod, result)
    cni.add(conf, other)
    node.run(["nft", "flush", "set", "bridge", "slash24_source_validation", "sources4"])
    with pytest.raises(CNIFailure, match="is not bound to the pod's addresses"):
        cni.check(conf, pod, result)
    cni.delete(OFF[plugin], pod, result)
    assert owned.format("poda") not in node.ruleset()
    assert owned.format("podb") in node.ruleset()
    cni.gc(OFF[plugin])
    assert "elements" not in node.run(["nft", "list", "table", "bridge", "slash24_source_validation"]).stdout


def test_a_pod_without_addresses_is_not_cut_off(cni: CNI, node: Node, pods: tuple[Pod, Pod]) -> None:
    """Without an IPAM plugin there are no addresses to validate against, so no rules are made."""
    conf = network(sourceAddressValidation=True, isDefaultGateway=None) | {"ipam": {}}
    result = cni.add(conf, pods[0])
    cni.check(conf, pods[0], result)
    assert "slash24_source_validation" not in node.ruleset()

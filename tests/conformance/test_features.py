"""The keys of the bridge plugin, each tested by its effect on links and packets."""

import pytest

from tests.conformance.support import (
    DUAL,
    GATEWAY_V4,
    V4,
    V6,
    Refused,
    addresses,
    container_interface,
    host_local,
    host_veth,
    layer2,
    network,
)
from tests.netns.cni import CNI
from tests.netns.node import NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, Node, Pod, ask

MAC, OTHER = "c2:b0:57:49:47:f1", "c2:b0:57:49:47:f2"


def port_of(node: Node, result: dict) -> dict:
    """The settings of the pod's bridge port."""
    return node.links()[host_veth(result)]["linkinfo"]["info_slave_data"]


@pytest.mark.parametrize("backend", [None, "iptables", "nftables"])
def test_masquerade(cni: CNI, node: Node, pod: Pod, other: Pod, backend: str | None) -> None:
    """ipMasq: outside hosts see the node's address, other pods see the pod's own; DEL leaves no rule."""
    outside = node.outside()
    conf = network(DUAL, ipMasq=True, ipMasqBackend=backend)
    result = cni.add(conf, pod)
    cni.add(conf, other)
    assert ask(pod, outside, OUTSIDE_V4, 80, "tcp") == NODE_V4
    assert pod.reaches(OUTSIDE_V6, timeout=15)
    assert ask(pod, outside, OUTSIDE_V6, 80, "tcp") == NODE_V6
    assert ask(pod, other, "10.1.2.3", 80, "tcp") == "10.1.2.2"
    assert ask(pod, other, "fd00:1::3", 80, "tcp") == "fd00:1::2"
    assert ask(outside, pod, "10.1.2.2", 80, "tcp") == OUTSIDE_V4
    cni.delete(conf, pod, result)
    assert "10.1.2.2" not in node.ruleset()
    assert "fd00:1::2" not in node.ruleset()


def test_without_masquerade(cni: CNI, node: Node, pod: Pod) -> None:
    """Without ipMasq, outside hosts see the pod's own address."""
    outside = node.outside()
    cni.add(network(DUAL), pod)
    assert ask(pod, outside, OUTSIDE_V4, 80, "tcp") == "10.1.2.2"
    assert pod.reaches(OUTSIDE_V6, timeout=15)
    assert ask(pod, outside, OUTSIDE_V6, 80, "tcp") == "fd00:1::2"


def test_mac_spoof_check(cni: CNI, pod: Pod, other: Pod) -> None:
    """macspoofchk: frames with a source MAC other than the pod's are dropped; frames with the pod's MAC pass."""
    mac = container_interface(cni.add(network(macspoofchk=True), pod), pod)["mac"]
    cni.add(network(), other)
    assert pod.reaches("10.1.2.3")
    pod.run(["ip", "link", "set", "eth0", "address", MAC])
    assert not pod.reaches("10.1.2.3", timeout=0.5)
    pod.run(["ip", "link", "set", "eth0", "address", mac])
    assert pod.reaches("10.1.2.3")


def test_without_mac_spoof_check(cni: CNI, pod: Pod, other: Pod) -> None:
    """Without macspoofchk a pod may send from any source MAC."""
    cni.add(network(), pod)
    cni.add(network(), other)
    pod.run(["ip", "link", "set", "eth0", "address", MAC])
    assert pod.reaches("10.1.2.3")


@pytest.mark.parametrize("on", [True, False])
def test_port_isolation(cni: CNI, node: Node, pod: Pod, other: Pod, on: bool) -> None:
    """portIsolation: isolated pods reach the gateway but not each other."""
    conf = network(portIsolation=on)
    assert port_of(node, cni.add(conf, pod))["isolated"] is on
    cni.add(conf, other)
    assert pod.reaches(GATEWAY_V4)
    assert pod.reaches("10.1.2.3", timeout=0.5) is not on


@pytest.mark.parametrize("on", [True, False])
def test_hairpin_mode(cni: CNI, node: Node, pod: Pod, on: bool) -> None:
    """hairpinMode: the bridge may send frames back to the port that they came from."""
    assert port_of(node, cni.add(network(hairpinMode=on), pod))["hairpin"] is on


@pytest.mark.parametrize("on", [True, False])
def test_promiscuous_mode(cni: CNI, node: Node, pod: Pod, on: bool) -> None:
    """promiscMode: the bridge is in promiscuous mode."""
    cni.add(network(promiscMode=on), pod)
    assert ("PROMISC" in node.links()["br0"]["flags"]) is on


def test_mtu(cni: CNI, node: Node, pod: Pod) -> None:
    """mtu: the pod's interface, its host veth and the new bridge have this MTU."""
    result = cni.add(network(mtu=1342), pod)
    links = node.links()
    assert {pod.links()["eth0"]["mtu"], links[host_veth(result)]["mtu"], links["br0"]["mtu"]} == {1342}


@pytest.mark.parametrize(
    ("keys", "args"),
    [
        ({"runtimeConfig": {"mac": MAC}}, ""),
        ({"args": {"cni": {"mac": MAC}}}, ""),
        ({}, f"IgnoreUnknown=1;MAC={MAC}"),
        ({"runtimeConfig": {"mac": MAC}, "args": {"cni": {"mac": OTHER}}}, f"IgnoreUnknown=1;MAC={OTHER}"),
        ({"args": {"cni": {"mac": MAC}}}, f"IgnoreUnknown=1;MAC={OTHER}"),
    ],
    ids=["capability", "args", "CNI_ARGS", "capability wins", "args before CNI_ARGS"],
)
def test_requested_mac(cni: CNI, pod: Pod, keys: dict, args: str) -> None:
    """The pod's link has the requested hardware address, and so does the result."""
    conf = network() | keys
    result = cni.add(conf, pod, args=args)
    assert pod.links()["eth0"]["address"] == container_interface(result, pod)["mac"].lower() == MAC
    cni.check(conf, pod, result, args=args)
    cni.delete(conf, pod, result, args=args)


def test_requested_address_and_ranges(cni: CNI, pod: Pod) -> None:
    """The capabilities ips and ipRanges reach the IPAM plugin through the bridge plugin."""
    runtime = {"ips": ["10.1.9.77", "fd00:1::77"], "ipRanges": [[{"subnet": "10.1.9.0/24"}]]}
    result = cni.add(network(host_local(V6), runtimeConfig=runtime), pod)
    assert sorted(addresses(result)) == ["10.1.9.77", "fd00:1::77"]
    assert pod.addresses("eth0") == {"10.1.9.77/24", "fd00:1::77/64"}


def test_requested_address_by_cni_args(cni: CNI, pod: Pod) -> None:
    """IP and MAC in CNI_ARGS can be combined with IgnoreUnknown: each is used by the plugin that supports it."""
    cni.add(network(), pod, args=f"IgnoreUnknown=1;IP=10.1.2.77;MAC={MAC}")
    assert pod.addresses("eth0") == {"10.1.2.77/24"}
    assert pod.links()["eth0"]["address"] == MAC


def test_force_address(cni: CNI, node: Node, pod: Pod) -> None:
    """forceAddress: an IPv4 address of the bridge that conflicts with the gateway's is replaced (otherwise: error)."""
    node.run(["ip", "link", "add", "br0", "type", "bridge"])
    node.run(["ip", "addr", "add", "10.1.2.99/24", "dev", "br0"])
    cni.add(network(forceAddress=True), pod)
    assert node.addresses("br0") == {f"{GATEWAY_V4}/24"}


def test_dns_of_the_network(cni: CNI, pod: Pod) -> None:
    """The dns of the configuration is the dns of the result."""
    dns = {"nameservers": ["10.1.2.53"], "domain": "example.org", "search": ["example.org"], "options": ["ndots:5"]}
    assert cni.add(network(dns=dns), pod)["dns"] == dns


def test_disabled_container_interface(cni: CNI, pod: Pod) -> None:
    """disableContainerInterface: the link is created and left down, for a later plugin of the chain."""
    conf = layer2(disableContainerInterface=True)
    result = cni.add(conf, pod)
    assert "UP" not in pod.links()["eth0"]["flags"]
    cni.delete(conf, pod, result)
    assert "eth0" not in pod.links()


def test_duplicate_address_detection(cni: CNI, pod: Pod) -> None:
    """enabledad: the pod's IPv6 address is probed, and usable when ADD returns."""
    cni.add(network(DUAL, enabledad=True), pod)
    (address,) = [a for e in pod.ip("addr", "show", "dev", "eth0") for a in e["addr_info"] if a["local"] == "fd00:1::2"]
    assert not address.get("tentative")
    assert pod.sysctl("ipv6/conf/eth0/accept_dad") == "1"


def test_no_duplicate_address_detection_by_default(cni: CNI, pod: Pod) -> None:
    """Without enabledad the address is usable at once: addresses from the IPAM plugin are already unique."""
    cni.add(network(host_local(V4, V6)), pod)
    assert pod.sysctl("ipv6/conf/eth0/accept_dad") == "0"


@pytest.mark.usefixtures("vlan_filtering")
def test_pods_of_a_vlan_talk_only_to_each_other(cni: CNI, node: Node, pod: Pod, other: Pod) -> None:
    """vlan: pods of the same VLAN reach each other, and a pod of another VLAN on the same bridge does not."""
    third = node.pod("podc")
    conf = network(isDefaultGateway=None)
    for host, vlan in ((pod, 100), (other, 100), (third, 200)):
        cni.add(conf | {"vlan": vlan}, host)
    assert pod.reaches("10.1.2.3")
    assert not pod.reaches("10.1.2.4", timeout=0.5)


@pytest.mark.usefixtures("vlan_filtering")
def test_gateway_of_a_vlan(cni: CNI, node: Node, pod: Pod) -> None:
    """vlan with isGateway: the gateway is on a link of that VLAN, and the pod reaches it."""
    conf = network(host_local(V4), vlan=100)
    cni.add(conf, pod)
    assert node.addresses("br0.100") == {f"{GATEWAY_V4}/24"}
    assert pod.reaches(GATEWAY_V4)


@pytest.mark.usefixtures("vlan_filtering")
def test_vlan_trunk(cni: CNI, node: Node, pod: Pod) -> None:
    """vlanTrunk: the port carries the listed ids and ranges, tagged."""
    result = cni.add(layer2(vlanTrunk=[{"id": 42}, {"minID": 100, "maxID": 102}]), pod)
    port = node.run(["bridge", "-j", "vlan", "show", "dev", host_veth(result)]).stdout
    assert all(f'"vlan":{vid}' in port for vid in (42, 100, 102))


@pytest.mark.parametrize("trunk", [{"minID": 5}, {"minID": 9, "maxID": 5}, {"id": 5000}, {"id": 0}, {"id": -1}])
def test_impossible_trunk_is_refused(cni: CNI, node: Node, pod: Pod, trunk: dict, refused: Refused) -> None:
    """A range with one bound or reversed bounds, or an id outside 1 to 4094, is an error before anything is created."""
    with refused():
        cni.add(layer2(vlanTrunk=[trunk]), pod)
    assert "br0" not in node.links()

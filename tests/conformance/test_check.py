"""CHECK passes on what ADD created, and fails when any of it is missing (spec section 2 "CHECK")."""

from collections.abc import Callable, Mapping

import pytest

from tests.conformance.support import (
    DUAL,
    GATEWAY_V4,
    NETWORKS,
    V4,
    V6,
    WITH_CHECK,
    Refused,
    container_interface,
    host_local,
    host_veth,
    layer2,
    network,
)
from tests.netns.cni import CNI
from tests.netns.node import Node, Pod

Damage = Callable[[Node, Pod, Mapping], object]
WITH_ROUTE = host_local(V4, V6, routes=[{"dst": "10.9.0.0/16", "gw": "10.1.2.9"}])


def _shell(line: str, *, in_pod: bool = False) -> Damage:
    """Damage by a shell command, in which VETH is the pod's host veth."""

    def damage(node: Node, pod: Pod, result: Mapping) -> None:
        (pod if in_pod else node).run(["sh", "-ec", line.replace("VETH", host_veth(result))])

    return damage


def _in_pod(line: str) -> Damage:
    return _shell(line, in_pod=True)


def _other_owner(node: Node, pod: Pod, result: Mapping) -> None:
    node.path(f"{NETWORKS}/net/10.1.2.2").write_bytes(b"someone-else\r\neth0")


# Name of the damage -> the configuration of the ADD, and the damage.
DAMAGES: dict[str, tuple[dict, Damage]] = {
    "address removed": (network(), _in_pod("ip addr del 10.1.2.2/24 dev eth0; ip addr add 10.1.2.99/24 dev eth0")),
    "ipv6 address removed": (network(DUAL), _in_pod("ip addr del fd00:1::2/64 dev eth0")),
    "default route removed": (network(), _in_pod("ip route del default")),
    "ipv6 default route removed": (network(DUAL), _in_pod("ip -6 route del default")),
    "default route leads elsewhere": (network(), _in_pod("ip route replace default via 10.1.2.77")),
    "route removed": (network(WITH_ROUTE), _in_pod("ip route del 10.9.0.0/16")),
    "route leads elsewhere": (network(WITH_ROUTE), _in_pod("ip route replace 10.9.0.0/16 via 10.1.2.77")),
    "link down": (network(), _in_pod("ip link set eth0 down")),
    "layer 2 link down": (layer2(), _in_pod("ip link set eth0 down")),
    "link removed": (network(), _in_pod("ip link del eth0")),
    "layer 2 link removed": (layer2(), _in_pod("ip link del eth0")),
    "link is another one": (network(), _in_pod("ip link del eth0; ip link add eth0 type bridge; ip link set eth0 up")),
    "mac changed": (network(), _in_pod("ip link set eth0 address c2:b0:57:49:47:f2")),
    "host end left the bridge": (network(), _shell("ip link set VETH nomaster")),
    "host end down": (network(), _shell("ip link set VETH down")),
    "bridge removed": (network(), _shell("ip link del br0")),
    "bridge down": (network(), _shell("ip link set br0 down")),
    "gateway address removed": (network(), _shell("ip addr del 10.1.2.1/24 dev br0")),
    "forwarding off": (network(), _shell("echo 0 >/proc/sys/net/ipv4/ip_forward")),
    "lease removed": (network(), _shell(f"rm {NETWORKS}/net/10.1.2.2")),
    "lease is someone else's": (network(), _other_owner),
    "masquerade removed": (network(ipMasq=True), _shell("nft flush ruleset")),
    "nftables masquerade removed": (network(ipMasq=True, ipMasqBackend="nftables"), _shell("nft flush ruleset")),
    "anti-spoofing removed": (network(macspoofchk=True), _shell("nft flush ruleset")),
    "hairpin mode off": (network(hairpinMode=True), _shell("ip link set VETH type bridge_slave hairpin off")),
    "isolation off": (network(portIsolation=True), _shell("ip link set VETH type bridge_slave isolated off")),
    "promiscuous mode off": (network(promiscMode=True), _shell("ip link set br0 promisc off")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_check_fails_when(cni: CNI, node: Node, pod: Pod, damage: str, refused: Refused) -> None:
    """CHECK passes after ADD, and fails after this damage."""
    conf, break_it = DAMAGES[damage]
    result = cni.add(conf, pod)
    if damage.startswith("layer 2"):  # test_check_passes_in_layer_2 covers passing
        cni.call("STATUS", conf)
    else:
        cni.check(conf, pod, result)
    break_it(node, pod, result)
    with refused():
        cni.check(conf, pod, result)


@pytest.mark.parametrize("version", WITH_CHECK)
def test_check_passes_after_add(cni: CNI, pod: Pod, version: str) -> None:
    """Immediately after ADD, with IPv4, IPv6 and routes, CHECK succeeds with empty output."""
    conf = network(WITH_ROUTE, version=version, ipMasq=True, macspoofchk=True, hairpinMode=True, mtu=1400)
    cni.check(conf, pod, cni.add(conf, pod))


def test_check_passes_in_layer_2(cni: CNI, pod: Pod) -> None:
    """CHECK passes on a bridge without an IPAM plugin."""
    cni.check(layer2(), pod, cni.add(layer2(), pod))


def test_check_passes_on_what_later_plugins_changed(cni: CNI, pod: Pod) -> None:
    """A chained plugin may have added routes and addresses, and changed the MAC as the result then says."""
    conf = network(mtu=1400)
    result = cni.add(conf, pod)
    pod.run(["ip", "link", "set", "eth0", "address", "c2:b0:57:49:47:f2", "mtu", "1300", "promisc", "on"])
    pod.run(["ip", "addr", "add", "10.44.0.1/24", "dev", "eth0"])
    pod.run(["ip", "route", "add", "10.55.0.0/16", "via", GATEWAY_V4])
    container_interface(result, pod)["mac"] = "c2:b0:57:49:47:f2"
    result["interfaces"].append({"name": "ifb7", "mac": "c2:b0:57:49:47:f3"})
    cni.check(conf, pod, result)


def test_check_needs_the_result(cni: CNI, pod: Pod, refused: Refused) -> None:
    """A CHECK without prevResult is an error: there is nothing to check against."""
    cni.add(network(), pod)
    with refused():
        cni.check(network(), pod, None)


def test_check_of_a_result_of_another_pod_fails(cni: CNI, pod: Pod, other: Pod, refused: Refused) -> None:
    """A prevResult whose sandbox is another namespace is an error."""
    result = cni.add(network(), pod)
    cni.add(network(), other)
    with refused():
        cni.check(network(), other, result)


def test_check_of_a_vanished_namespace_fails(cni: CNI, pod: Pod, refused: Refused) -> None:
    """CHECK fails for a pod whose namespace does not exist any more."""
    result = cni.add(network(), pod)
    pod.vanish()
    with refused():
        cni.check(network(), pod, result)


def test_check_changes_nothing(cni: CNI, node: Node, pod: Pod, refused: Refused) -> None:
    """A CHECK that fails repairs nothing: the next one fails too."""
    result = cni.add(network(), pod)
    pod.run(["ip", "route", "del", "default"])
    for _ in range(2):
        with refused():
            cni.check(network(), pod, result)
    assert "default" not in pod.routes()


def test_check_of_the_ipam_plugin(ipam: CNI, pod: Pod, refused: Refused) -> None:
    """The IPAM plugin's CHECK passes for an attachment with a lease, and fails before its ADD and after its DEL."""
    with refused():
        ipam.check(network(), pod, {"cniVersion": "1.1.0", "ips": [{"address": "10.1.2.2/24"}]})
    result = ipam.add(network(), pod)
    ipam.check(network(), pod, result)
    ipam.delete(network(), pod, result)
    with refused():
        ipam.check(network(), pod, result)


def test_check_of_the_ipam_plugin_compares_the_address(ipam: CNI, node: Node, pod: Pod, refused: Refused) -> None:
    """CHECK fails if the attachment holds a lease, but not for the address in prevResult."""
    result = ipam.add(network(), pod)
    node.path(f"{NETWORKS}/net/10.1.2.2").rename(node.path(f"{NETWORKS}/net/10.1.2.3"))
    with refused():
        ipam.check(network(), pod, result)

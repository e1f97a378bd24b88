"""The result of ADD, and that the node and the pod match it (spec section 2 "ADD", section 5 "ADD Success")."""

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from tests.conformance.support import (
    DUAL,
    GATEWAY_V4,
    GATEWAY_V6,
    V4,
    V6,
    Refused,
    addresses,
    container_interface,
    host_local,
    host_veth,
    layer2,
    network,
    on_bridge,
)
from tests.netns.cni import CNI, VERSIONS
from tests.netns.node import Node, Pod, ask, wait_until

OLDEST, MIDDLE, NEWEST = VERSIONS[:2], VERSIONS[2:5], VERSIONS[5:]
EXTRA = {"dst": "10.9.0.0/16", "gw": "10.1.2.9", "mtu": 1300, "advmss": 1200, "priority": 7}


@pytest.mark.parametrize("version", OLDEST)
def test_result_of_0_1_and_0_2(cni: CNI, pod: Pod, version: str) -> None:
    """One address of each family under ip4 and ip6, each with its gateway and routes; no interfaces."""
    result = cni.add(network(host_local(V4, V6, routes=[{"dst": "10.9.0.0/16"}]), version=version), pod)
    assert result.keys() - {"dns"} == {"cniVersion", "ip4", "ip6"}
    assert result["cniVersion"] == version
    assert (result["ip4"]["ip"], result["ip4"]["gateway"]) == ("10.1.2.2/24", GATEWAY_V4)
    assert (result["ip6"]["ip"], result["ip6"]["gateway"]) == ("fd00:1::2/64", GATEWAY_V6)
    assert {"10.9.0.0/16", "0.0.0.0/0"} == {route["dst"] for route in result["ip4"]["routes"]}
    assert [route["dst"] for route in result["ip6"]["routes"]] == ["::/0"]


@pytest.mark.parametrize("version", [*MIDDLE, *NEWEST])
def test_result_of_0_3_and_later(cni: CNI, pod: Pod, version: str) -> None:
    """Interfaces, addresses that refer to the pod's interface, and routes, with exactly the keys of this version."""
    result = cni.add(network(host_local(V4, V6, routes=[EXTRA]), version=version), pod)
    assert result.keys() - {"dns"} == {"cniVersion", "interfaces", "ips", "routes"}
    assert result["cniVersion"] == version
    for interface in result["interfaces"]:
        optional = {"sandbox", "mtu", "socketPath", "pciID"} if version in NEWEST else {"sandbox"}
        assert {"name", "mac"} <= interface.keys() <= {"name", "mac"} | optional
    family = {"version"} if version in MIDDLE else set()
    for ip in result["ips"]:
        assert ip.keys() == {"address", "gateway", "interface"} | family
        assert result["interfaces"][ip["interface"]] == container_interface(result, pod)
        assert ip.get("version", "4" if "." in ip["address"] else "6") == ("4" if "." in ip["address"] else "6")
    assert addresses(result) == ["10.1.2.2", "fd00:1::2"]
    assert EXTRA.items() <= next(route for route in result["routes"] if route["dst"] == EXTRA["dst"]).items()
    assert {"0.0.0.0/0", "::/0"} <= {route["dst"] for route in result["routes"]}


@pytest.mark.parametrize("version", VERSIONS)
def test_result_of_the_ipam_plugin(ipam: CNI, pod: Pod, version: str) -> None:
    """An IPAM plugin returns addresses, gateways and routes, but neither interfaces nor an index into them."""
    result = ipam.add(network(host_local(V4, V6, routes=[{"dst": "0.0.0.0/0"}]), version=version), pod)
    assert result["cniVersion"] == version
    assert "interfaces" not in result
    assert not any("interface" in ip for ip in result.get("ips", []))
    assert addresses(result) == ["10.1.2.2", "fd00:1::2"]
    routes = result["ip4"]["routes"] if version in OLDEST else result["routes"]
    assert [route["dst"] for route in routes] == ["0.0.0.0/0"]


@pytest.mark.parametrize("version", [*MIDDLE, *NEWEST])
def test_layer_2_result_has_no_addresses(cni: CNI, pod: Pod, version: str) -> None:
    """Without an IPAM plugin the result has only interfaces, and the pod's link is up."""
    result = cni.add(layer2(version), pod)
    assert not result.get("ips")
    assert not result.get("routes")
    assert container_interface(result, pod)
    assert "UP" in pod.links()["eth0"]["flags"]
    assert wait_until(lambda: pod.links()["eth0"]["operstate"] == "UP"), "a moment later"
    assert pod.addresses("eth0") == set()


def test_interfaces_of_the_result_exist(cni: CNI, node: Node, pod: Pod) -> None:
    """Each interface exists in its sandbox, with the hardware address in the result."""
    result = cni.add(network(), pod)
    for interface in result["interfaces"]:
        link = (pod if interface.get("sandbox") else node).links()[interface["name"]]
        assert link["address"] == interface["mac"].lower()
        assert interface.get("mtu", link["mtu"]) == link["mtu"]


def test_pod_is_connected_to_the_bridge(cni: CNI, node: Node, pod: Pod) -> None:
    """The pod's link is up, and its host veth is up and a forwarding port of the bridge."""
    result = cni.add(network(), pod)
    assert wait_until(lambda: pod.links()["eth0"]["operstate"] == "UP"), "a moment later"
    port = node.links()[host_veth(result)]
    assert (port["master"], port["operstate"]) == ("br0", "UP")
    assert port["linkinfo"]["info_slave_data"]["state"] == "forwarding"
    assert node.links()["br0"]["operstate"] == "UP"


def test_addresses_and_routes_are_in_force(cni: CNI, node: Node, pod: Pod) -> None:
    """Pod and bridge have the addresses of the result, and the pod's default routes go to the gateways."""
    result = cni.add(network(host_local(V4, V6, routes=[EXTRA])), pod)
    assert pod.addresses("eth0") == {ip["address"] for ip in result["ips"]} == {"10.1.2.2/24", "fd00:1::2/64"}
    assert node.addresses("br0") == {f"{GATEWAY_V4}/24", f"{GATEWAY_V6}/64"}
    routes = pod.routes()
    assert (routes["default"]["gateway"], routes["default6"]["gateway"]) == (GATEWAY_V4, GATEWAY_V6)
    assert (routes["10.9.0.0/16"]["gateway"], routes["10.9.0.0/16"]["metric"]) == ("10.1.2.9", 7)
    assert (node.sysctl("ipv4/ip_forward"), node.sysctl("ipv6/conf/all/forwarding")) == ("1", "1")


def test_route_attributes_are_in_force(cni: CNI, pod: Pod) -> None:
    """A route's mtu and advmss (1.1.0) are set in the kernel, not only repeated in the result."""
    cni.add(network(host_local(routes=[EXTRA])), pod)
    assert {"mtu": 1300, "advmss": 1200}.items() <= pod.routes()["10.9.0.0/16"]["metrics"][0].items()


def test_pods_talk(cni: CNI, pod: Pod, other: Pod) -> None:
    """Immediately after ADD, TCP, UDP and ICMP work between two pods and to the gateway, over IPv4 and IPv6."""
    cni.add(network(DUAL), pod)
    cni.add(network(DUAL), other)
    for address, gateway, seen in (("10.1.2.3", GATEWAY_V4, "10.1.2.2"), ("fd00:1::3", GATEWAY_V6, "fd00:1::2")):
        assert ask(pod, other, address, 80, "tcp") == seen
        assert ask(pod, other, address, 80, "udp") == seen
        assert pod.reaches(address)
        assert pod.reaches(gateway)


def test_default_route_of_the_ipam_plugin_and_of_the_bridge_are_one(cni: CNI, pod: Pod) -> None:
    """isDefaultGateway and a default route among the IPAM plugin's routes can be combined."""
    cni.add(network(host_local(V4, routes=[{"dst": "0.0.0.0/0"}])), pod)
    assert [route["gateway"] for route in pod.ip("-4", "route", "show", "default")] == [GATEWAY_V4]


def test_without_gateway_the_bridge_has_no_address(cni: CNI, node: Node, pod: Pod) -> None:
    """A bridge that is not a gateway gets no address, its pod no default route, and the node does not forward."""
    before = node.sysctl("ipv4/ip_forward")
    cni.add(network(isDefaultGateway=None), pod)
    assert node.addresses("br0") == set()
    assert "default" not in pod.routes()
    assert node.sysctl("ipv4/ip_forward") == before


def test_gateway_without_default_route(cni: CNI, node: Node, pod: Pod) -> None:
    """isGateway alone assigns the gateway address to the bridge, but the pod gets no route to it."""
    cni.add(network(isDefaultGateway=None, isGateway=True), pod)
    assert node.addresses("br0") == {f"{GATEWAY_V4}/24"}
    assert "default" not in pod.routes()
    assert pod.reaches(GATEWAY_V4)


def test_second_interface_of_the_pod(cni: CNI, pod: Pod) -> None:
    """A pod can be attached to the same network again under another interface name."""
    cni.add(network(isDefaultGateway=None), pod)
    second = cni.add(network(isDefaultGateway=None), pod, ifname="eth1")
    assert container_interface(second, pod, "eth1")
    assert pod.addresses("eth0") == {"10.1.2.2/24"}
    assert pod.addresses("eth1") == {"10.1.2.3/24"}


def test_namespace_may_be_given_by_process(cni: CNI, node: Node, pod: Pod) -> None:
    """CNI_NETNS may be /proc/PID/ns/net, and the result has that path as sandbox."""
    sleeper = pod.start(["sleep", "60"])
    try:
        assert wait_until(lambda: node.run(["readlink", f"/proc/{sleeper.pid}/exe"]).stdout.endswith("/sleep\n"))
        path = f"/proc/{sleeper.pid}/ns/net"
        result = cni.add(network(), pod, netns=path)
        assert path in [interface.get("sandbox") for interface in result["interfaces"]]
        assert pod.addresses("eth0") == {"10.1.2.2/24"}
    finally:
        sleeper.kill()
        sleeper.wait()


def test_repeated_add_is_refused_and_changes_nothing(
    cni: CNI, node: Node, pod: Pod, other: Pod, refused: Refused
) -> None:
    """A second ADD of the same attachment is an error, and the first attachment keeps working."""
    result = cni.add(network(), pod)
    cni.add(network(), other)
    before = (node.links().keys(), pod.addresses("eth0"), on_bridge(node))
    with refused():
        cni.add(network(), pod)
    assert (node.links().keys(), pod.addresses("eth0"), on_bridge(node)) == before
    cni.check(network(), pod, result)
    assert other.reaches("10.1.2.2")


def test_bridge_that_exists_is_used_as_it_is(cni: CNI, node: Node, pod: Pod) -> None:
    """A bridge that an administrator created keeps its ports, and its address if that is already the gateway's."""
    node.run(["ip", "link", "add", "br0", "type", "bridge"])
    node.run(["ip", "link", "add", "uplink", "type", "veth", "peer", "name", "far"])
    node.run(["ip", "link", "set", "uplink", "master", "br0"])
    node.run(["ip", "addr", "add", f"{GATEWAY_V4}/24", "dev", "br0"])
    result = cni.add(network(), pod)
    assert on_bridge(node) == {"uplink", host_veth(result)}
    assert node.addresses("br0") == {f"{GATEWAY_V4}/24"}


def test_mac_of_a_gateway_bridge_stays(cni: CNI, node: Node, pod: Pod) -> None:
    """Pods cache their gateway's hardware address, so it does not change when other pods are added or deleted."""
    first = cni.add(network(), pod)
    mac = node.links()["br0"]["address"]
    pods = [node.pod(f"more{i}") for i in range(3)]
    for more in pods:
        cni.add(network(), more)
    cni.delete(network(), pod, first)
    assert node.links()["br0"]["address"] == mac


def test_addresses_of_a_result_are_of_the_subnet(cni: CNI, node: Node) -> None:
    """Ten pods have ten addresses of the subnet, none of them the gateway or the network address."""
    given = [ip_interface(cni.add(network(), node.pod(f"pod{i}"))["ips"][0]["address"]) for i in range(10)]
    assert len(set(given)) == 10
    assert {address.network for address in given} == {ip_network("10.1.2.0/24")}
    reserved = {ip_address(address) for address in ("10.1.2.0", GATEWAY_V4, "10.1.2.255")}
    assert not {address.ip for address in given} & reserved

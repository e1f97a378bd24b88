"""Router advertisements: a node that starts forwarding keeps its uplink's route; those of pods are ignored."""

import pytest

from tests.conformance.support import DUAL, V4, V6, host_local, layer2, network
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Host, Node, Pod, wait_until

IPV6 = network(host_local(V6))


def routes_by_advertisement(host: Host) -> set[str]:
    """The links on which a host has default routes from router advertisements."""
    return {route["dev"] for route in host.ip("-6", "route", "show", "default") if route.get("protocol") == "ra"}


def accept_ra(host: Host, link: str) -> str:
    """The accept_ra setting of a link."""
    return host.sysctl(f"ipv6/conf/{link}/accept_ra")


def set_sysctl(host: Host, name: str, value: object) -> None:
    """Write a /proc/sys/net entry in the host's namespace."""
    host.run(["sh", "-c", f"echo {value} >/proc/sys/net/{name}"])


def is_accepted(sender: Host, link: str, receiver: Host, via: str) -> bool:
    """Whether repeated advertisements of the sender soon give the receiver a default route on `via`."""

    def arrived() -> bool:
        sender.advertise(link)
        return via in routes_by_advertisement(receiver)

    return wait_until(arrived, timeout=6)


def is_ignored(sender: Host, link: str, receiver: Host, via: str) -> bool:
    """Whether the receiver has no default route on `via` after its kernel has counted advertisements of the sender."""

    def counted() -> int:
        lines = receiver.run(["cat", f"/proc/net/dev_snmp6/{via}"]).stdout.splitlines()
        return int(next((line.split()[1] for line in lines if line.startswith("Icmp6InRouterAdvertisements")), "0"))

    before = counted()

    def arrived() -> bool:
        sender.advertise(link)
        return counted() > before + 1

    assert wait_until(arrived, timeout=6), "no advertisement arrived"
    return via not in routes_by_advertisement(receiver)


@pytest.fixture
def router(node: Node) -> Pod:
    """A router on the node's link up0, which accepts advertisements and has received none yet."""
    made = node.pod("router")
    node.run(["ip", "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", "router"])
    for host, link in ((node, "up0"), (made, "eth0")):
        set_sysctl(host, f"ipv6/conf/{link}/accept_dad", 0)
        host.run(["ip", "link", "set", link, "up"])
    set_sysctl(node, "ipv6/conf/up0/accept_ra", 1)
    return made


@pytest.fixture
def uplink(node: Node, router: Pod) -> Pod:
    """The router, after the node has learned its default route from it."""
    assert is_accepted(router, "eth0", node, "up0")
    return router


@pytest.mark.parametrize(
    "conf",
    [IPV6, network(DUAL, vlan=None), {**IPV6, "isDefaultGateway": False, "isGateway": True}],
    ids=["ipv6", "dual", "gateway"],
)
def test_enabling_forwarding_keeps_the_default_route(cni: CNI, node: Node, uplink: Pod, conf: dict) -> None:
    """The learned default route survives the ADD; after it is deleted, the next advertisement restores it."""
    pod = node.pod("pod1")
    result = cni.add(conf, pod)
    assert node.sysctl("ipv6/conf/all/forwarding") == "1"
    assert routes_by_advertisement(node) == {"up0"}
    cni.check(conf, pod, result)
    node.run(["ip", "-6", "route", "flush", "default"])
    assert is_accepted(uplink, "eth0", node, "up0")


@pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
def test_kubenet_and_vxlan_keep_the_default_route(cni: CNI, node: Node, uplink: Pod, kind: str) -> None:
    """An ADD of `kubenet` or `vxlan` keeps the learned default route, which the tunnel needs."""
    conf = {"cniVersion": "1.1.0", "name": "cluster", "type": kind, "podCIDRs": ["fd00:244:0:1::/64"]}
    pods = [node.pod("pod1"), node.pod("pod2")]
    results = [cni.add(conf, pod) for pod in pods]
    assert routes_by_advertisement(node) == {"up0"}
    cni.check(conf, pods[0], results[0])
    cni.status(conf)


def test_an_uplink_without_a_learned_route_keeps_accepting_advertisements(cni: CNI, node: Node, router: Pod) -> None:
    """The link of the IPv4 default route, whose router has not advertised itself yet, learns a route after the ADD."""
    node.run(["ip", "addr", "add", "192.0.2.1/24", "dev", "up0"])
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    cni.add(IPV6, node.pod("pod1"))
    assert is_accepted(router, "eth0", node, "up0")


def test_settings_of_the_administrator_are_kept(cni: CNI, node: Node, uplink: Pod) -> None:
    """An ADD leaves accept_ra=0 of a link, and the accept_ra default for new links, as they are."""
    node.run(["ip", "link", "add", "off0", "type", "bridge"])
    set_sysctl(node, "ipv6/conf/off0/accept_ra", 0)
    default = accept_ra(node, "default")
    cni.add(IPV6, node.pod("pod1"))
    assert (accept_ra(node, "off0"), accept_ra(node, "default")) == ("0", default)


def test_an_ipv4_network_does_not_touch_the_uplink(cni: CNI, node: Node, uplink: Pod) -> None:
    """Without an IPv6 gateway an ADD changes neither IPv6 forwarding nor accept_ra of the uplink."""
    cni.add(network(host_local(V4)), node.pod("pod1"))
    assert (node.sysctl("ipv6/conf/all/forwarding"), accept_ra(node, "up0")) == ("0", "1")


def test_a_failed_add_keeps_the_route(cni: CNI, node: Node, uplink: Pod) -> None:
    """Forwarding stays enabled after an ADD that fails later, so the uplink keeps accepting advertisements."""
    pods = [node.pod("pod1"), node.pod("pod2")]
    cni.add(IPV6, pods[0])
    set_sysctl(node, "ipv6/conf/all/forwarding", 0)
    set_sysctl(node, "ipv6/conf/up0/accept_ra", 1)
    with pytest.raises(CNIFailure, match="more than 1 address per family"):
        cni.add({**IPV6, "cniVersion": "0.2.0", "ipam": host_local(V6, {"subnet": "fd00:2::/64"})}, pods[1])
    cni.add(IPV6, pods[1])
    assert routes_by_advertisement(node) == {"up0"}


def test_check_detects_a_default_route_that_will_expire(cni: CNI, node: Node, uplink: Pod) -> None:
    """If accept_ra of the uplink is reset to 1 while the node forwards, CHECK names the link and the setting."""
    pod = node.pod("pod1")
    result = cni.add(IPV6, pod)
    set_sysctl(node, "ipv6/conf/up0/accept_ra", 1)
    with pytest.raises(CNIFailure, match="net/ipv6/conf/up0/accept_ra is not 2"):
        cni.check(IPV6, pod, result)


@pytest.mark.parametrize("setting", [1, 2])
@pytest.mark.parametrize("conf", [layer2(), IPV6, network(host_local(V4))], ids=["layer2", "ipv6", "ipv4"])
def test_the_node_ignores_advertisements_of_its_pods(cni: CNI, node: Node, conf: dict, setting: int) -> None:
    """An ADD disables accept_ra on an existing bridge, which would accept advertisements of pods; CHECK verifies it."""
    node.run(["ip", "link", "add", "br0", "address", "02:00:5e:10:00:01", "type", "bridge"])
    node.run(["ip", "link", "set", "br0", "up"])
    set_sysctl(node, "ipv6/conf/br0/accept_ra", setting)
    pod = node.pod("pod1")
    result = cni.add(conf, pod)
    assert is_ignored(pod, "eth0", node, "br0")
    cni.check(conf, pod, result)
    set_sysctl(node, "ipv6/conf/br0/accept_ra", setting)
    with pytest.raises(CNIFailure, match="net/ipv6/conf/br0/accept_ra is not 0"):
        cni.check(conf, pod, result)
    cni.add(conf, node.pod("pod2"))
    assert accept_ra(node, "br0") == "0"


def test_a_bridge_with_only_our_ports_is_not_an_uplink(cni: CNI, node: Node) -> None:
    """A bridge whose only ports are pods' and a VLAN gateway's is not an uplink: its accept_ra is disabled."""
    conf = layer2()
    cni.add(conf, node.pod("pod1"))
    node.run(["ip", "link", "add", "br0.100", "type", "veth", "peer", "name", "inner"])
    node.run(["ip", "link", "set", "inner", "master", "br0", "alias", "slash24 gateway"])
    set_sysctl(node, "ipv6/conf/br0/accept_ra", 2)
    cni.add(conf, node.pod("pod2"))
    assert accept_ra(node, "br0") == "0"


@pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
def test_kubenet_and_vxlan_ignore_advertisements_of_pods(cni: CNI, node: Node, kind: str) -> None:
    """The node ignores advertisements on the bridge of `kubenet` or `vxlan` too, even on one that existed before."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    node.run(["ip", "link", "add", "cbr0", "type", "bridge"])
    set_sysctl(node, "ipv6/conf/cbr0/accept_ra", 2)
    conf = {"cniVersion": "1.1.0", "name": "cluster", "type": kind, "bridge": "cbr0", "podCIDRs": ["fd00:244:0:1::/64"]}
    pod = node.pod("pod1")
    cni.add(conf, pod)
    assert is_ignored(pod, "eth0", node, "cbr0")


@pytest.mark.parametrize("forwarding", [0, 1])
def test_a_bridge_that_is_the_uplink_keeps_its_route(cni: CNI, node: Node, router: Pod, forwarding: int) -> None:
    """If the uplink is a port of the pods' bridge, the learned route is kept and renewed, forwarding or not."""
    node.run(["ip", "link", "add", "br0", "address", "02:00:5e:10:00:01", "type", "bridge"])
    node.run(["ip", "link", "set", "up0", "master", "br0"])
    node.run(["ip", "link", "set", "br0", "up"])
    set_sysctl(node, "ipv6/conf/br0/accept_ra", 1)
    assert is_accepted(router, "eth0", node, "br0")
    conf = IPV6 if forwarding else layer2()
    pod = node.pod("pod1")
    result = cni.add(conf, pod)
    assert routes_by_advertisement(node) == {"br0"}
    node.run(["ip", "-6", "route", "flush", "default"])
    cni.add(conf, node.pod("pod2"))
    assert is_accepted(router, "eth0", node, "br0")
    cni.check(conf, pod, result)


@pytest.mark.parametrize("conf", [network(host_local(V4)), network(DUAL), IPV6], ids=["ipv4", "dual", "ipv6"])
def test_pods_ignore_advertisements_of_each_other(cni: CNI, node: Node, conf: dict) -> None:
    """Where the node is the router, a pod's advertisement gives another pod neither a route nor an address."""
    pods = [node.pod("pod1"), node.pod("pod2")]
    for pod in pods:
        cni.add(conf, pod)
    assert is_ignored(pods[0], "eth0", pods[1], "eth0")
    assert not [address for address in pods[1].addresses("eth0") if address.startswith("2001:db8:77:")]


@pytest.mark.parametrize(
    ("keys", "accepted"),
    [
        ({}, True),
        ({"ipam": host_local(V4)}, True),
        ({"ipam": host_local(V6)}, False),
        ({"ipam": host_local(V6), "acceptRA": True}, True),
        ({"ipam": host_local(V4), "acceptRA": False}, False),
        ({"acceptRA": False}, False),
        ({"ipam": host_local(V4), "isGateway": True, "acceptRA": True}, True),
    ],
    ids=["layer2", "ipv4", "ipv6", "ipv6-told", "ipv4-told", "layer2-told", "gateway-told"],
)
def test_pods_without_ipv6_ipam_accept_advertisements(
    cni: CNI, node: Node, router: Pod, keys: dict, *, accepted: bool
) -> None:
    """A pod without IPv6 addresses from IPAM accepts advertisements, another does not; `acceptRA` overrides both."""
    node.run(["ip", "link", "add", "br0", "type", "bridge"])
    node.run(["ip", "link", "set", "up0", "master", "br0"])
    pod = node.pod("pod1")
    cni.add(layer2(**keys), pod)
    if accepted:
        assert is_accepted(router, "eth0", pod, "eth0")
    else:
        assert is_ignored(router, "eth0", pod, "eth0")


def test_the_node_ignores_advertisements_of_pods_in_a_vlan(cni: CNI, node: Node) -> None:
    """The VLAN gateway's link ignores advertisements; CHECK detects a changed accept_ra, and the next ADD resets it."""
    made = node.run(["ip", "link", "add", "br0", "type", "bridge", "vlan_filtering", "1"], check=False)
    if made.returncode:
        pytest.skip("kernel lacks bridge VLAN filtering")
    conf, pod = network(host_local(V6), vlan=100), node.pod("pod1")
    result = cni.add(conf, pod)
    assert (accept_ra(node, "br0"), accept_ra(node, "br0.100")) == ("0", "0")
    assert is_ignored(pod, "eth0", node, "br0.100")
    set_sysctl(node, "ipv6/conf/br0.100/accept_ra", 1)
    with pytest.raises(CNIFailure, match=r"net/ipv6/conf/br0\.100/accept_ra is not 0"):
        cni.check(conf, pod, result)
    cni.add(conf, node.pod("pod2"))
    assert accept_ra(node, "br0.100") == "0"

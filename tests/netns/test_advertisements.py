"""Router advertisements: the node keeps its uplink's when it begins to forward; pods give none to it, nor to others."""

import pytest

from tests.conformance.support import DUAL, V4, V6, host_local, layer2, network
from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Host, Node, Pod, wait_until

IPV6 = network(host_local(V6))


def routes_by_advertisement(host: Host) -> set[str]:
    """The links over which a host has default routes that came by router advertisements."""
    return {route["dev"] for route in host.ip("-6", "route", "show", "default") if route.get("protocol") == "ra"}


def accept_ra(host: Host, link: str) -> str:
    """The setting of a link."""
    return host.sysctl(f"ipv6/conf/{link}/accept_ra")


def set_sysctl(host: Host, name: str, value: object) -> None:
    """Write a /proc/sys/net entry of the host's namespace."""
    host.run(["sh", "-c", f"echo {value} >/proc/sys/net/{name}"])


def is_accepted(sender: Host, link: str, receiver: Host, via: str) -> bool:
    """Whether the receiver has a default route over `via` soon after advertisements of the sender; sent repeatedly."""

    def arrived() -> bool:
        sender.advertise(link)
        return via in routes_by_advertisement(receiver)

    return wait_until(arrived, timeout=6)


def is_ignored(sender: Host, link: str, receiver: Host, via: str) -> bool:
    """Whether advertisements that the receiver's kernel has counted gave it no default route over `via`."""

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
    """A router on the node's link up0, which accepts advertisements and has none yet."""
    made = node.pod("router")
    node.run(["ip", "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", "router"])
    for host, link in ((node, "up0"), (made, "eth0")):
        set_sysctl(host, f"ipv6/conf/{link}/accept_dad", 0)
        host.run(["ip", "link", "set", link, "up"])
    set_sysctl(node, "ipv6/conf/up0/accept_ra", 1)
    return made


@pytest.fixture
def uplink(node: Node, router: Pod) -> Pod:
    """The router, after the node has its default route of it."""
    assert is_accepted(router, "eth0", node, "up0")
    return router


@pytest.mark.parametrize(
    "conf",
    [IPV6, network(DUAL, vlan=None), {**IPV6, "isDefaultGateway": False, "isGateway": True}],
    ids=["ipv6", "dual", "gateway"],
)
def test_switching_forwarding_on_keeps_the_default_route(cni: CNI, node: Node, uplink: Pod, conf: dict) -> None:
    """The route that came by advertisement is there after the ADD, and an advertisement renews it when it is gone."""
    pod = node.pod("pod1")
    result = cni.add(conf, pod)
    assert node.sysctl("ipv6/conf/all/forwarding") == "1"
    assert routes_by_advertisement(node) == {"up0"}
    cni.check(conf, pod, result)
    node.run(["ip", "-6", "route", "flush", "default"])
    assert is_accepted(uplink, "eth0", node, "up0")


@pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
def test_nodes_plugins_keep_the_default_route(cni: CNI, node: Node, uplink: Pod, kind: str) -> None:
    """So do `kubenet` and `vxlan`, whose tunnel has no other way out."""
    conf = {"cniVersion": "1.1.0", "name": "cluster", "type": kind, "podCIDRs": ["fd00:244:0:1::/64"]}
    pods = [node.pod("pod1"), node.pod("pod2")]
    results = [cni.add(conf, pod) for pod in pods]
    assert routes_by_advertisement(node) == {"up0"}
    cni.check(conf, pods[0], results[0])
    cni.status(conf)


def test_an_uplink_without_a_route_yet_goes_on_accepting(cni: CNI, node: Node, router: Pod) -> None:
    """A link with the node's IPv4 default route, whose router has not advertised itself yet, can still be given one."""
    node.run(["ip", "addr", "add", "192.0.2.1/24", "dev", "up0"])
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    cni.add(IPV6, node.pod("pod1"))
    assert is_accepted(router, "eth0", node, "up0")


def test_settings_of_the_administrator_stay(cni: CNI, node: Node, uplink: Pod) -> None:
    """A link that accepts no advertisements accepts none afterwards, nor do links that are made later accept more."""
    node.run(["ip", "link", "add", "off0", "type", "bridge"])
    set_sysctl(node, "ipv6/conf/off0/accept_ra", 0)
    default = accept_ra(node, "default")
    cni.add(IPV6, node.pod("pod1"))
    assert (accept_ra(node, "off0"), accept_ra(node, "default")) == ("0", default)


def test_ipv4_alone_touches_no_uplink(cni: CNI, node: Node, uplink: Pod) -> None:
    """Without an IPv6 gateway nothing is switched, and nothing is set."""
    cni.add(network(host_local(V4)), node.pod("pod1"))
    assert (node.sysctl("ipv6/conf/all/forwarding"), accept_ra(node, "up0")) == ("0", "1")


def test_a_failed_add_keeps_the_route(cni: CNI, node: Node, uplink: Pod) -> None:
    """Forwarding stays on after an ADD that fails later; so the uplink goes on accepting."""
    pods = [node.pod("pod1"), node.pod("pod2")]
    cni.add(IPV6, pods[0])
    set_sysctl(node, "ipv6/conf/all/forwarding", 0)
    set_sysctl(node, "ipv6/conf/up0/accept_ra", 1)
    with pytest.raises(CNIFailure, match="more than 1 address per family"):
        cni.add({**IPV6, "cniVersion": "0.2.0", "ipam": host_local(V6, {"subnet": "fd00:2::/64"})}, pods[1])
    cni.add(IPV6, pods[1])
    assert routes_by_advertisement(node) == {"up0"}


def test_check_sees_a_default_route_that_will_expire(cni: CNI, node: Node, uplink: Pod) -> None:
    """Somebody sets the link back to 1 while the node forwards: CHECK names the link and the setting."""
    pod = node.pod("pod1")
    result = cni.add(IPV6, pod)
    set_sysctl(node, "ipv6/conf/up0/accept_ra", 1)
    with pytest.raises(CNIFailure, match="net/ipv6/conf/up0/accept_ra is not 2"):
        cni.check(IPV6, pod, result)


@pytest.mark.parametrize("setting", [1, 2])
@pytest.mark.parametrize("conf", [layer2(), IPV6, network(host_local(V4))], ids=["layer2", "ipv6", "ipv4"])
def test_pods_give_the_node_no_route(cni: CNI, node: Node, conf: dict, setting: int) -> None:
    """On a bridge that was there before the first ADD, and would accept what its pods advertise."""
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


def test_links_of_this_suite_make_a_bridge_no_uplink(cni: CNI, node: Node) -> None:
    """Beside pods' ports there is only the one of a VLAN's gateway: what the bridge accepts comes from pods."""
    conf = layer2()
    cni.add(conf, node.pod("pod1"))
    node.run(["ip", "link", "add", "br0.100", "type", "veth", "peer", "name", "inner"])
    node.run(["ip", "link", "set", "inner", "master", "br0", "alias", "slash24 gateway"])
    set_sysctl(node, "ipv6/conf/br0/accept_ra", 2)
    cni.add(conf, node.pod("pod2"))
    assert accept_ra(node, "br0") == "0"


@pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
def test_pods_of_a_node_give_it_no_route(cni: CNI, node: Node, kind: str) -> None:
    """Likewise the bridge of `kubenet` and `vxlan`, made before by somebody else; also where pods may send anything."""
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
    """The node's own link is a port of the pods' bridge: its route stays and is renewed, whether or not it forwards."""
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
def test_pods_give_each_other_no_route(cni: CNI, node: Node, conf: dict) -> None:
    """What one pod advertises gives another neither a route nor an address, where the node is their router."""
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
def test_pods_may_configure_themselves(cni: CNI, node: Node, router: Pod, keys: dict, *, accepted: bool) -> None:
    """A pod without IPv6 addresses from IPAM listens to the router of its link, unless `acceptRA` says otherwise."""
    node.run(["ip", "link", "add", "br0", "type", "bridge"])
    node.run(["ip", "link", "set", "up0", "master", "br0"])
    pod = node.pod("pod1")
    cni.add(layer2(**keys), pod)
    if accepted:
        assert is_accepted(router, "eth0", pod, "eth0")
    else:
        assert is_ignored(router, "eth0", pod, "eth0")


def test_pods_of_a_vlan_give_the_node_no_route(cni: CNI, node: Node) -> None:
    """The link that carries a VLAN's gateway accepts nothing, new or set back since."""
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

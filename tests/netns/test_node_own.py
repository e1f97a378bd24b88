"""A node's own subnet and links: what would cut its pods off is reported, by ADD if no pod could be reached."""

import pytest

from tests.netns.cluster_tools import NO_PODS, network, pods_left, record, refused, told
from tests.netns.cni import CNI
from tests.netns.node import Node

KINDS = pytest.mark.parametrize("kind", ["kubenet", "vxlan"])


@pytest.fixture
def ready(node: Node) -> Node:
    """A node with a default route."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    return node


@KINDS
@pytest.mark.parametrize(
    ("cidr", "subnet"),
    [
        ("10.244.0.9/16", "10.244.1.0/24"),
        ("10.244.1.9/25", "10.244.1.0/24"),
        ("10.244.1.77/32", "10.244.1.0/24"),
        ("fd00:244::9/48", "fd00:244:0:1::/64"),
    ],
)
def test_a_subnet_that_overlaps_a_link_of_the_node_is_refused(
    cni: CNI, ready: Node, kind: str, cidr: str, subnet: str
) -> None:
    """ADD fails with code 7 and STATUS with code 50, naming both networks and the link; nothing is created."""
    ready.run(["sh", "-c", "ip link add lan0 type bridge; ip link set lan0 up"])
    ready.run(["ip", "addr", "add", cidr, "dev", "lan0", *(["nodad"] if ":" in cidr else [])])
    pod, conf = ready.pod("pod"), network(kind)
    for verb, code in (("ADD", 7), ("STATUS", 50)):
        error = refused(cni, verb, conf, pod)
        assert error.code == code
        assert f'"podCIDRs": {subnet} overlaps {cidr} of link "lan0"' in error.msg
    assert pods_left(ready, pod) == NO_PODS
    assert "cbr0" not in ready.links()
    ready.run(["ip", "link", "set", "lan0", "down"])
    cni.add(conf, pod)


@KINDS
def test_a_subnet_may_overlap_addresses_that_exist_for_pods(cni: CNI, ready: Node, kind: str) -> None:
    """The gateway alone on a pod's link, as `ptp` sets it; the network address on flannel's device; the bridge."""
    for name, address in (("ptp0", "10.244.1.1/32"), ("old.1", "10.244.1.0/32"), ("cbr0", "10.244.1.1/24")):
        ready.run(
            ["sh", "-c", f"ip link add {name} type bridge; ip link set {name} up; ip addr add {address} dev {name}"]
        )
    pod, conf = ready.pod("pod"), network(kind)
    cni.check(conf, pod, cni.add(conf, pod))
    cni.status(conf)


@KINDS
def test_a_link_that_overlaps_after_the_add_is_reported(cni: CNI, ready: Node, kind: str) -> None:
    """CHECK and STATUS fail, since pods may no longer be reachable."""
    pod, conf = ready.pod("pod"), network(kind)
    result = cni.add(conf, pod)
    ready.run(["ip", "addr", "add", "10.244.0.9/16", "dev", "wan0"])
    for verb, code in (("CHECK", 7), ("STATUS", 50)):
        error = refused(cni, verb, {**conf, "prevResult": result} if verb == "CHECK" else conf, pod)
        assert (error.code, 'of link "wan0"' in error.msg) == (code, True)


@KINDS
@pytest.mark.parametrize("route", ["blackhole", "prohibit", "unreachable"])
def test_a_route_that_shadows_the_whole_subnet_is_reported(cni: CNI, ready: Node, kind: str, route: str) -> None:
    """Before the first pod (Canal leaves a blackhole): ADD fails and leaves no pod, STATUS fails with code 50."""
    ready.run(["ip", "route", "add", route, "10.244.1.0/24"])
    pod, conf = ready.pod("pod"), network(kind)
    for verb, code in (("STATUS", 50), ("ADD", 999), ("STATUS", 50)):
        error = refused(cni, verb, conf, pod)
        assert error.code == code
        assert f"in the way: {route} 10.244.1.0/24" in error.text
    assert pods_left(ready, pod) == NO_PODS
    ready.run(["ip", "route", "del", route, "10.244.1.0/24"])
    cni.status(conf)
    cni.add(conf, pod)


@KINDS
@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("ip route add 10.244.1.0/25 via 192.0.2.9", "10.244.1.0/25 via 192.0.2.9 dev wan0"),
        ("ip route add 10.244.1.2 dev wan0", "10.244.1.2/32 dev wan0"),
        ("ip route add blackhole 10.244.1.2", "blackhole 10.244.1.2/32"),
        ("ip -6 route add blackhole fd00:244:0:1::2", "blackhole fd00:244:0:1::2/128"),
        ("ip route add 10.244.1.0/24 dev wan0 table 9; ip rule add lookup 9 prio 9", "ip rule"),
    ],
)
def test_a_route_that_shadows_a_pods_address_is_reported(
    cni: CNI, ready: Node, kind: str, command: str, named: str
) -> None:
    """CHECK of that pod fails; CHECK of another pod passes if the route covers only the first pod's address."""
    pod, second, conf = ready.pod("pod"), ready.pod("second"), network(kind)
    result, other = cni.add(conf, pod), cni.add(conf, second)
    cni.check(conf, pod, result)
    ready.run(["sh", "-c", command])
    error = refused(cni, "CHECK", {**conf, "prevResult": result}, pod)
    assert "is not routed to the pods' bridge, in the way: " in error.text
    assert named in error.text
    if "/2" not in named and "rule" not in named:
        cni.check(conf, second, other)


@KINDS
def test_an_unreachable_route_wider_than_the_subnet_does_no_harm(cni: CNI, ready: Node, kind: str) -> None:
    """Routers refuse destinations they have no route to (blackhole 10.0.0.0/8); the bridge's route is more specific."""
    ready.run(["sh", "-c", "ip route add blackhole 10.0.0.0/8; ip -6 route add unreachable fd00::/8"])
    pod, conf = ready.pod("pod"), network(kind)
    cni.status(conf)
    cni.check(conf, pod, cni.add(conf, pod))
    cni.status(conf)


@KINDS
def test_our_links_forward_whatever_the_default_for_new_links(cni: CNI, ready: Node, kind: str) -> None:
    """CHECK reports a link that does not forward; ADD repairs ours and warns about the uplink, as STATUS does."""
    ready.run(["sh", "-c", "cd /proc/sys/net/ipv4; echo 1 >ip_forward; echo 0 >conf/default/forwarding"])
    pod, second, conf = ready.pod("pod"), ready.pod("second"), network(kind, peers=[record(2)])
    result = cni.add(conf, pod)
    links = ["cbr0", "slash24.1"] if kind == "vxlan" else ["cbr0"]
    assert {name: ready.sysctl(f"ipv4/conf/{name}/forwarding") for name in links} == dict.fromkeys(links, "1")
    cni.check(conf, pod, result)
    for name in [*links, "wan0"]:
        ready.run(["sh", "-c", f"echo 0 >/proc/sys/net/ipv4/conf/{name}/forwarding"])
        error = refused(cni, "CHECK", {**conf, "prevResult": result}, pod)
        assert f'"{name}" does not forward IPv4' in error.text
    for lines in (told(cni, "ADD", conf, second), told(cni, "STATUS", conf)):
        assert lines == [f'{kind}: "wan0" does not forward IPv4: set net/ipv4/conf/wan0/forwarding to 1']


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (
            {"podCIDRs": ["10.244.9.0/24", "10.244.1.0/24"]},
            "has the VTEP MAC 02:24:0a:f4:09:00, that of its first subnet",
        ),
        ({"vtepMAC": "02:00:00:00:00:33"}, "has the VTEP MAC 02:00:00:00:00:33, but the tunnel has 02:24:0a:f4:01:00"),
        ({"addresses": ["192.0.2.9", "2001:db8:1::1"]}, "but the tunnel sends from 192.0.2.1"),
    ],
)
def test_a_record_that_does_not_match_this_node_is_reported(cni: CNI, ready: Node, keys: dict, named: str) -> None:
    """All nodes may share one peers file, so a node also finds its own record there."""
    conf, pod = network("vxlan", peers=[record(1, **keys), record(2)]), ready.pod("pod")
    result = cni.add(network("vxlan", peers=[record(1), record(2)]), pod)
    assert any(named in line for line in told(cni, "ADD", conf, ready.pod("second")))
    assert any(named in line for line in told(cni, "STATUS", conf))
    assert named in refused(cni, "CHECK", {**conf, "prevResult": result}, pod).text


def test_a_node_without_ipv6_may_have_dual_stack_peers(cni: CNI, ready: Node) -> None:
    """It routes to their IPv4 subnets, and their IPv6 subnets do not make ADD fail."""
    ready.run(["sh", "-c", "cd /proc/sys/net/ipv6/conf; echo 1 >all/disable_ipv6; echo 1 >default/disable_ipv6"])
    for kind in ("vxlan", "kubenet"):
        conf, pod = network(kind, podCIDRs=["10.244.1.0/24"], peers=[record(2)]), ready.pod(kind)
        result = cni.add(conf, pod)
        assert "10.244.2.0/24" in ready.routes()
        cni.check(conf, pod, result)
        cni.delete(conf, pod, result)

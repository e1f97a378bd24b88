"""One of our nodes in a flannel cluster: the other node is set up with `ip` and `bridge` as flannel would."""

import pytest

from tests.netns.node import Host, Node
from tests.system.underlay import Member, Underlay, assert_talk, capture, goes_through, subnets, vtep_mac

FLANNEL_MAC = "12:c6:65:89:b4:e3"  # random in flannel, published to its peers
SUBNET_ENV = """FLANNEL_NETWORK=10.244.0.0/16
FLANNEL_SUBNET=10.244.1.1/24
FLANNEL_IPV6_NETWORK=fd00:244::/48
FLANNEL_IPV6_SUBNET=fd00:244:0:1::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
"""


def be_flannel(member: Member) -> Host:
    """Set up a node as flannel and its CNI plugin would, with node 1 as its peer, and add a pod to it."""
    node, pod = member.node, member.node.pod("pod")
    v4, v6 = (subnet.partition("/")[0] for subnet in subnets(member.number))
    prefix = v4.removesuffix("0")
    here = (
        f"ip link add flannel.1 type vxlan id 1 dev eth0 local {member.addresses[0]} dstport 8472 nolearning",
        f"ip link set flannel.1 address {FLANNEL_MAC} mtu 1450 up",
        f"ip addr add {v4}/32 dev flannel.1",
        f"ip addr add {v6}/128 dev flannel.1 nodad",
        "ip link add cni0 mtu 1450 type bridge",
        "ip link set cni0 up",
        f"ip addr add {prefix}1/24 dev cni0",
        f"ip addr add {v6}1/64 dev cni0 nodad",
        "ip link add veth0 mtu 1450 type veth peer name eth0 mtu 1450 netns pod",
        "ip link set veth0 master cni0 up",
        "sysctl -qw net.ipv4.ip_forward=1",
        "sysctl -qw net.ipv6.conf.all.forwarding=1",
        f"ip neigh replace 10.244.1.0 lladdr {vtep_mac(1)} dev flannel.1 nud permanent",
        f"ip neigh replace fd00:244:0:1:: lladdr {vtep_mac(1)} dev flannel.1 nud permanent",
        f"bridge fdb replace {vtep_mac(1)} dev flannel.1 self permanent dst 192.0.2.1",
        "ip route replace 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink",
        "ip -6 route replace fd00:244:0:1::/64 via fd00:244:0:1:: dev flannel.1 onlink",
    )
    inside = (
        "ip link set eth0 up",
        f"ip addr add {prefix}2/24 dev eth0",
        f"ip addr add {v6}2/64 dev eth0 nodad",
        f"ip route add default via {prefix}1",
        f"ip -6 route add default via {v6}1",
    )
    for host, lines in ((node, here), (pod, inside)):
        for line in lines:
            host.run(line.split())
    member.results["pod"] = {"ips": [{"address": f"{prefix}2/24"}, {"address": f"{v6}2/64"}]}
    return pod


@pytest.mark.parametrize("device", ["flannel.1", "slash24.1"])
def test_pods_of_a_flannel_node_and_ours_reach_each_other(underlay: Underlay, device: str) -> None:
    """With port 8472, flannel's MAC as vtepMAC and its subnet.env: every protocol, up to the largest packet.

    The frames on the wire are flannel's; our device and routes are like its own.
    """
    ours, theirs = underlay.join("left"), underlay.join("right")
    path = ours.node.path("/run/flannel/subnet.env")
    path.parent.mkdir()
    path.write_text(SUBNET_ENV)
    files = {"podCIDRs": None, "clusterCIDRs": None, "subnetFile": "/run/flannel/subnet.env"}
    ours.configure("vxlan", [theirs], port=8472, device=device, **files)
    ours.conf["peers"][0]["vtepMAC"] = FLANNEL_MAC
    pod, other = ours.add("pod"), be_flannel(theirs)
    with capture(underlay.fabric, "n1") as seen:
        assert_talk((ours, pod), (theirs, other))
        assert_talk((theirs, other), (ours, pod))
        for family in (4, 6):
            assert goes_through(pod, theirs.address(other, family), 1450)
    frames = [packet for packet in seen if "10.244." in packet or "fd00:244:" in packet]
    # tcpdump decodes this port as OTV, whose header is the same: instance is the VNI.
    header = ".8472: OTV, flags [I] (0x08), overlay 0, instance 1\n"
    assert [packet for packet in frames if header not in packet] == []
    assert len(frames) > 20
    assert shape(ours.node, device) == shape(theirs.node, "flannel.1")


def shape(node: Node, device: str) -> dict:
    """What equivalent tunnels have in common: the device's parameters except addresses, and the form of its entries."""
    link = node.links()[device]
    keys = ("id", "port", "learning", "ageing", "udp_csum", "udp_zero_csum6_tx", "udp_zero_csum6_rx", "ttl")
    found = {key: link["linkinfo"]["info_data"].get(key) for key in keys} | {"mtu": link["mtu"]}
    routes = [*node.ip("-4", "route", "show", "dev", device), *node.ip("-6", "route", "show", "dev", device)]
    found["routes"] = sorted((one.get("scope"), one["flags"]) for one in routes if "gateway" in one)
    neighbours = [*node.ip("-4", "neigh", "show", "dev", device), *node.ip("-6", "neigh", "show", "dev", device)]
    found["neighbours"] = [one["state"] for one in neighbours]
    return found

"""The overlay under running pods: frames of strangers, a replaced device, repaired drift."""

import pytest

from tests.netns.node import Host, Node, ask
from tests.system.underlay import Member, Underlay, assert_talk, capture, subnets, vtep_mac

FIREWALL = """
add table inet firewall
add chain inet firewall input {{ type filter hook input priority 0; policy drop; }}
add rule inet firewall input ct state established, related accept
add rule inet firewall input iifname != "eth0" accept
add rule inet firewall input meta l4proto {{ icmp, ipv6-icmp }} accept
add rule inet firewall input udp dport 4789 ct state {{ {states} }} accept
"""


@pytest.fixture
def members(underlay: Underlay) -> list[Member]:
    """Two nodes, on different links."""
    members = [underlay.join("left"), underlay.join("right")]
    for member in members:
        member.configure("vxlan", members)
    return members


@pytest.fixture
def bystander(underlay: Underlay) -> Node:
    """A host on the left link that is not a node of the cluster."""
    return underlay.join("left").node


def tunnel_to(node: Node, number: int, far: str, *, name: str = "vx", vni: int = 1, port: int = 4789) -> None:
    """Set up a tunnel by hand, to send frames to node N of the cluster; 192.0.2.3 is the sender's own address."""
    tunnel = f"type vxlan id {vni} local 192.0.2.3 dstport {port} nolearning dev eth0"
    v4, v6 = f"10.244.{number}.0", f"fd00:244:0:{number}::"
    mac = vtep_mac(number)
    for line in (
        f"ip link add {name} address {vtep_mac(3)} mtu 1450 {tunnel}",
        f"ip link set {name} up",
        f"ip addr add 10.244.3.0/32 dev {name}",
        f"ip addr add fd00:244:0:3::/128 dev {name} nodad",
        f"ip neigh replace {v4} lladdr {mac} dev {name} nud permanent",
        f"ip neigh replace {v6} lladdr {mac} dev {name} nud permanent",
        f"bridge fdb replace {mac} dev {name} self permanent dst {far}",
        f"ip route replace {v4}/24 via {v4} dev {name} onlink",
        f"ip -6 route replace {v6}/64 via {v6} dev {name} onlink",
    ):
        node.run(line.split())


def arrives(source: Host, pod: Host, address: str) -> bool:
    """Whether a datagram from `source` reaches the pod, sent up to six times; a reply may get lost."""
    with pod.socket(address, "udp") as listener, source.socket(address, "udp") as caller:
        listener.bind((address, 5000))
        listener.settimeout(0.25)
        for _ in range(6):
            caller.sendto(b"word", (address, 5000))
            try:
                return listener.recv(16) == b"word"
            except TimeoutError:
                continue
    return False


def test_frames_of_strangers_reach_no_pod(members: list[Member], bystander: Node) -> None:
    """A host gets packets in only while it is in `peers`, whatever it knows."""
    one = members[0]
    pod = one.add("pod")
    tunnel_to(bystander, 1, one.addresses[0])
    addresses = [one.address(pod, 4), one.address(pod, 6)]
    with capture(one.node, "slash24.1") as seen:
        assert [arrives(bystander, pod, address) for address in addresses] == [False, False]
    assert [packet for packet in seen if ".5000: " in packet] == [], "it got as far as the device"
    stranger = {"name": "n3", "addresses": ["192.0.2.3", "2001:db8:1::3"], "podCIDRs": subnets(3)}
    one.conf["peers"] = [*one.conf["peers"], stranger]
    one.add("second")
    assert [arrives(bystander, pod, address) for address in addresses] == [True, True]
    assert ask(bystander, pod, addresses[0], 80, "tcp") == "10.244.3.0"
    del one.conf["peers"][-1]
    one.add("third")
    assert [arrives(bystander, pod, address) for address in addresses] == [False, False]


def test_another_vni_on_the_port_is_left_alone(members: list[Member], bystander: Node) -> None:
    """Another program's tunnel between a bystander and the node, VNI 77 on the same port, keeps working."""
    one = members[0]
    one.add("pod")
    for node, own, far, address in (
        (one.node, "192.0.2.1", "192.0.2.3", "172.31.0.1/24"),
        (bystander, "192.0.2.3", "192.0.2.1", "172.31.0.3/24"),
    ):
        tunnel = f"type vxlan id 77 local {own} remote {far} dstport 4789 dev eth0"
        node.run(f"ip link add vx77 {tunnel}".split())
        node.run(["ip", "addr", "add", address, "dev", "vx77"])
        node.run(["ip", "link", "set", "vx77", "up"])
    assert one.node.reaches("172.31.0.3")


@pytest.mark.parametrize("keys", [{"port": 8472}, {"vni": 7, "device": "slash24.1"}, {"localAddress": 6}], ids=str)
def test_a_device_is_replaced_under_running_pods(members: list[Member], keys: dict) -> None:
    """New parameters need a new device of that name: pods keep their links, and reach each other once both agree."""
    pods = [(member, member.add("pod")) for member in members]
    assert_talk(*pods)
    links = [pod.links()["eth0"]["ifindex"] for _, pod in pods]
    before = [member.node.links()["slash24.1"]["ifindex"] for member in members]
    for member in members:
        given = {key: member.addresses[1] if key == "localAddress" else value for key, value in keys.items()}
        member.conf.update(given)
        member.add("next")
    assert_talk(*pods)
    assert [member.node.links()["slash24.1"]["ifindex"] for member in members] != before
    assert [pod.links()["eth0"]["ifindex"] for _, pod in pods] == links
    for member, pod in pods:
        member.check(pod)


@pytest.mark.parametrize("what", ["route", "neighbour", "FDB entry", "device"])
def test_drift_is_repaired_under_running_pods(members: list[Member], what: str) -> None:
    """Deleting any of these by hand cuts the pods off; the next ADD restores it."""
    damage = {
        "route": ["sh", "-c", "ip route del 10.244.2.0/24; ip -6 route del fd00:244:0:2::/64"],
        "neighbour": ["ip", "neigh", "flush", "dev", "slash24.1", "nud", "permanent"],
        "FDB entry": ["bridge", "fdb", "del", vtep_mac(2), "dev", "slash24.1", "dst", "198.51.100.2"],
        "device": ["ip", "link", "del", "slash24.1"],
    }
    pods = [(member, member.add("pod")) for member in members]
    assert_talk(*pods)
    members[0].node.run(damage[what])
    assert not pods[0][1].reaches(members[1].address(pods[1][1], 4), timeout=0.5)
    members[0].add("second")
    assert_talk(*pods)


def test_the_overlay_outlives_the_last_pod(members: list[Member]) -> None:
    """It stays up: a pod of the other node still reaches this node's addresses on it, and the next pod uses it."""
    one, two = members
    pod, other = one.add("pod"), two.add("pod")
    one.delete(pod)
    assert other.reaches("10.244.1.0")
    assert other.reaches("10.244.1.1")
    assert_talk((one, one.add("next")), (two, other))


@pytest.mark.parametrize(("notrack", "states"), [(None, "new"), (False, "new"), (True, "new, untracked")])
def test_a_stateful_firewall_can_pass_the_tunnel(members: list[Member], states: str, *, notrack: bool | None) -> None:
    """It must accept state `new`; with `notrack`, also `untracked`, and then there is no connection tracking entry."""
    for member in members:
        member.conf.update({} if notrack is None else {"notrack": notrack})
        member.node.run(["nft", "-f", "-"], stdin=FIREWALL.format(states=states))
    assert_talk(*[(member, member.add("pod")) for member in members])
    for member in members:
        tracked = member.node.run(["cat", "/proc/net/nf_conntrack"]).stdout
        assert ("dport=4789" in tracked) != bool(notrack), tracked
        member.conf["notrack"] = False
        member.add("tracked")
        assert "notrack" not in member.node.ruleset()

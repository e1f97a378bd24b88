"""Pods cannot inject frames into any node's tunnel, whatever they send; others can still use the VNI and port."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.netns.frames import ipv4, udp, vxlan
from tests.netns.node import Host, Node, Pod
from tests.system.underlay import Member, Underlay, assert_talk, vtep_mac

PORT, WORD_PORT = 4789, 5000
UNLISTED = ("198.51.100.77", "2001:db8:2::77")  # of node 2, but not in its record
FAMILIES = pytest.mark.parametrize("over", [4, 6], ids=["over IPv4", "over IPv6"])


@pytest.fixture
def members(underlay: Underlay, over: int) -> list[Member]:
    """Nodes 1 and 3 on the left link, node 2 on the right; node 2 has more addresses than its record."""
    members = [underlay.join(link) for link in ("left", "right", "left")]
    for member in members:
        local = member.addresses[0 if over == 4 else 1]
        member.configure("vxlan", members, localAddress=local)
    for address, length in zip(UNLISTED, (24, 64), strict=True):
        members[1].node.run(["ip", "addr", "add", f"{address}/{length}", "dev", "eth0"])
    return members


def container_of(node: Node, name: str = "container", number: int = 2) -> Pod:
    """A container on another network of the node, as Docker sets it up: behind docker0, which masquerades it."""
    if "docker0" not in node.links():
        node.run(["ip", "link", "add", "docker0", "type", "bridge"])
        node.run(["ip", "link", "set", "docker0", "up"])
        for address, tool, network in (
            ("172.17.0.1/16", "iptables", "172.17.0.0/16"),
            ("fd17::1/64", "ip6tables", "fd17::/64"),
        ):
            node.run(["ip", "addr", "add", address, "dev", "docker0", *(["nodad"] if ":" in address else [])])
            node.run([*f"{tool} -t nat -A POSTROUTING -s {network} ! -o docker0 -j MASQUERADE".split()])
    made = node.pod(name)
    peer = ["peer", "name", "eth0", "netns", name]
    node.run(["ip", "link", "add", f"docker{number}", "type", "veth", *peer])
    node.run(["ip", "link", "set", f"docker{number}", "master", "docker0", "up"])
    for words in (
        f"link set eth0 up;addr add 172.17.0.{number}/16 dev eth0;addr add fd17::{number}/64 dev eth0 nodad;"
        "route add default via 172.17.0.1;-6 route add default via fd17::1"
    ).split(";"):
        made.run(["ip", *words.split()])
    return made


def intrusion(target: Member, pod: Pod) -> bytes:
    """A VXLAN payload that delivers a datagram to a pod, if the node accepts it as its tunnel's."""
    ends = socket.inet_aton("203.0.113.9") + socket.inet_aton(target.address(pod, 4))
    return vxlan(1, vtep_mac(target.number), ipv4(ends[:4], ends[4:], udp(ends, WORD_PORT, b"word")))


@contextmanager
def hearing(member: Member, pod: Pod) -> Iterator[Callable[[], int]]:
    """Yield a function that returns how many such datagrams the pod has received since the last call."""
    address = member.address(pod, 4)
    with pod.socket(address, "udp") as listener:
        listener.bind((address, WORD_PORT))
        listener.settimeout(0.3)

        def heard() -> int:
            count = 0
            while True:
                try:
                    listener.recv(16)
                except TimeoutError:
                    return count
                count += 1

        yield heard


def send(source: Host, address: str, payload: bytes) -> None:
    """Send plain UDP three times: the first datagram may be lost during neighbour resolution."""
    with source.socket(address, "udp") as sender:
        for _ in range(3):
            sender.sendto(payload, (address, PORT))


def forge(source: Host, via: Host, link: str, ends: tuple[str, str], payload: bytes) -> None:
    """Send it with any source address, in a frame to the node's link: what CAP_NET_RAW allows."""
    family = socket.AF_INET6 if ":" in ends[0] else socket.AF_INET
    packed = [socket.inet_pton(family, end) for end in ends]
    datagram = udp(packed[0] + packed[1], PORT, payload)
    ethertype = 0x86DD if ":" in ends[0] else 0x0800
    if ethertype == 0x0800:
        packet = ipv4(packed[0], packed[1], datagram)
    else:
        packet = struct.pack(">IHBB", 6 << 28, len(datagram), 17, 64) + packed[0] + packed[1] + datagram
    macs = via.links()[link]["address"] + source.links()["eth0"]["address"]
    with source.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("eth0", 0))
        wire.send(bytes.fromhex(macs.replace(":", "")) + struct.pack(">H", ethertype) + packet)


def unfiltered(*members: Member) -> None:
    """Delete the filters."""
    for member in members:
        member.node.run(["nft", "delete", "table", "inet", "slash24_vtep_cluster"])


@FAMILIES
def test_no_pod_injects_a_frame_into_another_node(members: list[Member], over: int) -> None:
    """At none of its addresses, recorded or not, nor its tunnel's addresses; nor from a masqueraded network.

    Without the filter on the sender's node, each masqueraded frame gets in.
    """
    one, two, _ = members
    attackers = [one.add("pod"), container_of(one.node)]
    victim = two.add("victim")
    place = 0 if over == 4 else 1
    targets = [two.addresses[place], UNLISTED[place], *(("10.244.2.0", "10.244.2.1") if over == 4 else
                                                       ("fd00:244:0:2::", "fd00:244:0:2::1"))]  # fmt: skip
    with hearing(two, victim) as heard:
        for attacker in attackers:
            for target in targets:
                send(attacker, target, intrusion(two, victim))
        assert heard() == 0
        unfiltered(one)
        for attacker in attackers:
            for target in targets[:2]:
                send(attacker, target, intrusion(two, victim))
        assert heard() > 6


@FAMILIES
def test_no_pod_injects_a_frame_into_its_own_node(members: list[Member], over: int) -> None:
    """At any address of the node, with any source address: a peer's, or the gateway of another node."""
    one, _, three = members
    attackers = [(one.add("pod"), "cbr0"), (container_of(one.node), "docker0")]
    victim = one.add("victim")
    place = 0 if over == 4 else 1
    gateways = ("10.244.1.1", "172.17.0.1") if over == 4 else ("fd00:244:0:1::1", "fd17::1")
    sources = [three.addresses[place], "10.244.3.1" if over == 4 else "fd00:244:0:3::1"]
    # A record with every address that `hostname -I` prints.
    one.conf["peers"][-1] = three.record | {"addresses": [*three.addresses, sources[1]]}
    one.add("again")
    payload = intrusion(one, victim)
    with hearing(one, victim) as heard:
        for attacker, bridge in attackers:
            for target in (one.addresses[place], *gateways):
                send(attacker, target, payload)
                for source in sources:
                    forge(attacker, one.node, bridge, (source, target), payload)
        assert heard() == 0
        unfiltered(one)
        forge(attackers[0][0], one.node, "cbr0", (sources[0], one.addresses[place]), payload)
        assert heard() == 1


@FAMILIES
def test_no_node_forwards_frames_of_strangers(members: list[Member], over: int, underlay: Underlay) -> None:
    """A node that masquerades whatever it routes does not lend its address to a stranger or to a pod that forges."""
    one, two, three = members
    stranger = underlay.join("left").node
    for tool in ("iptables", "ip6tables"):
        one.node.run([*f"{tool} -t nat -A POSTROUTING -o eth0 -j MASQUERADE".split()])
    pod, victim = one.add("pod"), two.add("victim")
    place, payload = 0 if over == 4 else 1, intrusion(two, victim)
    target = two.addresses[place]
    stranger.run(["ip", "route", "add", target, "via", one.addresses[place]])
    with hearing(two, victim) as heard:
        send(stranger, target, payload)
        forge(pod, one.node, "cbr0", (three.addresses[place], target), payload)
        assert heard() == 0
        unfiltered(one)
        send(stranger, target, payload)
        assert heard() > 0


@FAMILIES
def test_a_node_that_routes_between_peers_forwards_their_frames(members: list[Member], over: int) -> None:
    """Node 3 reaches node 2 through node 1, as behind a hub: their pods reach each other."""
    one, two, three = members
    one.add("pod")
    place = 0 if over == 4 else 1
    three.node.run(["ip", "route", "add", two.addresses[place], "via", one.addresses[place]])
    for host in (one.node, three.node):
        host.run(["sysctl", "-qw", "net.ipv4.conf.all.accept_redirects=0", "net.ipv4.conf.all.send_redirects=0"])
    assert_talk((three, three.add("pod")), (two, two.add("pod")))


def tunnel_between(hosts: list[tuple[Host, str]]) -> None:
    """Create a VXLAN tunnel of the same VNI and port between two hosts, with inner addresses 172.31.0.1 and .2."""
    for number, (host, own) in enumerate(hosts, 1):
        far = hosts[2 - number][1]
        host.run([*f"ip link add nested type vxlan id 1 local {own} remote {far} dstport {PORT} dev eth0".split()])
        host.run(["ip", "addr", "add", f"172.31.0.{number}/24", "dev", "nested"])
        host.run(["ip", "link", "set", "nested", "up"])


@FAMILIES
def test_a_cluster_inside_pods_may_use_the_same_vni_and_port(members: list[Member], over: int) -> None:
    """Its own tunnels work between pods of two nodes, and between pods of one."""
    one, two, _ = members
    client = one.add("client")
    servers = [(two, two.add("server")), (one, one.add("server"))]
    for member, server in servers:
        tunnel_between([(client, one.address(client, over)), (server, member.address(server, over))])
        assert client.reaches("172.31.0.2")
        client.run(["ip", "link", "del", "nested"])


@FAMILIES
def test_containers_of_another_bridge_may_use_the_same_vni_and_port(members: list[Member], over: int) -> None:
    """Even if br_netfilter passes bridged packets to the node's rules."""
    one = members[0]
    one.add("pod")
    one.node.run(["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1", "net.bridge.bridge-nf-call-ip6tables=1"])
    pair = [container_of(one.node, "left", 2), container_of(one.node, "right", 3)]
    addresses = ("172.17.0.2", "172.17.0.3") if over == 4 else ("fd17::2", "fd17::3")
    tunnel_between(list(zip(pair, addresses, strict=True)))
    assert pair[0].reaches("172.31.0.2")


@FAMILIES
def test_the_tunnel_is_not_up_before_its_filter(members: list[Member], over: int, underlay: Underlay) -> None:
    """While a stranger floods the port, neither a new nor a replaced device receives any of its frames."""
    one, stranger = members[0], underlay.join("left").node
    address = one.addresses[0 if over == 4 else 1]
    payload = vxlan(1, vtep_mac(1), bytes(20))
    ended = threading.Event()

    def flood() -> None:
        with stranger.socket(address, "udp") as sender:
            while not ended.wait(0.0001):
                for port in (PORT, PORT + 1):
                    sender.sendto(payload, (address, port))

    sending = threading.Thread(target=flood)
    sending.start()
    try:
        for turn in range(4):
            one.conf["port"] = PORT + turn % 2
            one.add(f"pod{turn}")
            assert one.node.run(["cat", "/sys/class/net/slash24.1/statistics/rx_packets"]).stdout == "0\n"
    finally:
        ended.set()
        sending.join()

"""The VTEP filter: its rules, and which VXLAN datagrams of real devices reach pods in spite of it."""

import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import pytest

from rules import vtep_filter
from rules.vtep_filter import Tunnel
from tests.netns.frames import ipv4, ipv4_fragment, ipv6_fragment, udp, vxlan
from tests.netns.nft_tools import nft, on, table
from tests.netns.node import Host, Node

TABLE = "inet slash24_vtep_vxlan"


# -- rules ----------------------------------------------------------------------------------------------------------


def golden(vni: str, number: int, port: int, peers4: str, peers6: str) -> str:
    """The table as `nft list table` prints it, with these peers."""
    sets = "".join(
        f"\tset {name} {{\n\t\ttype {kind}\n" + (f"\t\telements = {{ {peers} }}\n" if peers else "") + "\t}\n\n"
        for name, kind, peers in (("peers4", "ipv4_addr", peers4), ("peers6", "ipv6_addr", peers6))
    )
    return f"""\
table {TABLE} {{
	comment "slash24: only known nodes reach the pods of vxlan by VXLAN"
{sets}\
	chain strangers {{
		@th,96,24 != {vni} return comment "other VNIs than {number}"
		iifname "cbr0" drop comment "from cbr0"
		iifname "vx1" drop comment "from vx1"
		ip saddr != @peers4 drop comment "strangers, v4"
		ip6 saddr != @peers6 drop comment "strangers, v6"
		iifname != "under0" fib saddr . iif oif missing drop comment "by another link than under0 or the sender's"
	}}

	chain through {{
		oifname "cbr0" return comment "to pods by cbr0"
		oifname "vx1" return comment "to pods by vx1"
		meta iifkind "bridge" iifname != "under0" fib daddr . iif oif exists return comment \
"between neighbours on a bridge other than under0"
		jump strangers comment "to nodes"
	}}

	chain forward {{
		type filter hook forward priority raw; policy accept;
		udp dport {port} jump through comment "port {port}"
	}}

	chain input {{
		type filter hook input priority raw; policy accept;
		udp dport {port} jump strangers comment "port {port}"
	}}
}}
"""


def tunnel(vni: int, port: int, peers: list[str]) -> Tunnel:
    """The tunnel of these tests' node."""
    return Tunnel(vni, port, peers, parent="under0", device="vx1", bridge="cbr0")


@pytest.mark.parametrize(
    ("vni", "text", "port", "peers", "peers4", "peers6"),
    [
        (1, "0x1", 4789, ["192.0.2.3", "192.0.2.2", "192.0.2.3"], "192.0.2.2, 192.0.2.3", ""),
        (1, "0x1", 8472, ["2001:db8:1::2", "192.0.2.2"], "192.0.2.2", "2001:db8:1::2"),
        (0, "0x0", 1, [], "", ""),
        (0xFFFFFF, "0xffffff", 65535, [], "", ""),
    ],
)
def test_text(node: Node, vni: int, text: str, port: int, peers: list[str], peers4: str, peers6: str) -> None:
    """VNI and port are in the rules; the peers are in a set per family."""
    on(node, vtep_filter.ensure, "vxlan", tunnel(vni, port, peers))
    assert table(node, TABLE) == golden(text, vni, port, peers4, peers6)
    assert on(node, vtep_filter.problems, "vxlan", tunnel(vni, port, peers)) == []


@pytest.fixture
def older_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without `fib ... oif` in the input and forward hooks."""
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release="5.15.0-130-generic"))


@pytest.mark.usefixtures("older_kernel")
def test_text_for_an_older_kernel(node: Node) -> None:
    """Rules match bridges instead of the links over which addresses are reachable."""
    on(node, vtep_filter.ensure, "vxlan", tunnel(1, 4789, ["192.0.2.2"]))
    lines = golden("0x1", 1, 4789, "192.0.2.2", "").splitlines(keepends=True)
    text = "".join(line for line in lines if "between neighbours" not in line and "iifkind" not in line)
    by_link = (
        'iifname != "under0" fib saddr . iif oif missing drop comment "by another link than under0 or the sender\'s"'
    )
    by_bridge = 'meta iifkind "bridge" iifname != "under0" drop comment "by another bridge than under0"'
    assert by_link in text
    assert table(node, TABLE) == text.replace(by_link, by_bridge)
    assert on(node, vtep_filter.problems, "vxlan", tunnel(1, 4789, ["192.0.2.2"])) == []


@pytest.mark.parametrize(("vni", "port"), [(2, 4789), (1, 4790)])
def test_another_vni_or_port(node: Node, vni: int, port: int) -> None:
    """CHECK fails if the filter is for another VNI or port."""
    on(node, vtep_filter.ensure, "vxlan", tunnel(vni, port, ["192.0.2.2"]))
    problems = on(node, vtep_filter.problems, "vxlan", tunnel(1, 4789, ["192.0.2.2"]))
    chains = ["strangers"] if port == 4789 else ["forward", "input"]
    assert problems == [f"chain {chain} of table {TABLE} does not hold its rules" for chain in chains]
    on(node, vtep_filter.ensure, "vxlan", tunnel(1, 4789, ["192.0.2.2"]))
    assert table(node, TABLE) == golden("0x1", 1, 4789, "192.0.2.2", "")


def test_thousands(node: Node) -> None:
    """5,000 peers of each family are in the sets; a missing one is reported."""
    peers = [f"172.16.{i >> 8}.{i & 255}" for i in range(5000)] + [f"2001:db8::{i:x}" for i in range(5000)]
    on(node, vtep_filter.ensure, "vxlan", tunnel(1, 4789, peers))
    held = table(node, TABLE)
    assert [held.count(text) for text in ("172.16.", "2001:db8::")] == [5000, 5000]
    assert on(node, vtep_filter.problems, "vxlan", tunnel(1, 4789, peers)) == []
    assert on(node, vtep_filter.problems, "vxlan", tunnel(1, 4789, [*peers, "192.0.2.2"])) == [
        f"set peers4 of table {TABLE} lacks 192.0.2.2"
    ]


# -- packets --------------------------------------------------------------------------------------------------------

POD = "10.244.1.2"
UNDERLAYS = {"v4": "192.0.2.{}", "v6": "2001:db8:1::{}"}
PORT = 4789


@dataclass(frozen=True)
class World:
    """A node with a pod; hosts 2 and 3 on the node's underlay, each with a tunnel to the node for VNI 1 and VNI 2."""

    node: Node
    pod: Host
    hosts: dict[int, Host]
    underlay: str

    def ensure(self, *peers: int) -> None:
        """Set up the filter for VNI 1 with these hosts as peers."""
        on(self.node, vtep_filter.ensure, "vxlan", tunnel(1, PORT, [self.underlay.format(peer) for peer in peers]))

    def hears(self, send: Callable[[], object]) -> bool:
        """Whether the pod receives on port 7001 what `send` sends."""
        with self.pod.socket(POD, "udp") as listener:
            listener.bind((POD, 7001))
            listener.settimeout(0.3)
            send()
            try:
                return listener.recv(16) == b"word"
            except TimeoutError:
                return False

    def tunnelled(self, host: int, vni: int) -> bool:
        """Whether the pod receives what the host sends through the tunnel of this VNI."""
        with self.hosts[host].socket(POD, "udp") as sender:
            sender.bind((f"10.{vni}.{host}.1", 0))
            return self.hears(lambda: sender.sendto(b"word", (POD, 7001)))

    def fragmented(self, host: int, first: int) -> bool:
        """Whether the pod receives a datagram in two fragments, the first with `first` bytes of the UDP datagram."""
        return self.hears(partial(send_fragments, self, host, first))


def mac(vni: int, number: int) -> str:
    """The MAC of a VTEP."""
    return f"02:24:00:00:{vni:02x}:{number:02x}"


def add_tunnel(host: Host, number: int, vni: int, underlay: str) -> None:
    """A tunnel as flannel creates it: no learning, all entries static."""
    name, local = f"vx{vni}", underlay.format(number)
    options = ["id", str(vni), "local", local, "dev", "under0", "dstport", str(PORT), "nolearning"]
    for words in (
        ["link", "add", name, "address", mac(vni, number), "type", "vxlan", *options],
        ["addr", "add", f"10.{vni}.{number}.1/32", "dev", name],
        ["link", "set", name, "up"],
    ):
        host.run(["ip", *words])


def add_way(host: Host, vni: int, underlay: str) -> None:
    """Add a route to the pod's subnet through the tunnel of this VNI, in its own routing table."""
    name, via = f"vx{vni}", f"10.{vni}.1.1"
    table = ["table", str(100 + vni)]
    host.run(["ip", "route", "add", "10.244.1.0/24", "via", via, "dev", name, "onlink", *table])
    host.run(["ip", "neigh", "add", via, "lladdr", mac(vni, 1), "dev", name])
    host.run(["bridge", "fdb", "add", mac(vni, 1), "dev", name, "dst", underlay.format(1)])


@pytest.fixture(params=list(UNDERLAYS))
def world(request: pytest.FixtureRequest, node: Node) -> Iterator[World]:
    """Tunnels over IPv4 or IPv6; a host's source address selects the VNI for traffic to the pod."""
    underlay = UNDERLAYS[request.param]
    node.run(["ip", "link", "add", "under0", "type", "bridge"])
    node.run(["sysctl", "-w", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0"])
    node.run(["sysctl", "-w", "net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-ip6tables=0"])
    hosts: dict[int, Host] = {number: node.pod(f"host{number}") for number in (2, 3)}
    for number, host in {1: node, **hosts}.items():
        if number != 1:
            peer = ["type", "veth", "peer", "name", "under0", "netns", host.name]
            node.run(["ip", "link", "add", f"port{number}", *peer])
            node.run(["ip", "link", "set", f"port{number}", "master", "under0", "up"])
        host.run(["ip", "link", "set", "under0", "up"])
        host.run(["ip", "addr", "add", f"192.0.2.{number}/24", "dev", "under0"])
        host.run(["ip", "addr", "add", f"2001:db8:1::{number}/64", "dev", "under0", "nodad"])
    for vni in (1, 2):
        for number, host in {1: node, **hosts}.items():
            add_tunnel(host, number, vni, underlay)
            if number != 1:
                host.run(["ip", "rule", "add", "from", f"10.{vni}.{number}.1", "lookup", str(100 + vni)])
                add_way(host, vni, underlay)
    pod = node.pod("pod")
    node.run(["ip", "link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", "pod"])
    node.run(["ip", "link", "set", "veth0", "up"])
    node.run(["ip", "addr", "add", "10.244.1.1/24", "dev", "veth0"])
    pod.run(["ip", "link", "set", "eth0", "up"])
    pod.run(["ip", "addr", "add", f"{POD}/24", "dev", "eth0"])
    pod.run(["ip", "route", "add", "default", "via", "10.244.1.1"])
    for number in hosts:
        assert node.reaches(underlay.format(number))
    assert node.reaches(POD)
    return World(node, pod, hosts, underlay)


def test_strangers(world: World) -> None:
    """Traffic from a stranger reaches a pod only without a filter; traffic from a peer always does."""
    assert [world.tunnelled(2, 1), world.tunnelled(3, 1)] == [True, True]
    world.ensure(2)
    assert [world.tunnelled(2, 1), world.tunnelled(3, 1)] == [True, False]
    world.ensure(2, 3)
    assert [world.tunnelled(2, 1), world.tunnelled(3, 1)] == [True, True]
    world.ensure(3)
    assert [world.tunnelled(2, 1), world.tunnelled(3, 1)] == [False, True]
    world.ensure()
    assert [world.tunnelled(2, 1), world.tunnelled(3, 1)] == [False, False]
    on(world.node, vtep_filter.delete, "vxlan")
    assert [world.tunnelled(2, 1), world.tunnelled(3, 1)] == [True, True]


@pytest.mark.usefixtures("older_kernel")
def test_strangers_and_pods_on_an_older_kernel(world: World) -> None:
    """A peer's datagrams pass, a stranger's do not, nor do a peer's that arrive over a bridge of pods."""
    world.ensure(2)
    assert [world.tunnelled(2, 1), world.tunnelled(3, 1)] == [True, False]
    other = replace(tunnel(1, PORT, [world.underlay.format(2)]), parent="lo")
    on(world.node, vtep_filter.ensure, "vxlan", other)
    assert not world.tunnelled(2, 1)


def test_another_vni_on_the_port(world: World) -> None:
    """Another network's tunnel on the same port is open to all hosts until it has its own filter."""
    world.ensure(2)
    assert [world.tunnelled(2, 2), world.tunnelled(3, 2)] == [True, True]
    on(world.node, vtep_filter.ensure, "second", tunnel(2, PORT, [world.underlay.format(3)]))
    assert [world.tunnelled(2, 2), world.tunnelled(3, 2)] == [False, True]
    assert [world.tunnelled(2, 1), world.tunnelled(3, 1)] == [True, False]


def test_another_port(world: World) -> None:
    """A filter for another port does not affect the tunnel, nor the tunnel's filter other services of the node."""
    on(world.node, vtep_filter.ensure, "vxlan", tunnel(1, PORT + 1, []))
    assert world.tunnelled(3, 1)
    world.ensure()
    local = world.underlay.format(1)
    with world.node.socket(local, "udp") as listener, world.hosts[3].socket(local, "udp") as sender:
        listener.bind((local, PORT + 1))
        sender.sendto(vxlan_datagram(world, 3, PORT + 1)[8:], (local, PORT + 1))
        assert listener.recv(4) == struct.pack(">I", 8 << 24)
    assert world.hosts[3].reaches(local)


@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
@pytest.mark.parametrize("first", [8, 16, 40])
def test_fragments(world: World, first: int, tracked: bool) -> None:
    """Fragments of a stranger's datagram are dropped, even if the first has no VNI; those of a peer's pass."""
    if tracked:
        nft(world.node, "-f", "-", stdin="add table inet t\nadd chain inet t c\nadd rule inet t c ct state new\n")
    assert world.fragmented(3, first)
    world.ensure(2)
    assert [world.fragmented(2, first), world.fragmented(3, first)] == [True, False]


def send_fragments(world: World, host: int, first: int) -> None:
    """Send a VXLAN datagram from a host to the node, split after `first` bytes (a multiple of 8)."""
    datagram = vxlan_datagram(world, host, PORT)
    under = world.hosts[host].links()["under0"]
    frame_type = socket.ntohs(0x86DD if ":" in world.underlay else 0x0800)
    to = bytes.fromhex(world.node.links()["under0"]["address"].replace(":", ""))
    ethernet = to + bytes.fromhex(under["address"].replace(":", "")) + struct.pack("=H", frame_type)
    wrap = ipv6_fragment if ":" in world.underlay else ipv4_fragment
    with world.hosts[host].inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("under0", 0))
        for offset, part in ((0, datagram[:first]), (first, datagram[first:])):
            more = offset == 0
            wire.send(ethernet + wrap(packed(world, host), packed(world, 1), part, offset, more=more))


def packed(world: World, number: int) -> bytes:
    """The underlay address of a host, packed."""
    text = world.underlay.format(number)
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def vxlan_datagram(world: World, host: int, port: int) -> bytes:
    """UDP to this port: VXLAN of VNI 1: Ethernet: IPv4: UDP to the pod's port 7001: "word"."""
    ends = socket.inet_aton(f"10.1.{host}.1") + socket.inet_aton(POD)
    inner = ipv4(ends[:4], ends[4:], udp(ends, 7001, b"word"))
    return udp(packed(world, host) + packed(world, 1), port, vxlan(1, mac(1, 1), inner))

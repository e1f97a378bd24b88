"""Cluster masquerade: its rules, large sets, and the source addresses that other hosts see."""

import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice

import pytest

from rules import cluster_masquerade
from rules.cluster_masquerade import Scope
from tests.netns.nft_tools import chain, nft, on, table
from tests.netns.node import NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, Host, Node, Pod, ask, wait_until

TABLE = "inet slash24_egress_kubenet"
OWN = ["10.244.1.0/24", "fd00:1::/64"]


def golden(own4: str, inside4: str, nodes4: str, own6: str, inside6: str, nodes6: str) -> str:
    """The table as `nft list table` prints it, with these elements."""
    sets = "".join(
        f"\tset {name} {{\n\t\ttype {kind}\n"
        + ("" if name.startswith("nodes") else "\t\tflags interval\n")
        + (f"\t\telements = {{ {elements} }}\n" if elements else "")
        + "\t}\n\n"
        for name, kind, elements in (
            ("own4", "ipv4_addr", own4),
            ("inside4", "ipv4_addr", inside4),
            ("nodes4", "ipv4_addr", nodes4),
            ("own6", "ipv6_addr", own6),
            ("inside6", "ipv6_addr", inside6),
            ("nodes6", "ipv6_addr", nodes6),
        )
    )
    return f"""\
table {TABLE} {{
	comment "slash24: pods of kubenet reach the world with the node's address"
{sets}\
	chain postrouting {{
		type nat hook postrouting priority srcnat + 1; policy accept;
		ip saddr @own4 ip daddr != @inside4 ip daddr != @nodes4 masquerade comment "beyond the cluster, v4"
		ip6 saddr @own6 ip6 daddr != @inside6 ip6 daddr != @nodes6 masquerade comment "beyond the cluster, v6"
	}}
}}
"""


NEVER4, NEVER6 = "224.0.0.0/4, 255.255.255.255", "fe80::/10, ff00::/8"


@pytest.mark.parametrize(
    ("own", "inside", "nodes", "sets"),
    [
        pytest.param(
            OWN,
            ["10.0.0.0/8", "fd00::/16"],
            ["192.0.2.2", "192.0.2.1", "2001:db8:1::1"],
            (
                "10.244.1.0/24",
                f"10.0.0.0/8, {NEVER4}",
                "192.0.2.1, 192.0.2.2",
                "fd00:1::/64",
                f"fd00::/16, {NEVER6}",
                "2001:db8:1::1",
            ),
            id="dual stack",
        ),
        pytest.param(
            ["10.244.1.0/24"],
            [],
            [],
            ("10.244.1.0/24", f"10.244.1.0/24, {NEVER4}", "", "", NEVER6, ""),
            id="own subnet alone",
        ),
        pytest.param(
            ["10.244.1.0/24"],
            ["10.244.2.0/24", "10.244.3.0/24", "10.244.2.128/25", "10.244.4.7/32", "10.244.4.8", "192.168.1.9/16"],
            ["192.0.2.1", "192.0.2.1"],
            (
                "10.244.1.0/24",
                f"10.244.1.0-10.244.3.255, 10.244.4.7-10.244.4.8, 192.168.0.0/16, {NEVER4}",
                "192.0.2.1",
                "",
                NEVER6,
                "",
            ),
            id="merged",
        ),
        pytest.param(
            OWN,
            ["0.0.0.0/0", "8000::/1"],
            [],
            ("10.244.1.0/24", "0.0.0.0/0", "", "fd00:1::/64", "8000::/1", ""),
            id="everything inside",
        ),
        pytest.param(
            ["10.244.1.0/24", "10.244.9.0/24"],
            ["128.0.0.0/1", "0.0.0.0/32"],
            [],
            ("10.244.1.0/24, 10.244.9.0/24", "0.0.0.0, 10.244.1.0/24, 10.244.9.0/24, 128.0.0.0/1", "", "", NEVER6, ""),
            id="from the first to the last",
        ),
    ],
)
def test_text(node: Node, own: list[str], inside: list[str], nodes: list[str], sets: tuple[str, ...]) -> None:
    """Overlapping and adjacent networks are merged; the pods' subnets and networks that are never routed are inside."""
    on(node, cluster_masquerade.ensure, "kubenet", Scope(own, inside, nodes))
    assert table(node, TABLE) == golden(*sets)
    assert on(node, cluster_masquerade.problems, "kubenet", Scope(own, inside, nodes)) == []
    saved = node.ruleset()
    nft(node, "-f", "-", stdin=f"flush ruleset\n{saved}")
    assert node.ruleset() == saved
    assert on(node, cluster_masquerade.problems, "kubenet", Scope(own, inside, nodes)) == []


def test_text_of_a_tunnel(node: Node) -> None:
    """Traffic into the tunnel has its own rules, even if traffic that leaves the cluster is not masqueraded."""
    beyond = (
        'ip saddr @own4 ip daddr != @inside4 ip daddr != @nodes4 masquerade comment "beyond the cluster, v4"',
        'ip6 saddr @own6 ip6 daddr != @inside6 ip6 daddr != @nodes6 masquerade comment "beyond the cluster, v6"',
    )
    into = tuple(
        f'oifname "vx" {ip} saddr != @{name}{v} {fib}masquerade comment "into vx from {whom}, v{v}"'
        for v, ip in ((4, "ip"), (6, "ip6"))
        for name, fib, whom in (("inside", "", "no pod"), ("own", "fib saddr type local ", "this node"))
    )
    for wanted, rules in (
        (Scope(OWN, [], tunnel="vx"), beyond + into),
        (Scope(OWN, [], tunnel="vx", beyond=False), into),
        (Scope(OWN, []), beyond),
    ):
        on(node, cluster_masquerade.ensure, "kubenet", wanted)
        assert tuple(chain(table(node, TABLE), "postrouting")) == rules
        assert on(node, cluster_masquerade.problems, "kubenet", wanted) == []
    nothing = Scope(OWN, [], beyond=False)
    on(node, cluster_masquerade.ensure, "kubenet", nothing)
    assert TABLE not in node.ruleset()
    assert on(node, cluster_masquerade.problems, "kubenet", nothing) == []


def test_thousands(node: Node) -> None:
    """5,000 nodes and 5,000 networks of each family are in the sets; a changed element is reported and repaired."""
    inside = [f"10.{i >> 7}.{2 * i & 255}.0/24" for i in range(5000)] + [f"fd00:{2 * i:x}::/64" for i in range(5000)]
    nodes = [f"172.16.{i >> 8}.{i & 255}" for i in range(5000)] + [f"2001:db8::{i:x}" for i in range(5000)]
    on(node, cluster_masquerade.ensure, "kubenet", Scope(OWN, inside, nodes))
    assert on(node, cluster_masquerade.problems, "kubenet", Scope(OWN, inside, nodes)) == []
    held = table(node, TABLE)
    assert [held.count(text) for text in (".0/24", "::/64", "172.16.", "2001:db8::")] == [5002, 5002, 5000, 5000]
    assert on(node, cluster_masquerade.problems, "kubenet", Scope(OWN, inside[1:], [*nodes, "192.0.2.9"])) == [
        f"set inside4 of table {TABLE} should not hold 10.0.0.0/24",
        f"set nodes4 of table {TABLE} lacks 192.0.2.9",
    ]
    assert on(node, cluster_masquerade.problems, "kubenet", Scope(OWN, inside, nodes[5:])) == [
        f"set nodes4 of table {TABLE} should not hold 172.16.0.0, 172.16.0.1, 172.16.0.2 and 2 more"
    ]
    nft(node, "delete", "element", *TABLE.split(), "nodes6", "{ 2001:db8::42 }")
    assert on(node, cluster_masquerade.problems, "kubenet", Scope(OWN, inside, nodes)) == [
        f"set nodes6 of table {TABLE} lacks 2001:db8::42"
    ]
    on(node, cluster_masquerade.ensure, "kubenet", Scope(OWN, inside, nodes))
    assert table(node, TABLE) == held


# -- packets --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """Two pods 10.244.1.2 and .3 (fd00:1::2, ::3) on bridge cbr0 of a node, and the outside host."""

    node: Node
    pod: Pod
    second: Pod
    outside: Host

    def ensure(self, inside: list[str], nodes: list[str]) -> None:
        """Masquerade what the pods send to the outside, except to these networks and nodes."""
        on(self.node, cluster_masquerade.ensure, "kubenet", Scope(OWN, inside, nodes))

    def seen(self, port: int, kind: str) -> tuple[str, str]:
        """The source addresses, IPv4 and IPv6, that the outside host sees when the pod connects to it."""
        return (
            ask(self.pod, self.outside, OUTSIDE_V4, port, kind),
            ask(self.pod, self.outside, OUTSIDE_V6, port, kind),
        )


def pod_on_bridge(node: Node, name: str, last: int) -> Pod:
    """Create a pod on cbr0 whose addresses end in `last`."""
    pod = node.pod(name)
    node.run(["ip", "link", "add", f"veth{last}", "type", "veth", "peer", "name", "eth0", "netns", name])
    node.run(["ip", "link", "set", f"veth{last}", "master", "cbr0", "up"])
    for words in (
        ["link", "set", "eth0", "up"],
        ["addr", "add", f"10.244.1.{last}/24", "dev", "eth0"],
        ["addr", "add", f"fd00:1::{last}/64", "dev", "eth0", "nodad"],
        ["route", "add", "default", "via", "10.244.1.1"],
        ["-6", "route", "add", "default", "via", "fd00:1::1"],
    ):
        pod.run(["ip", *words])
    return pod


@pytest.fixture
def world(node: Node) -> Iterator[World]:
    """Bridged packets traverse the IP rules too, which is the harder case."""
    outside = node.outside()
    for words in (
        ["link", "add", "cbr0", "type", "bridge"],
        ["link", "set", "cbr0", "up"],
        ["addr", "add", "10.244.1.1/24", "dev", "cbr0"],
        ["addr", "add", "fd00:1::1/64", "dev", "cbr0", "nodad"],
    ):
        node.run(["ip", *words])
    node.run(["sysctl", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
    node.run(["sysctl", "-w", "net.bridge.bridge-nf-call-iptables=1", "net.bridge.bridge-nf-call-ip6tables=1"])
    made = World(node, pod_on_bridge(node, "pod", 2), pod_on_bridge(node, "second", 3), outside)
    assert made.pod.reaches(OUTSIDE_V4)
    assert made.pod.reaches(OUTSIDE_V6)
    assert made.pod.reaches("fd00:1::3")
    return made


POD = ("10.244.1.2", "fd00:1::2")
MASKED = (NODE_V4, NODE_V6)


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_beyond_the_cluster(world: World, kind: str) -> None:
    """The outside host sees the node's address; before `ensure` and after `delete` it sees the pod's."""
    assert world.seen(7001, kind) == POD
    world.ensure([], [])
    assert world.seen(7002, kind) == MASKED
    on(world.node, cluster_masquerade.delete, "kubenet")
    assert world.seen(7003, kind) == POD


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("inside", "nodes", "seen"),
    [
        (["192.0.2.0/24", "2001:db8:1::/64"], [], POD),
        (["192.0.2.2/32", "2001:db8:1::2/128"], [], POD),
        (["192.0.2.3/32", "192.0.2.1/32", "2001:db8:1::3/128"], [], MASKED),
        (["0.0.0.0/0"], [], (POD[0], MASKED[1])),
        ([], [OUTSIDE_V4, OUTSIDE_V6], POD),
        ([], ["192.0.2.3", "2001:db8:1::3"], MASKED),
        ([], [OUTSIDE_V4], (POD[0], MASKED[1])),
    ],
)
def test_inside_and_nodes(world: World, inside: list[str], nodes: list[str], seen: tuple[str, str], kind: str) -> None:
    """Networks inside and nodes see the pod's own address; adjacent addresses see the node's."""
    world.ensure(inside, nodes)
    assert world.seen(7001, kind) == seen


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_pods_see_each_other(world: World, kind: str) -> None:
    """Between pods on one bridge, whose packets traverse the rules, and from pod to node, the source is unchanged."""
    world.ensure([], [])
    assert ask(world.pod, world.second, "10.244.1.3", 7001, kind) == POD[0]
    assert ask(world.pod, world.second, "fd00:1::3", 7001, kind) == POD[1]
    assert ask(world.pod, world.node, "10.244.1.1", 7002, kind) == POD[0]
    assert ask(world.pod, world.node, NODE_V6, 7003, kind) == POD[1]


def test_traffic_of_the_node_itself(world: World) -> None:
    """Traffic of the node from an address outside the pods' subnets is unchanged."""
    world.ensure([], [])
    world.node.run(["ip", "addr", "add", "10.99.0.1/32", "dev", "lo"])
    world.outside.run(["ip", "route", "add", "10.99.0.1/32", "via", NODE_V4])
    with world.node.socket(OUTSIDE_V4, "udp") as sender, world.outside.socket(OUTSIDE_V4, "udp") as receiver:
        receiver.bind((OUTSIDE_V4, 7001))
        sender.bind(("10.99.0.1", 0))
        sender.sendto(b"word", (OUTSIDE_V4, 7001))
        assert receiver.recvfrom(16)[1][0] == "10.99.0.1"


@pytest.mark.parametrize(
    ("group", "source"), [("224.0.0.99", POD[0]), ("255.255.255.255", POD[0]), ("ff02::99", POD[1])]
)
def test_multicast_and_broadcast(world: World, group: str, source: str) -> None:
    """Multicast and broadcast from a pod on its bridge keep their source address."""
    world.ensure([], [])
    with world.second.socket(group, "udp") as receiver, world.pod.socket(group, "udp") as sender:
        receiver.bind(("", 7001))
        sender.bind((source, 0))
        if ":" in group:
            index = world.second.links()["eth0"]["ifindex"].to_bytes(4, sys.byteorder)
            receiver.setsockopt(
                socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, group) + index
            )
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, world.pod.links()["eth0"]["ifindex"])
        else:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(source))
            if group.startswith("224"):
                membership = socket.inet_aton(group) + socket.inet_aton("10.244.1.3")
                receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        sender.sendto(b"word", (group, 7001))
        assert receiver.recvfrom(16)[1][0] == source


def test_link_local(world: World) -> None:
    """Traffic to another pod's link-local address keeps its source address."""
    world.ensure([], [])
    address = "fe80::3"
    world.second.run(["ip", "addr", "add", f"{address}/64", "dev", "eth0", "nodad"])
    here, there = (pod.links()["eth0"]["ifindex"] for pod in (world.pod, world.second))
    with world.second.socket(address, "udp") as receiver, world.pod.socket(address, "udp") as sender:
        receiver.bind((address, 7001, 0, there))
        sender.bind((POD[1], 0))
        sender.sendto(b"word", (address, 7001, 0, here))
        assert receiver.recvfrom(16)[1][0] == POD[1]


def test_changes_are_atomic_for_packets(world: World) -> None:
    """While peers change continuously, new connections to the outside are masqueraded and those to a node are not."""
    world.outside.run(["ip", "addr", "add", "192.0.2.3/24", "dev", "eth0"])
    kept = [f"10.{i}.0.0/16" for i in range(1, 200)]
    changes = cycle([(kept, ["192.0.2.3"]), ([*kept, "172.16.0.0/12"], ["192.0.2.3", "192.0.2.77"])])
    world.ensure(*next(changes))
    changer = os.fork()
    if changer == 0:
        try:
            for inside, nodes in islice(changes, 100000):
                world.ensure(inside, nodes)
        finally:
            os._exit(1)
    try:
        assert wait_until(lambda: "172.16.0.0/12" in table(world.node, TABLE))
        for address, source in (("192.0.2.3", POD[0]), (OUTSIDE_V4, NODE_V4)):
            assert seen_by(world, address, 2000) == {source: 2000}
        assert os.waitpid(changer, os.WNOHANG) == (0, 0), "nobody changed anything"
    finally:
        os.kill(changer, 9)
        os.waitpid(changer, 0)


def seen_by(world: World, address: str, count: int) -> Counter[str]:
    """Count the source addresses of `count` datagrams to the outside host's `address`, each from a new socket."""
    found: Counter[str] = Counter()
    with world.outside.socket(address, "udp") as receiver:
        receiver.bind((address, 7001))
        for _ in range(count):
            with world.pod.socket(address, "udp") as sender:
                sender.sendto(b"word", (address, 7001))
            found[receiver.recvfrom(16)[1][0]] += 1
    return found

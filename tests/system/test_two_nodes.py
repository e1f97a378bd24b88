"""Two nodes on one underlay, each with a /24 of its own and a static route to the other's: the original kubenet."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conformance.support import leases
from tests.netns.cni import Cnitool
from tests.netns.node import Node, Pod, ask


@dataclass(frozen=True)
class Member:
    """A node of the cluster: number N has 10.244.N.0/24 and fd00:244:0:N::/64, and 192.0.2.N on the underlay."""

    number: int
    node: Node
    tool: Cnitool

    def add(self, name: str) -> Pod:
        """Add a pod to the cluster's network and CHECK it."""
        pod = self.node.pod(name)
        self.tool.ok("add", "cluster", pod)
        self.tool.ok("check", "cluster", pod)
        return pod


def conflist(number: int) -> dict:
    """The administrator's configuration of a node: the cluster's list with the node's own ranges."""
    ranges = [[{"subnet": f"10.244.{number}.0/24"}], [{"subnet": f"fd00:244:0:{number}::/64"}]]
    bridge = {"type": "bridge", "bridge": "cbr0", "isDefaultGateway": True, "hairpinMode": True, "mtu": 1450}
    return {
        "cniVersion": "1.1.0",
        "name": "cluster",
        "plugins": [
            bridge | {"ipam": {"type": "host-local", "ranges": ranges}},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


@pytest.fixture
def cluster(bin_dir: Path, reference_bin: Path) -> Iterator[tuple[Member, Member]]:
    """Two nodes joined by a link, with routes to each other's pods."""
    nodes = [Node(), Node()]
    try:
        nodes[0].run(
            ["ip", "link", "add", "underlay", "type", "veth", "peer", "name", "underlay", "netns", str(nodes[1].pid)]
        )
        members = []
        for number, node in enumerate(nodes, start=1):
            node.run(["sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/underlay/accept_dad"])
            node.run(["ip", "link", "set", "underlay", "up"])
            node.run(["ip", "addr", "add", f"192.0.2.{number}/24", "dev", "underlay"])
            node.run(["ip", "addr", "add", f"2001:db8:1::{number}/64", "dev", "underlay"])
            node.run(["ip", "route", "add", f"10.244.{3 - number}.0/24", "via", f"192.0.2.{3 - number}"])
            node.run(["ip", "route", "add", f"fd00:244:0:{3 - number}::/64", "via", f"2001:db8:1::{3 - number}"])
            members.append(Member(number, node, Cnitool(node, reference_bin / "cnitool", (bin_dir, reference_bin))))
            members[-1].tool.write(conflist(number))
        yield members[0], members[1]
    finally:
        for node in nodes:
            node.close()


def test_pods_of_two_nodes_reach_each_other(cluster: tuple[Member, Member]) -> None:
    """Over TCP, UDP and ICMP, in IPv4 and IPv6, from their own addresses."""
    one, two = (member.add("pod") for member in cluster)
    assert one.reaches("fd00:244:0:1::1")
    assert two.reaches("fd00:244:0:2::1")
    for address, seen in (("10.244.2.2", "10.244.1.2"), ("fd00:244:0:2::2", "fd00:244:0:1::2")):
        assert one.reaches(address)
        assert ask(one, two, address, 80, "tcp") == seen
        assert ask(one, two, address, 80, "udp") == seen


def test_nodes_do_not_share_leases(cluster: tuple[Member, Member]) -> None:
    """Each node allocates from its own range, and deleting a pod on one node does not affect the other."""
    pods = [(member, [member.add(f"pod{i}") for i in range(2)]) for member in cluster]
    for member, (first, _second) in pods:
        member.tool.ok("del", "cluster", first)
        assert set(leases(member.node, "/var/lib/cni/networks/cluster")) == {
            f"10.244.{member.number}.3",
            f"fd00:244:0:{member.number}::3",
        }
    (_, (_, one)), (_, (_, _)) = pods
    assert one.reaches("10.244.2.3")


def test_host_port_of_the_other_node(cluster: tuple[Member, Member]) -> None:
    """A host port, mapped by the reference's portmap behind our bridge, is reachable from a pod of the other node."""
    one, two = cluster
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
    client, server = one.add("client"), two.node.pod("server")
    two.tool.ok("add", "cluster", server, capabilities=ports)
    assert ask(client, server, "10.244.2.2", 80, "tcp", to=("192.0.2.2", 8080)) == "10.244.1.2"
    two.tool.ok("del", "cluster", server, capabilities=ports)


def test_drained_node_is_clean(cluster: tuple[Member, Member]) -> None:
    """Once its pods are deleted, a node has none of their leases, links or rules; the other node's pods go on."""
    one, two = cluster
    leaving, staying = [one.add(f"pod{i}") for i in range(3)], [two.add(f"pod{i}") for i in range(2)]
    for pod in leaving:
        one.tool.ok("del", "cluster", pod)
    assert set(one.node.links()) == {"lo", "underlay", "cbr0"}
    assert leases(one.node, "/var/lib/cni/networks/cluster") == {}
    assert "10.244." not in one.node.ruleset()
    assert staying[0].reaches("10.244.2.3")

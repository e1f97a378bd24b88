"""Network policies beside IPVS, as kube-proxy sets it up: they hold for the pod that answers, and for its port."""

import socket
import struct
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.netns.nft_tools import nft
from tests.netns.node import Host, Node, ask
from tests.netns.policy_world import GATEWAYS, INET, World, build

VIRTUAL = ("10.96.0.10", 80)
SERVER = ("10.244.1.3", 8080)
KINDS = ("tcp", "udp")
_IP_VS_SO_SET_ADD, _IP_VS_SO_SET_ADDDEST = 1154, 1159


@pytest.fixture(scope="module")
def built() -> Iterator[World]:
    """The world, with a virtual service, TCP and UDP, whose real server is the second pod; made once: it takes long."""
    with closing(Node()) as node:
        node.run(["modprobe", "ip_vs"], check=False)
        if node.run(["test", "-e", "/proc/net/ip_vs"], check=False).returncode:
            pytest.skip("kernel lacks IPVS")
        with build(node, br_netfilter=False) as made:
            node.run(["ip", "link", "add", "kube-ipvs0", "type", "dummy"])
            node.run(["ip", "addr", "add", f"{VIRTUAL[0]}/32", "dev", "kube-ipvs0"])
            node.run(["sysctl", "-w", "net.ipv4.vs.conntrack=1"])
            for kind in KINDS:
                _serve(node, kind)
            yield made


@pytest.fixture
def world(built: World) -> World:
    """The world, in which nobody is isolated, or kept from the node."""
    built.free(*built.pods)
    nft(built.node, "flush", "chain", *INET.split(), "node_access")
    return built


def _serve(node: Node, kind: str) -> None:
    """Add the virtual service and its real server, in masquerading mode."""
    protocol = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}[kind]
    # struct ip_vs_service_user: protocol, address, port, mark, scheduler, flags, timeout, netmask
    virtual, port = socket.inet_aton(VIRTUAL[0]), struct.pack("!H", VIRTUAL[1])
    service = struct.pack("@Hxx4s2sxxI16sIII", protocol, virtual, port, 0, b"rr", 0, 0, 0xFFFFFFFF)
    # struct ip_vs_dest_user: address, port, flags (0: masquerading), weight, thresholds
    server = struct.pack("@4s2sxxIiII", socket.inet_aton(SERVER[0]), struct.pack("!H", SERVER[1]), 0, 1, 0, 0)
    with node.socket(SERVER[0], kind) as control:
        control.setsockopt(socket.IPPROTO_IP, _IP_VS_SO_SET_ADD, service)
        control.setsockopt(socket.IPPROTO_IP, _IP_VS_SO_SET_ADDDEST, service + server)


def _asks(client: Host, server: Host, address: str, port: int, to: tuple[str, int], kind: str) -> bool:
    try:
        ask(client, server, address, port, kind, to=to)
    except OSError:
        return False
    return True


def reached(world: World, client: Host) -> set[str]:
    """By which protocols a client reaches the server by the virtual address."""
    return {kind for kind in KINDS if _asks(client, world.pods[1].pod, *SERVER, VIRTUAL, kind)}


def test_egress_is_judged_by_the_real_server_and_its_port(world: World) -> None:
    """What the client may send to the virtual address does not count, nor the virtual port of the real server."""
    client = world.pods[0]
    assert reached(world, client.pod) == {"tcp", "udp"}
    world.isolate(client, "egress", "ip daddr 10.96.0.10", "ip daddr 10.244.1.3 tcp dport 80")
    assert reached(world, client.pod) == set()
    assert f"{client.ips[0]} counter packets" in world.denied("egress")
    world.isolate(client, "egress", "ip daddr 10.244.1.3 tcp dport 8080")
    assert reached(world, client.pod) == {"tcp"}


def test_ingress_is_judged_by_the_client_and_the_real_port(world: World) -> None:
    """Pods and hosts outside reach the server as clients of their own addresses, by the port that it listens on."""
    client, server, other = world.pods
    world.isolate(server, "ingress", "ip saddr 10.244.1.2 udp dport 8080", "tcp dport 80")
    assert reached(world, client.pod) == {"udp"}
    assert reached(world, other.pod) == set()
    assert reached(world, world.outside) == set()
    assert f"{server.ips[0]} counter packets" in world.denied("ingress")
    world.isolate(server, "ingress", "ip saddr 192.0.2.2 tcp dport 8080")
    assert reached(world, world.outside) == {"tcp"}


def test_access_to_the_node_does_not_mean_virtual_services(world: World) -> None:
    """Where pods reach no port of their node they reach the service, but no other port of its address."""
    client, node = world.pods[0].pod, world.node
    nft(node, "add", "rule", *INET.split(), "node_access", "meta", "l4proto", "{ tcp, udp }", "drop")
    for kind in KINDS:
        for address in (GATEWAYS[0], VIRTUAL[0]):
            assert not _asks(client, node, address, 8080, (address, 8080), kind)
    assert reached(world, client) == {"tcp", "udp"}

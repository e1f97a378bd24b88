"""Pod traffic: TCP, UDP and ICMP, both families, every path of a pod's packets, with masquerade and without."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.netns.cni import CNI
from tests.netns.node import NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, Host, Node, Pod, ask


@dataclass(frozen=True)
class World:
    """A node with two networks of two pods each, `open` without and `masked` with masquerade, and a host outside."""

    node: Node
    outside: Host
    pods: dict[str, Pod]
    addresses: dict[str, tuple[str, str]]  # of each pod, and of the gateways "open" and "masked"


@pytest.fixture(scope="module")
def world(bin_dir: Path) -> Iterator[World]:
    """Shared by the tests of this module, as they only send packets."""
    node = Node()
    try:
        cni = CNI(node, bin_dir)
        outside, pods, addresses = node.outside(), {}, {}
        for number, (name, masked) in enumerate({"open": False, "masked": True}.items(), start=1):
            ranges = [[{"subnet": f"10.{number}.0.0/24"}], [{"subnet": f"fd00:{number}::/64"}]]
            conf = {"cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": name, "isDefaultGateway": True}
            conf |= {"ipMasq": masked, "ipam": {"type": "host-local", "ranges": ranges}}
            addresses[name] = (f"10.{number}.0.1", f"fd00:{number}::1")
            for pod in (f"{name}1", f"{name}2"):
                pods[pod] = node.pod(pod)
                ips = cni.add(conf, pods[pod])["ips"]
                addresses[pod] = (ips[0]["address"].split("/")[0], ips[1]["address"].split("/")[0])
            assert pods[pod].reaches(addresses[name][1])  # waits for the gateway's duplicate address detection
        yield World(node, outside, pods, addresses)
    finally:
        node.close()


FAMILY = pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
KIND = pytest.mark.parametrize("kind", ["tcp", "udp"])
NETWORK = pytest.mark.parametrize("name", ["open", "masked"])


@FAMILY
@KIND
@NETWORK
def test_pod_to_pod(world: World, name: str, kind: str, family: int) -> None:
    """Pods of one network see each other's addresses, without masquerade."""
    server, client = f"{name}1", f"{name}2"
    seen = ask(world.pods[client], world.pods[server], world.addresses[server][family], 7000, kind)
    assert seen == world.addresses[client][family]


@FAMILY
@KIND
@NETWORK
def test_pod_to_gateway(world: World, name: str, kind: str, family: int) -> None:
    """A service on the node, at the gateway's address, sees the pod's address."""
    seen = ask(world.pods[f"{name}1"], world.node, world.addresses[name][family], 7000, kind)
    assert seen == world.addresses[f"{name}1"][family]


@FAMILY
@KIND
@NETWORK
def test_node_to_pod(world: World, name: str, kind: str, family: int) -> None:
    """The node reaches the pod, which sees the gateway's address; probes of a kubelet take this path."""
    seen = ask(world.node, world.pods[f"{name}1"], world.addresses[f"{name}1"][family], 7000, kind)
    assert seen == world.addresses[name][family]


@FAMILY
@KIND
@pytest.mark.parametrize(("name", "masked"), [("open", False), ("masked", True)])
def test_pod_to_outside(world: World, name: str, masked: bool, kind: str, family: int) -> None:
    """A host outside sees the pod's address without masquerade, and the node's with it."""
    pod = f"{name}1"
    seen = ask(world.pods[pod], world.outside, (OUTSIDE_V4, OUTSIDE_V6)[family], 7000, kind)
    assert seen == ((NODE_V4, NODE_V6) if masked else world.addresses[pod])[family]


@FAMILY
@KIND
@NETWORK
def test_outside_to_pod(world: World, name: str, kind: str, family: int) -> None:
    """Incoming connections are not masqueraded: the pod sees the client's address."""
    seen = ask(world.outside, world.pods[f"{name}1"], world.addresses[f"{name}1"][family], 7000, kind)
    assert seen == (OUTSIDE_V4, OUTSIDE_V6)[family]


@FAMILY
@KIND
@pytest.mark.parametrize(("client", "server"), [("open1", "masked1"), ("masked1", "open1")])
def test_between_networks(world: World, client: str, server: str, kind: str, family: int) -> None:
    """Pods of two networks on a node reach each other; a masqueraded client has the address of the server's gateway."""
    seen = ask(world.pods[client], world.pods[server], world.addresses[server][family], 7000, kind)
    assert seen == world.addresses["open" if client == "masked1" else client][family]


@FAMILY
@NETWORK
def test_ping(world: World, name: str, family: int) -> None:
    """A pod, the gateway, the node and a host outside answer ICMP echo requests."""
    pod = world.pods[f"{name}1"]
    assert pod.reaches(world.addresses[f"{name}2"][family])
    assert pod.reaches(world.addresses[name][family])
    assert pod.reaches((NODE_V4, NODE_V6)[family])
    assert pod.reaches((OUTSIDE_V4, OUTSIDE_V6)[family])


@FAMILY
def test_ping_multicast(world: World, family: int) -> None:
    """Multicast of a masqueraded pod keeps the pod's address: the other pod answers it."""
    pod = world.pods["masked1"]
    group = ("224.0.0.1", "ff02::1%eth0")[family]
    world.pods["masked2"].run(["sh", "-c", "echo 0 >/proc/sys/net/ipv4/icmp_echo_ignore_broadcasts"])
    pod.run(["ip", "route", "replace", "224.0.0.0/4", "dev", "eth0"])
    answers = pod.run(["ping", "-n", "-c2", "-W1", "-i0.2", group], check=False).stdout
    assert (world.addresses["masked2"][0] if family == 0 else "fe80::") in answers


def test_large_packets(world: World) -> None:
    """Packets of 1500 bytes pass unfragmented from pod to pod, to the gateway and to a host outside."""
    pod = world.pods["masked1"]
    for address in (world.addresses["masked2"][0], world.addresses["masked"][0], OUTSIDE_V4):
        pod.run(["ping", "-n", "-c1", "-W1", "-Mdo", "-s1472", address])

"""What the daemon does for pods that run when something about their node changes."""

import pytest

from linux import netns_ids
from nodes.network import Network
from tests.netns.cluster_tools import network
from tests.netns.cni import CNI
from tests.netns.node import Node, Pod
from tests.netns.overlay_tools import shell
from tests.netns.test_network import folder, plugin, records, sync, wan  # noqa: F401  (fixtures)

EVERY_KIND = pytest.mark.parametrize("kind", ["kubenet", "vxlan"])


@pytest.fixture
def made(kind: str) -> Network:
    """The daemon's network, with a lasting memory."""
    return Network("net", plugin(kind), node="n1")


@pytest.fixture
def pods(cni: CNI, wan: Node, made: Network, kind: str, monkeypatch: pytest.MonkeyPatch) -> list[Pod]:  # noqa: F811
    """Two pods, on a node that the daemon has set up; this process finds their namespaces as on the node."""
    monkeypatch.setattr(netns_ids, "_FOLDERS", (str(wan.path("/run/netns")),))
    assert sync(wan, made, records(1, 2)).is_complete
    peer = {"name": "n2", "addresses": ["192.0.2.2"], "podCIDRs": ["10.244.2.0/24"]}
    added = [wan.pod("a"), wan.pod("b")]
    for pod in added:
        cni.add(network(kind, peers=[peer]), pod)
    return added


@EVERY_KIND
def test_pods_stay_connected_when_their_bridge_is_deleted(wan: Node, made: Network, pods: list[Pod]) -> None:  # noqa: F811
    """They join the new bridge, which has the MAC that they know: to each other, the node, and beyond."""
    before = wan.links()["cbr0"]["address"]
    shell(wan, "ip link del cbr0")
    found = sync(wan, made, records(1, 2))
    assert (found.is_complete, found.problems) == (True, ())
    assert wan.links()["cbr0"]["address"] == before
    other = next(iter(pods[1].addresses("eth0"))).partition("/")[0]
    assert all(pods[0].reaches(address) for address in (other, "10.244.1.1", "192.0.2.2"))


@EVERY_KIND
def test_running_pods_follow_the_mtu_of_the_uplink(wan: Node, made: Network, pods: list[Pod]) -> None:  # noqa: F811
    """On both sides, up and down."""
    for mtu in (1400, 1450):
        shell(wan, f"ip link set wan0 mtu {mtu}")
        found = sync(wan, made, records(1, 2))
        assert (found.is_complete, found.problems) == (True, ())
        veths = [link["mtu"] for name, link in wan.links().items() if name.startswith("veth")]
        assert [*veths, *(pod.links()["eth0"]["mtu"] for pod in pods)] == [found.mtu] * 4
    assert pods[0].reaches("192.0.2.2")

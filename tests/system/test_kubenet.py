"""Three kubenet nodes on one link: pods reach each other by routes, without a tunnel."""

import json

import pytest

from tests.netns.node import ask
from tests.system.underlay import OUTSIDE, Member, Underlay, assert_all_talk, assert_talk, capture, goes_through


@pytest.fixture
def cluster(underlay: Underlay) -> list[Member]:
    """Three nodes on the left link; each has all three records, as an agent would write them."""
    members = [underlay.join("left") for _ in range(3)]
    for member in members:
        member.configure("kubenet", members)
    return members


def test_every_pod_reaches_every_pod(underlay: Underlay, cluster: list[Member]) -> None:
    """By TCP, UDP and ICMP over IPv4 and IPv6, from its own address; on the wire are the pods' plain packets."""
    pods = [(member, member.add(f"pod{member.number}")) for member in cluster]
    pods.append((cluster[0], cluster[0].add("second")))
    with capture(underlay.fabric, "n1") as seen:
        assert_all_talk(pods)
    assert any(" 10.244.1.2.8000: Flags" in packet for packet in seen)
    assert any(" fd00:244:0:1::2.8000: Flags" in packet for packet in seen)
    assert [packet for packet in seen if "VXLAN" in packet] == []


def test_traffic_leaving_the_cluster_is_masqueraded(underlay: Underlay, cluster: list[Member]) -> None:
    """The outside sees the node's address; another node sees the pod's."""
    one, two, _ = cluster
    pod = one.add("pod1")
    for place, own in enumerate(one.addresses):
        for kind in ("tcp", "udp"):
            assert ask(pod, underlay.outside, OUTSIDE[place], 8000, kind) == own
        two.add(f"other{place}")  # the return route exists once the other node has been set up
        assert ask(pod, two.node, two.addresses[place], 8000, "tcp") == one.address(pod, 6 if place else 4)


def test_traffic_to_a_node_address_behind_the_router_is_masqueraded(underlay: Underlay, cluster: list[Member]) -> None:
    """The router has no routes to pods; in `nonMasqueradeCIDRs`, such an address still sees the pod's address."""
    one, two, _ = cluster
    far = ("203.0.113.99", "2001:db8:9::99")
    for address, gateway in zip(far, two.addresses, strict=True):
        two.node.run(["ip", "addr", "add", address, "dev", "lo"])
        underlay.fabric.run(["ip", "route", "add", address, "via", gateway])
    one.conf["peers"][1] = two.record | {"addresses": [*two.addresses, *far]}
    pod = one.add("pod")
    two.add("other")
    assert [ask(pod, two.node, address, 8000, "tcp") for address in far] == list(one.addresses)
    one.conf["nonMasqueradeCIDRs"] = ["203.0.113.0/24", "2001:db8:9::/64"]
    again = one.add("again")
    assert [ask(again, two.node, to, 8001, "tcp") for to in far] == [one.address(again, family) for family in (4, 6)]


def test_the_mtu_is_that_of_the_link(cluster: list[Member]) -> None:
    """The underlay's largest packet reaches a pod of another node."""
    one, two, _ = cluster
    source, target = one.add("pod1"), two.add("pod2")
    assert source.links()["eth0"]["mtu"] == 1500
    for family in (4, 6):
        assert goes_through(source, two.address(target, family), 1500)


def test_a_peer_behind_a_router_does_not_affect_others(underlay: Underlay, cluster: list[Member]) -> None:
    """ADD reports that `vxlan` can reach it, and pods reach those of all other peers."""
    far = underlay.join("right")
    one, two, _ = cluster
    one.configure("kubenet", [*cluster, far])
    pod = one.node.pod("loud")
    done = one.cni.raw("kubenet", one.cni.environ("ADD", pod), json.dumps(one.conf))
    assert done.returncode == 0
    assert 'kubenet: peer "n4" (198.51.100.4) is not on a link of this node' in done.stderr
    assert 'use type "vxlan"' in done.stderr
    assert "10.244.4.0/24" not in one.node.routes()
    assert_talk((one, one.add("pod1")), (two, two.add("pod2")))


def test_nodes_do_not_share_leases(cluster: list[Member]) -> None:
    """Deleting a pod on one node does not affect pods on the others."""
    pods = [(member, member.add("pod")) for member in cluster]
    cluster[1].delete(pods[1][1])
    assert pods[0][1].reaches(cluster[2].address(pods[2][1], 4))
    for member, pod in (pods[0], pods[2]):
        member.check(pod)

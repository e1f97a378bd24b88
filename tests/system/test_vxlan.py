"""Three vxlan nodes, two on one link and one behind a router: routed directly where possible, else tunnelled."""

import re

import pytest

from tests.netns.node import ask
from tests.system.underlay import (
    OUTSIDE,
    Member,
    Underlay,
    assert_all_talk,
    assert_delivers,
    assert_talk,
    capture,
    goes_through,
    refusal_of,
)

GATEWAYS = {4: "10.244.1.1", 6: "fd00:244:0:1::1"}  # of the pods of node 1


@pytest.fixture
def members(underlay: Underlay) -> list[Member]:
    """Nodes 1 and 2 on the left link, node 3 on the right; not configured yet."""
    return [underlay.join(link) for link in ("left", "left", "right")]


@pytest.fixture
def cluster(members: list[Member]) -> list[Member]:
    """The three nodes with direct routing."""
    for member in members:
        member.configure("vxlan", members, directRouting=True)
    return members


def tunnelled(packets: list[str]) -> set[frozenset[str]]:
    """The pairs of underlay addresses that exchanged VXLAN frames, all with VNI 1 and to UDP port 4789."""
    pairs = set()
    for packet in packets:
        if "VXLAN" in packet:
            outer = re.search(r"IP6? (\S+)\.\d+ > (\S+)\.4789: VXLAN, flags \[I\] \(0x08\), vni 1\n", packet)
            assert outer, packet
            pairs.add(frozenset(outer.groups()))
    return pairs


def plain(packets: list[str]) -> set[frozenset[str]]:
    """The pairs of pod addresses that exchanged packets outside a tunnel."""
    found = [re.match(r"\S+ IP6? (\S+) > (\S+): ", packet) for packet in packets]
    pairs = [frozenset(without_port(address) for address in one.groups()) for one in found if one]
    return {pair for pair in pairs if any(address.startswith(("10.244.", "fd00:244:")) for address in pair)}


def without_port(text: str) -> str:
    """The address in what tcpdump prints as 10.244.1.2.8000 or fd00::1.8000."""
    return text.partition(".")[0] if ":" in text else ".".join(text.split(".")[:4])


def test_every_pod_reaches_every_pod(underlay: Underlay, cluster: list[Member]) -> None:
    """VXLAN is used between the links and nowhere else; on a link, and only there, the pods' packets are plain."""
    pods = [(member, member.add(f"pod{member.number}")) for member in cluster]
    pods.append((cluster[2], cluster[2].add("second")))
    fabric = underlay.fabric
    with capture(fabric, "left") as left, capture(fabric, "n1") as first, capture(fabric, "n3") as third:
        assert_all_talk(pods)
    a, b, c = (member.addresses[0] for member in cluster)
    assert tunnelled(third) == {frozenset((a, c)), frozenset((b, c))}
    assert tunnelled(first) == {frozenset((a, c))}
    assert plain(third) == set()
    assert plain(first) == {
        frozenset((cluster[0].address(pods[0][1], family), cluster[1].address(pods[1][1], family))) for family in (4, 6)
    }
    assert tunnelled(left) == {frozenset((a, c)), frozenset((b, c))}


def test_without_direct_routing_all_is_tunnelled(underlay: Underlay, members: list[Member]) -> None:
    """directRouting is off by default; a node with it and a node without it still reach each other."""
    for member in members:
        member.configure("vxlan", members)
    one, two, _ = members
    source, target = (one, one.add("pod1")), (two, two.add("pod2"))
    with capture(underlay.fabric, "n1") as seen:
        assert_talk(source, target)
    assert tunnelled(seen) == {frozenset((one.addresses[0], two.addresses[0]))}
    assert plain(seen) == set()
    one.configure("vxlan", members, directRouting=True)
    one.add("again")
    assert_talk(source, target)
    assert_talk(target, source)


def test_traffic_leaving_the_cluster_is_masqueraded(underlay: Underlay, cluster: list[Member]) -> None:
    """So is traffic to a node behind the router, but not traffic that stays on the link."""
    pods = {member.number: member.add("pod") for member in cluster}
    for member in cluster:
        for place, own in enumerate(member.addresses):
            for kind in ("tcp", "udp"):
                assert ask(pods[member.number], underlay.outside, OUTSIDE[place], 8000, kind) == own
    one, two, three = cluster
    for place, family in enumerate((4, 6)):
        assert ask(pods[1], three.node, three.addresses[place], 8000, "tcp") == one.addresses[place]
        assert ask(pods[1], two.node, two.addresses[place], 8000, "tcp") == one.address(pods[1], family)


@pytest.mark.parametrize(("over", "overhead"), [(4, 50), (6, 70)])
def test_dual_stack_pods_over_either_underlay(
    underlay: Underlay, members: list[Member], over: int, overhead: int
) -> None:
    """All pods reach each other; the largest packet passes unfragmented, one byte more is refused at the pod."""
    for member in members:
        local = member.addresses[0 if over == 4 else 1]
        member.configure("vxlan", members, localAddress=local)
    pods = [(member, member.add(f"pod{member.number}")) for member in members]
    largest = 1500 - overhead
    with capture(underlay.fabric, "n3") as seen:
        assert_all_talk(pods)
        for family in (4, 6):
            (_, source), (far, target) = pods[0], pods[2]
            assert source.links()["eth0"]["mtu"] == largest
            assert goes_through(source, far.address(target, family), largest)
            assert "too long" in refusal_of(source, far.address(target, family), largest + 1)
    assert tunnelled(seen) == {
        frozenset((members[n].addresses[0 if over == 4 else 1], members[2].addresses[0 if over == 4 else 1]))
        for n in (0, 1)
    }
    assert not any("frag" in packet for packet in seen)


@pytest.mark.parametrize(("over", "overhead"), [(4, 50), (6, 70)])
def test_a_packet_too_large_for_the_tunnel_gets_an_icmp_error(
    underlay: Underlay, members: list[Member], over: int, overhead: int
) -> None:
    """If the pods have a larger `mtu`, the node reports the tunnel's MTU to them; they adapt, and bulk data arrives."""
    for member in members:
        member.configure("vxlan", members, mtu=1500, localAddress=member.addresses[0 if over == 4 else 1])
    far = members[2]
    source, target, other = members[0].add("pod1"), far.add("pod3"), far.add("other")
    largest = 1500 - overhead
    assert source.links()["eth0"]["mtu"] == 1500
    for family, answer in ((4, f"need to frag (mtu {largest})"), (6, f"packet too big, mtu {largest}")):
        assert goes_through(source, far.address(target, family), largest)
        with capture(source, "eth0") as seen:
            assert_delivers(source, target, far.address(target, family), 300_000)
        assert any(answer in packet for packet in seen), seen
        said = refusal_of(source, far.address(other, family), largest + 1)
        assert f"From {GATEWAYS[family]}" in said
        assert f"mtu = {largest}" in said or f"mtu={largest}" in said, said

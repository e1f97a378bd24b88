"""The selection of peers' records: an invalid or conflicting record does not affect the others."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linux.rtnl.addresses import InterfaceAddress
from linux.rtnl.forwarding import PeerPath
from plugins.node.paths import Links, Tunnel
from plugins.node.records import Node, read_peers_file
from plugins.node.selection import Peers, ThisNode, select

ETH, DOCKER, BRIDGE, VTEP = 2, 3, 4, 9
OWN, CLUSTER = ("10.244.1.0/24", "fd00:244:0:1::/64"), ("10.244.0.0/16", "fd00:244::/48")
ADDRESSES = [
    InterfaceAddress(link, cidr, scope=0, tentative=False, failed=False)
    for link, cidr in (
        (ETH, "192.0.2.1/24"),
        (ETH, "2001:db8:1::1/64"),
        (DOCKER, "172.17.0.1/16"),
        (BRIDGE, "10.244.1.1/24"),
        (VTEP, "10.244.1.0/32"),
    )
]
ROUTES = ThisNode(OWN, (), Links(ADDRESSES, excluded=(BRIDGE, VTEP)))
TUNNEL = replace(ROUTES, tunnel=Tunnel(VTEP, "192.0.2.1", "02:24:0a:f4:01:00"))
BOTH = pytest.mark.parametrize("here", [ROUTES, TUNNEL], ids=["routes", "tunnel"])


def peer(number: int, *subnets: str, **keys: object) -> Node:
    """The record of node N, with its own subnet unless others are given."""
    node = Node(f"n{number}", (f"192.0.2.{number}",), subnets or (f"10.244.{number}.0/24",))
    return replace(node, **keys)


def chosen(here: ThisNode, *nodes: Node, in_place: Sequence[PeerPath] = ()) -> Peers:
    """The peers that are selected while the kernel has the paths `in_place`."""
    return select(nodes, here, lambda paths: [path for path in paths if path in in_place])


def used(found: Peers) -> dict[str, tuple[str, ...]]:
    """The selected subnets by node name, after a check that the paths are theirs."""
    assert {path.subnet for path in found.paths} == {subnet for node in found.nodes for subnet in node.subnets}
    return {node.name: node.subnets for node in found.nodes}


TWO, THREE = peer(2), peer(3)
GOOD = {"n2": TWO.subnets, "n3": THREE.subnets}


@BOTH
@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (peer(7, addresses=()), 'has no "addresses"'),
        (replace(peer(7), subnets=()), 'has no "podCIDRs"'),
        (peer(7, addresses=("127.0.0.1", "224.0.0.7", "0.0.0.0", "::1", "fe80::7")), 'has no "addresses"'),
        (peer(7, addresses=("192.0.2.0", "192.0.2.255")), 'has no "addresses"'),
        (peer(7, addresses=("2001:db8:1::7",)), "has no IPv4 address"),
        (peer(7, "0.0.0.0/0"), "cannot be a network of pods"),
        (peer(7, "128.0.0.0/1"), "cannot be a network of pods"),
        (peer(7, "10.0.0.0/7"), "cannot be a network of pods"),
        (peer(7, "127.1.0.0/24"), "cannot be a network of pods"),
        (peer(7, "224.1.0.0/24"), "cannot be a network of pods"),
        (peer(7, "::/0", addresses=("2001:db8:1::7", "192.0.2.7")), "cannot be a network of pods"),
        (peer(7, "fe80::/64", addresses=("2001:db8:1::7", "192.0.2.7")), "cannot be a network of pods"),
        (peer(7, "10.244.1.128/25"), "overlaps this node's own subnet 10.244.1.0/24"),
        (peer(7, "10.244.0.0/16"), "overlaps this node's own subnet 10.244.1.0/24"),
        (peer(7, "192.0.2.0/25"), "overlaps 192.0.2.1/24 of this node"),
        (peer(7, "192.0.0.0/16"), "overlaps 192.0.2.1/24 of this node"),
        (peer(7, "172.17.4.0/24"), "overlaps 172.17.0.1/16 of this node"),
        (peer(7, *OWN), "has the subnet of this node, but its addresses (192.0.2.7) are not on this node"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value.subnets),
)
def test_an_invalid_record_is_left_out_with_a_reason(here: ThisNode, bad: Node, why: str) -> None:
    """The others are used."""
    found = chosen(here, TWO, bad, THREE)
    assert used(found) == GOOD
    assert all(sentence.startswith('peer "n7" ') for sentence in found.left_out)
    assert why in found.left_out[0]


@BOTH
def test_the_usable_part_of_a_record_is_used(here: ThisNode) -> None:
    """A subnet that overlaps, or one of IPv6 that no address of the record can reach, does not affect the other one."""
    found = chosen(here, peer(2, "10.244.2.0/24", "10.244.1.64/26", vtep_mac="02:00:00:00:00:02"), THREE)
    assert used(found) == GOOD
    assert len(found.left_out) == 1
    if not here.tunnel:
        found = chosen(here, peer(2, "10.244.2.0/24", "fd00:244:0:2::/64"), THREE)
        assert used(found) == GOOD
        assert "has no IPv6 address" in found.left_out[0]


@BOTH
def test_a_subnet_outside_the_cluster_s_networks_is_left_out(here: ThisNode) -> None:
    """If the cluster has networks of its family; so a file of another cluster is not mixed in."""
    found = chosen(replace(here, cluster=CLUSTER), TWO, THREE, peer(7, "10.30.7.0/24"))
    assert used(found) == GOOD
    assert 'claims 10.30.7.0/24, which is outside "clusterCIDRs"' in found.left_out[0]
    for cluster in (CLUSTER[1:], ("10.31.0.0/16",)):  # of another family; this node's own subnet is not in it either
        assert used(chosen(replace(here, cluster=cluster), peer(7, "10.30.7.0/24"))) == {"n7": ("10.30.7.0/24",)}


@BOTH
def test_the_node_s_own_record_is_left_out_silently(here: ThisNode) -> None:
    """It has the node's subnet and one of its addresses, or an earlier subnet and the node's addresses."""
    for own in (peer(1), peer(1, *OWN), peer(1, "10.244.77.0/24"), peer(1, addresses=("203.0.113.1", "192.0.2.1"))):
        assert chosen(here, TWO, own, THREE) == chosen(here, TWO, THREE)


def test_the_node_s_own_record_is_recognized_by_the_tunnel_s_address() -> None:
    """Even if the record has another address that is on none of its links (a public one in a cloud)."""
    own = peer(1, "10.244.77.0/24", addresses=("203.0.113.1", "192.0.2.1"))
    assert chosen(TUNNEL, own) == Peers((), (), ())


@BOTH
@pytest.mark.parametrize("shared", ["172.17.0.1", "2001:db8:1::1"])
def test_a_peer_s_address_that_this_node_has_too_is_skipped(here: ThisNode, shared: str) -> None:
    """Docker's 172.17.0.1, or a virtual address that has moved here: the peer is reached by its others."""
    found = chosen(here, peer(2, addresses=(shared, "192.0.2.2")))
    assert [path.underlay or path.via for path in found.paths] == ["192.0.2.2"]
    assert [node.addresses for node in found.nodes] == [("192.0.2.2",)]


@BOTH
@pytest.mark.parametrize(
    "rival",
    ["10.244.2.0/24", "10.244.2.0/25", "10.244.2.128/25", "10.244.2.0/23"],
    ids=["same", "half", "rest", "more"],
)
def test_a_new_record_does_not_take_the_subnet_of_a_peer_in_use(here: ThisNode, rival: str) -> None:
    """Whatever its index, its name and its prefix length."""
    paths = chosen(here, TWO, THREE).paths
    for name in ("a", "z"):
        for nodes in ((peer(7, rival, name=name), TWO, THREE), (TWO, THREE, peer(7, rival, name=name))):
            found = chosen(here, *nodes, in_place=paths)
            assert used(found) == GOOD
            assert found.left_out == (found.left_out[0],)
            assert f'peer "{name}" claims {rival}, in conflict with peer "n2"' in found.left_out[0]


@BOTH
def test_two_new_records_of_one_subnet_are_both_left_out(here: ThisNode) -> None:
    """Nothing shows which of the two nodes is right; both are reported, and the other peers are used."""
    found = chosen(here, TWO, peer(7, "10.244.2.0/24"), THREE)
    assert used(found) == {"n3": THREE.subnets}
    assert len(found.left_out) == 2


@BOTH
def test_a_network_that_contains_several_peers_is_left_out(here: ThisNode) -> None:
    """Even if no path is in place: after a reboot one record must not disconnect all others."""
    found = chosen(replace(here, subnets=("10.9.0.0/24",)), peer(7, "10.244.0.0/16"), TWO, THREE)
    assert used(found) == GOOD
    assert len(found.left_out) == 1


@BOTH
def test_one_node_may_have_two_records(here: ThisNode) -> None:
    """The same one twice, or one with an earlier subnet and one with the new."""
    assert used(chosen(here, TWO, peer(2))) == {"n2": TWO.subnets}
    assert chosen(here, TWO, TWO).left_out == ()
    both = chosen(here, TWO, peer(2, "10.244.9.0/24"))
    assert {path.subnet for path in both.paths} == {"10.244.2.0/24", "10.244.9.0/24"}


def test_two_nodes_cannot_have_the_same_mac() -> None:
    """The path in place is kept; two new ones are both left out; a peer cannot have this node's MAC."""
    thief = peer(7, vtep_mac="02:24:0a:f4:02:00")
    assert used(chosen(TUNNEL, thief, TWO, THREE, in_place=chosen(TUNNEL, TWO, THREE).paths)) == GOOD
    assert used(chosen(TUNNEL, thief, TWO, THREE)) == {"n3": THREE.subnets}
    found = chosen(TUNNEL, peer(7, vtep_mac=TUNNEL.tunnel.mac), TWO, THREE)
    assert (used(found), "VTEP MAC of this node" in found.left_out[0]) == (GOOD, True)


@pytest.mark.parametrize("subnet", ["10.244.2.0/24", "10.244.2.0/25"])
def test_one_node_cannot_have_two_macs_for_one_subnet(subnet: str) -> None:
    """Of two records of one address, the one in place is kept; two new ones are both left out."""
    again = peer(2, subnet, vtep_mac="02:00:00:00:00:02", name="again")
    found = chosen(TUNNEL, again, TWO, THREE, in_place=chosen(TUNNEL, TWO, THREE).paths)
    assert used(found) == GOOD
    assert used(chosen(TUNNEL, again, TWO, THREE)) == {"n3": THREE.subnets}


FAR = Node("far", ("198.51.100.4",), ("10.244.4.0/24",))
FARTHER = Node("farther", ("198.51.100.5",), ("10.244.5.0/24",))


def test_a_node_without_ipv6_ignores_peers_ipv6_subnets() -> None:
    """The kernel would refuse the route, and so every pod's ADD would fail."""
    here = replace(TUNNEL, tunnel=replace(TUNNEL.tunnel, has_ipv6=False))
    found = chosen(here, peer(2, "10.244.2.0/24", "fd00:244:0:2::/64"), THREE)
    assert (used(found), "IPv6 is disabled on this node" in found.left_out[0]) == (GOOD, True)


def test_a_peer_s_address_in_this_node_s_own_subnet_is_skipped() -> None:
    """Packets to it would go to the pods' bridge; another address of the record is used."""
    assert used(chosen(TUNNEL, peer(2, addresses=("10.244.1.9",)), THREE)) == {"n3": THREE.subnets}
    (path,) = chosen(TUNNEL, peer(2, addresses=("10.244.1.9", "192.0.2.2"))).paths
    assert path.underlay == "192.0.2.2"


def test_a_mac_derived_from_one_of_several_subnets_is_reported() -> None:
    """If it is the wrong one, the node is unreachable for no visible reason; `vtepMAC` states the right one."""
    both = peer(2, "10.244.2.0/24", "10.244.9.0/24")
    assert "frames are sent to 02:24:0a:f4:02:00, the MAC of the first" in chosen(TUNNEL, both).left_out[0]
    assert chosen(TUNNEL, replace(both, vtep_mac="02:00:00:00:00:02")).left_out == ()
    assert chosen(ROUTES, both).left_out == ()


def test_no_subnet_contains_an_address_of_the_underlay() -> None:
    """Neither the peer's own nor another peer's: the tunnel would route its own packets into itself."""
    loop = peer(7, "198.51.100.0/24", addresses=("198.51.100.7",))
    found = chosen(TUNNEL, TWO, loop)
    assert (used(found), "contains its own address 198.51.100.7" in found.left_out[0]) == ({"n2": TWO.subnets}, True)
    thief = peer(7, "198.51.100.0/24")
    assert set(used(chosen(TUNNEL, FAR, FARTHER, thief))) == {"far", "farther"}
    assert set(used(chosen(TUNNEL, FAR, thief, in_place=chosen(TUNNEL, FAR).paths))) == {"far"}
    inside = peer(8, addresses=("10.244.2.8",))
    assert set(used(chosen(TUNNEL, TWO, inside, in_place=chosen(TUNNEL, TWO).paths))) == {"n2"}
    assert used(chosen(TUNNEL, TWO, inside)) == {}


_words = st.sampled_from(
    ["n", "192.0.2.2", "192.0.2.3", "192.0.2.1", "172.17.0.1", "2001:db8:1::2", "10.244.2.0/24", "10.244.2.0/25",
     "10.244.0.0/16", "0.0.0.0/0", "fd00:244:0:2::/64", "::/0", "10.244.1.0/24", "02:24:0a:f4:02:00", ""]
)  # fmt: skip
_any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.text(max_size=9) | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_record = st.fixed_dictionaries(
    {}, optional={key: _any | st.lists(_words, max_size=3) for key in ("name", "addresses", "podCIDRs", "vtepMAC")}
)


def assert_agree(paths: Sequence[PeerPath]) -> None:
    """What `forwarding.sync` requires of paths: one MAC a next hop, one address a MAC, one next hop a subnet."""
    for pairs in (
        {(path.subnet, (path.via, path.link)) for path in paths},
        {(path.via, path.mac) for path in paths if path.mac},
        {(path.mac, path.underlay) for path in paths if path.mac},
    ):
        assert len(dict(pairs)) == len(pairs), pairs


@BOTH
@given(st.lists(_any | _record, max_size=6))
def test_no_content_of_a_file_affects_peers_in_use(here: ThisNode, tmp_path_factory, bad: list) -> None:
    """No record makes reading the file fail, and none removes a path in place."""
    good = [
        {"name": node.name, "addresses": list(node.addresses), "podCIDRs": list(node.subnets)} for node in (TWO, THREE)
    ]
    path = tmp_path_factory.mktemp("peers") / "peers.json"
    path.write_text(json.dumps({"peers": [*bad, *good]}))
    paths = chosen(here, TWO, THREE).paths
    found = chosen(here, *read_peers_file(str(path), required=True).nodes, in_place=paths)
    assert set(paths) <= set(found.paths)
    assert_agree(found.paths)
    assert all("\n" not in sentence for sentence in found.left_out)


@pytest.mark.parametrize(("direct", "shared"), [(None, True), (True, True), (False, False)])
def test_addresses_that_pods_packets_reach_unmasqueraded(direct: bool | None, *, shared: bool) -> None:
    """Those on a link of this node, however many a record has; none if packets go through the tunnel."""
    here = ROUTES if direct is None else replace(TUNNEL, tunnel=replace(TUNNEL.tunnel, direct=direct))
    node = peer(2, addresses=("198.51.100.2", "192.0.2.2", "192.0.2.102", "2001:db8:1::2", "2001:db8:7::2"))
    assert chosen(here, node).shared == (("192.0.2.102", "192.0.2.2", "2001:db8:1::2") if shared else ())

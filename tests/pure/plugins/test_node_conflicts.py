"""Peers that claim the same thing: the older keeps it, whatever the order of the records."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linux.rtnl.addresses import InterfaceAddress
from linux.rtnl.forwarding import PeerPath
from plugins.node.paths import Links, Tunnel
from plugins.node.records import Node
from plugins.node.selection import Peers, ThisNode, select

OWN = ("10.244.1.0/24",)
ADDRESS = InterfaceAddress(2, "192.0.2.1/24", scope=0, tentative=False, failed=False)
ROUTES = ThisNode(OWN, (), Links([ADDRESS]), name="n1", since=100)
TUNNEL = replace(ROUTES, tunnel=Tunnel(9, "192.0.2.1", "02:24:0a:f4:01:00", vni=1, port=4789))
BOTH = pytest.mark.parametrize("here", [ROUTES, TUNNEL], ids=["routes", "tunnel"])


def peer(number: int, *subnets: str, **keys: object) -> Node:
    """The record of node N, which exists since N, with its own subnet unless others are given."""
    node = Node(f"n{number}", (f"192.0.2.{number}",), subnets or (f"10.244.{number}.0/24",), since=number)
    return replace(node, **keys)


def chosen(here: ThisNode, *nodes: Node, in_place: Sequence[PeerPath] = ()) -> Peers:
    """The peers that are selected while the kernel has the paths `in_place`."""
    return select(nodes, here, lambda paths: [path for path in paths if path in in_place])


def names(found: Peers) -> set[str]:
    """The names of the nodes that are used."""
    return {node.name for node in found.nodes}


@BOTH
@pytest.mark.parametrize("rival", ["10.244.2.0/24", "10.244.2.0/25", "10.244.2.0/23"], ids=["same", "part", "more"])
def test_the_older_of_two_keeps_its_subnet(here: ThisNode, rival: str) -> None:
    """Also if the routes of the younger are installed: all nodes decide alike."""
    younger = peer(7, rival)
    in_place = chosen(here, younger).paths
    found = chosen(here, peer(2), younger, peer(4), in_place=in_place)
    assert names(found) == {"n2", "n4"}
    assert [f'peer "n7" claims {rival}, in conflict with peer "n2"' in one for one in found.left_out] == [True]
    assert names(chosen(here, peer(2, since=9), younger, peer(4))) == {"n7", "n4"}


@BOTH
def test_of_two_of_one_age_the_name_decides(here: ThisNode) -> None:
    """Every node sees the same."""
    one, other = peer(3, "10.244.9.0/24", since=5), peer(2, "10.244.9.0/24", since=5)
    assert names(chosen(here, one, other)) == names(chosen(here, other, one)) == {"n2"}


@BOTH
def test_without_all_ages_the_installed_one_keeps_its_subnet(here: ThisNode) -> None:
    """A record that says nothing of its age wins and loses as before."""
    one, other = peer(2), peer(7, "10.244.2.0/24", since=0)
    assert names(chosen(here, one, other, in_place=chosen(here, other).paths)) == {"n7"}
    assert names(chosen(here, one, other, in_place=chosen(here, one).paths)) == {"n2"}


@BOTH
def test_a_network_that_contains_several_peers_is_wrong_however_old(here: ThisNode) -> None:
    """One record must not disconnect all others."""
    apart = replace(here, subnets=("10.9.0.0/24",))
    assert names(chosen(apart, peer(2), peer(3), peer(7, "10.244.0.0/16", since=1))) == {"n2", "n3"}


def test_the_older_of_two_keeps_its_mac() -> None:
    """The younger gets no frames of the older one."""
    thief = peer(7, vtep_mac="02:24:0a:f4:02:00")
    assert names(chosen(TUNNEL, thief, peer(2), peer(3))) == {"n2", "n3"}


@BOTH
@pytest.mark.parametrize("subnet", ["10.244.1.0/24", "10.244.1.128/25", "10.244.0.0/16"])
def test_an_older_node_has_this_node_s_subnet(here: ThisNode, subnet: str) -> None:
    """This node is told, and the oldest of several is named; a younger one is just left out."""
    for nodes in ((peer(7, subnet), peer(3, subnet)), (peer(3, subnet), peer(7, subnet))):
        found = chosen(here, *nodes, peer(2))
        expected = f'this node\'s 10.244.1.0/24 conflicts with {subnet} of peer "n3", which is older'
        assert (found.own_conflict, names(found)) == (expected, {"n2"})
        assert len(found.left_out) == 2
    for younger in (peer(7, subnet, since=101), peer(7, subnet, since=0)):
        assert chosen(here, younger).own_conflict == ""
    assert chosen(replace(here, since=0), peer(7, subnet)).own_conflict == ""


@pytest.mark.parametrize(("keys", "what"), [({"vni": 7}, "VNI 7"), ({"port": 8472}, "port 8472")])
def test_another_tunnel_s_peers_are_left_out(keys: dict, what: str) -> None:
    """They would not understand a datagram of this one. Without a tunnel they are peers as any."""
    found = chosen(TUNNEL, peer(2), peer(3, **keys), peer(4, vni=1, port=4789))
    assert names(found) == {"n2", "n4"}
    assert f'peer "n3" has the {what} for its tunnel' in found.left_out[0]
    assert names(chosen(ROUTES, peer(3, **keys))) == {"n3"}


_number = st.integers(2, 9)
_subnets = st.lists(
    st.sampled_from([*(f"10.244.{n}.0/24" for n in range(2, 6)), "10.244.2.0/25", "10.244.4.0/23", "192.0.2.0/29"]),
    max_size=2,
).map(tuple)
_macs = st.sampled_from(["", "", "", "02:24:0a:f4:02:00", "02:00:00:00:00:09"])
_records = st.builds(
    lambda number, subnets, mac, since, host: Node(
        f"n{number}", (f"192.0.2.{host}",), subnets, vtep_mac=mac, since=since
    ),
    _number, _subnets, _macs, st.sampled_from([0, 1, 5, 5, 9, 200]), _number,
)  # fmt: skip


def told(found: Peers) -> tuple:
    """All that the order of the records must not change."""
    return set(found.paths), sorted(found.nodes, key=repr), sorted(found.left_out), found.own_conflict


@BOTH
@given(st.lists(_records, max_size=7).flatmap(lambda nodes: st.tuples(st.just(nodes), st.permutations(nodes))))
def test_the_order_of_records_never_matters(here: ThisNode, two: tuple) -> None:
    """Whatever conflicts there are, and whichever paths are installed."""
    nodes, others = two
    in_place = chosen(here, *nodes[:3]).paths
    assert told(chosen(here, *nodes, in_place=in_place)) == told(chosen(here, *others, in_place=in_place))


@BOTH
@given(_records)
def test_no_younger_record_affects_older_nodes(here: ThisNode, bad: Node) -> None:
    """Not even before anything is installed."""
    good = [peer(number + 10, f"10.244.{number}.0/24", since=number) for number in (2, 3, 4, 5)]
    found = chosen(here, replace(bad, since=50), *good)
    assert set(chosen(here, *good).paths) <= set(found.paths)

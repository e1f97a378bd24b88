"""What records want, kept up to date change by change."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linux.rtnl.addresses import InterfaceAddress
from linux.rtnl.forwarding import PeerPath
from nodes.wanted import Wanted
from plugins.node.paths import Links, Tunnel, vteps
from plugins.node.records import Node
from plugins.node.selection import Peers, ThisNode, select
from spec.addresses import is_ipv6

CLUSTER = ("10.244.0.0/16", "fd00:244::/48")
ADDRESSES = [
    InterfaceAddress(2, cidr, scope=0, tentative=False, failed=False) for cidr in ("192.0.2.1/24", "2001:db8:1::1/64")
]
LINKS = Links(ADDRESSES)
OWN = ("10.244.1.0/24", "fd00:244:0:1::/64")
HERE = {
    "routes": ThisNode(OWN, CLUSTER, LINKS, name="n1", since=5),
    "tunnel": ThisNode(OWN, CLUSTER, LINKS, Tunnel(9, "192.0.2.1", "02:24:0a:f4:01:00"), "n1", 5),
    "both": ThisNode(OWN, CLUSTER, LINKS, Tunnel(9, "192.0.2.1", "02:24:0a:f4:01:00", direct=True), "n1", 5),
}
EVERYWHERE = pytest.mark.parametrize("here", HERE.values(), ids=HERE)

_networks = [*(f"10.244.{n}.0/24" for n in range(1, 7)), "10.244.2.0/25", "10.244.4.0/23", "10.9.0.0/24"]
_networks += [f"fd00:244:0:{n}::/64" for n in range(2, 5)]
_hosts = [*(f"192.0.2.{n}" for n in range(1, 8)), "198.51.100.7", "2001:db8:1::2", "2001:db8:1::3"]
_macs = st.sampled_from(["", "", "", "02:24:0a:f4:02:00", "02:00:00:00:00:09"])
_records = st.builds(
    lambda name, addresses, subnets, mac, since: Node(name, tuple(addresses), tuple(subnets), mac, since=since),
    st.sampled_from("abc"),
    st.lists(st.sampled_from(_hosts), max_size=3, unique=True),
    st.lists(st.sampled_from(_networks), max_size=2, unique=True),
    _macs,
    st.sampled_from([0, 1, 9]),
)
_keys = st.sampled_from("pqrstuvw")
_changes = st.lists(st.dictionaries(_keys, st.none() | _records, min_size=1, max_size=3), max_size=8)


def anew(here: ThisNode, records: Mapping[str, Node], in_place: set[PeerPath]) -> Peers:
    """The peers that the selection of all records yields."""
    return select(list(records.values()), here, lambda paths: [path for path in paths if path in in_place])


def state_of(here: ThisNode, peers: Peers) -> dict[str, set]:
    """What has to be in the kernel, and what is told."""
    families = (False, True) if here.tunnel else ()
    frames = {one for over_ipv6 in families for one in vteps(peers.nodes, over_ipv6=over_ipv6) if not is_ipv6(one)}
    return {"paths": set(peers.paths), "vteps": frames, "shared": set(peers.shared), "left": set(peers.left_out)}


@EVERYWHERE
@given(st.dictionaries(_keys, _records), _changes)
def test_change_by_change_leads_to_the_same_as_anew(here: ThisNode, records: dict, changes: list) -> None:
    """Paths, allowed senders, unmasqueraded addresses, and sentences; or the whole selection is asked for."""
    peers = anew(here, records, set())
    state, wanted = state_of(here, peers), Wanted(records, peers, CLUSTER) if records else None
    for changed in changes:
        records = {key: node for key, node in {**records, **changed}.items() if node}
        change = wanted.change(changed) if wanted else None
        peers = anew(here, records, state["paths"])
        expected = state_of(here, peers)
        if change is None:
            state, wanted = expected, Wanted(records, peers, CLUSTER) if records else None
            continue
        state = {
            "paths": state["paths"] - set(change.before) | set(change.after),
            "vteps": state["vteps"] - change.vteps[0] | change.vteps[1],
            "shared": state["shared"] - change.shared[0] | change.shared[1],
            "left": set(wanted.left_out),
        }
        assert state == expected


def peer(number: int, **keys: object) -> Node:
    """The record of node N."""
    return Node(f"n{number}", (f"192.0.2.{number}",), (f"10.244.{number}.0/24",), **keys)


@EVERYWHERE
def test_an_unrelated_change_needs_no_selection_although_others_contradict(here: ThisNode) -> None:
    """Two nodes that claim one subnet do not make changes of all others expensive."""
    records = {"a": peer(2), "b": peer(3), "c": peer(4, since=3), "d": Node("d", ("192.0.2.9",), ("10.244.4.0/24",))}
    wanted = Wanted(records, anew(here, records, set()), CLUSTER)
    change = wanted.change({"e": peer(5), "a": None})
    assert [path.subnet for path in change.after] == ["10.244.5.0/24"]
    assert [path.subnet for path in change.before] == ["10.244.2.0/24"]
    assert len(wanted.left_out) == 2


@EVERYWHERE
def test_a_record_as_it_was_changes_nothing(here: ThisNode) -> None:
    """Even if it is received again."""
    records = {"a": peer(2), "b": peer(3)}
    change = Wanted(records, anew(here, records, set()), CLUSTER).change({"a": peer(2)})
    assert (change.before, change.after, change.vteps[1], change.shared[0]) == ((), (), frozenset(), frozenset())


@pytest.mark.parametrize(
    "record", [peer(1), peer(3), peer(7, vtep_mac="02:24:0a:f4:03:00"), Node("n", ("192.0.2.7",), ("10.9.0.0/24",))]
)
def test_what_contradicts_something_needs_the_selection(record: Node) -> None:
    """This node's own facts, another claim, or the networks that are not masqueraded whoever the peers are."""
    records, here = {"a": peer(2), "b": peer(3)}, HERE["tunnel"]
    anywhere = ThisNode(here.subnets, (), here.links, here.tunnel)
    assert Wanted(records, anew(anywhere, records, set()), CLUSTER).change({"c": record}) is None

"""The node's network in the kernel, as the daemon makes it from the records of all nodes."""

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from linux import sysctls
from linux.netlink.socket import Netlink
from linux.nftables import messages
from linux.rtnl.monitor import FORWARDING, NEIGHBOUR, ROUTE, Change, Monitor
from linux.rtnl.vxlan import vtep_mac
from nodes.network import Network, Outcome
from nodes.registry import Grant
from plugins.node import host_rules
from plugins.node.records import Node as Record
from tests.netns.cluster_tools import CLUSTER, OWN, network, own_routes
from tests.netns.cni import CNI
from tests.netns.node import Node
from tests.netns.overlay_tools import DEVICE, inside, shell

GRANT = Grant(OWN)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of the node's state is a file of this test."""
    monkeypatch.setattr(host_rules, "FOLDER", str(tmp_path))


def record(number: int, **keys: object) -> Record:
    """The record of node NUMBER, on the link wan0."""
    usual = {
        "name": f"n{number}",
        "addresses": (f"192.0.2.{number}", f"2001:db8:1::{number}"),
        "subnets": (f"10.244.{number}.0/24", f"fd00:244:0:{number:x}::/64"),
    }
    return Record(**{**usual, **keys})


def records(*numbers: int) -> dict[str, Record]:
    """The records of these nodes, by name."""
    return {f"n{number}": record(number) for number in numbers}


def plugin(kind: str, **keys: object) -> dict[str, object]:
    """The main plugin's keys, as the daemon writes them."""
    return {"type": kind, "clusterCIDRs": list(CLUSTER), **keys}


def sync(node: Node, made: Network, nodes: Mapping[str, Record], own: Grant = GRANT) -> Outcome:
    """Synchronise within the node's network namespace."""
    with inside(node):
        return made.sync(own, nodes)


@pytest.fixture
def wan(node: Node) -> Node:
    """The node, with a host outside to which its default route leads."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    return node


@pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
def test_all_is_there_before_the_first_pod(wan: Node, kind: str) -> None:
    """The bridge with its gateways, routes to all peers, forwarding; a second run writes nothing."""
    made = Network("net", plugin(kind), node="n1")
    first = sync(wan, made, records(1, 2, 3))
    assert first.is_complete
    assert (first.problems, first.left_out, first.own_conflict) == ((), (), "")
    assert wan.addresses("cbr0") == {"10.244.1.1/24", "fd00:244:0:1::1/64"}
    assert set(own_routes(wan)) == {subnet for each in records(2, 3).values() for subnet in each.subnets}
    assert wan.sysctl("ipv4/ip_forward") == wan.sysctl("ipv6/conf/all/forwarding") == "1"
    before = wan.ruleset()
    second = sync(wan, made, records(1, 2, 3))
    assert (second.written, second.removed, second.problems) == (0, 0, ())
    assert wan.ruleset() == before


@pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
def test_an_add_afterwards_changes_nothing_of_the_node(wan: Node, cni: CNI, kind: str) -> None:
    """The daemon's state is exactly that of an ADD."""
    sync(wan, Network("net", plugin(kind), node="n1"), records(1, 2, 3))
    rules, routes, bridge = wan.ruleset(), own_routes(wan), wan.links()["cbr0"]
    peers = [
        {"name": each.name, "addresses": list(each.addresses), "podCIDRs": list(each.subnets)}
        for each in records(2, 3).values()
    ]
    cni.add(network(kind, peers=peers), wan.pod("pod"))
    assert (wan.ruleset(), own_routes(wan)) == (rules, routes)
    assert {key: wan.links()["cbr0"][key] for key in ("ifindex", "address", "mtu")} == {
        key: bridge[key] for key in ("ifindex", "address", "mtu")
    }


def test_what_the_others_must_know_of_the_tunnel_is_in_the_outcome(wan: Node) -> None:
    """MAC, VNI, port and address of the VTEP, and the MTU of pods."""
    found = sync(wan, Network("net", plugin("vxlan", vni=7, port=8472, device=DEVICE), node="n1"), records(1, 2))
    assert (found.mac, found.vni, found.port, found.address) == (vtep_mac(OWN), 7, 8472, "192.0.2.1")
    assert found.mtu == wan.links()[DEVICE]["mtu"] == wan.links()["cbr0"]["mtu"] == 1450


def test_a_peer_that_left_is_removed(wan: Node) -> None:
    """Its routes, neighbours and FDB entries go."""
    made = Network("net", plugin("vxlan"), node="n1")
    sync(wan, made, records(1, 2, 3))
    found = sync(wan, made, records(1, 2))
    assert (found.written, found.removed) == (0, 5)
    assert set(own_routes(wan)) == set(record(2).subnets)


def test_without_peers_a_bridge_needs_only_forwarding(wan: Node) -> None:
    """Of mode "bridge": no link, no route, no rule."""
    links, rules = set(wan.links()), wan.ruleset()
    assert sync(wan, Network("net", {"type": "bridge"}), records(1, 2)) == Outcome(is_complete=True)
    assert wan.sysctl("ipv4/ip_forward") == wan.sysctl("ipv6/conf/all/forwarding") == "1"
    assert (set(wan.links()), wan.ruleset()) == (links, rules)


def test_a_node_without_a_subnet_says_so(wan: Node) -> None:
    """Nothing is made."""
    found = sync(wan, Network("net", plugin("vxlan")), records(2), Grant(()))
    assert found == Outcome(problems=("this node has no subnet yet",))
    assert "cbr0" not in wan.links()


def test_what_fails_is_a_problem_of_this_node(node: Node) -> None:
    """A node without any link has no parent for the tunnel."""
    found = sync(node, Network("net", plugin("vxlan")), records(2))
    assert not found.is_complete
    assert "cannot determine the tunnel's link" in found.problems[0]


@pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
def test_nothing_is_written_while_nothing_has_changed(wan: Node, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request that changes something, no sysctl, no transaction of nftables."""
    made, nodes = Network("net", plugin(kind), node="n1"), records(1, 2, 3)
    sync(wan, made, nodes)
    written: list[object] = []
    changed = Netlink.change_many
    monkeypatch.setattr(Netlink, "send", lambda _, requests, **__: written.extend(requests))
    monkeypatch.setattr(Netlink, "change_many", lambda *args: (written.extend(args[1]), changed(*args))[1])
    monkeypatch.setattr(messages, "commit", lambda _, steps, **__: written.extend(steps))
    monkeypatch.setattr(sysctls, "write", lambda *setting: written.append(setting))
    assert sync(wan, made, nodes).is_complete
    assert written == []


def entries_of(monitor: Monitor) -> list[Change]:
    """What was announced about routes, neighbours and FDB entries; links settle at any time."""
    return [change for change in monitor.changes() if change.kind in (ROUTE, NEIGHBOUR, FORWARDING)]


def test_another_program_s_route_that_served_is_replaced_when_it_goes(wan: Node) -> None:
    """One with the same next hop is as good as ours, while it is there."""
    made, nodes = Network("net", plugin("kubenet"), node="n1"), records(1, 2, 3)
    with inside(wan), Monitor(CLUSTER) as monitor:
        wan.run(["ip", "route", "add", "10.244.2.0/24", "via", "192.0.2.2", "proto", "bird"])
        assert made.sync(GRANT, nodes).left_out == ()
        assert "10.244.2.0/24" not in own_routes(wan)
        deque(monitor.changes(), 0)
        wan.run(["ip", "route", "del", "10.244.2.0/24"])
        assert made.repair(GRANT, nodes, entries_of(monitor)).written == 1
        assert "10.244.2.0/24" in own_routes(wan)


def update(node: Node, made: Network, nodes: Mapping[str, Record], *changed: str) -> Outcome:
    """Tell of changed records within the node's network namespace."""
    with inside(node):
        return made.update(GRANT, nodes, changed)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The lists of the kernel's objects that are read from now on."""
    found: list[bytes] = []
    dump = Netlink.dump
    monkeypatch.setattr(Netlink, "dump", lambda *args: (found.append(args[1]), dump(*args))[1])
    return found


EVERY_KIND = pytest.mark.parametrize(
    "keys",
    [plugin("kubenet"), plugin("vxlan"), plugin("vxlan", directRouting=True)],
    ids=["kubenet", "vxlan", "direct"],
)


@EVERY_KIND
def test_a_change_is_written_without_reading_anything(wan: Node, keys: dict, reads: list[bytes]) -> None:
    """A node joins, changes its subnet, and leaves; a synchronisation afterwards finds nothing to do."""
    made, nodes = Network("net", keys, node="n1"), records(1, 2, 3)
    sync(wan, made, nodes)
    for changed, number in ((record(4), 1), (record(4, subnets=("10.244.44.0/24",)), 1), (None, 0), (record(4), 1)):
        nodes = {key: node for key, node in {**nodes, "n4": changed}.items() if node}
        reads.clear()
        found = update(wan, made, nodes, "n4")
        assert (found.is_complete, found.problems, found.left_out, reads) == (True, (), (), [])
        assert found.written >= number
        wanted = {subnet for each in nodes.values() if each.name != "n1" for subnet in each.subnets}
        assert set(own_routes(wan)) == wanted
        rules = wan.ruleset()
        again = sync(wan, made, nodes)
        assert (again.written, again.removed, wan.ruleset()) == (0, 0, rules)


@EVERY_KIND
def test_a_node_that_leaves_and_joins_again(wan: Node, keys: dict) -> None:
    """However each is told: as a change, or with everything."""
    made, nodes, more = Network("net", keys, node="n1"), records(1, 2, 3), records(1, 2, 3, 4)
    sync(wan, made, nodes)
    update(wan, made, more, "n4")
    sync(wan, made, nodes)
    assert not set(record(4).subnets) & set(own_routes(wan))
    update(wan, made, more, "n4")
    assert set(record(4).subnets) <= set(own_routes(wan))
    update(wan, made, nodes, "n4")
    sync(wan, made, more)
    assert set(record(4).subnets) <= set(own_routes(wan))
    assert sync(wan, made, more).written == 0


@EVERY_KIND
def test_a_record_as_before_costs_nothing(wan: Node, keys: dict, reads: list[bytes]) -> None:
    """A heartbeat of a node, and news of this node's own record, are no reason to write or read."""
    made, nodes = Network("net", keys, node="n1"), records(1, 2, 3)
    first = sync(wan, made, nodes)
    reads.clear()
    found = update(wan, made, records(1, 2, 3), "n2", "n1")
    assert (found, reads) == (replace(first, written=0), [])


@EVERY_KIND
def test_many_changes_at_once(wan: Node, keys: dict, reads: list[bytes]) -> None:
    """Some nodes join, some leave, and some exchange their subnets."""
    made, nodes = Network("net", keys, node="n1"), records(1, *range(2, 60))
    sync(wan, made, nodes)
    for number in range(2, 20):
        del nodes[f"n{number}"]
    nodes |= records(*range(60, 90))
    nodes["n20"], nodes["n21"] = record(20, subnets=record(21).subnets), record(21, subnets=record(20).subnets)
    found = update(wan, made, nodes, *(f"n{number}" for number in [*range(2, 22), *range(60, 90)]))
    assert (found.is_complete, found.problems, found.left_out) == (True, (), ())
    again = sync(wan, made, nodes)
    assert (again.written, again.removed, again.left_out) == (0, 0, ())


@EVERY_KIND
@pytest.mark.parametrize(
    "harm",
    [
        "ip route add 10.244.4.0/24 via 192.0.2.9 proto 4",
        "ip route add 10.244.4.0/24 via 192.0.2.9 proto 12 metric 7",
        "ip -6 route add fd00:244:0:4::/64 via 2001:db8:1::9 proto 4 metric 7",
        "ip route add blackhole 10.244.4.0/24",
    ],
)
def test_a_foreign_route_to_a_new_node_s_subnet_is_told(wan: Node, keys: dict, harm: str) -> None:
    """It stays, with its owner's name, and the other peers are reached."""
    made, nodes = Network("net", keys, node="n1"), records(1, 2, 3)
    sync(wan, made, nodes)
    wan.run(harm.split())
    nodes |= records(4)
    found = update(wan, made, nodes, "n4")
    (sentence,) = found.left_out
    assert "in the way: " in sentence
    assert ("bird" in sentence) == ("proto 12" in harm)
    assert len(own_routes(wan)) == 5


@EVERY_KIND
@pytest.mark.parametrize("harm", ["nft flush ruleset", "ip link del cbr0", "ip route flush proto 24"])
def test_a_change_after_drift(wan: Node, keys: dict, harm: str) -> None:
    """What the kernel has lost meanwhile is put back by the next synchronisation at the latest."""
    made, nodes = Network("net", keys, node="n1"), records(1, 2, 3)
    sync(wan, made, nodes)
    rules = wan.ruleset()
    wan.run(harm.split())
    update(wan, made, records(1, 2, 3, 4), "n4")
    assert set(record(4).subnets) <= set(own_routes(wan))
    sync(wan, made, nodes)
    assert (wan.ruleset(), len(own_routes(wan))) == (rules, 4)


ROUTES_GONE = ("ip route del 10.244.2.0/24", "ip -6 route flush proto 24")
ENTRIES_GONE = (
    f"ip neigh del 10.244.2.0 dev {DEVICE}",
    f"bridge fdb del {vtep_mac(['10.244.3.0/24'])} dev {DEVICE} dst 192.0.2.3",
    f"ip neigh flush dev {DEVICE} nud permanent; ip route flush proto 24",
)


@pytest.mark.parametrize(
    ("keys", "harm"),
    [(plugin("kubenet"), ROUTES_GONE), (plugin("vxlan"), ROUTES_GONE + ENTRIES_GONE)],
    ids=["kubenet", "vxlan"],
)
def test_what_is_deleted_is_written_again_at_once(
    wan: Node, keys: dict, harm: tuple[str, ...], reads: list[bytes]
) -> None:
    """Routes, neighbours and FDB entries, as the kernel has announced it."""
    made, nodes = Network("net", keys, node="n1"), records(1, 2, 3)
    with inside(wan), Monitor(CLUSTER) as monitor:
        made.sync(GRANT, nodes)
        if keys["type"] == "vxlan":
            monitor.watch((), (), wan.links()[DEVICE]["ifindex"])
        deque(monitor.changes(), 0)
        for line in harm:
            shell(wan, line)
            reads.clear()
            found = made.repair(GRANT, nodes, entries_of(monitor))
            assert (found.is_complete, found.problems, found.left_out, reads) == (True, (), (), [])
            assert found.written > 0
            deque(monitor.changes(), 0)
        assert made.sync(GRANT, nodes).written == 0

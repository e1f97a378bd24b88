"""Paths to peers in the kernel, as `ip` and `bridge` list them: created, changed, repaired and removed."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from linux.netlink.socket import NetlinkError
from linux.rtnl.forwarding import Changes, PeerPath, RouteRefused, missing, sync
from tests.netns.node import Node
from tests.netns.overlay_tools import (
    DEVICE,
    UNDERLAY_V4,
    UNDERLAY_V6,
    Entries,
    News,
    Tunnel,
    entries,
    expected,
    give_underlay,
    peer,
    shell,
    tunnel_on,
)

NOTHING = Entries(set(), set(), set())


@pytest.fixture(params=[UNDERLAY_V4, UNDERLAY_V6], ids=["over IPv4", "over IPv6"])
def tunnel(request: pytest.FixtureRequest, node: Node) -> Iterator[Tunnel]:
    """Node 1 with a VXLAN tunnel, and no host at the far end of wan0."""
    node.run(["ip", "link", "add", "wan0", "type", "veth", "peer", "name", "wan1"])
    node.run(["ip", "link", "set", "wan1", "up"])
    give_underlay(node, 1)
    with tunnel_on(node, 1, request.param) as made:
        yield made


@pytest.fixture
def news(tunnel: Tunnel) -> Iterator[News]:
    """The kernel's notifications from the moment the tunnel exists."""
    listener = News()
    yield listener
    listener.close()


def names(tunnel: Tunnel) -> dict[int, str]:
    """The names of the node's links by index."""
    return {link["ifindex"]: name for name, link in tunnel.node.links().items()}


def run_sync(tunnel: Tunnel, paths: list[PeerPath], **options: object) -> Changes:
    """Run `sync` as a plugin does; afterwards nothing is missing."""
    changes = sync(tunnel.netlink, paths, device=tunnel.device, **options)
    assert missing(tunnel.netlink, paths, device=tunnel.device) == []
    return changes


def test_each_peer_gets_a_neighbour_a_forwarding_entry_and_a_route(tunnel: Tunnel) -> None:
    """Two peers with two subnets each get four routes, four neighbours and two forwarding entries, as with flannel."""
    paths = tunnel.paths([2, 3])
    assert len(missing(tunnel.netlink, paths, device=tunnel.device)) == 10
    assert run_sync(tunnel, paths) == Changes(added=10, removed=0)
    assert entries(tunnel.node) == expected(paths, names(tunnel))
    route = tunnel.node.routes()["10.244.2.0/24"]
    assert (route["flags"], route["protocol"], route.get("scope", "global")) == (["onlink"], "24", "global")
    assert tunnel.node.routes()["fd00:244:0:2::/64"]["metric"] == 1024


def test_existing_entries_are_not_written_again(tunnel: Tunnel, news: News) -> None:
    """A second sync of the same state sends no change to the kernel."""
    paths = tunnel.paths([2, 3])
    run_sync(tunnel, paths)
    assert news.read()
    assert run_sync(tunnel, list(reversed(paths))) == Changes(added=0, removed=0)
    assert news.read() == []


def test_routes_are_created_last_and_deleted_first(tunnel: Tunnel, news: News) -> None:
    """Created: neighbours, forwarding entries, routes. Deleted: routes, forwarding entries, neighbours."""
    paths = tunnel.paths([2])
    run_sync(tunnel, paths)
    way_in = ["+neighbour", "+neighbour", "+forwarding", "+route", "+route"]
    assert news.read() == way_in
    assert run_sync(tunnel, []) == Changes(added=0, removed=5)
    way_out = [change.replace("+", "-") for change in reversed(way_in)]
    # The kernel notifies twice about a deleted neighbour: when it fails, and when it is removed.
    assert list(dict.fromkeys(news.read())) == list(dict.fromkeys(way_out))
    assert entries(tunnel.node) == NOTHING


def test_entries_of_a_removed_peer_are_deleted_and_others_stay(tunnel: Tunnel) -> None:
    """Only the entries of the removed peer are deleted."""
    run_sync(tunnel, tunnel.paths([2, 3, 4]))
    assert run_sync(tunnel, tunnel.paths([2, 4])) == Changes(added=0, removed=5)
    assert entries(tunnel.node) == expected(tunnel.paths([2, 4]), names(tunnel))


def test_a_peer_moves_to_another_address(tunnel: Tunnel, news: News) -> None:
    """The forwarding entry is replaced atomically; route and neighbours are unchanged."""
    run_sync(tunnel, tunnel.paths([2]))
    news.read()
    moved = peer(2, tunnel.device, underlay=tunnel.underlay.format(77))
    assert run_sync(tunnel, moved) == Changes(added=1, removed=0)
    assert news.read() == ["+forwarding"]
    assert entries(tunnel.node) == expected(moved, names(tunnel))


def test_a_peer_changes_its_mac(tunnel: Tunnel, news: News) -> None:
    """The new MAC's forwarding entry is created before the neighbours change; the old MAC's entry is deleted last."""
    run_sync(tunnel, tunnel.paths([2]))
    news.read()
    changed = peer(2, tunnel.device, tunnel.underlay, mac="02:00:00:00:00:99")
    assert run_sync(tunnel, changed) == Changes(added=3, removed=1)
    assert news.read() == ["+forwarding", "+neighbour", "+neighbour", "-forwarding"]
    assert entries(tunnel.node) == expected(changed, names(tunnel))


def test_two_peers_swap_their_macs(tunnel: Tunnel) -> None:
    """Each entry is replaced; none is lost."""
    two, three = (peer(number, tunnel.device, tunnel.underlay) for number in (2, 3))
    run_sync(tunnel, two + three)
    swapped = [replace(path, mac=three[0].mac) for path in two] + [replace(path, mac=two[0].mac) for path in three]
    run_sync(tunnel, swapped)
    assert entries(tunnel.node) == expected(swapped, names(tunnel))


def test_a_peer_becomes_a_direct_neighbour_and_back(tunnel: Tunnel, news: News) -> None:
    """The route is replaced, so one always exists; the tunnel's entries are created before it and deleted after it."""
    through = tunnel.paths([2])
    wan = tunnel.node.links()["wan0"]["ifindex"]
    direct = [
        PeerPath("10.244.2.0/24", UNDERLAY_V4.format(2), wan),
        PeerPath("fd00:244:0:2::/64", UNDERLAY_V6.format(2), wan),
    ]
    run_sync(tunnel, through)
    news.read()
    assert run_sync(tunnel, direct) == Changes(added=2, removed=3)
    told = news.read()
    assert told[:3] == ["+route", "+route", "-forwarding"]
    assert "-route" not in told
    assert entries(tunnel.node) == expected(direct, names(tunnel))
    run_sync(tunnel, through)
    # The last three: the gateway gets a host route for a moment, as the kernel would look for it on the other link.
    assert news.read() == ["+neighbour", "+neighbour", "+forwarding", "+route", "+route", "+route", "-route"]
    assert entries(tunnel.node) == expected(through, names(tunnel))


DRIFTS = {
    "route gone": "ip route del 10.244.2.0/24",
    "IPv6 route gone": "ip -6 route del fd00:244:0:2::/64",
    "neighbour gone": f"ip neigh del 10.244.2.0 dev {DEVICE}",
    "IPv6 neighbour gone": f"ip neigh del fd00:244:0:2:: dev {DEVICE}",
    "FDB entry gone": f"bridge fdb del 02:24:0a:f4:02:00 dev {DEVICE} self",
    "neighbour with another MAC": f"ip neigh replace 10.244.2.0 lladdr 02:00:00:00:00:01 nud permanent dev {DEVICE}",
    "neighbour that may age": f"ip neigh replace 10.244.2.0 lladdr 02:24:0a:f4:02:00 nud reachable dev {DEVICE}",
    "FDB entry to another address": (f"bridge fdb replace 02:24:0a:f4:02:00 dev {DEVICE} self permanent dst OTHER"),
    "FDB entry to another port": (f"bridge fdb replace 02:24:0a:f4:02:00 dev {DEVICE} self permanent dst PEER port 99"),
    "route elsewhere": "ip route replace 10.244.2.0/24 via 192.0.2.9 dev wan0 proto 24",
    "IPv6 route elsewhere": "ip -6 route replace fd00:244:0:2::/64 via 2001:db8:1::9 dev wan0 proto 24",
    "route by several hops": (
        "ip route replace 10.244.2.0/24 proto 24 nexthop via 192.0.2.8 dev wan0 nexthop via 192.0.2.9 dev wan0"
    ),
    "route with a smaller mtu": f"ip route replace 10.244.2.0/24 via 10.244.2.0 dev {DEVICE} onlink proto 24 mtu 1000",
    "route to nowhere": "ip route replace blackhole 10.244.2.0/24 proto 24",
    "device down and up": f"ip link set {DEVICE} down && ip link set {DEVICE} up",
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift_is_reported_and_repaired(tunnel: Tunnel, drift: str) -> None:
    """`missing` reports what was deleted or changed by hand; the next sync repairs it and leaves the rest alone."""
    paths = tunnel.paths([2, 3])
    run_sync(tunnel, paths)
    command = DRIFTS[drift].replace("OTHER", tunnel.underlay.format(9)).replace("PEER", tunnel.underlay.format(2))
    shell(tunnel.node, command)
    told = missing(tunnel.netlink, paths, device=tunnel.device)
    assert told
    assert all("missing" in sentence for sentence in told)
    assert drift == "device down and up" or len(told) == 1
    assert run_sync(tunnel, paths).added == len(told)
    assert entries(tunnel.node) == expected(paths, names(tunnel))


STRAYS = {
    "neighbour": f"ip neigh add 10.9.9.9 lladdr 02:00:00:00:00:01 nud permanent dev {DEVICE}",
    "FDB entry": f"bridge fdb add 02:00:00:00:00:01 dev {DEVICE} self permanent dst OTHER",
    "default FDB entry": f"bridge fdb append 00:00:00:00:00:00 dev {DEVICE} self permanent dst OTHER",
    "route": "ip route add 10.9.9.0/24 via 192.0.2.9 proto 24",
    "IPv6 route": "ip -6 route add fd00:9::/64 via 2001:db8:1::9 proto 24",
    "route of another metric": "ip route add 10.244.2.0/24 via 192.0.2.9 metric 9 proto 24",
    "IPv6 route of another metric": "ip -6 route add fd00:244:0:2::/64 via 2001:db8:1::9 metric 9 proto 24",
    "route by several hops": (
        "ip route add 10.9.9.0/24 proto 24 nexthop via 192.0.2.8 dev wan0 nexthop via 192.0.2.9 dev wan0"
    ),
    "IPv6 route by several hops": (
        "ip -6 route add fd00:9::/64 proto 24 nexthop via 2001:db8:1::8 dev wan0 nexthop via 2001:db8:1::9 dev wan0"
    ),
    "route by a next hop object": (
        "ip nexthop add id 7 via 192.0.2.9 dev wan0 && ip route add 10.9.9.0/24 nhid 7 proto 24"
    ),
    "route to nowhere": "ip route add unreachable 10.9.9.0/24 proto 24",
}


@pytest.mark.parametrize("stray", STRAYS)
def test_unwanted_entries_are_deleted(tunnel: Tunnel, stray: str) -> None:
    """Entries on the device, or with our protocol number, that are not wanted are deleted, and nothing else."""
    paths = tunnel.paths([2])
    run_sync(tunnel, paths)
    shell(tunnel.node, STRAYS[stray].replace("OTHER", tunnel.underlay.format(9)))
    assert entries(tunnel.node) != expected(paths, names(tunnel))
    changes = run_sync(tunnel, paths)
    assert changes.added == 0
    assert changes.removed >= 1
    assert entries(tunnel.node) == expected(paths, names(tunnel))
    assert run_sync(tunnel, paths) == Changes(0, 0)


def test_other_tables_links_and_protocols_are_left_alone(tunnel: Tunnel) -> None:
    """Routes with our protocol in another table or with another protocol, and neighbours on other links, stay."""
    for command in (
        "ip route add 10.9.9.0/24 via 192.0.2.9 proto 24 table 100",
        "ip route add 10.9.8.0/24 via 192.0.2.9 proto 4",
        "ip -6 route add fd00:9::/64 via 2001:db8:1::9 proto 4",
        "ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:01 nud permanent dev wan0",
    ):
        shell(tunnel.node, command)
    run_sync(tunnel, tunnel.paths([2]))
    assert run_sync(tunnel, []).removed == 5
    assert tunnel.node.ip("route", "show", "table", "100")
    assert {"10.9.8.0/24", "fd00:9::/64"} <= tunnel.node.routes().keys()
    assert tunnel.node.ip("neigh", "show", "dev", "wan0", "nud", "permanent")


def test_a_foreign_route_to_the_whole_cluster_coexists_with_routes_to_peers(tunnel: Tunnel) -> None:
    """A less specific route over another link, for example to a router, is neither used nor changed."""
    shell(tunnel.node, "ip route add 10.244.0.0/16 via 192.0.2.9 dev wan0 proto 4")
    shell(tunnel.node, "ip -6 route add fd00:244::/48 via 2001:db8:1::9 dev wan0 proto 4")
    paths = tunnel.paths([2, 3])
    assert run_sync(tunnel, paths) == Changes(added=10, removed=0)
    assert entries(tunnel.node) == expected(paths, names(tunnel))
    assert {"10.244.0.0/16", "fd00:244::/48"} <= tunnel.node.routes().keys()


FOREIGN = {
    "IPv4": ("10.244.2.0/24 via 192.0.2.9 dev wan0 proto 4", ""),
    "IPv4, another metric": ("10.244.2.0/24 via 192.0.2.9 dev wan0 proto 4 metric 7", ""),
    "IPv6": ("fd00:244:0:2::/64 via 2001:db8:1::9 dev wan0 proto 4", ""),
    "nowhere": ("10.244.2.0/24 proto 4", "blackhole "),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_conflicting_foreign_route_is_named_and_not_changed(tunnel: Tunnel, case: str) -> None:
    """The error quotes the route as `ip` prints it; the routes to the other peers are created nevertheless."""
    route, kind = FOREIGN[case]
    shell(tunnel.node, f"ip route add {kind}{route}")
    before = tunnel.node.routes()
    paths = tunnel.paths([2, 3])
    with pytest.raises(RouteRefused) as refused:
        sync(tunnel.netlink, paths, device=tunnel.device)
    assert refused.value.errno == 17
    assert refused.value.strerror == f"in the way: {kind}{route}"
    assert missing(tunnel.netlink, paths, device=tunnel.device) == [f"in the way: {kind}{route}"]
    after = tunnel.node.routes()
    assert before.items() <= after.items()
    assert len(after) == len(before) + 3


def test_a_foreign_route_to_the_same_next_hop_is_accepted(tunnel: Tunnel) -> None:
    """A foreign route that is equivalent to ours is accepted; if it is deleted, sync creates ours."""
    paths = tunnel.paths([2])
    shell(tunnel.node, f"ip route add 10.244.2.0/24 via 10.244.2.0 dev {DEVICE} onlink proto 4")
    assert run_sync(tunnel, paths) == Changes(added=4, removed=0)
    assert run_sync(tunnel, paths) == Changes(added=0, removed=0)
    assert tunnel.node.routes()["10.244.2.0/24"]["protocol"] == "static"
    shell(tunnel.node, "ip route del 10.244.2.0/24")
    assert run_sync(tunnel, paths) == Changes(added=1, removed=0)
    assert entries(tunnel.node) == expected(paths, names(tunnel))


def test_our_route_is_kept_if_a_foreign_route_conflicts_with_its_change(tunnel: Tunnel) -> None:
    """The peer moves to another next hop, but a foreign route conflicts: neither route is changed."""
    wan = tunnel.node.links()["wan0"]["ifindex"]
    run_sync(tunnel, [PeerPath("10.244.2.0/24", "192.0.2.2", wan)])
    shell(tunnel.node, "ip route append 10.244.2.0/24 via 192.0.2.9 dev wan0 proto 4")
    before = tunnel.node.run(["ip", "route"]).stdout
    with pytest.raises(RouteRefused):
        sync(tunnel.netlink, [PeerPath("10.244.2.0/24", "192.0.2.3", wan)], device=tunnel.device)
    assert tunnel.node.run(["ip", "route"]).stdout == before


def test_within_spares_the_routes_of_another_network(tunnel: Tunnel) -> None:
    """With two networks on one node, each removes only routes in its own range or on its own device."""
    shell(tunnel.node, "ip route add 10.99.2.0/24 via 192.0.2.9 proto 24")
    shell(tunnel.node, "ip -6 route add fd00:99::/64 via 2001:db8:1::9 proto 24")
    shell(tunnel.node, "ip route add 10.244.200.0/24 via 192.0.2.9 proto 24")
    shell(tunnel.node, f"ip route add 10.98.0.0/24 via 10.98.0.0 dev {DEVICE} onlink proto 24")
    paths = tunnel.paths([2])
    changes = run_sync(tunnel, paths, within=["10.244.0.0/16", "fd00:244::/48"])
    assert changes == Changes(added=5, removed=2)
    there = {dst for dst, _, _ in entries(tunnel.node).routes}
    assert there == {"10.99.2.0/24", "fd00:99::/64", "10.244.2.0/24", "fd00:244:0:2::/64"}


def test_a_route_with_an_unreachable_gateway_is_named_and_the_others_are_created(tunnel: Tunnel) -> None:
    """The error names the route that the kernel refused."""
    wan = tunnel.node.links()["wan0"]["ifindex"]
    paths = [PeerPath("10.244.2.0/24", "198.51.100.9", wan), PeerPath("10.244.3.0/24", "192.0.2.3", wan)]
    with pytest.raises(
        RouteRefused, match=r"route 10.244.2.0/24 via 198.51.100.9 dev wan0 proto 24: .*invalid gateway"
    ):
        sync(tunnel.netlink, paths)
    assert entries(tunnel.node).routes == {("10.244.3.0/24", "192.0.2.3", "wan0")}


def test_no_route_without_its_forwarding_entry(tunnel: Tunnel, news: News) -> None:
    """If the tunnel refuses a forwarding entry, the routes that need it are not created."""
    other = UNDERLAY_V6 if tunnel.underlay == UNDERLAY_V4 else UNDERLAY_V4
    with pytest.raises(NetlinkError, match="FDB entry 02:24:0a:f4:02:00 dev slash24.1 dst "):
        sync(tunnel.netlink, peer(2, tunnel.device, other), device=tunnel.device)
    assert "+route" not in news.read()


def test_contradictory_paths_are_refused_before_any_change(tunnel: Tunnel, news: News) -> None:
    """With one MAC for two peers it is undefined which peer a packet goes to."""
    one_mac = tunnel.paths([2]) + peer(3, tunnel.device, tunnel.underlay, mac=tunnel.paths([2])[0].mac)
    with pytest.raises(ValueError, match="two underlay addresses for the VTEP MAC 02:24:0a:f4:02:00"):
        sync(tunnel.netlink, one_mac, device=tunnel.device)
    assert news.read() == []


def test_any_state_becomes_any_other(tunnel: Tunnel) -> None:
    """Each sync from one random set of peers to the next, with MACs and addresses reused, ends in the wanted state."""
    chance = random.Random(24)
    wan = tunnel.node.links()["wan0"]["ifindex"]
    for _ in range(12):
        numbers = chance.sample(range(2, 12), chance.randint(0, 8))
        owners = dict(zip(numbers, chance.sample(range(2, 12), len(numbers)), strict=True))
        paths = []
        for number, owner in owners.items():
            mac, underlay = f"02:00:00:00:00:{owner:02x}", tunnel.underlay.format(chance.randint(2, 12))
            if chance.random() < 0.7:
                paths += peer(number, tunnel.device, mac=mac, underlay=underlay)
            else:
                paths.append(PeerPath(f"10.244.{number}.0/24", UNDERLAY_V4.format(owner), wan))
        run_sync(tunnel, paths)
        assert entries(tunnel.node) == expected(paths, names(tunnel))

"""The paths to peers as the kernel has them, told by `ip` and `bridge`: made, changed, repaired and removed."""

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
    """Node 1 with a tunnel, and nobody at the other end of wan0."""
    node.run(["ip", "link", "add", "wan0", "type", "veth", "peer", "name", "wan1"])
    node.run(["ip", "link", "set", "wan1", "up"])
    give_underlay(node, 1)
    with tunnel_on(node, 1, request.param) as made:
        yield made


@pytest.fixture
def news(tunnel: Tunnel) -> Iterator[News]:
    """What the kernel tells from the moment the tunnel is there."""
    listener = News()
    yield listener
    listener.close()


def names(tunnel: Tunnel) -> dict[int, str]:
    """The node's links by index."""
    return {link["ifindex"]: name for name, link in tunnel.node.links().items()}


def run_sync(tunnel: Tunnel, paths: list[PeerPath], **options: object) -> Changes:
    """As a plugin calls it; CHECK is content afterwards."""
    changes = sync(tunnel.netlink, paths, device=tunnel.device, **options)
    assert missing(tunnel.netlink, paths, device=tunnel.device) == []
    return changes


def test_each_peer_gets_a_neighbour_a_forwarding_entry_and_a_route(tunnel: Tunnel) -> None:
    """Two peers with two subnets each: four routes and neighbours, two forwarding entries, as flannel makes them."""
    paths = tunnel.paths([2, 3])
    assert len(missing(tunnel.netlink, paths, device=tunnel.device)) == 10
    assert run_sync(tunnel, paths) == Changes(added=10, removed=0)
    assert entries(tunnel.node) == expected(paths, names(tunnel))
    route = tunnel.node.routes()["10.244.2.0/24"]
    assert (route["flags"], route["protocol"], route.get("scope", "global")) == (["onlink"], "24", "global")
    assert tunnel.node.routes()["fd00:244:0:2::/64"]["metric"] == 1024


def test_what_is_there_already_is_not_written_again(tunnel: Tunnel, news: News) -> None:
    """A second sync of the same state tells the kernel nothing."""
    paths = tunnel.paths([2, 3])
    run_sync(tunnel, paths)
    assert news.read()
    assert run_sync(tunnel, list(reversed(paths))) == Changes(added=0, removed=0)
    assert news.read() == []


def test_a_route_comes_last_and_goes_first(tunnel: Tunnel, news: News) -> None:
    """In: neighbours, forwarding entries, routes. Out: routes, forwarding entries, neighbours."""
    paths = tunnel.paths([2])
    run_sync(tunnel, paths)
    way_in = ["+neighbour", "+neighbour", "+forwarding", "+route", "+route"]
    assert news.read() == way_in
    assert run_sync(tunnel, []) == Changes(added=0, removed=5)
    way_out = [change.replace("+", "-") for change in reversed(way_in)]
    # The kernel tells of a neighbour's end twice: once as it fails, once as it goes.
    assert list(dict.fromkeys(news.read())) == list(dict.fromkeys(way_out))
    assert entries(tunnel.node) == NOTHING


def test_a_vanished_peer_goes_and_the_others_stay(tunnel: Tunnel) -> None:
    """Only the entries of the peer that is no longer wanted are removed."""
    run_sync(tunnel, tunnel.paths([2, 3, 4]))
    assert run_sync(tunnel, tunnel.paths([2, 4])) == Changes(added=0, removed=5)
    assert entries(tunnel.node) == expected(tunnel.paths([2, 4]), names(tunnel))


def test_a_peer_moves_to_another_address(tunnel: Tunnel, news: News) -> None:
    """The forwarding entry is replaced in one step; route and neighbours are left alone."""
    run_sync(tunnel, tunnel.paths([2]))
    news.read()
    moved = peer(2, tunnel.device, underlay=tunnel.underlay.format(77))
    assert run_sync(tunnel, moved) == Changes(added=1, removed=0)
    assert news.read() == ["+forwarding"]
    assert entries(tunnel.node) == expected(moved, names(tunnel))


def test_a_peer_changes_its_mac(tunnel: Tunnel, news: News) -> None:
    """Frames to the new MAC have somewhere to go before a neighbour points to it; the old one's go last."""
    run_sync(tunnel, tunnel.paths([2]))
    news.read()
    changed = peer(2, tunnel.device, tunnel.underlay, mac="02:00:00:00:00:99")
    assert run_sync(tunnel, changed) == Changes(added=3, removed=1)
    assert news.read() == ["+forwarding", "+neighbour", "+neighbour", "-forwarding"]
    assert entries(tunnel.node) == expected(changed, names(tunnel))


def test_two_peers_swap_their_macs(tunnel: Tunnel) -> None:
    """Each entry is replaced, none is lost."""
    two, three = (peer(number, tunnel.device, tunnel.underlay) for number in (2, 3))
    run_sync(tunnel, two + three)
    swapped = [replace(path, mac=three[0].mac) for path in two] + [replace(path, mac=two[0].mac) for path in three]
    run_sync(tunnel, swapped)
    assert entries(tunnel.node) == expected(swapped, names(tunnel))


def test_a_peer_becomes_a_direct_neighbour_and_back(tunnel: Tunnel, news: News) -> None:
    """Its route is replaced, so that there is one at every moment; the tunnel's entries come before and go after."""
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
    # The last three: the kernel takes the gateway to be on the other link, and is told otherwise for a moment.
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
def test_drift_is_told_and_repaired(tunnel: Tunnel, drift: str) -> None:
    """What somebody took away or bent is seen by CHECK, and made good by the next sync; the rest is left alone."""
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
def test_what_is_not_wanted_goes(tunnel: Tunnel, stray: str) -> None:
    """Whatever stands on the device, or carries our protocol number, and is not wanted goes; no more than that."""
    paths = tunnel.paths([2])
    run_sync(tunnel, paths)
    shell(tunnel.node, STRAYS[stray].replace("OTHER", tunnel.underlay.format(9)))
    assert entries(tunnel.node) != expected(paths, names(tunnel))
    changes = run_sync(tunnel, paths)
    assert changes.added == 0
    assert changes.removed >= 1
    assert entries(tunnel.node) == expected(paths, names(tunnel))
    assert run_sync(tunnel, paths) == Changes(0, 0)


def test_other_tables_other_links_and_other_protocols_are_not_ours(tunnel: Tunnel) -> None:
    """A route of our number in another table, a neighbour of another link, a foreign route: all stay."""
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


def test_a_foreign_route_to_the_whole_cluster_does_not_keep_a_peer_out(tunnel: Tunnel) -> None:
    """A less specific route over another link, to a router say, stands beside ours; it is neither taken nor touched."""
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
def test_a_foreign_route_elsewhere_is_refused_by_name_and_not_touched(tunnel: Tunnel, case: str) -> None:
    """It is told as `ip` would print it; the other peers are reached all the same."""
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
    """Somebody else's route that does what ours would is left to do it; should it go, ours comes."""
    paths = tunnel.paths([2])
    shell(tunnel.node, f"ip route add 10.244.2.0/24 via 10.244.2.0 dev {DEVICE} onlink proto 4")
    assert run_sync(tunnel, paths) == Changes(added=4, removed=0)
    assert run_sync(tunnel, paths) == Changes(added=0, removed=0)
    assert tunnel.node.routes()["10.244.2.0/24"]["protocol"] == "static"
    shell(tunnel.node, "ip route del 10.244.2.0/24")
    assert run_sync(tunnel, paths) == Changes(added=1, removed=0)
    assert entries(tunnel.node) == expected(paths, names(tunnel))


def test_a_route_of_ours_is_kept_when_a_foreign_one_stands_in_the_way_of_its_change(tunnel: Tunnel) -> None:
    """The peer moves to another next hop, to which a foreign route is opposed: neither route is touched."""
    wan = tunnel.node.links()["wan0"]["ifindex"]
    run_sync(tunnel, [PeerPath("10.244.2.0/24", "192.0.2.2", wan)])
    shell(tunnel.node, "ip route append 10.244.2.0/24 via 192.0.2.9 dev wan0 proto 4")
    before = tunnel.node.run(["ip", "route"]).stdout
    with pytest.raises(RouteRefused):
        sync(tunnel.netlink, [PeerPath("10.244.2.0/24", "192.0.2.3", wan)], device=tunnel.device)
    assert tunnel.node.run(["ip", "route"]).stdout == before


def test_within_spares_the_routes_of_another_network(tunnel: Tunnel) -> None:
    """Two networks of one node: each removes routes in its own range, and those of its own device, alone."""
    shell(tunnel.node, "ip route add 10.99.2.0/24 via 192.0.2.9 proto 24")
    shell(tunnel.node, "ip -6 route add fd00:99::/64 via 2001:db8:1::9 proto 24")
    shell(tunnel.node, "ip route add 10.244.200.0/24 via 192.0.2.9 proto 24")
    shell(tunnel.node, f"ip route add 10.98.0.0/24 via 10.98.0.0 dev {DEVICE} onlink proto 24")
    paths = tunnel.paths([2])
    changes = run_sync(tunnel, paths, within=["10.244.0.0/16", "fd00:244::/48"])
    assert changes == Changes(added=5, removed=2)
    there = {dst for dst, _, _ in entries(tunnel.node).routes}
    assert there == {"10.99.2.0/24", "fd00:99::/64", "10.244.2.0/24", "fd00:244:0:2::/64"}


def test_a_gateway_on_no_link_is_refused_by_name_and_the_others_are_done(tunnel: Tunnel) -> None:
    """The kernel's refusal carries the route it was about."""
    wan = tunnel.node.links()["wan0"]["ifindex"]
    paths = [PeerPath("10.244.2.0/24", "198.51.100.9", wan), PeerPath("10.244.3.0/24", "192.0.2.3", wan)]
    with pytest.raises(
        RouteRefused, match=r"route 10.244.2.0/24 via 198.51.100.9 dev wan0 proto 24: .*invalid gateway"
    ):
        sync(tunnel.netlink, paths)
    assert entries(tunnel.node).routes == {("10.244.3.0/24", "192.0.2.3", "wan0")}


def test_no_route_without_its_forwarding_entry(tunnel: Tunnel, news: News) -> None:
    """If the tunnel can not take an entry, no route that would need it is made."""
    other = UNDERLAY_V6 if tunnel.underlay == UNDERLAY_V4 else UNDERLAY_V4
    with pytest.raises(NetlinkError, match="FDB entry 02:24:0a:f4:02:00 dev slash24.1 dst "):
        sync(tunnel.netlink, peer(2, tunnel.device, other), device=tunnel.device)
    assert "+route" not in news.read()


def test_ways_that_contradict_each_other_are_refused_before_anything_is_done(tunnel: Tunnel, news: News) -> None:
    """Two peers with one MAC, or one subnet: nobody could tell whose packets are whose."""
    one_mac = tunnel.paths([2]) + peer(3, tunnel.device, tunnel.underlay, mac=tunnel.paths([2])[0].mac)
    with pytest.raises(ValueError, match="two underlay addresses for the VTEP MAC 02:24:0a:f4:02:00"):
        sync(tunnel.netlink, one_mac, device=tunnel.device)
    assert news.read() == []


def test_any_state_becomes_any_other(tunnel: Tunnel) -> None:
    """From one set of peers, with addresses and MACs that were others' before, to the next: only the end counts."""
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

"""The paths to peers' subnets: over a shared link, or through the tunnel."""

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linux.rtnl.addresses import InterfaceAddress
from linux.rtnl.forwarding import PeerPath
from linux.rtnl.vxlan import vtep_mac
from plugins.node.paths import Links, Tunnel, Unusable, direct_path, tunnel_path, vteps
from plugins.node.records import Node

ETH, LAN, BRIDGE, VTEP = 2, 3, 4, 9
LINKLOCAL_SCOPE = 253


def on(link: int, cidr: str, scope: int = 0) -> InterfaceAddress:
    """An address on a link of the node."""
    return InterfaceAddress(link=link, cidr=cidr, scope=scope, tentative=False, failed=False)


ADDRESSES = [
    on(ETH, "192.0.2.1/24"),
    on(ETH, "2001:db8:1::1/64"),
    on(ETH, "fe80::1/64", LINKLOCAL_SCOPE),
    on(LAN, "10.0.0.1/8"),
    on(BRIDGE, "10.244.1.1/24"),
    on(VTEP, "10.244.1.0/32"),
]
LINKS = Links(ADDRESSES, excluded=(BRIDGE, VTEP))
TUNNEL = Tunnel(VTEP, "192.0.2.1")
NEAR = Node("near", ("192.0.2.2", "2001:db8:1::2"), ("10.244.2.0/24", "fd00:244:0:2::/64"))
FAR = Node("far", ("198.51.100.3", "2001:db8:2::3"), ("10.244.3.0/24", "fd00:244:0:3::/64"), "02:00:00:00:00:33")


@pytest.mark.parametrize(
    ("address", "link"),
    [
        ("192.0.2.2", ETH),
        ("192.0.3.2", 0),
        ("2001:db8:1::2", ETH),
        ("2001:db8:2::2", 0),
        ("fe80::2", 0),
        ("10.9.9.9", LAN),
        ("10.244.1.9", LAN),  # the pods' bridge is excluded
        ("10.244.1.0", LAN),  # the VTEP is excluded
    ],
)
def test_the_link_of_a_host(address: str, link: int) -> None:
    """It is found by the networks of the node's addresses, without the pods' bridge and the VTEP."""
    assert LINKS.of(address) == link


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 31)), min_size=1, max_size=8),
    st.integers(0, 2**32 - 1),
)
def test_the_longest_prefix_wins(networks: list[tuple[int, int]], host: int) -> None:
    """As in the kernel, among the networks that contain the address."""
    mine = [ipaddress.ip_interface((number, length)) for number, length in networks]
    links = Links([on(index, str(interface)) for index, interface in enumerate(mine, 1)])
    address = ipaddress.ip_address(host)
    lengths = [interface.network.prefixlen for interface in mine if address in interface.network]
    found = links.of(str(address))
    assert (mine[found - 1].network.prefixlen if found else None) == max(lengths, default=None)


def test_only_usable_links_are_considered() -> None:
    """A link that is down is never used; one without carrier, or a deprecated address, only as a last resort."""
    addresses = [on(ETH, "192.0.2.1/24"), on(LAN, "192.0.2.9/24")]
    assert Links(addresses, down=[ETH]).of("192.0.2.2") == LAN
    assert Links(addresses, without_carrier=[ETH]).of("192.0.2.2") == LAN
    assert Links(addresses[:1], without_carrier=[ETH]).of("192.0.2.2") == ETH
    assert Links(addresses[:1], without_carrier=[ETH]).of("192.0.2.2", good=True) == 0
    assert Links(addresses[:1], down=[ETH]).of("192.0.2.2") == 0
    old = replace(addresses[0], deprecated=True)
    assert Links([old, addresses[1]]).of("192.0.2.2") == LAN
    assert (Links([old]).of("192.0.2.2"), Links([old]).of("192.0.2.2", good=True)) == (ETH, 0)
    assert Links([replace(old, failed=True)]).of("192.0.2.2") == 0


def test_direct_routes() -> None:
    """Each subnet is routed through the peer's address of the same family."""
    assert direct_path(NEAR, "10.244.2.0/24", LINKS) == PeerPath("10.244.2.0/24", "192.0.2.2", ETH)
    assert direct_path(NEAR, "fd00:244:0:2::/64", LINKS) == PeerPath("fd00:244:0:2::/64", "2001:db8:1::2", ETH)


def test_a_direct_route_uses_the_first_reachable_address() -> None:
    """Addresses on no shared link are skipped; one on a link with carrier is preferred."""
    node = Node("b", ("198.51.100.3", "10.0.0.3", "192.0.2.3"), ())
    assert direct_path(node, "10.244.3.0/24", LINKS).via == "10.0.0.3"
    assert direct_path(node, "10.244.3.0/24", Links(ADDRESSES, without_carrier=[LAN])).via == "192.0.2.3"


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (FAR, '(198.51.100.3) is not on a link of this node that is up: a route needs a shared link; use type "vxlan"'),
        (Node("six", ("2001:db8:1::2",), ()), "has no IPv4 address, which the route to 10.244.3.0/24 needs"),
    ],
)
def test_a_peer_that_no_route_can_reach(node: Node, why: str) -> None:
    """The error says what would reach it."""
    with pytest.raises(Unusable) as caught:
        direct_path(node, "10.244.3.0/24", LINKS)
    assert why in str(caught.value)


@pytest.mark.parametrize("over_ipv6", [False, True])
def test_paths_through_the_tunnel(over_ipv6: bool) -> None:
    """The next hop is the subnet's network address, the MAC is given or derived, the tunnel sets the IP version."""
    tunnel = Tunnel(VTEP, ADDRESSES[over_ipv6].cidr.partition("/")[0])
    near, far = (peer.addresses[over_ipv6] for peer in (NEAR, FAR))
    assert [tunnel_path(peer, subnet, LINKS, tunnel) for peer in (NEAR, FAR) for subnet in peer.subnets] == [
        PeerPath("10.244.2.0/24", "10.244.2.0", VTEP, "02:24:0a:f4:02:00", near),
        PeerPath("fd00:244:0:2::/64", "fd00:244:0:2::", VTEP, "02:24:0a:f4:02:00", near),
        PeerPath("10.244.3.0/24", "10.244.3.0", VTEP, "02:00:00:00:00:33", far),
        PeerPath("fd00:244:0:3::/64", "fd00:244:0:3::", VTEP, "02:00:00:00:00:33", far),
    ]


def test_direct_routing_uses_only_shared_links_that_work() -> None:
    """Other peers, and those on a link without carrier, are reached through the tunnel."""
    tunnel = replace(TUNNEL, direct=True)
    for subnet in NEAR.subnets:
        assert tunnel_path(NEAR, subnet, LINKS, tunnel) == direct_path(NEAR, subnet, LINKS)
    assert tunnel_path(FAR, FAR.subnets[0], LINKS, tunnel).link == VTEP
    assert tunnel_path(NEAR, NEAR.subnets[0], Links(ADDRESSES[:3], without_carrier=[ETH]), tunnel).link == VTEP


def test_the_tunnel_needs_an_address_of_its_family() -> None:
    """A peer without one is unusable."""
    with pytest.raises(Unusable) as caught:
        tunnel_path(Node("v4", ("192.0.2.2",), ()), "10.244.2.0/24", LINKS, Tunnel(VTEP, "2001:db8:1::1"))
    assert "no IPv6 address, which the tunnel needs" in str(caught.value)


def test_a_peer_with_this_node_s_mac_is_unusable() -> None:
    """Frames to it would be taken for this node's own."""
    with pytest.raises(Unusable) as caught:
        tunnel_path(FAR, FAR.subnets[0], LINKS, replace(TUNNEL, mac=FAR.vtep_mac))
    assert FAR.vtep_mac in str(caught.value)


def test_every_peer_is_a_vtep() -> None:
    """Each may send through the tunnel, even if packets to it are routed directly."""
    assert vteps([FAR, NEAR], over_ipv6=False) == ["192.0.2.2", "198.51.100.3"]
    assert vteps([FAR, NEAR], over_ipv6=True) == ["2001:db8:1::2", "2001:db8:2::3"]


@given(st.integers(0, 2**24 - 1), st.integers(0, 2**24 - 1))
def test_the_mac_of_a_vtep_is_derived_from_its_subnet(one: int, two: int) -> None:
    """02:24 and the IPv4 network's bytes: locally administered, unicast, and unique to the subnet."""
    subnets = [str(ipaddress.ip_network((number << 8, 24))) for number in (one, two)]
    macs = [vtep_mac([subnet, "fd00::/64"]) for subnet in subnets]
    assert [mac.startswith("02:24:") and len(mac) == 17 for mac in macs] == [True, True]
    assert (macs[0] == macs[1]) == (one == two)
    assert vtep_mac(["fd00::/64", subnets[0]]) == macs[0]

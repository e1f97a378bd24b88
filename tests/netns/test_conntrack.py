"""Tracked connections: listed by address, whether or not the kernel filters, and deleted one by one or all of some."""

import socket

import pytest

from linux import conntrack
from linux.netlink.socket import NETLINK_NETFILTER, Netlink
from spec.addresses import pack, unpack
from tests.netns.connection_tools import TCP, UDP, Ends, reverse, track, track_all, tracked
from tests.netns.nft_tools import on
from tests.netns.node import Node

POD, OTHER, THIRD, SERVICE, NODE = "10.1.2.5", "10.1.2.6", "10.1.2.7", "10.96.0.1", "192.0.2.1"
POD6, OTHER6 = "fd00:1::5", "fd00:1::6"


def listed(node: Node, ips: list[str], ends: slice = conntrack.PARTIES) -> list[tuple]:
    """What is listed for these addresses, sorted: protocol, source, port, who answers, and by which port."""

    def read() -> list[tuple]:
        with Netlink(NETLINK_NETFILTER) as netlink:
            found = conntrack.connections(netlink, [pack(ip) for ip in ips], ends)
            return sorted(
                (one.protocol, unpack(one.source), one.source_port, unpack(one.answered_by), one.answering_port)
                for one in found
            )

    return on(node, read)


@pytest.fixture(params=[0, 3000])
def crowd(request: pytest.FixtureRequest, node: Node) -> int:
    """So many connections of others: with none, all are listed; with many, the kernel filters."""
    others = [Ends("10.9.0.1", 1024 + number, "10.9.0.2", 53) for number in range(request.param)]
    track_all(node, UDP, [(one, reverse(one)) for one in others])
    return request.param


def test_connections_are_found_by_their_parties(node: Node, crowd: int) -> None:
    """By who opened them, and by who really answers after translation; each once, though both be asked for."""
    service = Ends(POD, 40000, SERVICE, 80)
    track(node, TCP, service, Ends(OTHER, 8080, POD, 40000))
    track(node, UDP, Ends(POD6, 40001, OTHER6, 53))
    masqueraded = Ends(THIRD, 40002, "198.51.100.7", 443)
    track(node, TCP, masqueraded, Ends("198.51.100.7", 443, NODE, 1025))
    to_service, to_peer = (TCP, POD, 40000, OTHER, 8080), (UDP, POD6, 40001, OTHER6, 53)
    assert listed(node, [POD]) == [to_service]
    assert listed(node, [OTHER]) == [to_service]
    assert listed(node, [POD, OTHER, POD6, OTHER6]) == [to_service, to_peer]
    assert listed(node, [SERVICE, NODE]) == []
    assert listed(node, [SERVICE], conntrack.ANY_END) == [to_service]
    assert listed(node, [NODE], conntrack.ANY_END) == [(TCP, THIRD, 40002, "198.51.100.7", 443)]
    assert listed(node, []) == []


def test_the_kernel_filters_a_large_table(node: Node) -> None:
    """Of thousands of connections only those of the address are passed on by the kernel; of a few, all are."""
    large = [Ends("10.9.0.1", 1024 + number, "10.9.0.2", 53) for number in range(4000)]
    track(node, UDP, Ends(POD, 40000, OTHER, 53))
    wanted = frozenset([pack(POD)])
    assert on(node, conntrack._requests, wanted, conntrack.PARTIES) == [bytes(4)]
    track_all(node, UDP, [(one, reverse(one)) for one in large])
    requests = on(node, conntrack._requests, wanted, conntrack.PARTIES)
    with node.inside(), Netlink(NETLINK_NETFILTER) as netlink:
        found = [len(list(netlink.stream(request, conntrack._GET))) for request in requests]
    assert found == [1, 0]


def test_icmp_and_zones_are_read(node: Node, crowd: int) -> None:
    """An echo has no ports; a connection in another zone is one of its own."""
    node.run(
        ["nft", "add table inet t; add chain inet t c { type filter hook output priority 0; ct state new accept; }"]
    )
    node.run(["ip", "addr", "add", f"{POD}/32", "dev", "lo"])
    assert node.reaches(POD)
    track(node, UDP, Ends(POD, 40000, OTHER, 53))
    track(node, UDP, Ends(POD, 40000, OTHER, 53), zone=7)
    flow = (UDP, POD, 40000, OTHER, 53)
    assert listed(node, [POD]) == [(socket.IPPROTO_ICMP, POD, 0, POD, 0), flow, flow]
    assert on(node, conntrack.flush_addresses, [OTHER]) == 2
    assert listed(node, [OTHER]) == []


def test_single_connections_are_deleted(node: Node) -> None:
    """Those that are named; one that is gone by then, or another with its addresses, does not count and is no error."""
    flows = [Ends(POD, 40000 + number, OTHER, 53) for number in range(300)]
    track_all(node, UDP, [(one, reverse(one)) for one in flows])

    def find() -> list[conntrack.Connection]:
        with Netlink(NETLINK_NETFILTER) as netlink:
            return list(conntrack.connections(netlink, [pack(POD)]))

    def delete(doomed: list[conntrack.Connection]) -> int:
        with Netlink(NETLINK_NETFILTER) as netlink:
            return conntrack.delete(netlink, doomed)

    found = on(node, find)
    assert len(found) == 300
    kept = found.pop()
    assert on(node, delete, found[:150]) == 150
    track(node, UDP, Ends(POD, found[0].source_port, OTHER, 53))  # the same again: another connection
    assert on(node, delete, found) == 149
    assert {one.source_port for one in on(node, find)} == {kept.source_port, found[0].source_port}


@pytest.mark.parametrize("ips", [[POD], [POD, POD6], [SERVICE], [NODE]])
def test_a_flush_deletes_what_has_the_address_at_any_end(node: Node, crowd: int, ips: list[str]) -> None:
    """As source, as destination, as the one who answers, and as the one to whom; everything else goes on."""
    ends = {
        Ends(POD, 40000, OTHER, 53): {POD},
        Ends(OTHER, 40001, POD, 53): {POD},
        Ends(POD6, 40002, OTHER6, 53): {POD6},
        Ends(OTHER6, 40003, POD6, 53): {POD6},
        Ends(OTHER, 40004, THIRD, 53): set(),
    }
    for one in ends:
        track(node, UDP, one)
    translated = Ends(OTHER, 40005, SERVICE, 53)
    track(node, UDP, translated, Ends(POD, 53, NODE, 1025))
    ends[translated] = {SERVICE, POD, NODE}
    before = tracked(node)
    doomed = {one for one, names in ends.items() if names & set(ips)}
    assert on(node, conntrack.flush_addresses, ips) == len(doomed)
    gone = {f"udp {one.source} {one.to} {one.source_port} {one.port}" for one in doomed}
    assert before - tracked(node) == gone
    assert on(node, conntrack.flush_addresses, ips) == 0
    assert on(node, conntrack.flush_addresses, []) == 0


def test_a_connection_is_found_by_its_tuple(node: Node) -> None:
    """As the one that announced another is named; None if it is gone."""
    track(node, TCP, Ends(POD, 40000, SERVICE, 21), Ends(OTHER, 2121, POD, 40000))
    original = Ends(POD, 40000, SERVICE, 21).attribute(1, TCP)[4:]

    def find() -> conntrack.Connection | None:
        with Netlink(NETLINK_NETFILTER) as netlink:
            return conntrack.find(netlink, 4, original)

    assert on(node, find).answering_port == 2121
    on(node, conntrack.flush_addresses, [POD])
    assert on(node, find) is None


@pytest.mark.parametrize(("state", "is_closed"), [(3, False), (4, False), (7, True), (8, True)])
def test_a_closed_connection_is_told_from_an_open_one(node: Node, state: int, is_closed: bool) -> None:
    """Established and closing ones are open; TIME_WAIT and CLOSE are not."""
    track(node, TCP, Ends(POD, 40000, OTHER, 80), tcp_state=state)
    with node.inside(), Netlink(NETLINK_NETFILTER) as netlink:
        (found,) = conntrack.connections(netlink, [pack(POD)])
    assert found.is_closed is is_closed

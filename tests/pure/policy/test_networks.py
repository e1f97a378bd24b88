"""Networks with exceptions have exactly the addresses that they should."""

from ipaddress import ip_address, ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.networks import intervals, is_everything, packed
from policy.objects import NetworkPeer


def _small(prefix: int, number: int) -> str:
    """A network in the last 16 addresses of IPv4, or the first of IPv6."""
    base = int(ip_address("255.255.255.240"))
    return str(ip_network((base + number, prefix), strict=False))


_cidrs = st.builds(_small, st.integers(27, 32), st.integers(0, 15))
_peers = st.builds(lambda cidr, excepts: NetworkPeer(cidr, tuple(excepts)), _cidrs, st.lists(_cidrs, max_size=4))


@given(st.lists(_peers, max_size=4))
def test_they_have_what_a_network_has_and_none_of_its_exceptions_has(peers: list[NetworkPeer]) -> None:
    """Exceptions of one network do not take from others. The intervals are sorted, and do not touch."""
    found = intervals(peers, 4)
    has = {number for first, last in found for number in range(first, last + 1)}
    wanted = {
        int(address)
        for peer in peers
        for address in ip_network(peer.cidr)
        if not any(address in ip_network(one) for one in peer.excepts)
    }
    assert has == wanted
    assert all(one[1] + 1 < two[0] for one, two in pairwise(found))
    assert intervals(peers, 6) == ()


@pytest.mark.parametrize(("cidr", "version", "size"), [("0.0.0.0/0", 4, 4), ("::/0", 6, 16)])
def test_all_addresses_of_a_version_are_everything(cidr: str, version: int, size: int) -> None:
    """As one network, or as two; but not without an address."""
    assert is_everything(intervals([NetworkPeer(cidr)], version), version)
    halves = [str(half) for half in ip_network(cidr).subnets()]
    assert is_everything(intervals(map(NetworkPeer, halves), version), version)
    last = ip_network(cidr).broadcast_address
    found = intervals([NetworkPeer(cidr, (f"{last}/{last.max_prefixlen}",))], version)
    assert not is_everything(found, version)
    assert packed(found, version) == {bytes(size) + b"\xff" * (size - 1) + b"\xfe"}

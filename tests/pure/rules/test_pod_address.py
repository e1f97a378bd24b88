"""Addresses of pods: the subnet of one, and how it is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr.ip import IPAddress, IPNetwork

from rules.pod_address import pod_address

ADDRESSES = st.one_of(
    st.tuples(st.just(4), st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.tuples(st.just(6), st.integers(0, 2**128 - 1), st.integers(0, 128)),
    st.tuples(st.just(6), st.integers(0, 2**16 - 1).map(lambda low: low << 64), st.integers(0, 128)),
)


@given(ADDRESSES)
def test_as_another_library_has_it(given_address: tuple[int, int, int]) -> None:
    """Address, prefix length and subnet are those that netaddr finds, and are written as it writes them."""
    version, value, length = given_address
    text = f"{IPAddress(value, version)}/{length}"
    found, expected = pod_address(text), IPNetwork(text)
    assert (found.version, found.packed, found.prefix_length) == (version, expected.ip.packed, length)
    assert (str(found), found.cidr) == (str(expected.ip), str(expected))
    assert found.subnet.cidr == str(expected.cidr)
    assert pod_address(str(expected.ip)).packed == found.packed


@pytest.mark.parametrize("text", ["", "10.1.2", "10.1.2.3/33", "10.1.2.3/-1", "10.1.2.3/x", "fd00::/129", "x", "1:2"])
def test_what_is_none(text: str) -> None:
    """What is no address is refused."""
    with pytest.raises((OSError, ValueError)):
        pod_address(text)

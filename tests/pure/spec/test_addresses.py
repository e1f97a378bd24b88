"""Addresses and networks as values: parsed, masked, compared and printed as netaddr and Go do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr.ip import IPAddress, IPNetwork

from spec.addresses import Address, canonical_cidr, pack, parse_address, parse_cidr, parse_ip, unpack

# Without ::/80, which netaddr prints as the C library does; for Go's form see test_addresses_are_printed_as_in_go.
ADDRESSES = st.one_of(
    st.tuples(st.just(4), st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.tuples(st.just(6), st.integers(2**48, 2**128 - 1), st.integers(0, 128)),
    st.tuples(st.just(6), st.integers(0, 2**16 - 1).map(lambda low: low << 64), st.integers(0, 128)),
)


@given(ADDRESSES)
def test_parsing_and_printing_match_netaddr(given_address: tuple[int, int, int]) -> None:
    """Address, prefix length, network and first host are those of netaddr, and so are their texts."""
    version, value, length = given_address
    text = f"{IPAddress(value, version)}/{length}"
    found, expected = parse_address(text), IPNetwork(text)
    assert (found.version, found.number, found.prefix) == given_address
    assert (found.packed, found.first, found.last) == (expected.ip.packed, expected.first, expected.last)
    assert (str(found), found.cidr, found.network.cidr) == (str(expected.ip), str(expected), str(expected.cidr))
    assert parse_address(str(expected.ip)) == Address(version, value, found.bits)
    assert (pack(str(expected.ip)), unpack(found.packed)) == (expected.ip.packed, str(expected.ip))
    assert found.first_host.number == (expected.first + 1) % (1 << found.bits)


NEAR = st.tuples(st.sampled_from((4, 6)), st.integers(0, 255), st.integers(0, 8)).map(
    lambda each: Address(each[0], each[1], each[2] + (24 if each[0] == 4 else 120))
)


@given(NEAR, NEAR)
def test_comparisons_match_netaddr(one: Address, other: Address) -> None:
    """`contains` and `overlaps` agree with netaddr."""
    first, second = IPNetwork(one.cidr), IPNetwork(other.cidr)
    assert one.contains(other) == (second in first)
    assert one.overlaps(other) == (second in first or first in second)


@pytest.mark.parametrize(
    ("cidr", "first"),
    [
        ("10.1.2.77/24", "10.1.2.1"),
        ("10.1.2.77/32", "10.1.2.78"),
        ("255.255.255.255/32", "0.0.0.0"),
        ("10.1.2.77/0", "0.0.0.1"),
        ("fd00:1::77/64", "fd00:1::1"),
    ],
)
def test_first_host(cidr: str, first: str) -> None:
    """The first host, our gateway, is the address after the subnet's network address."""
    assert str(parse_address(cidr).first_host) == first


@pytest.mark.parametrize(
    ("one", "other", "do"),
    [
        ("10.1.2.1/24", "10.1.0.1/16", True),
        ("10.1.2.1/24", "10.1.3.1/24", False),
        ("fd00::1/64", "fd00::2/128", True),
        ("0.0.0.0/0", "::/0", False),
    ],
)
def test_overlapping_networks(one: str, other: str, *, do: bool) -> None:
    """Two networks of one family overlap if the larger one contains the smaller one."""
    first, second = parse_address(one), parse_address(other)
    assert first.overlaps(second) is second.overlaps(first) is do


@pytest.mark.parametrize("text", ["", "10.1.2", "10.1.2.3/33", "10.1.2.3/-1", "10.1.2.3/x", "fd00::/129", "x", "1:2"])
def test_invalid_addresses_are_refused(text: str) -> None:
    """A text that is not an address, with or without a prefix length, is a ValueError."""
    with pytest.raises(ValueError, match="^invalid (IP|CIDR) address: "):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("::ffff:10.0.0.1/120", "10.0.0.1/24"), ("::102:304/96", "::102:304/96"), ("fd00:0::1/64", "fd00::1/64")],
)
def test_cidrs_are_canonical(text: str, canonical: str) -> None:
    """An IPv4-mapped IPv6 address becomes an IPv4 address, with the rest of the prefix length."""
    assert canonical_cidr(text) == canonical


def test_a_prefix_shorter_than_the_mapping_is_refused() -> None:
    """An IPv4-mapped network needs a prefix length of at least 96: a shorter one belongs to neither family."""
    with pytest.raises(ValueError, match="invalid CIDR address: ::ffff:10.0.0.1/95"):
        canonical_cidr("::ffff:10.0.0.1/95")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("FD00:0:0:0::1", "fd00::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::102:304", "::102:304"),
        ("::1", "::1"),
        ("0.0.0.0", "0.0.0.0"),
        ("1:0:0:2:0:0:0:3", "1:0:0:2::3"),
        ("1:0:2:3:4:5:6:7", "1:0:2:3:4:5:6:7"),
    ],
)
def test_addresses_are_printed_as_in_go(text, canonical):
    """An address is printed as Go prints it, because a lease's file is named by that text."""
    assert str(parse_ip(text)) == canonical


@pytest.mark.parametrize(
    "text", ["10.1", "010.0.0.1", "10.0.0.1 ", "fe80::1%eth0", "1", "", "10.0.0.1/8", "0x7f.1.1.1"]
)
def test_only_plain_addresses_are_parsed(text):
    """Zones, leading zeros and shorthands are refused."""
    with pytest.raises(ValueError, match="invalid IP address"):
        parse_ip(text)


@pytest.mark.parametrize("length", ["", "-1", "129", "1" * 5000, "²"])
def test_invalid_prefix_lengths_are_refused(length):
    """Only a decimal number up to the number of bits of the family is a prefix length."""
    with pytest.raises(ValueError, match="invalid CIDR address"):
        parse_cidr(f"fd00::/{length}")

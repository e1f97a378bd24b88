"""Elements of address sets: merged as netaddr merges networks, decoded, and shown as users write them."""

import struct
from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr.ip import IPNetwork, cidr_merge

from linux.nftables.address_elements import of_addresses, of_networks, of_ranges, spans, split, text_of
from spec.addresses import parse_address

v4_networks = st.builds(lambda number, length: str(IPv4Network((number, length), strict=False)),
                        st.integers(0, 2**32 - 1), st.integers(0, 32))  # fmt: skip
v6_networks = st.builds(lambda number, length: str(IPv6Network((number, length), strict=False)),
                        st.integers(0, 2**128 - 1), st.integers(0, 128))  # fmt: skip
# Few bits, so that networks overlap and are adjacent.
close_networks = st.builds("10.0.0.{}/{}".format, st.integers(0, 255), st.integers(24, 32))
networks = st.lists(v4_networks | v6_networks | close_networks, max_size=40)


def merged_by_netaddr(version: int, texts: list[str]) -> set[tuple[int, int]]:
    """The ranges of addresses, from networks merged by netaddr."""
    runs: list[tuple[int, int]] = []
    for network in cidr_merge([IPNetwork(text) for text in texts if (":" in text) == (version == 6)]):
        if runs and runs[-1][1] == network.first:
            runs[-1] = (runs[-1][0], network.last + 1)
        else:
            runs.append((network.first, network.last + 1))
    return set(runs)


@pytest.mark.parametrize("version", [4, 6])
@given(networks)
def test_networks_are_merged(version: int, texts: list[str]) -> None:
    """The intervals cover the same addresses, are as few as possible and ordered, and have one IP version."""
    elements = of_networks(version, texts)
    assert spans(version, elements, intervals=True) == merged_by_netaddr(version, texts)
    assert elements == of_networks(version, [*reversed(texts), *texts])


@pytest.mark.parametrize("version", [4, 6])
@given(networks)
def test_encoded_elements_can_be_split(version: int, texts: list[str]) -> None:
    """Concatenated elements are split into the original ones."""
    elements = of_networks(version, texts)
    assert split(b"".join(elements)) == list(elements)


def test_bytes_of_an_interval() -> None:
    """Nested attributes of type 1, the key in network order, and the flag of an interval's end after it."""
    opening, closing = of_networks(4, ["10.0.0.0/8"])
    assert opening == struct.pack("=6H4s", 16, 1, 12, 1, 8, 1, bytes([10, 0, 0, 0]))
    assert closing == struct.pack("=6H4s2H", 24, 1, 12, 1, 8, 1, bytes([11, 0, 0, 0]), 8, 3) + bytes([0, 0, 0, 1])


def test_an_interval_to_the_last_address_has_no_end() -> None:
    """No address follows the last one that could end the interval."""
    assert len(of_networks(4, ["224.0.0.0/3"])) == len(of_networks(6, ["::/0"])) == 1
    assert spans(4, of_networks(4, ["224.0.0.0/3"]), intervals=True) == {(224 << 24, 1 << 32)}


def test_intervals_written_by_others() -> None:
    """nft's initial end at zero, and an interval that ends where the next begins, are understood."""
    opening, closing = of_networks(4, ["10.0.0.0/8"])
    zero_end = closing[:12] + bytes(4) + closing[16:]
    next_opening = of_networks(4, ["11.0.0.0/8"])[0]
    assert spans(4, [zero_end, opening, closing], intervals=True) == {(10 << 24, 11 << 24)}
    assert spans(4, [opening, next_opening], intervals=True) == {(10 << 24, 11 << 24), (11 << 24, 1 << 32)}


def test_elements_of_addresses() -> None:
    """Each address has one element, however often and in whatever form it is given; other IP versions are left out."""
    texts = ["192.0.2.2", "2001:db8::1", "192.0.2.1", "2001:DB8:0::1", "192.0.2.2"]
    assert [element[12:] for element in of_addresses(4, texts)] == [bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])]
    assert len(of_addresses(6, texts)) == 1


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.0/-1", "10.0.0/8", "10.0.0.0/x", "", "::/129"])
def test_invalid_networks_are_refused(text: str) -> None:
    """They raise an error."""
    with pytest.raises((OSError, ValueError)):
        of_networks(6 if ":" in text else 4, [text])


@pytest.mark.parametrize(
    ("version", "span", "text"),
    [
        (4, (10 << 24, (10 << 24) + 1), "10.0.0.0"),
        (4, (10 << 24, 11 << 24), "10.0.0.0/8"),
        (4, (0, 1 << 32), "0.0.0.0/0"),
        (4, ((10 << 24) + 1, (10 << 24) + 4), "10.0.0.1-10.0.0.3"),
        (4, ((10 << 24) + 1, (10 << 24) + 3), "10.0.0.1-10.0.0.2"),
        (6, (0xFD << 120, 0xFE << 120), "fd00::/8"),
        (6, (1, 2), "::1"),
    ],
)
def test_text_of_a_range(version: int, span: tuple[int, int], text: str) -> None:
    """A range of addresses is shown as an address, a network or a range."""
    assert text_of(version, span) == text


@given(networks)
def test_ranges_are_encoded_as_the_networks_that_they_are(texts: list[str]) -> None:
    """A network as its first and last address, packed and joined, gives the elements of the network."""
    for version, size in ((4, 4), (6, 16)):
        parsed = [parse_address(text) for text in texts if (":" in text) == (version == 6)]
        ranges = [one.first.to_bytes(size, "big") + one.last.to_bytes(size, "big") for one in parsed]
        assert of_ranges(version, ranges) == of_networks(version, texts)

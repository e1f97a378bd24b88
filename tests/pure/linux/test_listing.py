"""Listings of sets that the kernel reorders meanwhile, simulated because a test cannot make the kernel do so."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linux.netlink.attributes import nested
from linux.netlink.socket import Netlink, NetlinkError
from linux.nftables import listing, messages

TABLE = messages.TableName(messages.INET, "slash24_test")
PAGE = 7


def element(number: int) -> bytes:
    """An encoded element."""
    return messages.encoded(messages.Element("pods4", number.to_bytes(4, "big"), f"v1:net:c{number}:eth0"))


class Rearranging(Netlink):
    """A kernel that lists a set in pages, each after as many elements as were listed, and in an order of its own."""

    def __init__(self, elements: Sequence[bytes], orders: Sequence[Sequence[int]]) -> None:
        self.elements = elements
        self.orders = iter(orders)
        """Seeds of the orders of each listing's pages, one listing after the other; when they are used up, it rests."""

    def dump(self, message: object, kind: int) -> list[bytes]:
        """Return one listing."""
        listed, pages, seeds = 0, [], iter(next(self.orders, ()))
        while listed < len(self.elements):
            page = random.Random(next(seeds, 0)).sample(self.elements, len(self.elements))[listed : listed + PAGE]
            pages.append(bytes(messages.BODY) + nested(3, *page))
            listed += PAGE
        return pages


ORDERS = st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=4)


@given(st.integers(0, 40), ORDERS)
def test_a_listing_has_each_element_once(count: int, orders: Sequence[Sequence[int]]) -> None:
    """However the order changes between pages, none is missing or listed twice."""
    kernel = Rearranging([element(number) for number in range(count)], orders)
    found = listing.list_elements(kernel, TABLE, "pods4")
    assert sorted(found) == sorted(kernel.elements)


def test_a_set_that_keeps_changing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the set; an incomplete list is never returned."""
    monkeypatch.setattr(listing, "_LISTING_PAUSES", (0, 0, 0))
    kernel = Rearranging([element(number) for number in range(20)], [(1, 2)] * 3)
    with pytest.raises(NetlinkError, match="elements of set pods4 of table inet slash24_test"):
        listing.list_elements(kernel, TABLE, "pods4")

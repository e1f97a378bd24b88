"""Listings of sets that the kernel rearranges meanwhile, which it does when it likes and not when a test would."""

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
    """An element in bytes."""
    return messages.encoded(messages.Element("pods4", number.to_bytes(4, "big"), f"v1:net:c{number}:eth0"))


class Rearranging(Netlink):
    """A kernel that lists a set page by page, each behind as many as it has listed, and in an order of its own."""

    def __init__(self, elements: Sequence[bytes], orders: Sequence[Sequence[int]]) -> None:
        self.elements = elements
        self.orders = iter(orders)
        """Seeds of the orders of each listing's pages, one listing after the other; when they are used up, it rests."""

    def dump(self, message: object, kind: int) -> list[bytes]:
        """One listing."""
        listed, pages, seeds = 0, [], iter(next(self.orders, ()))
        while listed < len(self.elements):
            page = random.Random(next(seeds, 0)).sample(self.elements, len(self.elements))[listed : listed + PAGE]
            pages.append(bytes(messages.BODY) + nested(3, *page))
            listed += PAGE
        return pages


ORDERS = st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=4)


@given(st.integers(0, 40), ORDERS)
def test_a_listing_has_each_element_once(count: int, orders: Sequence[Sequence[int]]) -> None:
    """Whatever became of the order between pages: none is missing, none is there twice."""
    kernel = Rearranging([element(number) for number in range(count)], orders)
    found = listing.list_elements(kernel, TABLE, "pods4")
    assert sorted(found) == sorted(kernel.elements)


def test_a_set_that_never_rests_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing that can not be had is an error that names the set, and no list."""
    monkeypatch.setattr(listing, "_LISTING_PAUSES", (0, 0, 0))
    kernel = Rearranging([element(number) for number in range(20)], [(1, 2)] * 3)
    with pytest.raises(NetlinkError, match="elements of set pods4 of table inet slash24_test"):
        listing.list_elements(kernel, TABLE, "pods4")

"""GC: which links without an owner are those of ADDs that were killed."""

from collections.abc import Iterator
from types import SimpleNamespace

from plugins.pod.delete import find_unnamed


def link(index: int, alias: str = "") -> SimpleNamespace:
    """A link of the network's group."""
    return SimpleNamespace(index=index, alias=alias)


def unnamed(*moments: list) -> list[int]:
    """Indexes of the links that stay unnamed while the kernel lists these, moment after moment; the last stays."""
    following: Iterator = iter(moments)
    return [one.index for one in find_unnamed(lambda: next(following, moments[-1]), seconds=0.01)]


def test_a_link_that_stays_nameless_is_of_a_killed_add() -> None:
    """It was there before, and after the time in which a living ADD names its own."""
    assert unnamed([link(1), link(2, "v1:net:a:eth0")]) == [1]


def test_links_of_adds_that_live_are_left() -> None:
    """One is named meanwhile, another is made just when the first is named, or while a third stays nameless."""
    assert unnamed([link(1)], [link(1, "v1:net:a:eth0"), link(2)]) == []
    assert unnamed([link(1), link(3)], [link(1), link(2)], [link(1), link(4)]) == [1]
    assert unnamed([], [link(2)]) == []

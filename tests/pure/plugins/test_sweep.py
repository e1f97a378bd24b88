"""GC: which links without an alias were left by ADDs that were killed."""

from collections.abc import Iterator
from types import SimpleNamespace

from plugins.pod.delete import find_unnamed


def link(index: int, alias: str = "") -> SimpleNamespace:
    """A link of the network's group."""
    return SimpleNamespace(index=index, alias=alias)


def unnamed(*moments: list) -> list[int]:
    """Indexes of the links that stay unnamed while the kernel returns these lists in turn and then repeats the last."""
    following: Iterator = iter(moments)
    return [one.index for one in find_unnamed(lambda: next(following, moments[-1]), seconds=0.01)]


def test_a_link_that_stays_unnamed_was_left_by_a_killed_add() -> None:
    """It is still unnamed after the time in which a running ADD sets the alias."""
    assert unnamed([link(1), link(2, "v1:net:a:eth0")]) == [1]


def test_links_of_running_adds_are_kept() -> None:
    """One gets its alias meanwhile; others are created after the first list, even while another link stays unnamed."""
    assert unnamed([link(1)], [link(1, "v1:net:a:eth0"), link(2)]) == []
    assert unnamed([link(1), link(3)], [link(1), link(2)], [link(1), link(4)]) == [1]
    assert unnamed([], [link(2)]) == []

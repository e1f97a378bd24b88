"""GC: which links without an owner are those of ADDs that were killed."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from plugins.pod import gc


def link(index: int, alias: str = "") -> SimpleNamespace:
    """A link of the network's group."""
    return SimpleNamespace(index=index, alias=alias)


def lists(monkeypatch: pytest.MonkeyPatch, *moments: list) -> None:
    """What the kernel lists of the group, moment after moment; the last stays."""
    following: Iterator = iter(moments)
    monkeypatch.setattr(gc, "list_group", lambda *_: next(following, moments[-1]))
    monkeypatch.setattr(gc, "_NAMING_SECONDS", 0.01)


def test_a_link_that_stays_nameless_is_of_a_killed_add(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was there before, and after the time in which a living ADD names its own."""
    lists(monkeypatch, [link(1), link(2, "v1:net:a:eth0")])
    assert [one.index for one in gc._left_nameless(None, "net")] == [1]


def test_links_of_adds_that_live_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is named meanwhile, another is made just when the first is named, or while a third stays nameless."""
    lists(monkeypatch, [link(1)], [link(1, "v1:net:a:eth0"), link(2)])
    assert gc._left_nameless(None, "net") == []
    lists(monkeypatch, [link(1), link(3)], [link(1), link(2)], [link(1), link(4)])
    assert [one.index for one in gc._left_nameless(None, "net")] == [1]
    lists(monkeypatch, [], [link(2)])
    assert gc._left_nameless(None, "net") == []

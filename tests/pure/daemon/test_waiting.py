"""Tests for daemon/waiting.py."""

import os
import time
from collections.abc import Iterator

import pytest

from daemon.waiting import wait_for

LONG = 20.0  # seconds; a test that waits for them hangs


@pytest.fixture
def events() -> Iterator[tuple[int, int]]:
    """Two descriptors that can be read once they are written to."""
    made = [os.eventfd(0), os.eventfd(0)]
    yield tuple(made)
    for one in made:
        os.close(one)


def test_nothing_comes(events: tuple[int, int]) -> None:
    """The time is waited for, and no longer."""
    begin = time.monotonic()
    wait_for(events[:1], events[1:], 0.01)
    assert time.monotonic() - begin >= 0.01


@pytest.mark.parametrize("place", [0, 1])
def test_either_kind_ends_the_wait(events: tuple[int, int], place: int) -> None:
    """What is urgent, and what is announced."""
    os.eventfd_write(events[place], 1)
    begin = time.monotonic()
    wait_for(events[:1], events[1:], LONG)
    assert time.monotonic() - begin < LONG


def test_announcements_gather(events: tuple[int, int]) -> None:
    """For a moment, in which more of them may come."""
    os.eventfd_write(events[1], 1)
    begin = time.monotonic()
    wait_for(events[:1], events[1:], LONG)
    assert time.monotonic() - begin >= 0.02


def test_what_is_urgent_does_not_wait_for_announcements(
    events: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though they have begun to gather."""
    monkeypatch.setattr("daemon.waiting._GATHER_SECONDS", LONG)
    os.eventfd_write(events[1], 1)
    os.eventfd_write(events[0], 1)
    begin = time.monotonic()
    wait_for(events[:1], events[1:], LONG)
    assert time.monotonic() - begin < LONG

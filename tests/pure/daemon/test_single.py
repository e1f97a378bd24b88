"""Only one daemon runs on a node."""

import os
from pathlib import Path

import pytest

from daemon.single import AlreadyRunning, hold


def test_the_second_one_learns_of_the_first(tmp_path: Path) -> None:
    """Until that has ended, however it has."""
    path = str(tmp_path / "run" / "node.pid")
    descriptor = hold(path)
    with pytest.raises(AlreadyRunning, match=f"process ID {os.getpid()};"):
        hold(path)
    os.close(descriptor)
    os.close(hold(path))


def test_other_users_cannot_hold_the_lock(tmp_path: Path) -> None:
    """Who can open a file can lock it, even for reading."""
    path = tmp_path / "node.pid"
    os.close(hold(str(path)))
    assert path.stat().st_mode & 0o777 == 0o600

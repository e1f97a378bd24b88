"""Whether a daemon runs, as plugins see it."""

import os
from pathlib import Path

from daemon.single import hold
from plugins.daemon import is_running


def test_a_daemon_runs_while_it_holds_its_lock(tmp_path: Path) -> None:
    """Not before it has begun, and not when it has ended and left its file."""
    path = str(tmp_path / "node.pid")
    assert not is_running(path)
    descriptor = hold(path)
    assert is_running(path)
    os.close(descriptor)
    assert os.path.exists(path)
    assert not is_running(path)


def test_a_look_does_not_keep_a_daemon_from_starting(tmp_path: Path) -> None:
    """It has no lock any more when it returns."""
    path = str(tmp_path / "node.pid")
    os.close(hold(path))
    assert not is_running(path)
    os.close(hold(path))


def test_a_file_that_is_not_the_daemon_s_is_no_daemon(tmp_path: Path) -> None:
    """A link is not followed."""
    path = tmp_path / "node.pid"
    path.symlink_to(tmp_path / "other")
    descriptor = hold(str(tmp_path / "other"))
    assert not is_running(str(path))
    os.close(descriptor)

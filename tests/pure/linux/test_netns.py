"""What a path must lead to, to be taken for a network namespace."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from linux.netns import NoNetns, open_netns


@pytest.mark.parametrize("make", [os.mkfifo, Path.touch, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_anything_else_is_refused_at_once(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """A pipe too, which to open for reading would be to wait for a writer."""
    make(tmp_path / "pod")
    with pytest.raises(NoNetns, match="not a network namespace"):
        open_netns(str(tmp_path / "pod"))


def test_another_namespace_is_none() -> None:
    """One of mounts, say."""
    with pytest.raises(NoNetns, match="a namespace, but not a network namespace"):
        open_netns("/proc/self/ns/mnt")

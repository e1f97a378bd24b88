"""Which files are accepted as network namespaces."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from linux.netns import NoNetns, open_netns


@pytest.mark.parametrize("make", [os.mkfifo, Path.touch, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_other_files_are_refused_at_once(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """Even a FIFO, where opening for reading would wait for a writer."""
    make(tmp_path / "pod")
    with pytest.raises(NoNetns, match="not a network namespace"):
        open_netns(str(tmp_path / "pod"))


def test_a_namespace_of_another_type_is_refused() -> None:
    """A mount namespace, for example."""
    with pytest.raises(NoNetns, match="a namespace, but not a network namespace"):
        open_netns("/proc/self/ns/mnt")

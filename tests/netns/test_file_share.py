"""The registry of files on a share that is mounted and unmounted."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes.registries import file
from nodes.registries.file import FileRegistry
from nodes.registry import RegistryError
from plugins.node.records import Node
from spec.config import Section
from tests.pure.nodes.sink import watching

pytestmark = pytest.mark.cold("no call of a plugin")


@pytest.fixture
def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """Where a share is to be mounted, and a folder that is it."""
    monkeypatch.setattr(file, "_RETRY", 0.05)
    mounted, source = tmp_path / "nodes", tmp_path / "share"
    mounted.mkdir()
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "share", source], check=True)
    yield mounted, source
    subprocess.run(["umount", mounted], check=False, capture_output=True)
    subprocess.run(["umount", source], check=True)


def mount(mounted: Path, source: Path) -> None:
    """Mount the share."""
    subprocess.run(["mount", "--bind", source, mounted], check=True)


def test_the_records_outlive_an_unmounted_share(share: tuple[Path, Path]) -> None:
    """They stay, and nothing is written to the folder below; when it is mounted again, changes are found."""
    mounted, source = share
    mount(mounted, source)
    FileRegistry(f"file://{mounted}", "b", Section({})).publish(Node("b", ("192.0.2.2",), ("10.244.2.0/24",)))
    mine = FileRegistry(f"file://{mounted}", "a", Section({"poll": 1}))
    with watching(mine) as kept:
        kept.wait(lambda: set(kept.nodes) == {"b"})
        subprocess.run(["umount", mounted], check=True)
        kept.wait(lambda: kept.calls[-1] == "lost")
        assert set(kept.nodes) == {"b"}
        with pytest.raises(RegistryError, match="mount the share again"):
            mine.publish(Node("a", ("192.0.2.1",), ("10.244.1.0/24",)))
        assert list(mounted.iterdir()) == []
        (source / "c.json").write_text('{"podCIDRs": ["10.244.3.0/24"]}')
        mount(mounted, source)
        kept.wait(lambda: set(kept.nodes) == {"b", "c"})
        mine.publish(Node("a", ("192.0.2.1",), ("10.244.1.0/24",)))
        kept.wait(lambda: set(kept.nodes) == {"a", "b", "c"})


def test_a_share_that_is_mounted_late_is_found(share: tuple[Path, Path]) -> None:
    """After the daemon has begun with the folder below, and has written its own record there."""
    mounted, source = share
    (source / "b.json").write_text('{"podCIDRs": ["10.244.2.0/24"]}')
    mine = FileRegistry(f"file://{mounted}", "a", Section({"poll": 1}))
    with watching(mine) as kept:
        mine.publish(Node("a", ("192.0.2.1",), ("10.244.1.0/24",)))
        kept.wait(lambda: set(kept.nodes) == {"a"})
        mount(mounted, source)
        kept.wait(lambda: set(kept.nodes) == {"b"})
        mine.publish(Node("a", ("192.0.2.1",), ("10.244.1.0/24",)))
        kept.wait(lambda: set(kept.nodes) == {"a", "b"})


def test_a_share_that_cannot_be_written_can_be_read(share: tuple[Path, Path]) -> None:
    """The records are watched; publishing says why it fails."""
    mounted, source = share
    (source / "b.json").write_text('{"podCIDRs": ["10.244.2.0/24"]}')
    mount(mounted, source)
    subprocess.run(["mount", "-o", "remount,bind,ro", mounted], check=True)
    mine = FileRegistry(f"file://{mounted}", "a", Section({"poll": 1}))
    with watching(mine) as kept:
        kept.wait(lambda: set(kept.nodes) == {"b"})
        with pytest.raises(RegistryError, match="Read-only file system"):
            mine.publish(Node("a", ("192.0.2.1",), ("10.244.1.0/24",)))

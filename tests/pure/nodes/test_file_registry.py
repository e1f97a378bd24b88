"""The registry in a folder: leases, publishing, watching."""

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import pytest

from linux import folder_notices
from nodes.registries import file
from nodes.registries.file import FileRegistry
from nodes.registries.folder import Folder
from nodes.registry import Grant, RegistryError, Wish
from plugins.node.records import Node
from spec.config import Section
from spec.errors import CNIError
from tests.pure.nodes.sink import watching

WISH = Wish(("10.244.0.0/16",), (24,))
BOTH = Wish(("10.244.0.0/16", "fd00:244::/48"), (24, 64))


def registry(path: Path, node: str = "a", **options: object) -> FileRegistry:
    """The registry of a node in a folder."""
    return FileRegistry(f"file://{path}", node, Section({"poll": 1, **options}))


def written(path: Path, node: str = "a") -> dict:
    """A node's file."""
    return json.loads((path / f"{node}.json").read_text())


def write(path: Path, node: str, **keys: object) -> None:
    """Write a node's file, by hand."""
    path.mkdir(exist_ok=True)
    (path / f"{node}.json").write_text(json.dumps({"name": node, **keys}))


@pytest.mark.parametrize("url", ["file://", "file://nodes", "file", "file:///a\0"])
def test_the_folder_is_an_absolute_path(url: str) -> None:
    """Anything else is an error of the configuration."""
    with pytest.raises(CNIError, match='"registry": expected "file://" and an absolute path'):
        FileRegistry(url, "a", Section({}))


def test_a_subnet_is_leased_once(tmp_path: Path) -> None:
    """The own record has it from then on, and nothing else is written; a folder that is missing is made."""
    path = tmp_path / "state" / "nodes"
    first = registry(path).lease(BOTH)
    assert first.since > 0
    before = (path / "a.json").stat().st_ino
    assert registry(path).lease(BOTH) == first
    assert (path / "a.json").stat().st_ino == before
    assert written(path)["podCIDRs"] == list(first.subnets)


def test_a_second_family_is_added_to_the_first(tmp_path: Path) -> None:
    """The subnet that the node has stays."""
    first = registry(tmp_path).lease(WISH)
    second = registry(tmp_path).lease(BOTH)
    assert second.subnets[0] == first.subnets[0]
    assert len(second.subnets) == 2


def test_subnets_given_by_hand_are_kept(tmp_path: Path) -> None:
    """Even outside the cluster; the keys that slash24 does not know stay when the record is published."""
    write(tmp_path, "a", podCIDRs=["192.168.7.0/26"], zone="north", rack=7, port=1)
    mine = registry(tmp_path)
    grant = mine.lease(WISH)
    assert grant == Grant(("192.168.7.0/26",), since=grant.since, zone="north")
    assert grant.since == written(tmp_path)["since"] > 0
    mine.publish(Node("a", ("192.0.2.1",), ("192.168.7.0/26",), zone="north", since=grant.since))
    expected = {"rack": 7, "version": 1, "name": "a", "addresses": ["192.0.2.1"], "podCIDRs": ["192.168.7.0/26"]}
    assert written(tmp_path) == {**expected, "zone": "north", "since": grant.since}


def test_other_nodes_subnets_are_not_leased(tmp_path: Path) -> None:
    """Nor excluded ones; a file of another node that cannot be read is no obstacle."""
    write(tmp_path, "b", podCIDRs=["10.244.0.0/25"])
    (tmp_path / "c.json").write_text("{")
    small = Wish(("10.244.0.0/23",), (24,))
    assert registry(tmp_path).lease(small).subnets == ("10.244.1.0/24",)
    with pytest.raises(RegistryError, match="the cluster is full"):
        registry(tmp_path, "d").lease(small)


def test_a_preferred_subnet_is_leased_again(tmp_path: Path) -> None:
    """As the node's old one, whose record was lost."""
    wish = Wish(("10.244.0.0/16",), (24,), preferred=("10.244.77.0/24",))
    (tmp_path / ".lock").touch()
    assert registry(tmp_path).lease(wish).subnets == ("10.244.77.0/24",)


def lease_at_once(path: Path, count: int, wish: Wish) -> list[str]:
    """The subnets of many nodes that lease one at the same time."""
    found: list[str] = []
    barrier = threading.Barrier(count)

    def lease(number: int) -> None:
        mine = registry(path, f"node-{number}")
        barrier.wait()
        found.extend(mine.lease(wish).subnets)

    threads = [threading.Thread(target=lease, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_nodes_that_start_at_once_get_different_subnets(tmp_path: Path) -> None:
    """64 nodes get all 64 subnets."""
    assert len(set(lease_at_once(tmp_path, 64, Wish(("10.244.0.0/18",), (24,))))) == 64


@pytest.mark.parametrize("is_older", [True, False])
def test_without_locks_the_younger_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_older: bool) -> None:
    """On a share whose file system has no flock(2), where another node chooses the same subnet at the same time."""

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    class Meanwhile:
        """In place of the event that is waited for."""

        def wait(self, _seconds: float) -> bool:
            """The other node's file becomes visible."""
            since = written(tmp_path)["since"] + (-1 if is_older else 1)
            if not (tmp_path / "b.json").exists():
                write(tmp_path, "b", podCIDRs=written(tmp_path)["podCIDRs"], since=since)
            return False

        def is_set(self) -> bool:
            """Not closed."""
            return False

    monkeypatch.setattr(file, "flock", refused)
    mine = registry(tmp_path)
    mine._closed = Meanwhile()
    assert (mine.lease(WISH).subnets != tuple(written(tmp_path, "b")["podCIDRs"])) == is_older


def test_a_lock_that_is_never_released_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the way to find who holds it."""
    monkeypatch.setattr(file, "_LOCK_SECONDS", 0.1)
    holder, other = registry(tmp_path, "b"), registry(tmp_path)
    with holder._locked(), pytest.raises(RegistryError, match="`fuser` shows the process"):
        other.lease(WISH)


@pytest.mark.parametrize("content", ["{", '{"name": "b"}', '{"podCIDRs": ["10.1.0.0/31"]}'])
def test_an_own_record_that_is_wrong_is_not_overwritten(tmp_path: Path, content: str) -> None:
    """It may have subnets that pods use."""
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(RegistryError, match=r'a\.json"'):
        registry(tmp_path).lease(WISH)
    assert (tmp_path / "a.json").read_text() == content


def test_records_that_others_write_are_only_read(tmp_path: Path) -> None:
    """With `publish = false` their addresses count, and nothing is written or deleted."""
    mine = registry(tmp_path, publish=False)
    with pytest.raises(RegistryError, match="whoever writes the records must add them"):
        mine.lease(WISH)
    write(tmp_path, "a", podCIDRs=["10.244.1.0/24"], addresses=["192.0.2.1"])
    assert mine.lease(WISH) == Grant(("10.244.1.0/24",), ("192.0.2.1",))
    mine.publish(Node("a", ("192.0.2.9",), ("10.244.1.0/24",)))
    mine.withdraw()
    assert os.listdir(tmp_path) == ["a.json"]
    assert written(tmp_path)["addresses"] == ["192.0.2.1"]


def test_a_cluster_without_networks_leases_nothing(tmp_path: Path) -> None:
    """The error names what is missing."""
    with pytest.raises(RegistryError, match='set "cluster" and "allocate"'):
        registry(tmp_path).lease(Wish())


def test_publishing_writes_only_what_is_new(tmp_path: Path) -> None:
    """A record is written once; a folder that cannot be written is an error; withdrawing may be repeated."""
    mine, node = registry(tmp_path / "nodes"), Node("a", ("192.0.2.1",), ("10.244.1.0/24",))
    mine.publish(node)
    before = (tmp_path / "nodes" / "a.json").stat().st_ino
    mine.publish(node)
    assert (tmp_path / "nodes" / "a.json").stat().st_ino == before
    mine.withdraw()
    mine.withdraw()
    assert os.listdir(tmp_path / "nodes") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RegistryError, match=r'cannot write the record of this node to ".*/file/a\.json": Not a directory'
    ):
        registry(tmp_path / "file").publish(node)


def test_records_are_watched(tmp_path: Path) -> None:
    """Its own as well; new, changed and deleted."""
    mine, other = registry(tmp_path, poll=3600), registry(tmp_path, "b")
    (tmp_path / ".lock").touch()
    with watching(mine) as kept:
        kept.wait(lambda: kept.calls)
        assert kept.calls[0] == "replace"
        other.publish(Node("b", ("192.0.2.2",), ("10.244.2.0/24",)))
        mine.publish(Node("a", ("192.0.2.1",), ("10.244.1.0/24",)))
        kept.wait(lambda: set(kept.nodes) == {"a", "b"})
        other.publish(Node("b", ("192.0.2.22",), ("10.244.2.0/24",)))
        kept.wait(lambda: kept.nodes["b"].addresses == ("192.0.2.22",))
        other.withdraw()
        kept.wait(lambda: set(kept.nodes) == {"a"})


def test_a_registry_may_be_closed_at_any_time(tmp_path: Path) -> None:
    """Before it is watched, and twice."""
    mine = registry(tmp_path)
    mine.close()
    with watching(mine) as kept:
        pass
    assert kept.calls == []
    mine.close()


def test_without_watches_the_folder_is_polled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a share, or when the kernel's limit of watches is reached."""

    def refused(_path: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder_notices, "FolderWatch", refused)
    (tmp_path / ".lock").touch()
    with watching(registry(tmp_path)) as kept:
        kept.wait(lambda: kept.calls)
        write(tmp_path, "b", podCIDRs=["10.244.2.0/24"])
        kept.wait(lambda: set(kept.nodes) == {"b"})


def test_all_files_are_looked_at_only_if_the_folder_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And after a while all the same: a file that is written in place does not change its folder's time."""
    looks = []
    full = OSError(errno.ENOSPC, "full")
    monkeypatch.setattr(folder_notices, "FolderWatch", lambda _path: (_ for _ in ()).throw(full))
    monkeypatch.setattr(Folder, "look", counted(Folder.look, looks))
    write(tmp_path, "b", podCIDRs=["10.244.2.0/24"])
    with watching(registry(tmp_path, publish=False)) as kept:
        kept.wait(lambda: kept.calls.count("alive") == 2)
        assert looks == [None, set(), set()]
        monkeypatch.setattr(folder_notices, "WHOLE", 0)
        write(tmp_path, "c", podCIDRs=["10.244.3.0/24"])
        kept.wait(lambda: set(kept.nodes) == {"b", "c"})
        write(tmp_path, "c", podCIDRs=["10.244.33.0/24"])
        kept.wait(lambda: kept.nodes["c"].subnets == ("10.244.33.0/24",))


def counted(look: Callable, looks: list) -> Callable:
    """`Folder.look`, which notes the keys that it is asked for."""

    def noted(self: Folder, now: float, keys: Collection[str] | None = None) -> object:
        looks.append(keys)
        return look(self, now, keys)

    return noted


def test_a_folder_that_is_replaced_is_watched_again(tmp_path: Path) -> None:
    """By rename, as configuration management may do it."""
    path = tmp_path / "nodes"
    write(path, "b", podCIDRs=["10.244.2.0/24"])
    with watching(registry(path, poll=1)) as kept:
        kept.wait(lambda: set(kept.nodes) == {"b"})
        write(tmp_path / "new", "c", podCIDRs=["10.244.3.0/24"])
        path.rename(tmp_path / "old")
        (tmp_path / "new").rename(path)
        kept.wait(lambda: set(kept.nodes) == {"c"})


def test_a_folder_that_cannot_be_read_is_lost_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The records stay; they are compared again when it can be read."""
    monkeypatch.setattr(file, "_RETRY", 0.05)
    path = tmp_path / "nodes"
    write(path, "b", podCIDRs=["10.244.2.0/24"])
    with watching(registry(path, publish=False)) as kept:
        kept.wait(lambda: kept.nodes)
        path.rename(tmp_path / "away")
        kept.wait(lambda: kept.calls[-1] == "lost")
        assert set(kept.nodes) == {"b"}
        assert kept.why == f'the folder "{path}" cannot be read: No such file or directory'
        (tmp_path / "away").rename(path)
        kept.wait(lambda: kept.calls[-1] == "alive")


def test_a_share_that_is_unmounted_is_lost_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mount point is an empty folder on another file system, in which nothing is written either."""
    mine = registry(tmp_path)
    monkeypatch.setattr(file, "_RETRY", 0.05)
    write(tmp_path, "b", podCIDRs=["10.244.2.0/24"])
    with watching(mine) as kept:
        kept.wait(lambda: kept.nodes)
        (tmp_path / "b.json").unlink()
        mine._device += 1  # as if another file system had been there
        kept.wait(lambda: kept.calls[-1] == "lost")
        assert "mount the share again" in kept.why
        with pytest.raises(RegistryError, match="mount the share again"):
            mine.publish(Node("a", (), ("10.244.1.0/24",)))
        write(tmp_path, "c", podCIDRs=["10.244.3.0/24"])
        kept.wait(lambda: set(kept.nodes) == {"c"})


def test_an_empty_folder_is_no_registry_for_a_node_that_had_a_subnet(tmp_path: Path) -> None:
    """It may be the mount point of a share: to begin anew there would take all routes away."""
    mine, wish = registry(tmp_path / "nodes"), replace(WISH, preferred=("10.244.7.0/24",))
    with pytest.raises(RegistryError, match="mount the share"):
        mine.lease(wish)
    assert os.listdir(tmp_path / "nodes") == []
    with watching(mine) as kept:
        time.sleep(0.2)
        assert kept.calls == []
        (tmp_path / "nodes" / ".lock").touch()
        assert mine.lease(wish).subnets == ("10.244.7.0/24",)
        kept.wait(lambda: "a" in kept.nodes)

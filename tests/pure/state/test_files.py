"""A call reads only regular files of a limited size, whatever a configuration names, and overwrites no others."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ipam import cooldown
from plugins.__main__ import load
from plugins.node.records import read_peers_file, read_subnet_file
from plugins.tuning import allowlist, backup
from spec.errors import CNIError
from state.boot import Boot
from state.files import read_file, replace_file, rewrite_file
from tests.pure.ipam.support import leases_in, owner, state, take
from tests.pure.spec.driver import run


def pipe(path: Path) -> None:
    """A pipe without a writer: opening it for reading would block."""
    os.mkfifo(path)


def zeros(path: Path) -> None:
    """An endless device, behind a link."""
    path.symlink_to("/dev/zero")


def large(path: Path) -> None:
    """A sparse file that is too large."""
    path.touch()
    os.truncate(path, 1 << 30)


def folder(path: Path) -> None:
    """A folder."""
    path.mkdir()


def resolvers(path: str) -> object:
    """`resolvConf` of host-local."""
    ipam = {"subnet": "10.0.0.0/24", "resolvConf": path, "dataDir": os.path.dirname(path)}
    answer = run(load("host-local"), "ADD", {"cniVersion": "1.1.0", "name": "net", "ipam": ipam})
    return answer.error


def cooling(path: str) -> object:
    """The file of released addresses."""
    os.rename(path, os.path.join(os.path.dirname(path), "released"))
    return cooldown.read_cooling(os.path.dirname(path), Boot("n", "b", 0.0), 60)


READERS = [
    read_file,
    resolvers,
    cooling,
    allowlist.read,
    backup.read,
    read_subnet_file,
    lambda path: read_peers_file(path, required=False),
]


@pytest.mark.parametrize("make", [pipe, zeros, large, folder])
@pytest.mark.parametrize("read", READERS, ids=[getattr(each, "__qualname__", "") for each in READERS])
def test_only_regular_files_are_read(tmp_path: Path, make: Callable[[Path], None], read: Callable) -> None:
    """Reading other files named by a configuration, or beside leases, is an error and does not block."""
    path = tmp_path / "file"
    make(path)
    try:
        answer = read(str(path))
    except (OSError, ValueError, CNIError) as error:
        answer = str(error)
    assert any(text in str(answer) for text in ("not a regular file", "more than", "Is a directory")), answer


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    """As /etc/resolv.conf is one on many hosts."""
    (tmp_path / "real").write_text("text")
    (tmp_path / "link").symlink_to("real")
    assert read_file(str(tmp_path / "link")) == b"text"


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("name", ["last_reserved_ip.0", ".slash24/pointer.new", ".slash24/released.new"])
def test_what_a_link_leads_to_is_not_overwritten(tmp_path: Path, store, link: Callable, name: str) -> None:
    """An ADD replaces links in place of the files that it writes, and does not follow them."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    at = Path(store.folder) / name
    at.parent.mkdir(parents=True, exist_ok=True)
    link(victim, at)
    take(store, owner("a"), (0, "10.0.0.2"))
    replace_file(str(at), f"{at}.new", b"new")
    assert victim.read_text() == "precious"
    assert leases_in(Path(store.folder)).keys() == {"10.0.0.2"}


def test_a_link_in_the_place_of_the_index_is_not_swept(tmp_path: Path, store) -> None:
    """Entries without a lease are swept from the index, but a symbolic link leads to other people's files."""
    victim = tmp_path / "etc" / "folder" / "file"
    victim.parent.mkdir(parents=True)
    victim.write_text("precious")
    (Path(store.folder) / ".slash24").symlink_to(tmp_path / "etc")
    with pytest.raises(OSError, match="a symbolic link instead of a folder"):
        take(store, owner("a"), (0, "10.0.0.2"))
    assert victim.read_text() == "precious"


def test_a_pipe_in_the_place_of_the_pointer_makes_way(store) -> None:
    """A pipe is neither written to nor waited for, but replaced."""
    os.mkfifo(Path(store.folder) / "last_reserved_ip.0")
    take(store, owner("a"), (0, "10.0.0.2"))
    assert (Path(store.folder) / "last_reserved_ip.0").read_text() == "10.0.0.2"


@pytest.mark.parametrize("make", [pipe, lambda path: path.symlink_to("/etc/passwd")])
def test_the_lock_is_a_file(store, make: Callable[[Path], None]) -> None:
    """A pipe in place of the lock does not block; a link is not followed."""
    make(Path(store.folder) / "lock")
    if make is pipe:
        assert state(store, "10.0.0.2") == "free"
    else:
        with pytest.raises(OSError, match="symbolic links"):
            state(store, "10.0.0.2")


def test_rewriting_wants_a_file_of_its_own(tmp_path: Path) -> None:
    """A file with other hard links is not overwritten."""
    (tmp_path / "a").write_text("long before")
    assert rewrite_file(str(tmp_path / "a"), b"short")
    assert (tmp_path / "a").read_text() == "short"
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert not rewrite_file(str(tmp_path / "b"), b"no")
    assert not rewrite_file(str(tmp_path / "none"), b"no")
    assert (tmp_path / "a").read_text() == "short"


@pytest.mark.parametrize(
    ("kind", "config", "key"),
    [
        ("host-local", {"ipam": {"subnet": "10.0.0.0/24", "dataDir": "leases"}}, "ipam.dataDir"),
        ("host-local", {"ipam": {"subnet": "10.0.0.0/24", "dataDir": "./leases"}}, "ipam.dataDir"),
        ("host-local", {"ipam": {"subnet": "10.0.0.0/24", "resolvConf": "resolv.conf"}}, "ipam.resolvConf"),
        ("tuning", {"dataDir": "originals", "mtu": 1400, "prevResult": {"cniVersion": "1.1.0"}}, "dataDir"),
        ("kubenet", {"subnetFile": "node.json"}, "subnetFile"),
        ("kubenet", {"podCIDRs": ["10.244.1.0/24"], "peersFile": "peers.json"}, "peersFile"),
    ],
)
def test_paths_are_absolute(kind: str, config: dict, key: str) -> None:
    """A relative path is error 7: the agent has another working directory than its callers."""
    conf = {"cniVersion": "1.1.0", "name": "net", "type": kind, **config}
    verb = "STATUS" if kind == "kubenet" else "ADD"
    code, message = run(load(kind), verb, conf).error
    assert (code, f'"{key}": expected an absolute path, got "' in message) == (7, True), message


def test_a_relative_folder_keeps_no_lease(tmp_path: Path) -> None:
    """DEL logs what is wrong with dataDir, and succeeds."""
    conf = {"cniVersion": "1.1.0", "name": "no-such-network", "ipam": {"type": "host-local", "dataDir": "leases"}}
    answer = run(load("host-local"), "DEL", conf)
    assert (answer.status, answer.stdout) == (0, "")
    assert "expected an absolute path" in answer.stderr


def test_the_longest_container_id_has_a_lease_that_can_be_released(tmp_path: Path) -> None:
    """An ID of 1024 characters, the maximum, is written, found and released."""
    ipam = {"subnet": "10.0.0.0/24", "dataDir": str(tmp_path)}
    conf, longest = {"cniVersion": "1.1.0", "name": "net", "ipam": ipam}, "a" * 1024
    names = {"CNI_CONTAINERID": longest, "CNI_IFNAME": "i" * 15}
    assert json.loads(run(load("host-local"), "ADD", conf, **names).stdout)["ips"]
    assert run(load("host-local"), "DEL", conf, **names).status == 0
    assert leases_in(tmp_path / "net") == {}

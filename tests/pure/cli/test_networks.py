"""The configurations of a folder as runtimes read them."""

import json
from pathlib import Path

import pytest

from cli.facts.networks import Network, read_network, read_networks, used_of

LIST = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}, {"type": "portmap"}]}


def written(folder: Path, name: str, content: object) -> str:
    """The path of a new file; `content` is text, or encoded as JSON."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_files_are_ordered_as_runtimes_order_them(tmp_path: Path) -> None:
    """By the bytes of their names; other files, and folders, are no configurations."""
    for name in (
        "é.conflist",
        "20-b.conflist",
        "10-a.conflist",
        "100-c.conflist",
        "Z.json",
        "a.conf",
        "9.conflist.bak",
    ):
        written(tmp_path, name, LIST)
    (tmp_path / "00.conflist").mkdir()
    names = [Path(network.path).name for network in read_networks(str(tmp_path))]
    assert names == ["10-a.conflist", "100-c.conflist", "20-b.conflist", "Z.json", "a.conf", "é.conflist"]
    assert read_networks(str(tmp_path / "none")) == []


def test_a_list_and_a_single_plugin(tmp_path: Path) -> None:
    """Both are networks; a list in a file of a single plugin is not."""
    network = read_network(written(tmp_path, "a.conflist", {**LIST, "disableCheck": "true"}))
    assert (network.name, network.types, network.stated, network.has_check) == (
        "net",
        ("bridge", "portmap"),
        "1.0.0",
        False,
    )
    network = read_network(written(tmp_path, "a.conf", {"name": "one", "TYPE": "vxlan"}))
    assert (network.name, network.types, network.stated, network.problem) == ("one", ("vxlan",), "0.1.0", "")
    assert ".conflist" in read_network(written(tmp_path, "b.conf", LIST)).problem


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "error unmarshall"),
        ("[]", "expected an object"),
        ("{" * 200, "error unmarshall"),
        ({**LIST, "name": ""}, "missing network name"),
        ({**LIST, "name": "a/b"}, "invalid characters"),
        ({**LIST, "plugins": []}, '"plugins"'),
        ({**LIST, "plugins": {"type": "bridge"}}, '"plugins"'),
        ({**LIST, "plugins": ["bridge"]}, '"plugins"'),
        ({**LIST, "plugins": [{"type": "bridge"}] * 101}, '"plugins"'),
        ({**LIST, "plugins": [{"bridge": "x"}]}, '"type"'),
        ({**LIST, "plugins": [{"type": 7}]}, '"type"'),
        ({**LIST, "cniVersion": "one"}, "version part"),
        ({**LIST, "cniVersion": 1}, '"cniVersion"'),
        ({**LIST, "cniVersions": "1.0.0"}, '"cniVersions"'),
    ],
)
def test_what_runtimes_refuse(tmp_path: Path, content: object, reason: str) -> None:
    """The reason is told, and nothing is raised."""
    assert reason in read_network(written(tmp_path, "a.conflist", content)).problem


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A dangling link, and a link to what has no end."""
    for name, target in (("a.conflist", "none"), ("b.conflist", "/dev/zero")):
        (tmp_path / name).symlink_to(target)
    assert all("cannot be read" in network.problem for network in read_networks(str(tmp_path)))
    assert used_of(read_networks(str(tmp_path))) is None


def test_the_first_that_can_be_read_is_used(tmp_path: Path) -> None:
    """Wrong ones before it are passed over."""
    written(tmp_path, "10-wrong.conflist", "{")
    path = written(tmp_path, "20-right.conflist", LIST)
    written(tmp_path, "30-other.conflist", LIST)
    assert used_of(read_networks(str(tmp_path))).path == path


@pytest.mark.parametrize(
    ("stated", "offered", "newest", "version"),
    [
        ("1.0.0", ("1.0.0", "1.1.0"), "1.1.0", "1.1.0"),
        ("1.0.0", ("1.0.0", "1.1.0"), "1.0.0", "1.0.0"),
        ("1.1.0", (), "1.0.0", ""),
        ("1.1.0", ("1.0.0",), "1.0.0", ""),  # a runtime of that age does not read cniVersions
        ("1.2.0", ("0.4.0", "1.0.0"), "1.1.0", "1.0.0"),
        ("0.4.0", (), "1.1.0", "0.4.0"),
    ],
)
def test_the_version_that_a_runtime_uses(stated: str, offered: tuple[str, ...], newest: str, version: str) -> None:
    """The newest that both know."""
    assert Network("a.conflist", "net", stated, offered).version_for(newest) == version

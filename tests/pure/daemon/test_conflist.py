"""The configuration list for runtimes."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.config import Config, ConflistConf
from daemon.conflist import build, ensure, main_plugin, remove
from spec.errors import CNIError

PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}


def config(folder: Path, name: str = "10-slash24.conflist", **keys: object) -> Config:
    """A configuration with its list in a folder."""
    made = Config("vxlan", ("10.244.0.0/16",), "file:///x", "a", plugin={"vni": 7})
    return replace(made, conflist=ConflistConf(path=str(folder / name), plugins=(PORTMAP,)), **keys)


def test_the_list_has_the_plugins_in_order(tmp_path: Path) -> None:
    """The main plugin with the keys of the mode's table, then the others, for old and new runtimes."""
    assert main_plugin(config(tmp_path)) == {"type": "vxlan", "vni": 7}
    assert build(config(tmp_path)) == {
        "cniVersion": "1.0.0",
        "cniVersions": ["1.0.0", "1.1.0"],
        "name": "slash24",
        "writtenBy": "slash24-node",
        "plugins": [{"type": "vxlan", "vni": 7}, PORTMAP],
    }


def test_plugins_of_others_get_the_version_that_was_chosen(tmp_path: Path) -> None:
    """They may not know 1.1.0."""
    foreign = replace(config(tmp_path), conflist=ConflistConf(plugins=({"type": "sbr"},)))
    assert "cniVersions" not in build(foreign)
    newest = replace(config(tmp_path), conflist=ConflistConf(cni_version="1.1.0"))
    assert build(newest)["cniVersion"] == "1.1.0"
    assert "cniVersions" not in build(newest)


def test_a_bridge_gets_the_node_s_subnets(tmp_path: Path) -> None:
    """Since that plugin does not read the node's file."""
    (tmp_path / "node.json").write_text('{"podCIDRs": ["10.244.3.0/24"]}')
    bridge = replace(config(tmp_path), mode="bridge", plugin={"bridge": "br0", "IPAM": {"cooldown": 5}})
    assert build(bridge, str(tmp_path / "node.json"))["plugins"][0] == {
        "type": "bridge",
        "bridge": "br0",
        "isDefaultGateway": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.244.3.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "cooldown": 5,
        },
    }
    with pytest.raises(CNIError, match="cannot be used: No such file"):
        build(bridge, str(tmp_path / "missing.json"))


def test_it_is_written_once(tmp_path: Path) -> None:
    """And again if it differs or is gone; everybody may read it."""
    made = config(tmp_path / "net.d")
    assert ensure(made) == ()
    path = tmp_path / "net.d" / "10-slash24.conflist"
    assert json.loads(path.read_text()) == build(made)
    assert path.stat().st_mode & 0o777 == 0o644
    before = path.stat().st_ino
    ensure(made)
    assert path.stat().st_ino == before
    ensure(replace(made, plugin={"vni": 8}))
    assert json.loads(path.read_text())["plugins"][0]["vni"] == 8
    path.unlink()
    ensure(made)
    assert os.listdir(tmp_path / "net.d") == ["10-slash24.conflist"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "slash24", "plugins": []}', '{"writtenBy": "me"}'])
def test_a_file_of_somebody_else_stays(tmp_path: Path, content: str) -> None:
    """It is neither overwritten nor deleted."""
    path = tmp_path / "10-slash24.conflist"
    path.write_text(content)
    with pytest.raises(CNIError, match="was not written by slash24-node") as raised:
        ensure(config(tmp_path))
    assert 'set "path" in [conflist]' in raised.value.details
    assert not remove(str(path))
    assert path.read_text() == content


def test_the_list_of_an_earlier_configuration_is_deleted(tmp_path: Path) -> None:
    """A runtime would use it."""
    ensure(config(tmp_path, "05-old.conflist"))
    ensure(config(tmp_path))
    assert os.listdir(tmp_path) == ["10-slash24.conflist"]


def test_files_that_runtimes_prefer_are_told(tmp_path: Path) -> None:
    """Not those that come later, nor those that runtimes do not read."""
    for name in ("00-first.conf", "09-pipe.json", "10-a.conflist", "11-last.conflist", "00-notes.txt"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "09-pipe.json").unlink()
    os.mkfifo(tmp_path / "09-pipe.json")
    told = ensure(config(tmp_path))
    assert [sentence.partition(" in place of ")[0] for sentence in told] == [
        f"runtimes use {tmp_path / name}" for name in ("00-first.conf", "09-pipe.json", "10-a.conflist")
    ]


def test_removing_may_be_repeated(tmp_path: Path) -> None:
    """It leaves the folder as it was."""
    ensure(config(tmp_path))
    path = str(tmp_path / "10-slash24.conflist")
    assert remove(path)
    assert remove(path)
    assert os.listdir(tmp_path) == []

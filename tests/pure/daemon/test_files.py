"""The files for plugins that find no daemon."""

import json
from pathlib import Path

from daemon.files import NodeFile, PeersFile
from plugins.node.records import Node, read_peers_file, read_subnet_file
from tests.pure.daemon.test_records import Clock, record


def content(path: Path) -> dict:
    """The file's JSON."""
    return json.loads(path.read_text())


def test_plugins_read_what_is_written(tmp_path: Path) -> None:
    """The same records and subnets."""
    nodes = {"n2": record(2, vtep_mac="02:00:00:00:00:02", vni=7, since=3), "n3": record(3)}
    peers = PeersFile(str(tmp_path / "peers.json"), Clock())
    peers.set(nodes)
    assert peers.flush()
    assert read_peers_file(str(tmp_path / "peers.json"), required=True).nodes == tuple(nodes.values())
    assert NodeFile(str(tmp_path / "node.json")).write(["10.244.1.0/24"], ["10.244.0.0/16"], mtu=1450)
    found = read_subnet_file(str(tmp_path / "node.json"))
    assert (found.subnets, found.cluster, found.mtu) == (("10.244.1.0/24",), ("10.244.0.0/16",), 1450)


def test_unknown_entries_are_kept(tmp_path: Path) -> None:
    """Those that are there before, and those that are added later; ours are replaced."""
    path = tmp_path / "node.json"
    path.write_text('{"version": 1, "podCIDRs": ["10.9.0.0/24"], "problem": "old", "site": {"rack": 7}}')
    file = NodeFile(str(path))
    file.write(["10.244.1.0/24"], [])
    assert content(path) == {"version": 1, "podCIDRs": ["10.244.1.0/24"], "clusterCIDRs": [], "site": {"rack": 7}}
    path.write_text(json.dumps(content(path) | {"more": True}))
    file.write(["10.244.1.0/24"], [])
    assert content(path)["more"] is True


def test_files_are_written_only_if_they_change(tmp_path: Path) -> None:
    """Or somebody else has written or deleted them."""
    path = tmp_path / "node.json"
    file = NodeFile(str(path))
    assert file.write(["10.244.1.0/24"], [])
    assert not file.write(["10.244.1.0/24"], [])
    path.unlink()
    assert file.write(["10.244.1.0/24"], [])


def test_a_file_that_is_not_json_is_replaced(tmp_path: Path) -> None:
    """Half of it may have been written by something that died."""
    path = tmp_path / "node.json"
    path.write_text('{"podCIDRs": [')
    assert NodeFile(str(path)).write((), (), problem="no subnet")
    assert content(path)["problem"] == "no subnet"
    assert content(path)["podCIDRs"] == []


class Slow(Clock):
    """A clock on which a millisecond passes whenever somebody looks."""

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def test_peers_are_written_no_more_often_than_they_are_worth(tmp_path: Path) -> None:
    """The pause is a multiple of the time that writing takes; the last state is written always, at the end at once."""
    clock, path = Slow(), tmp_path / "peers.json"
    peers = PeersFile(str(path), clock)
    assert peers.seconds_left() is None
    peers.set({"n2": record(2)})
    assert peers.seconds_left() == 0.0
    assert peers.flush()
    peers.set({"n3": record(3)})
    assert not peers.flush()
    assert 0.01 < peers.seconds_left() < 0.05
    peers.set({"n4": record(4)})
    clock.now += 0.05
    assert peers.flush()
    assert [one["name"] for one in content(path)["peers"]] == ["n4"]
    peers.set({})
    assert peers.flush(now=True)
    assert content(path) == {"version": 1, "peers": []}
    assert peers.seconds_left() is None


def test_names_from_elsewhere_are_encoded(tmp_path: Path) -> None:
    """A record may have any text as its name."""
    peers = PeersFile(str(tmp_path / "peers.json"), Clock())
    peers.set({'"\n\\': Node('"\n\\', (), ())})
    peers.flush()
    assert content(tmp_path / "peers.json")["peers"][0]["name"] == '"\n\\'


def test_the_file_says_whether_the_network_works(tmp_path: Path) -> None:
    """With subnets and an MTU, which the daemon only knows of a network that it could make."""
    file = NodeFile(str(tmp_path / "node.json"))
    assert not file.says_it_works()
    for works, keys in ((True, {"mtu": 1450}), (False, {}), (False, {"mtu": 1450, "problem": "it is another's"})):
        file.write(["10.244.1.0/24"], [], **keys)
        assert file.says_it_works() is works

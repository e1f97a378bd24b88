"""How networks are configured: files of runtimes first, libcni's cache for networks without one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cli.facts.cache import Cached
from cli.facts.configurations import Configuration, read_configurations


def cached(name: str, since: float, kind: str) -> Cached:
    """A file of the cache with a list of one plugin."""
    conf = {"cniVersion": "1.0.0", "name": name, "plugins": [{"type": kind}]}
    return Cached("/c", name, "abc", "eth0", "", "", (), (), since, conf=conf)


def test_files_and_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first file of a name, and the newest cache."""
    monkeypatch.setattr("cli.facts.configurations.NET_D", str(tmp_path))
    monkeypatch.setattr("cli.facts.configurations.find_runtimes", list)
    for file, name, kind in (("10-a", "a", "bridge"), ("20-a", "a", "vxlan"), ("30-b", "b", "kubenet")):
        document = {"cniVersion": "1.0.0", "name": name, "plugins": [{"type": kind}]}
        (tmp_path / f"{file}.conflist").write_text(json.dumps(document))
    (tmp_path / "40-c.conflist").write_text("{")
    empty = replace(cached("e", 1, "x"), conf={})
    found = read_configurations([cached("d", 5, "old"), cached("d", 9, "new"), cached("a", 9, "ptp"), empty])
    assert {name: (one.path[-13:], one.kind) for name, one in found.items()} == {
        "a": ("10-a.conflist", "bridge"),
        "b": ("30-b.conflist", "kubenet"),
        "d": ("", "new"),
    }


def of(*plugins: dict) -> Configuration:
    """The configuration of a network."""
    return Configuration("net", "", "1.0.0", plugins)


def test_what_it_says_of_addresses() -> None:
    """Ranges, cooldown and folder of host-local; the subnets of a node are ranges, too."""
    ipam = {"type": "host-local", "subnet": "10.1.0.0/24", "dataDir": "/leases", "cooldown": 60}
    one = of({"type": "bridge", "ipam": ipam})
    assert (one.kind, one.ipam_kind, one.lease_folder, one.cooldown) == ("bridge", "host-local", "/leases", 60)
    assert list(map(str, one.range_sets)) == ["10.1.0.1-10.1.0.254"]
    node = of({"type": "kubenet", "podCIDRs": ["10.2.0.0/24", "fd00::/120"]})
    assert (node.ipam_kind, list(map(str, node.range_sets))) == (
        "host-local",
        ["10.2.0.1-10.2.0.254", "fd00::1-fd00::ff"],
    )
    static = of({"type": "bridge", "ipam": {"type": "static"}})
    assert (static.ipam_kind, static.range_sets, static.lease_folder) == ("static", (), "/var/lib/cni/networks")


@pytest.mark.parametrize("ipam", [7, {"type": 7}, {"type": "host-local", "subnet": 7, "dataDir": 7, "cooldown": "x"}])
def test_no_value_breaks_it(ipam: object) -> None:
    """What is wrong counts as not said."""
    one = of({"type": 7, "ipam": ipam})
    assert (one.kind, one.range_sets, one.cooldown, one.lease_folder) == ("", (), 0, "/var/lib/cni/networks")
    assert of({"type": "kubenet", "podCIDRs": 7, "subnetFile": "/none"}).range_sets == ()


def test_folders_of_tuning() -> None:
    """Those that are absolute paths."""
    folders = ["/a", "b", 7]
    one = of({"type": "bridge"}, *({"type": "tuning", "dataDir": folder} for folder in folders))
    assert one.tuning_folders == ("/a",)
    assert of({"type": "tuning"}).tuning_folders == ()

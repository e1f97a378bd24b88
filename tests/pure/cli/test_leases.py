"""Leases on disk, as facts: whose they are, of which boot and machine, and which addresses are cooling."""

import os
from pathlib import Path

from cli.facts.configurations import Configuration
from cli.facts.leases import Lease, read_cooling_addresses, read_leases
from ipam.cooldown import note_released
from ipam.store import HIDDEN, LeaseStore
from spec.attachment import Attachment
from state.boot import Boot


def configuration(folder: Path, **ipam: object) -> Configuration:
    """A network "net" with leases in a folder of its own."""
    plugin = {"type": "bridge", "ipam": {"type": "host-local", "dataDir": str(folder), **ipam}}
    return Configuration("net", "", "1.0.0", (plugin,))


def test_leases_of_a_folder_are_listed(tmp_path: Path) -> None:
    """In the order of addresses; files that are no leases are left out, a file without an owner has none."""
    network = tmp_path / "net"
    network.mkdir()
    for name, text in {"10.1.0.10": "pod\r\neth0", "10.1.0.9": "old", "fd00::2": "", "lock": "", "x": "y"}.items():
        (network / name).write_text(text)
    found = [(lease.network, lease.address, lease.container, lease.ifname) for lease in read_leases(str(tmp_path))]
    expected = [("10.1.0.9", "old", ""), ("10.1.0.10", "pod", "eth0"), ("fd00::2", "", "")]
    assert found == [("net", *one) for one in expected]
    (tmp_path / "former").symlink_to("net")  # a name that the network had
    assert len(read_leases(str(tmp_path))) == len(expected)


def test_a_folder_of_its_own(tmp_path: Path) -> None:
    """As configured; without a folder there are no leases."""
    assert read_leases(str(tmp_path / "none"), [configuration(tmp_path / "missing")]) == []
    (tmp_path / "own" / "net").mkdir(parents=True)
    (tmp_path / "own" / "other").mkdir()
    for network in ("net", "other"):
        (tmp_path / "own" / network / "10.1.0.2").write_text("pod\r\neth0")
    (lease,) = read_leases(str(tmp_path / "none"), [configuration(tmp_path / "own")])
    assert lease.attachment == Attachment("net", "pod", "eth0")


def test_boots_and_machines(tmp_path: Path) -> None:
    """The index tells of which boot a lease is, and of which machine; leases of others are in no index."""
    here = Boot.read()
    boots = {"now": here, "over": Boot(here.node, "earlier"), "theirs": Boot("elsewhere", "theirs")}
    for number, (name, boot) in enumerate(boots.items(), 2):
        store = LeaseStore(str(tmp_path / "net"), read_boot=lambda boot=boot: boot)
        store.create()
        with store.locked(writable=True) as leases:
            assert leases.take(Attachment("net", name, "eth0"), [(0, f"10.1.0.{number}")])
    (tmp_path / "net" / "10.1.0.9").write_text("reference\r\neth0")
    found = {lease.container: (lease.is_over, lease.machine) for lease in read_leases(str(tmp_path))}
    assert found == {
        "now": (False, ""),
        "over": (True, ""),
        "theirs": (False, "elsewhere"),
        "reference": (False, ""),
    }


def test_whose_a_lease_is() -> None:
    """A lease of an old version is its container's, whatever the interface."""
    full, old = Lease("net", "10.1.0.2", "pod", "eth0", 0), Lease("net", "10.1.0.2", "pod", "", 0)
    assert full.is_of(Attachment("net", "pod", "eth0"))
    assert old.is_of(Attachment("net", "pod", "eth0"))
    for other in (Attachment("net", "pod", "eth1"), Attachment("other", "pod", "eth0"), Attachment("net", "p", "eth0")):
        assert not full.is_of(other)


def test_cooling_addresses(tmp_path: Path) -> None:
    """With the seconds that are left, of networks with a cooldown only."""
    hidden, boot = os.path.join(tmp_path, "net", HIDDEN), Boot.read()
    note_released(hidden, boot, 100, ["10.1.0.7"])
    assert read_cooling_addresses([configuration(tmp_path)]) == []
    (one,) = read_cooling_addresses([configuration(tmp_path, cooldown=100)])
    assert (one.network, one.address) == ("net", "10.1.0.7")
    assert 0 < one.left <= 100


def test_only_what_can_be_reclaimed_is_reclaimed(tmp_path: Path) -> None:
    """A file without an owner goes, a lease stays, and what is not there is no error."""
    store = LeaseStore(str(tmp_path))
    with store.locked(writable=True) as leases:
        leases.take(Attachment("net", "pod", "eth0"), [(0, "10.1.0.2")])
    (tmp_path / "10.1.0.3").write_text("")
    with store.locked(writable=True) as leases:
        leases.reclaim(["10.1.0.2", "10.1.0.3", "10.1.0.4"])
    assert sorted(path.name for path in tmp_path.glob("10.*")) == ["10.1.0.2"]

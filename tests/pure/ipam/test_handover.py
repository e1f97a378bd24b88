"""Leases go from one network to another, whole, whatever happens meanwhile."""

from pathlib import Path

import pytest

from ipam.handover import Handover
from ipam.store import LeaseStore
from spec.attachment import Attachment


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with two leases, and what host-local keeps beside them."""
    folder = tmp_path / "old"
    folder.mkdir()
    lease(folder, "10.1.0.2", "a")
    lease(folder, "10.1.0.3", "b")
    (folder / "last_reserved_ip.0").write_text("10.1.0.3")
    (folder / "lock").touch()
    return folder


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """The folder that they go to, which is not there yet."""
    return tmp_path / "networks" / "new"


def lease(folder: Path, address: str, container: str) -> None:
    """A lease as the reference plugin writes it."""
    (folder / address).write_text(f"{container}\r\neth0")


def leases(folder: Path) -> dict[str, str]:
    """The containers by address."""
    return {path.name: path.read_text().split()[0] for path in folder.glob("10.*")}


def test_all_go(old: Path, new: Path) -> None:
    """And the pointer to the last one, so that the next address is a new one."""
    handover = Handover(str(old), str(new))
    assert handover.addresses() == ["10.1.0.2", "10.1.0.3"]
    handover.share(lambda: None)
    assert leases(old) == leases(new) == {"10.1.0.2": "a", "10.1.0.3": "b"}
    handover.finish()
    assert not old.exists()
    assert leases(new) == {"10.1.0.2": "a", "10.1.0.3": "b"}
    assert (new / "last_reserved_ip.0").read_text() == "10.1.0.3"
    with LeaseStore(str(new)).locked(writable=True) as store:
        assert store.held_by(Attachment("new", "a", "eth0")) == ("10.1.0.2",)
    handover.finish()
    assert Handover(str(old), str(new)).addresses() == []


def test_calls_in_between(old: Path, new: Path) -> None:
    """What a late ADD leased in the old folder goes, too, and what a late DEL released there is released."""
    handover = Handover(str(old), str(new))
    handover.share(lambda: None)
    lease(old, "10.1.0.4", "late")
    (old / "10.1.0.2").unlink()
    handover.finish()
    assert leases(new) == {"10.1.0.3": "b", "10.1.0.4": "late"}


def test_nothing_changes_if_the_rest_fails(old: Path, new: Path) -> None:
    """The caller's part is done under the locks; if it raises, the leases are where they were."""
    new.mkdir(parents=True)
    lease(new, "10.1.0.9", "other")

    def fail() -> None:
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        Handover(str(old), str(new)).share(fail)
    assert leases(old) == {"10.1.0.2": "a", "10.1.0.3": "b"}
    assert leases(new) == {"10.1.0.9": "other"}
    assert not (new / "last_reserved_ip.0").exists()


def test_an_address_with_two_owners(old: Path, new: Path) -> None:
    """It is told, and nothing has changed; the same owner is no conflict, as after a run that was killed."""
    new.mkdir(parents=True)
    lease(new, "10.1.0.2", "a")
    lease(new, "10.1.0.3", "other")
    with pytest.raises(FileExistsError, match=r"address 10\.1\.0\.3 is leased to another container"):
        Handover(str(old), str(new)).share(lambda: pytest.fail("not reached"))
    assert leases(new) == {"10.1.0.2": "a", "10.1.0.3": "other"}
    (new / "10.1.0.3").unlink()
    handover = Handover(str(old), str(new))
    handover.share(lambda: None)
    handover.finish()
    assert leases(new) == {"10.1.0.2": "a", "10.1.0.3": "b"}


def test_a_folder_on_another_file_system(old: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are copied where they cannot be linked."""

    def link(source: str, target: str) -> None:
        if Path(target).exists():
            raise FileExistsError(17, "File exists")
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", link)
    handover = Handover(str(old), str(new))
    handover.share(lambda: None)
    handover.finish()
    assert leases(new) == {"10.1.0.2": "a", "10.1.0.3": "b"}


def test_without_an_old_folder(old: Path, new: Path, tmp_path: Path) -> None:
    """Only the caller's part is done."""
    done = []
    handover = Handover(str(tmp_path / "none"), str(new))
    handover.share(lambda: done.append(1))
    handover.finish()
    assert (done, new.exists(), old.exists()) == ([1], False, True)

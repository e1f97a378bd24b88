"""Leases go from one network to another, whole, whatever happens meanwhile."""

from pathlib import Path
from threading import Thread

import pytest

from ipam.handover import Handover, is_handed_over
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
    """And the pointer to the last one, so that the next address is a new one; the old name leads to the new folder."""
    handover = Handover(str(old), str(new))
    assert handover.addresses() == ["10.1.0.2", "10.1.0.3"]
    assert not is_handed_over(str(old), str(new))
    handover.perform(lambda: None)
    assert is_handed_over(str(old), str(new))
    assert leases(new) == {"10.1.0.2": "a", "10.1.0.3": "b"}
    assert (new / "last_reserved_ip.0").read_text() == "10.1.0.3"
    assert sorted(path.name for path in old.parent.iterdir()) == ["networks", "old"]
    with LeaseStore(str(new)).locked(writable=True) as store:
        assert store.held_by(Attachment("new", "a", "eth0")) == ("10.1.0.2",)
    with LeaseStore(str(old)).locked(writable=True) as store:
        store.release(Attachment("old", "b", "eth0"))
    assert leases(new) == {"10.1.0.2": "a"}
    handover.perform(lambda: None)
    assert Handover(str(old), str(new)).addresses() == []
    assert leases(new) == {"10.1.0.2": "a"}


def test_a_call_that_waits_for_the_lock(old: Path, new: Path) -> None:
    """It leases in the new folder, next to what is there."""
    owner, taken = Attachment("old", "late", "eth0"), []

    def call() -> None:
        with LeaseStore(str(old)).locked(writable=True) as store:
            free = next(store.free(["10.1.0.2", "10.1.0.3", "10.1.0.4"]))
            taken.append(free if store.take(owner, [(0, free)]) else "")

    late = Thread(target=call)
    Handover(str(old), str(new)).perform(late.start)
    late.join()
    assert taken == ["10.1.0.4"]
    assert leases(new) == {"10.1.0.2": "a", "10.1.0.3": "b", "10.1.0.4": "late"}


def test_nothing_changes_if_the_rest_fails(old: Path, new: Path) -> None:
    """The caller's part is done under the locks; if it raises, the leases are where they were."""
    new.mkdir(parents=True)
    lease(new, "10.1.0.9", "other")

    def fail() -> None:
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        Handover(str(old), str(new)).perform(fail)
    assert leases(old) == {"10.1.0.2": "a", "10.1.0.3": "b"}
    assert leases(new) == {"10.1.0.9": "other"}
    assert not (new / "last_reserved_ip.0").exists()
    assert not old.is_symlink()
    assert sorted(path.name for path in old.parent.iterdir()) == ["networks", "old"]


def test_an_address_with_two_owners(old: Path, new: Path) -> None:
    """It is told, and nothing has changed; the same owner is no conflict, as after a run that was killed."""
    new.mkdir(parents=True)
    lease(new, "10.1.0.2", "a")
    lease(new, "10.1.0.3", "other")
    with pytest.raises(FileExistsError, match=r"address 10\.1\.0\.3 is leased to another container"):
        Handover(str(old), str(new)).perform(lambda: pytest.fail("not reached"))
    assert leases(new) == {"10.1.0.2": "a", "10.1.0.3": "other"}
    (new / "10.1.0.3").unlink()
    (old.parent / ".old.handed-over").mkdir()
    Handover(str(old), str(new)).perform(lambda: None)
    assert leases(new) == {"10.1.0.2": "a", "10.1.0.3": "b"}


def test_a_file_system_that_cannot_exchange(old: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done in three steps, and undone in as many."""
    monkeypatch.setattr("ipam.handover._RENAME_EXCHANGE", 1 << 30)  # EINVAL, as there

    def fail() -> None:
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        Handover(str(old), str(new)).perform(fail)
    assert not old.is_symlink()
    Handover(str(old), str(new)).perform(lambda: None)
    assert is_handed_over(str(old), str(new))
    assert leases(old) == {"10.1.0.2": "a", "10.1.0.3": "b"}


def test_a_folder_on_another_file_system(old: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are copied where they cannot be linked."""

    def link(source: str, target: str) -> None:
        if Path(target).exists():
            raise FileExistsError(17, "File exists")
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", link)
    handover = Handover(str(old), str(new))
    handover.perform(lambda: None)
    assert leases(new) == {"10.1.0.2": "a", "10.1.0.3": "b"}


def test_without_an_old_folder(old: Path, new: Path, tmp_path: Path) -> None:
    """Only the caller's part is done."""
    done = []
    handover = Handover(str(tmp_path / "none"), str(new))
    handover.perform(lambda: done.append(1))
    assert (done, new.exists(), old.exists()) == ([1], False, True)

"""The files on disk, and what the reference plugin, people and older versions leave there."""

import os
import shutil
import stat
from dataclasses import replace

import pytest

from ipam.store import State
from tests.pure.ipam.support import (
    BOOT,
    disk_store,
    entries,
    held,
    leases_in,
    others,
    owner,
    reference_add,
    reference_delete,
    release,
    state,
    take,
    text_of,
)

A, B = owner("a"), owner("b")
GRANTS = [(0, "10.0.0.2"), (1, "fd00:1::2")]


def test_the_files_of_the_reference(store, folder):
    """A lease is a file of mode 0600, named by the address, containing ID, CR LF, ifname. Pointers are beside it."""
    take(store, owner("cid1"), *GRANTS)
    assert leases_in(folder) == dict.fromkeys(["10.0.0.2", "fd00:1::2"], b"cid1\r\neth0")
    assert (folder / "last_reserved_ip.0").read_bytes() == b"10.0.0.2"
    assert (folder / "last_reserved_ip.1").read_bytes() == b"fd00:1::2"
    assert (folder / "lock").read_bytes() == b""
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in ("10.0.0.2", "last_reserved_ip.0")} == {0o600}
    assert stat.S_IMODE((folder / "lock").stat().st_mode) == 0o750
    assert others(folder) == {"lock", "last_reserved_ip.0", "last_reserved_ip.1"}


def test_folders_are_not_for_everybody_to_write(tmp_path):
    """Folders are not writable by others, whatever the caller's umask."""
    before = os.umask(0)
    try:
        made = disk_store(str(tmp_path / "x" / "y" / "net"), BOOT)
        made.create()
        take(made, A, *GRANTS)
    finally:
        os.umask(before)
    folders = [path for path in (tmp_path / "x").rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "x", tmp_path / "x" / "y"]} == {0o755}
    assert all(not path.stat().st_mode & 0o022 for path in folders)


def test_nothing_remains_of_a_lease(store, folder):
    """After a release only the lock and the pointers are left."""
    take(store, A, *GRANTS)
    release(store, A)
    assert (leases_in(folder), entries(folder)) == ({}, [])


def test_leases_of_the_reference_are_known(store, folder):
    """Leases of the reference plugin are taken, held and released like ours."""
    reference_add(folder, A, "10.0.0.3")
    assert state(store, "10.0.0.3") == State.TAKEN
    assert held(store, A) == {"10.0.0.3"}
    assert release(store, A) == {"10.0.0.3"}
    assert (leases_in(folder), entries(folder)) == ({}, [])


def test_leases_of_the_reference_are_indexed_once(store, folder):
    """The first call that may write links leases of the reference into the index, and later calls do not open them."""
    reference_add(folder, A, "10.0.0.3")
    take(store, B, (0, "10.0.0.4"))
    assert entries(folder) == ["a:eth0:0", "b:eth0:0"]
    (folder / "10.0.0.3").chmod(0)
    take(store, owner("c"), (0, "10.0.0.5"))
    assert entries(folder) == ["a:eth0:0", "b:eth0:0", "c:eth0:0"]


def test_looking_changes_nothing(store, folder):
    """CHECK and STATUS leave the folder as it is."""
    reference_add(folder, A, "10.0.0.3")
    take(store, B, (0, "10.0.0.4"))
    reference_add(folder, A, "10.0.0.5")
    before = sorted(folder.rglob("*"))
    held(store, A)
    assert sorted(folder.rglob("*")) == before


def test_the_reference_removes_all_of_ours(store, folder):
    """A release by the reference plugin removes both the file and the entry of our lease."""
    take(store, A, *GRANTS)
    reference_delete(folder, A)
    assert (leases_in(folder), entries(folder)) == ({}, [])


def test_an_address_that_changed_hands_beside_us(store, folder):
    """If the reference plugin assigns our address to another owner, no entry of ours is left."""
    take(store, A, (0, "10.0.0.2"))
    reference_delete(folder, A)
    reference_add(folder, B, "10.0.0.2")
    assert (held(store, A), held(store, B)) == (set(), {"10.0.0.2"})
    assert release(store, A) == set()
    assert leases_in(folder) == {"10.0.0.2": text_of(B)}


def test_a_lease_removed_by_hand(store, folder):
    """An entry whose lease was removed by hand is swept, and its address is free, or belongs to its new owner."""
    take(store, A, *GRANTS)
    (folder / "10.0.0.2").unlink()
    reference_add(folder, B, "10.0.0.2")
    assert held(store, A) == {"fd00:1::2"}
    assert release(store, B) == {"10.0.0.2"}
    assert entries(folder) == ["a:eth0:1"]


def test_a_gap_in_the_numbers_of_the_entries(store, folder):
    """If the lease with an owner's first entry was removed by hand, the other one is still found and released."""
    take(store, A, *GRANTS)
    (folder / "10.0.0.2").unlink()
    take(store, owner("c"), (0, "10.0.0.4"))
    assert entries(folder) == ["a:eth0:1", "c:eth0:0"]
    assert held(store, A) == {"fd00:1::2"}
    assert release(store, A) == {"fd00:1::2"}
    assert entries(folder) == ["c:eth0:0"]


def test_a_folder_of_the_version_before(store, folder):
    """It has a mark in the modification time of the folder, which is ignored; leases and entries are the same."""
    boot_folder = folder / ".slash24" / BOOT.label
    boot_folder.mkdir(parents=True)
    (boot_folder / "a:eth0:0").write_bytes(text_of(A))
    os.link(boot_folder / "a:eth0:0", folder / "10.0.0.2")
    os.utime(folder, ns=(0, 10**18 + 424_242_424))
    assert (state(store, "10.0.0.2"), held(store, A)) == (State.TAKEN, {"10.0.0.2"})
    reference_add(folder, B, "10.0.0.3")
    os.utime(folder, ns=(0, 10**18 + 424_242_424))
    assert (held(store, B), release(store, A), release(store, B)) == ({"10.0.0.3"}, {"10.0.0.2"}, {"10.0.0.3"})
    assert (leases_in(folder), entries(folder)) == ({}, [])


def test_a_lease_rewritten_by_hand(store, folder):
    """A lease is released by the owner in its file, whatever the index says."""
    take(store, A, (0, "10.0.0.2"))
    (folder / "10.0.0.2").write_bytes(text_of(B))
    assert release(store, A) == set()
    assert (folder / "10.0.0.2").exists()


def test_a_copied_folder(store, folder, tmp_path):
    """A folder that was copied without preserving hard links works and loses no lease."""
    take(store, A, *GRANTS)
    copy = tmp_path / "copy"
    for path in sorted(folder.rglob("*")):
        target = copy / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            target.write_bytes(path.read_bytes())
    moved = replace(store, folder=str(copy))
    assert held(moved, A) == {"10.0.0.2", "fd00:1::2"}
    assert release(moved, A) == {"10.0.0.2", "fd00:1::2"}
    assert (leases_in(copy), entries(copy)) == ({}, [])


def test_no_index_at_all(store, folder):
    """Deleting the hidden folder loses no lease."""

    take(store, A, *GRANTS)
    shutil.rmtree(folder / ".slash24")
    assert held(store, A) == {"10.0.0.2", "fd00:1::2"}
    take(store, B, (0, "10.0.0.3"))
    assert entries(folder) == ["a:eth0:0", "a:eth0:1", "b:eth0:0"]


@pytest.mark.parametrize("content", [b"a", b"a\n", b" a\r\n"])
def test_the_old_format(store, folder, content):
    """A lease of the bare container ID belongs to all interfaces of the container, and is released with any."""
    (folder / "10.0.0.3").write_bytes(content)
    assert held(store, A) == {"10.0.0.3"}
    assert held(store, owner("ab")) == set()
    assert release(store, owner("a", "eth7")) == {"10.0.0.3"}


def test_the_old_format_comes_second(store, folder):
    """Leases of the bare ID are released only if there is none of the interface, as in the reference."""
    (folder / "10.0.0.3").write_bytes(b"a")
    take(store, A, (0, "10.0.0.2"))
    assert held(store, A) == {"10.0.0.2", "10.0.0.3"}
    assert release(store, A) == {"10.0.0.2"}
    assert release(store, A) == {"10.0.0.3"}


def test_valid_in_the_old_format(store, folder):
    """GC keeps the lease of the bare ID of a valid container."""
    (folder / "10.0.0.3").write_bytes(b"a")
    (folder / "10.0.0.4").write_bytes(b"gone")
    with store.locked(writable=True) as leases:
        assert leases.retain(frozenset([A])) == ("10.0.0.4",)


@pytest.mark.parametrize("content", [b"", b" \r\n", b"\0" * 10, b"a\0", b"x" * 5000])
def test_without_an_owner(store, folder, content):
    """A lease file without a readable owner was left by a crash or a full disk, and can be reclaimed."""
    (folder / "10.0.0.3").write_bytes(content)
    assert state(store, "10.0.0.3") == State.RECLAIMABLE
    take(store, A, (0, "10.0.0.3"))
    assert leases_in(folder) == {"10.0.0.3": text_of(A)}


@pytest.mark.parametrize("content", [b"", b"\0" * 10])
def test_without_an_owner_to_the_collection(store, folder, content):
    """GC removes lease files without an owner."""
    (folder / "10.0.0.3").write_bytes(content)
    with store.locked(writable=True) as leases:
        leases.retain(frozenset([A]))
    assert leases_in(folder) == {}


def test_strange_things_in_the_folder(store, folder):
    """Folders, pipes and other files are not leases; they are left alone and do no harm."""
    (folder / "10.0.0.3").mkdir()
    os.mkfifo(folder / "10.0.0.4")
    (folder / "README").write_text("a\r\neth0")
    (folder / "10.0.0.5").symlink_to("nowhere")
    assert [state(store, f"10.0.0.{number}") for number in (3, 5)] == [State.TAKEN] * 2
    take(store, A, (0, "10.0.0.6"))
    with store.locked(writable=True) as leases:
        assert sorted(leases.retain(frozenset())) == ["10.0.0.4", "10.0.0.6"]
    assert {"10.0.0.3", "10.0.0.5", "README"} < set(os.listdir(folder))


def test_long_and_strange_owners(store, folder):
    """Owners that are too long for a file name, or have the same beginning, are distinguished."""
    first, second = owner("x" * 400 + "1"), owner("x" * 400 + "2")
    take(store, first, (0, "10.0.0.2"))
    take(store, second, (0, "10.0.0.3"))
    (folder / "10.0.0.4").write_bytes(b"a/../b\r\n\xff")
    take(store, B, (0, "10.0.0.5"))
    assert (held(store, first), held(store, second)) == ({"10.0.0.2"}, {"10.0.0.3"})
    assert release(store, owner("a/../b", os.fsdecode(b"\xff"))) == {"10.0.0.4"}
    assert release(store, second) == {"10.0.0.3"}
    assert release(store, first) == {"10.0.0.2"}


def test_a_shorter_address_in_the_pointer(store, folder):
    """Nothing of the longer address before it is left."""
    take(store, A, (0, "10.0.0.200"))
    take(store, B, (0, "10.0.0.3"))
    assert (folder / "last_reserved_ip.0").read_bytes() == b"10.0.0.3"


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff\0", b"10.0.0.9\n"])
def test_a_garbled_pointer(store, folder, content):
    """Reading a pointer file returns text, whatever its content."""
    (folder / "last_reserved_ip.0").write_bytes(content)
    with store.locked(writable=False) as leases:
        assert isinstance(leases.last_reserved(0), str)


def test_written_by_somebody_without_the_lock(store, folder):
    """A lease that appears after the folder was read is not overwritten: nothing is taken, and the address is TAKEN."""
    with store.locked(writable=True) as leases:
        reference_add(folder, B, "fd00:1::2")
        assert not leases.take(A, GRANTS)
        assert leases.state("fd00:1::2") == State.TAKEN
    assert (leases_in(folder), entries(folder)) == ({"fd00:1::2": text_of(B)}, [])

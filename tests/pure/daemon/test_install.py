"""Installing executables in a folder: what is there afterwards, and after a failure at any step."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from daemon import install
from daemon.install import is_installed, names_of, put, remove

HOUR = 3600


def suite(folder: Path, version: str, *types: str) -> Path:
    """A suite with launchers and frozen plugins of these types, whose content is the version; its private folder."""
    private = folder / version / "slash24.d"
    (private / "python").mkdir(parents=True)
    (private / "python" / "library.so").write_text(f"library {version}")
    first, *others = types
    (private / first).write_text(f"frozen {version}")
    (private / first).chmod(0o755)
    for kind in types:
        launcher = folder / version / kind
        launcher.write_bytes(b"\x7fELF" + version.encode() + b"\0slash24 launcher, protocol 2\0")
        launcher.chmod(0o755)
    for kind in others:
        os.link(private / first, private / kind)
    return private


def works(folder: Path) -> bool:
    """Whether every launcher finds a frozen plugin, with the library of the same version."""
    for path in folder.iterdir():
        if install._launcher(str(path)) is not None:
            frozen = (folder / "slash24.d" / path.name).resolve()
            version = frozen.read_text().removeprefix("frozen ")
            if (frozen.parent / "python" / "library.so").read_text() != f"library {version}":
                return False
    return True


def listing(folder: Path) -> dict[str, str]:
    """What a user sees: names, and what they contain; without private folders that are not in use."""
    names = [path.name for path in folder.iterdir() if not path.name.startswith("slash24.d.")]
    texts = {name: (folder / name).read_bytes().decode() for name in names if name != "slash24.d"}
    return (
        texts | {"library": (folder / "slash24.d" / "python" / "library.so").read_text()}
        if "slash24.d" in names
        else texts
    )


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The private folder of an old version, with a type that the new one lacks."""
    return suite(tmp_path, "old", "bridge", "gone", "slash24-node")


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """The private folder of a new version, with a type that the old one lacks."""
    return suite(tmp_path, "new", "bridge", "added", "slash24-node")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The folder to install in, which does not exist."""
    return tmp_path / "opt" / "cni" / "bin"


def test_a_launcher_and_the_private_folder_are_installed_with_their_modes(target: Path, old: Path) -> None:
    """The folder is created; hard links stay links; nothing else is left."""
    previous = os.umask(0o077)
    try:
        put(str(old), str(target))
    finally:
        os.umask(previous)
    assert works(target)
    private = target / "slash24.d"
    assert os.readlink(private).startswith("slash24.d.")
    assert {path.name for path in target.iterdir()} == {
        "bridge",
        "gone",
        "slash24-node",
        private.name,
        os.readlink(private),
    }
    assert (private / "bridge").stat().st_ino == (private / "gone").stat().st_ino
    modes = {path.name: path.stat().st_mode & 0o7777 for path in (private, *target.iterdir(), *private.rglob("*"))}
    assert set(modes.values()) == {0o755, 0o644}
    assert modes["library.so"] == 0o644


def test_installing_twice_changes_nothing(target: Path, old: Path) -> None:
    """Neither a file nor a time."""
    put(str(old), str(target))
    before = {path: path.lstat() for path in target.rglob("*")}
    put(str(old), str(target))
    assert {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in before.items()} == {
        path: (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in target.rglob("*")
    }


def test_an_upgrade_and_a_rollback_leave_what_each_version_has(target: Path, old: Path, new: Path) -> None:
    """Types that a version lacks go; the private folder of the other stays for the plugins that it runs."""
    put(str(old), str(target))
    first = listing(target)
    put(str(new), str(target))
    assert set(listing(target)) == {"bridge", "added", "slash24-node", "library"}
    put(str(old), str(target))
    assert listing(target) == first
    assert len([path for path in target.iterdir() if path.name.startswith("slash24.d.")]) == 2


def test_a_private_folder_is_deleted_an_hour_after_it_was_replaced(target: Path, old: Path, new: Path) -> None:
    """Whatever its age was: a call may have started with it the moment before."""
    put(str(old), str(target))
    replaced = (target / "slash24.d").resolve()
    os.utime(replaced, (0, 0))
    put(str(new), str(target))
    put(str(new), str(target))
    assert replaced.exists()
    os.utime(replaced, (time.time() - HOUR - 1,) * 2)
    put(str(new), str(target))
    assert not replaced.exists()
    assert works(target)


def test_foreign_files_are_kept_and_restored(target: Path, old: Path, new: Path) -> None:
    """As NAME.distrib; a link too. A later one replaces it, as after a package's upgrade."""
    target.mkdir(parents=True)
    (target / "bridge").write_text("reference 1")
    (target / "gone").symlink_to("/nowhere")
    (target / "macvlan").write_text("reference")
    put(str(old), str(target))
    assert (target / "bridge.distrib").read_text() == "reference 1"
    assert os.readlink(target / "gone.distrib") == "/nowhere"
    (target / "bridge").unlink()
    (target / "bridge").write_text("reference 2")
    put(str(new), str(target))
    assert os.readlink(target / "gone") == "/nowhere"
    remove(str(target))
    remove(str(target))
    assert {path.name for path in target.iterdir()} == {"bridge", "gone", "macvlan"}
    assert (target / "bridge").read_text() == "reference 2"


def test_an_unpacked_tarball_is_replaced(target: Path, old: Path, new: Path) -> None:
    """Its private folder is not a link."""
    target.parent.mkdir(parents=True)
    old.parent.rename(target)
    put(str(new), str(target))
    assert works(target)
    assert set(listing(target)) == {"bridge", "added", "slash24-node", "library"}
    assert (target / "slash24.d").is_symlink()


def test_an_unpacked_tarball_is_replaced_where_folders_cannot_be_exchanged(
    target: Path, old: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems cannot; then it takes two steps."""
    monkeypatch.setattr(install, "_exchange", lambda *_: False)
    test_an_unpacked_tarball_is_replaced(target, old, new)


def test_a_damaged_private_folder_is_not_used(target: Path, old: Path) -> None:
    """An intact copy gets another name, since a plugin may be using the damaged one."""
    put(str(old), str(target))
    damaged = (target / "slash24.d").resolve() / "python" / "library.so"
    damaged.write_text("")
    put(str(old), str(target))
    assert works(target)
    assert damaged.read_text() == ""
    assert os.readlink(target / "slash24.d").endswith("-1")


def test_a_folder_under_the_name_of_a_plugin_changes_nothing(target: Path, old: Path) -> None:
    """The error names it."""
    (target / "bridge").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match="bridge"):
        put(str(old), str(target))
    assert [path.name for path in target.iterdir()] == ["bridge"]


def test_a_folder_without_launchers_is_not_installed(target: Path, tmp_path: Path) -> None:
    """For example a Python interpreter's."""
    (tmp_path / "python3").write_text("")
    with pytest.raises(OSError, match="no launchers"):
        put(str(tmp_path), str(target))


STEPS = ("link", "mkdir", "rename", "replace", "symlink", "fsync", "fchmod", "unlink")


def failing_at(number: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the nth call that changes something fail; returns the list of those that were made."""
    made: list[str] = []

    def counted(name: str) -> None:
        real = getattr(os, name)

        def call(*args: object, **kwargs: object) -> object:
            made.append(name)
            if len(made) == number:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    for name in STEPS:
        counted(name)
    return made


def states(old: Path, new: Path, target: Path) -> Iterator[int]:
    """A number for each step of an upgrade, which has then failed there; ends after the last step."""
    for number in range(1, 200):
        remove(str(target))
        put(str(old), str(target))
        with pytest.MonkeyPatch.context() as patch:
            made = failing_at(number, patch)
            with suppress(OSError):
                put(str(new), str(target))
        if len(made) < number:
            return
        yield number
    raise AssertionError("an upgrade has too many steps")


def test_a_failure_at_any_step_leaves_plugins_that_work(target: Path, old: Path, new: Path) -> None:
    """Those of one version, or launchers of both; another attempt completes the upgrade."""
    numbers = []
    for number in states(old, new, target):
        numbers.append(number)
        assert works(target), f"after step {number}"
        assert not (target / ".slash24.new").exists()
        put(str(new), str(target))
        assert set(listing(target)) == {"bridge", "added", "slash24-node", "library"}
    assert len(numbers) > 20


def test_what_is_installed_is_known(target: Path, old: Path, new: Path) -> None:
    """Until something differs: a launcher, the private folder, or that something of another version is there."""
    assert names_of(str(old)) == ["bridge", "gone", "slash24-node"]
    assert not is_installed(str(old), str(target))
    put(str(old), str(target))
    assert is_installed(str(old), str(target))
    assert not is_installed(str(new), str(target))
    (target / "bridge").unlink()
    assert not is_installed(str(old), str(target))
    put(str(old), str(target))
    (target / "slash24.d" / "python" / "library.so").write_text("changed")
    assert not is_installed(str(old), str(target))
    put(str(new), str(target))
    assert is_installed(str(new), str(target))

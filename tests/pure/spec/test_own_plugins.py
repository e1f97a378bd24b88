"""Which executables belong to the suite: their content decides, not their names."""

import os
from pathlib import Path

import pytest

from spec.delegate import is_launcher
from tests.pure.spec.delegation import LAUNCHER, STRANGER, folder_of_plugins, suite, upper, write_program  # noqa: F401 (a fixture)
from tests.pure.spec.driver import conf, run


def test_the_suite_s_plugin_is_recognized_behind_a_symbolic_link(folder: Path, tmp_path: Path) -> None:
    """As package managers install executables: the call stays in-process."""
    other = tmp_path / "opt"
    other.mkdir()
    (other / "fake-ipam").symlink_to(folder / "fake-ipam")
    log = tmp_path / "log"
    config = conf(ipam={"type": "fake-ipam", "log": str(log)})
    assert run(upper().plugin, "DEL", config, suite=suite(folder), CNI_PATH=str(other)).status == 0
    assert log.read_text().startswith("DEL DEL ")


@pytest.mark.parametrize("way", ["replaced", "link", "mentions it", "another protocol"])
def test_a_foreign_executable_with_our_plugin_s_name_is_executed(folder: Path, tmp_path: Path, way: str) -> None:
    """Even in the suite's own folder."""
    ours = suite(folder)
    (folder / "fake-ipam").unlink()
    if way == "link":
        (folder / "fake-ipam").symlink_to(write_program(tmp_path / "fake-ipam", STRANGER))
    else:
        more = {"mentions it": "# slash24 launcher, protocol 2\0", "another protocol": ""}.get(way, "")
        write_program(folder / "fake-ipam", STRANGER + more)
    if way == "another protocol":
        (folder / "fake-ipam").write_bytes(LAUNCHER.replace(b"protocol 2", b"protocol 1"))
        assert run(upper().plugin, "ADD", conf(), suite=ours, CNI_PATH=str(folder)).error[1].startswith("failed to run")
    else:
        answer = run(upper().plugin, "ADD", conf(), suite=ours, CNI_PATH=str(folder))
        assert answer.document["ips"] == [{"address": "10.9.9.9/32"}]


@pytest.mark.parametrize("way", ["hard link", "copy", "link", "folder behind a link"])
def test_our_launcher_is_recognized_however_it_was_installed(folder: Path, tmp_path: Path, way: str) -> None:
    """By its content: `cp -r` makes copies of hard links."""
    ours, path, cni_path = suite(folder), folder / "fake-ipam", folder
    path.rename(folder / "other")
    if way == "hard link":
        path.hardlink_to(folder / "other")
    elif way == "copy":
        path.write_bytes((folder / "other").read_bytes())
    elif way == "link":
        (folder / "other").rename(path)
        (tmp_path / "fake-ipam").symlink_to(path)
        cni_path = tmp_path
    else:
        (folder / "other").rename(path)
        cni_path = tmp_path / "linked"
        cni_path.symlink_to(folder)
    log = tmp_path / "log"
    config = conf(ipam={"type": "fake-ipam", "log": str(log)})
    assert run(upper().plugin, "DEL", config, suite=ours, CNI_PATH=str(cni_path)).status == 0
    assert log.read_text().startswith("DEL DEL ")


@pytest.mark.parametrize("what", ["folder", "fifo", "nothing", "large"])
def test_other_files_are_not_launchers(tmp_path: Path, what: str) -> None:
    """The check does not block, and reads no more than the size of a launcher."""
    path = tmp_path / "x"
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "large":
        path.write_bytes(b"\x7fELF" + bytes(1 << 20) + LAUNCHER)
    assert not is_launcher(str(path))

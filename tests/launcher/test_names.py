"""The plugin that a launcher stands for is its own file name, through any link and with any argv[0]."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launcher.agent import Agent
from tests.launcher.launched import CALL, CONF, Folder


def copied(home: Folder, elsewhere: Path) -> Path:
    """A copy under another name is that plugin."""
    return Path(shutil.copy(home.bridge, elsewhere / "vlan"))


def hard_link(home: Folder, elsewhere: Path) -> Path:
    """One file with several names: the executed name counts."""
    (elsewhere / "vlan").hardlink_to(home.bridge)
    return elsewhere / "vlan"


def symbolic_link(home: Folder, elsewhere: Path) -> Path:
    """A link stands for the plugin that it points to."""
    (elsewhere / "other").symlink_to(home.bridge)
    return elsewhere / "other"


def link_of_links(home: Folder, elsewhere: Path) -> Path:
    """A chain of links of any length."""
    symbolic_link(home, elsewhere)
    (elsewhere / "folder").mkdir()
    (elsewhere / "folder" / "third").symlink_to("../other")
    return elsewhere / "folder" / "third"


def linked_folder(home: Folder, elsewhere: Path) -> Path:
    """A link to the folder."""
    (elsewhere / "bin").symlink_to(home.path)
    return elsewhere / "bin" / "bridge"


def odd_name(home: Folder, elsewhere: Path) -> Path:
    """A name may end like the kernel's mark of deleted files."""
    return Path(shutil.copy(home.bridge, elsewhere / "vlan (deleted)"))


PLACES = {copied: "vlan", hard_link: "vlan", symbolic_link: "bridge", link_of_links: "bridge"}
PLACES |= {linked_folder: "bridge", odd_name: "vlan (deleted)"}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Another folder, on the same file system."""
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_the_plugin_is_the_executables_file_name(home: Folder, agent: Agent, elsewhere: Path, place: Callable) -> None:
    """With an absolute path, and with a relative one from another folder."""
    executable = place(home, elsewhere)
    relative = os.path.relpath(executable, "/usr")
    assert home.run(agent.path, executable=executable).status == 0
    assert home.run(agent.path, executable=Path(relative), cwd=Path("/usr")).status == 0
    assert [asked.kind for asked in agent.asked] == [PLACES[place]] * 2


@pytest.mark.parametrize("place", [symbolic_link, link_of_links, linked_folder], ids=lambda place: place.__name__)
def test_the_frozen_plugin_is_found_through_links(home: Folder, elsewhere: Path, place: Callable) -> None:
    """It is next to the launcher, not next to the link."""
    assert home.run(elsewhere / "nothing", executable=place(home, elsewhere)).was_frozen()


@pytest.mark.parametrize("name", ["", "vlan", "/somewhere/vlan", "-bridge"])
def test_argv0_does_not_matter(home: Folder, agent: Agent, name: str) -> None:
    """argv[0] may be any text."""
    home.skip_if_emulated()
    env = {**CALL, "SLASH24_SOCKET": str(agent.path)}
    subprocess.run([name], executable=home.bridge, input=CONF, env=env, check=True, capture_output=True)
    assert agent.asked[0].kind == "bridge"


def test_an_upgrade_while_the_launcher_starts(home: Folder, agent: Agent, elsewhere: Path) -> None:
    """If the executed file was replaced, the kernel marks the path as deleted, and the name stays the same."""
    home.skip_if_emulated()
    fd = os.open(home.bridge, os.O_RDONLY)
    home.bridge.unlink()
    for socket in (agent.path, elsewhere / "nothing"):
        env = {**CALL, "SLASH24_SOCKET": str(socket)}
        argv = ["bridge"]
        options = {"executable": f"/proc/self/fd/{fd}", "pass_fds": [fd], "env": env, "capture_output": True}
        done = subprocess.run(argv, input=CONF, **options)
        assert done.returncode == (0 if socket == agent.path else 7), done.stdout
    os.close(fd)
    assert agent.asked[0].kind == "bridge"

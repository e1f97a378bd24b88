"""Upgrades and rollbacks while plugins are called, on a full disk, and under a running agent."""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from daemon.install import put, remove
from tests.conformance.support import DUAL, leases, network
from tests.netns.cni import CNI
from tests.netns.node import Node, wait_until

pytestmark = pytest.mark.cold(reason="replaces the files of the plugins that are called")

FOLDER = "/run/opt/cni/bin"
TIMES = 20
CALLERS = 2
CONF = network(DUAL)


@pytest.fixture
def old(bin_dir: Path) -> str:
    """The private folder of the version under test."""
    return str(bin_dir / "slash24.d")


@pytest.fixture
def new(bin_dir: Path, node: Node) -> str:
    """That of another version: its launchers differ, and a file of its private folder."""
    copy = node.path("/run/new")
    node.run(["cp", "-a", bin_dir, "/run/new"])  # with its hard links
    for launcher in copy.iterdir():
        if launcher.is_file():
            launcher.write_bytes(launcher.read_bytes() + b"\0")
    (copy / "slash24.d" / "version").write_text("new")
    return str(copy / "slash24.d")


@pytest.fixture
def folder(node: Node) -> str:
    """The folder to install in, as the test sees it."""
    return str(node.path(FOLDER))


def test_no_call_fails_during_upgrades_and_rollbacks(node: Node, old: str, new: str, folder: str) -> None:
    """Each replaces every file, without pause, while pods come and go; twenty of both at least."""
    put(old, folder)
    over, cni, rounds = Event(), CNI(node, Path(FOLDER)), [0] * CALLERS

    def come_and_go(number: int) -> None:
        pod = node.pod(f"pod{number}")
        while not over.is_set():
            cni.delete(CONF, pod, cni.add(CONF, pod))
            rounds[number] += 1

    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(come_and_go, number) for number in range(CALLERS)]
        try:
            upgrades = 0
            while (upgrades < TIMES or min(rounds) < TIMES) and not any(caller.done() for caller in callers):
                put(old if upgrades % 2 else new, folder)
                upgrades += 1
        finally:
            over.set()
        for caller in callers:
            caller.result()
    assert leases(node) == {}
    assert len([name for name in os.listdir(folder) if name.startswith("slash24.d.")]) == 2


def test_a_plugin_opens_files_of_one_version_only(node: Node, old: str, folder: str) -> None:
    """By way of the link it is executed, and from then on by the folder's own path."""
    put(old, folder)
    cni, pod = CNI(node, Path(FOLDER)), node.pod("pod")
    argv = ["strace", "-f", "-qq", "-o", "/run/trace", "-e", "trace=execve,open,openat", f"{FOLDER}/bridge"]
    node.run(argv, env=cni.environ("VERSION", pod))
    opened = re.findall(rf'(?:execve\(|open\(|AT_FDCWD, )"({FOLDER}/[^"]*)"', node.path("/run/trace").read_text())
    launcher, link, *rest = opened
    assert (launcher, link) == (f"{FOLDER}/bridge", f"{FOLDER}/slash24.d/bridge")
    own = f"{FOLDER}/{os.readlink(f'{folder}/slash24.d')}"
    assert {path[: len(own)] for path in rest} == {own}


def test_a_full_disk_leaves_the_old_version_whole(node: Node, old: str, new: str, folder: str) -> None:
    """The error says so; nothing of the new version stays, and it can be installed once there is space."""
    links = {path.stat().st_ino: path.stat().st_size for path in Path(old).rglob("*")}
    size = sum(links.values()) + sum(path.stat().st_size for path in Path(old).parent.iterdir())
    node.run(["mkdir", "-p", FOLDER])
    node.run(["mount", "-t", "tmpfs", "-o", f"size={size * 3 // 2}", "disk", FOLDER])
    put(old, folder)
    before = sorted(os.listdir(folder))
    with pytest.raises(OSError, match="No space left"):
        put(new, folder)
    assert sorted(os.listdir(folder)) == before
    cni, pod = CNI(node, Path(FOLDER)), node.pod("pod")
    cni.delete(CONF, pod, cni.add(CONF, pod))
    node.run(["mount", "-o", f"remount,size={size * 3}", FOLDER])
    put(new, folder)
    cni.delete(CONF, pod, cni.add(CONF, pod))


def test_a_running_agent_outlives_its_files(node: Node, old: str, new: str, folder: str) -> None:
    """It has loaded what it needs: it serves calls of newer launchers when its own folder is deleted."""
    put(old, folder)
    log = node.path("/run/agent.log")
    with log.open("w") as stderr:
        agent = node.start([f"{FOLDER}/slash24-agent"], stderr=stderr)
    try:
        assert wait_until(lambda: "event=ready" in log.read_text())
        replaced = Path(folder, os.readlink(f"{folder}/slash24.d"))
        put(new, folder)
        os.utime(replaced, (time.time() - 3601,) * 2)
        put(new, folder)
        assert not replaced.exists()
        cni, pod = CNI(node, Path(FOLDER)), node.pod("pod")
        cni.delete(CONF, pod, cni.add(CONF, pod))
        assert wait_until(lambda: set(re.findall(r"verb=(\w+)", log.read_text())) == {"ADD", "DEL"})
    finally:
        agent.terminate()
        agent.wait()


def test_removal_leaves_nothing(node: Node, old: str, new: str, folder: str) -> None:
    """Neither of the version in use nor of the one before."""
    put(new, folder)
    put(old, folder)
    remove(folder)
    assert os.listdir(folder) == []

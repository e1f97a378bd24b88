"""The Debian package: what it installs, that nothing of it is left, and what Debian's own check says of it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.__main__ import TYPES
from tests.conftest import ROOT
from tests.runtimes.machine import Machine
from tests.runtimes.snapshots import state

ALSO = ("/usr/bin", "/usr/lib/slash24", "/usr/lib/systemd/system", "/usr/share/man/man1", "/usr/share/doc/slash24")
ALSO += ("/usr/share/bash-completion", "/usr/share/zsh", "/usr/share/fish", "/usr/share/lintian")
SYSTEMCTL = '#!/bin/sh\necho "$*" >>/tmp/called\n'


@pytest.fixture(scope="module")
def package() -> Path:
    """The package that build.sh has made."""
    (found,) = (ROOT / "dist").glob("slash24_*.deb")
    return found


@pytest.fixture
def debian() -> Iterator[Machine]:
    """A node with Debian's containerd and podman, where systemd seems to run."""
    made = Machine()
    made.path("/usr/local/bin/systemctl").write_text(SYSTEMCTL)
    made.path("/usr/local/bin/systemctl").chmod(0o755)
    made.path("/run/systemd/system").mkdir(parents=True)
    try:
        yield made
    finally:
        made.close()


def called(machine: Machine) -> list[str]:
    """What systemctl was told since the last time."""
    log = machine.path("/tmp/called")
    lines = [line for line in log.read_text().splitlines() if not line.startswith("is-")]
    log.write_text("")
    return lines


def test_the_package_is_installed_removed_and_purged(debian: Machine, package: Path) -> None:
    """Runtimes find the plugins, the agent is enabled, the command works; afterwards nothing of it is left."""
    before = state(debian, *ALSO)
    restart = "try-restart slash24-agent.service slash24-node.service"
    enable = "enable --now slash24-agent.socket slash24-agent.service"
    debian.run(["dpkg", "--install", package])
    assert called(debian) == ["daemon-reload", restart, enable]
    for name in TYPES:
        debian.run(["cmp", f"/usr/lib/cni/{name}", ROOT / "dist" / "bin" / name])
    tried = debian.run(["/usr/bin/slash24", "install", "--network", "simple"]).stdout
    assert "simple works: the scratch pod had 10.21.0.2/24, and is gone" in tried
    assert debian.path("/usr/lib/systemd/system/slash24-agent.service").exists()
    assert not list(debian.path("/etc/systemd/system").glob("slash24*"))
    assert not list(debian.path("/usr/local/share").rglob("*slash24*"))
    called(debian)
    debian.run(["dpkg", "--install", package])
    assert called(debian) == [enable]  # nothing has changed, and this systemd says of nothing that it runs
    debian.run(["dpkg", "--remove", "slash24"])
    assert called(debian)[-1] == "--system daemon-reload"
    debian.run(["dpkg", "--purge", "slash24"])
    assert state(debian, *ALSO) == before
    assert not debian.path("/opt/cni").exists()
    assert debian.run(["dpkg", "--list", "slash24"], check=False).returncode != 0


def test_lintian_finds_nothing(package: Path) -> None:
    """Beyond what freeze/debian/overrides explains; and each of these is needed."""
    argv = ["lintian", "--display-info", "--fail-on", "error,warning", package]
    done = subprocess.run(argv, capture_output=True, text=True)
    tags = [line for line in done.stdout.splitlines() if line[:2] in ("E:", "W:")]
    assert tags == []
    assert "unused-override" not in done.stdout
    assert done.returncode == 0, done.stderr


def test_the_same_files_give_the_same_package(package: Path, tmp_path: Path) -> None:
    """Byte for byte; its first entry tells the time that it was made with."""
    made = package.read_bytes()
    epoch, again = str(int(made[24:36])), tmp_path / package.name
    argv = [sys.executable, "-m", "freeze.deb", ROOT / "dist" / "bin", package.name.split("_")[1], epoch, again]
    subprocess.run(argv, cwd=ROOT, check=True)
    assert again.read_bytes() == made

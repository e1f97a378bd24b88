"""The guard that checks for leftovers finds what a test leaves, and ignores what other processes create meanwhile."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

SOURCE = """
import subprocess
from tests.netns.fixtures import untouched_machine
def test_it(): subprocess.run({argv!r}, check=True)
"""
MAKE = """
ip link add left type bridge
nft add table ip left
mount -t tmpfs left /mnt
sysctl -w net.ipv4.ip_forward=1
"""
UNDO = """
sysctl -w net.ipv4.ip_forward=0
umount /mnt
nft delete table ip left
ip link del left
"""


def run(folder: Path, argv: list[str]) -> str:
    """Run pytest with one guarded test that runs the command; return its output."""
    (folder / "test_it.py").write_text(SOURCE.format(argv=argv))
    pytest_there = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", ".", "-p", "no:cacheprovider"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*pytest_there, "."], cwd=folder, env=environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    return done.stdout


def test_a_leftover_of_a_test_is_an_error(tmp_path: Path) -> None:
    """The error names the leftover, whatever its kind."""
    said = run(tmp_path, ["sh", "-ec", MAKE])
    assert "1 passed, 1 error" in said
    (error,) = [line for line in said.splitlines() if line.startswith("E ") and "the tests changed the machine" in line]
    assert all(f"'{kind}': (" in error for kind in ("links", "nftables", "mounts", "forwarding"))


def test_objects_of_other_processes_are_not_an_error(tmp_path: Path) -> None:
    """The objects are created in this process's namespace, which is the host for the nested run."""
    try:
        said = run(tmp_path, ["nsenter", f"--target={os.getpid()}", "--net", "--mount", "sh", "-ec", MAKE])
    finally:
        subprocess.run(["sh", "-ec", UNDO], check=True)
    assert "1 passed" in said
    assert "error" not in said

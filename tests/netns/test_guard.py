"""The guard that tests leave the machine as it was finds what they leave, and nothing that others make meanwhile."""

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
    """What a run of pytest says of one guarded test that runs the command."""
    (folder / "test_it.py").write_text(SOURCE.format(argv=argv))
    pytest_there = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", ".", "-p", "no:cacheprovider"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*pytest_there, "."], cwd=folder, env=environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    return done.stdout


def test_what_a_test_leaves_is_an_error(tmp_path: Path) -> None:
    """It is named, whatever kind of thing it is."""
    said = run(tmp_path, ["sh", "-ec", MAKE])
    assert "1 passed, 1 error" in said
    (error,) = [line for line in said.splitlines() if line.startswith("E ") and "the tests changed the machine" in line]
    assert all(f"'{kind}': (" in error for kind in ("links", "nftables", "mounts", "forwarding"))


def test_what_others_make_meanwhile_is_not(tmp_path: Path) -> None:
    """Made where this process is, which is the machine for the run that it starts."""
    try:
        said = run(tmp_path, ["nsenter", f"--target={os.getpid()}", "--net", "--mount", "sh", "-ec", MAKE])
    finally:
        subprocess.run(["sh", "-ec", UNDO], check=True)
    assert "1 passed" in said
    assert "error" not in said

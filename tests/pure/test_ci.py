"""What tests/conftest.py does for all tests.

A test that did not run must not look passed: one that skips in CI, or that this machine's kernel cannot run.
Hypothesis has no deadline.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent.parent
SKIPS = {
    "test_one": "import pytest\ndef test_it(): pytest.skip('no such tool')\n",
    "test_module": "import pytest\npytest.skip('no such tool', allow_module_level=True)\n",
    "test_kernel": "import pytest\npytest.skip('kernel lacks VLANs', allow_module_level=True)\n",
}
"""What skips, by the name of its file."""
PYTEST = ["-q", "-p", "tests.conftest", "-c", "/dev/null", "--rootdir", "."]

WORKERS = ("-n2", "--dist=loadgroup")

FOR_ANOTHER_KERNEL = """
import os, pytest
@pytest.mark.xdist_group("pair")
@pytest.mark.parametrize("vlan", [1, 2, 3, 4])
def test_it(vlan):
    if "THERE" not in os.environ or vlan == 4:
        pytest.skip("kernel lacks VLANs")
    assert vlan != 3
def test_beside(): pass
"""
GROUPED = """
import os, pytest
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
@pytest.mark.xdist_group("group")
def test_it(number):
    with open("workers", "a") as file:
        print(os.environ["PYTEST_XDIST_WORKER"], file=file)
"""
VM = """#!/bin/sh -e
results=$4
shift 4
{say}
for word; do
    shift
    case $word in /results/*) word=$results${{word#/results}} ;; esac
    set -- "$@" "$word"
done
THERE=1 exec "$@" """
"""In place of the virtual machine: a shell that runs the command on this one."""


def run(folder: Path, sources: Mapping[str, str], *options: str, ci: str, vm: str = "exit 125") -> str:
    """The output of a run of pytest on these files, with the suite's conftest and these options.

    `vm`: the commands that the virtual machine runs first.
    """
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    (folder / "vm").write_text(VM.format(say=vm) + " ".join(PYTEST))
    (folder / "vm").chmod(0o755)
    (folder / "conftest.py").write_text(f"from tests.vm import handover\nhandover.RUN = [{str(folder / 'vm')!r}]\n")
    # pytest's variables are meant for this run, not for the one that it starts.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *PYTEST, "-p", "no:cacheprovider", *options, "."],
        cwd=folder,
        env=environ | {"CI": ci, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    return done.stdout


def closing(said: str) -> str:
    """The last line, with the numbers of passed, failed and skipped tests."""
    return said.strip().splitlines()[-1]


def test_a_skip_fails_in_ci(tmp_path: Path) -> None:
    """Otherwise a test that did not run would look passed; a module may not skip for lack of kernel support either.

    None of its tests is collected, so none could run in the virtual machine.
    """
    line = closing(run(tmp_path, SKIPS, "--continue-on-collection-errors", ci="true"))
    assert "skipped" not in line
    assert line.startswith("1 failed, 2 errors")


def test_a_skip_is_accepted_outside_ci(tmp_path: Path) -> None:
    """A user without the tool can run the rest."""
    assert closing(run(tmp_path, SKIPS, ci="")).startswith("3 skipped")


@pytest.mark.parametrize(("ci", "options"), [("true", WORKERS), ("", ())], ids=["workers", "here"])
def test_what_the_kernel_lacks_is_tested_in_a_virtual_machine(tmp_path: Path, ci: str, options: Sequence[str]) -> None:
    """A test that skips because "kernel lacks ..." passes if it passes there; all of them run in one machine.

    A failure there is shown with its assertion; a skip there is a failure, because that kernel must support everything.
    """
    said = run(tmp_path, {"test_it": FOR_ANOTHER_KERNEL}, *options, ci=ci, vm="echo $# >>started")
    assert closing(said).startswith("2 failed, 3 passed")
    assert (tmp_path / "started").read_text().count("\n") == 1
    assert "assert 3 != 3" in said
    assert "skipped in the virtual machine: kernel lacks VLANs" in said


def test_without_a_virtual_machine_these_tests_fail(tmp_path: Path) -> None:
    """If it cannot be started, they fail with the reason."""
    said = run(tmp_path, {"test_it": FOR_ANOTHER_KERNEL}, ci="", vm="echo no emulator here; exit 125")
    assert closing(said).startswith("4 failed, 1 passed")
    assert "no emulator here" in said


def test_a_group_of_tests_runs_in_one_process(tmp_path: Path) -> None:
    """They share a fixture that takes long to make, or load both cores."""
    assert closing(run(tmp_path, {"test_it": GROUPED}, *WORKERS, ci="true")).startswith("6 passed")
    workers = (tmp_path / "workers").read_text().split()
    assert len(workers) == 6
    assert len(set(workers)) == 1


def test_hypothesis_has_no_deadline() -> None:
    """The time of an example depends on the machine's other load."""
    assert settings().deadline is None

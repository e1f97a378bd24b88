"""What the suite's conftest does for all tests.

What is not run must not look as if it had passed: skips in CI, tests that this machine's kernel can not run. Examples
have no deadline.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent.parent
ONE_TEST = "import pytest\ndef test_it(): pytest.skip({reason!r})\n"
WHOLE_MODULE = "import pytest\npytest.skip({reason!r}, allow_module_level=True)\ndef test_it(): pass\n"
PYTEST = ["-q", "-p", "tests.conftest", "-c", "/dev/null", "--rootdir", "."]

WORKERS = ("-n2", "--dist=loadgroup")

FOR_ANOTHER_KERNEL = """
import os, pytest
@pytest.mark.xdist_group("pair")
@pytest.mark.parametrize("vlan", [1, 2])
def test_it(vlan):
    if "THERE" not in os.environ:
        pytest.skip("kernel lacks VLANs")
    {body}
def test_beside(): pass
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


def run(folder: Path, source: str, *, ci: str, vm: str = "exit 125", options: Sequence[str] = ()) -> str:
    """What a run with the suite's conftest and these options of pytest says of a file.

    `vm`: what the virtual machine does before the command.
    """
    (folder / "test_it.py").write_text(source)
    (folder / "vm").write_text(VM.format(say=vm) + " ".join(PYTEST))
    (folder / "vm").chmod(0o755)
    (folder / "conftest.py").write_text(f"from tests.vm import handover\nhandover.RUN = [{str(folder / 'vm')!r}]\n")
    # What was meant for the run that this is a test of is not for the one that it starts.
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
    """The last line, with the numbers of passed, failed and skipped."""
    return said.strip().splitlines()[-1]


@pytest.mark.parametrize("source", [ONE_TEST, WHOLE_MODULE], ids=["test", "module"])
def test_a_skip_fails_in_ci(tmp_path: Path, source: str) -> None:
    """Whatever is not run must not look as if it had passed."""
    line = closing(run(tmp_path, source.format(reason="no such tool"), ci="true"))
    assert "skipped" not in line
    assert "1 failed" in line or "1 error" in line


@pytest.mark.parametrize("source", [ONE_TEST, WHOLE_MODULE], ids=["test", "module"])
def test_a_skip_stands_outside_ci(tmp_path: Path, source: str) -> None:
    """Someone without the tool can run the rest."""
    assert "1 skipped" in closing(run(tmp_path, source.format(reason="no such tool"), ci=""))


@pytest.mark.parametrize(("ci", "options"), [("true", WORKERS), ("", ())], ids=["workers", "here"])
def test_what_the_kernel_lacks_is_run_on_another(tmp_path: Path, ci: str, options: Sequence[str]) -> None:
    """A test that skips because "kernel lacks ..." passes if it passes in the virtual machine; all run in one."""
    said = run(tmp_path, FOR_ANOTHER_KERNEL.format(body="pass"), ci=ci, vm="echo $# >>started", options=options)
    assert closing(said).startswith("3 passed")
    assert (tmp_path / "started").read_text().count("\n") == 1


@pytest.mark.parametrize("options", [(), WORKERS], ids=["here", "workers"])
def test_a_failure_in_the_virtual_machine_is_a_failure_here(tmp_path: Path, options: Sequence[str]) -> None:
    """What fails there is shown here, with what was compared."""
    said = run(tmp_path, FOR_ANOTHER_KERNEL.format(body="assert vlan == 2"), ci="", vm="", options=options)
    assert closing(said).startswith("1 failed, 2 passed")
    assert "assert 1 == 2" in said


def test_a_skip_in_the_virtual_machine_is_a_failure_here(tmp_path: Path) -> None:
    """Its kernel has to have it all."""
    said = run(tmp_path, FOR_ANOTHER_KERNEL.format(body='pytest.skip("kernel lacks that too")'), ci="", vm="")
    assert closing(said).startswith("2 failed, 1 passed")
    assert "skipped in the virtual machine: kernel lacks that too" in said


def test_without_a_virtual_machine_it_is_a_failure(tmp_path: Path) -> None:
    """Where it can not be started, the tests have failed, for the reason that it gives."""
    said = run(tmp_path, FOR_ANOTHER_KERNEL.format(body="pass"), ci="", vm="echo no emulator here; exit 125")
    assert closing(said).startswith("2 failed, 1 passed")
    assert "no emulator here" in said


def test_a_module_that_skips_is_not_excused_by_the_kernel(tmp_path: Path) -> None:
    """None of its tests is collected, so none could be run elsewhere."""
    said = run(tmp_path, WHOLE_MODULE.format(reason="kernel lacks VLANs"), ci="true")
    assert "1 error" in closing(said)


def test_no_example_is_timed() -> None:
    """Hypothesis fails no example for its time, which depends on what else the machine does."""
    assert settings().deadline is None

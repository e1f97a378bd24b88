"""The entry point of the executables."""

import re
import subprocess
import sys
import tomllib

import pytest

from plugins.__main__ import TYPES, VERSION, load
from tests.conftest import ROOT


def run(kind: str = "bridge", *, closed: str = "", **variables: str) -> subprocess.CompletedProcess:
    """Run a plugin from source, with the streams closed that `closed` names as shell redirections."""
    line = f'exec "{sys.executable}" -m plugins {kind} {closed}'
    return subprocess.run(["sh", "-c", line], cwd=ROOT, env=variables, input="{}", capture_output=True, text=True)


def test_the_version_is_that_of_the_project() -> None:
    """The version in the about text is the one in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
    assert f"CNI kubenet plugin {VERSION}\n" in run("kubenet").stderr


@pytest.mark.parametrize("kind", ["bridge", "firewall", "host-local"])
def test_a_replacement_of_a_reference_plugin_has_a_semantic_version(kind: str) -> None:
    """nerdctl parses it after "CNI firewall plugin ", and uses the policy `isolated` from 1.7.1 on."""
    first = run(kind).stderr.splitlines()[0]
    number, _, ours = first.removeprefix(f"CNI {kind} plugin v").partition("+")
    assert re.fullmatch(r"[0-9A-Za-z.-]+", ours)
    assert tuple(map(int, number.split("."))) >= (1, 7, 1)
    assert VERSION in ours


def test_every_type_loads_its_plugin() -> None:
    """Every name in the table loads a plugin of that type; any other name loads None."""
    assert {kind: load(kind).type for kind in TYPES} == {kind: kind for kind in TYPES}
    assert load("no-such-type") is None


def test_a_closed_stdin_is_an_error_document() -> None:
    """There is no configuration then: error 6, without a traceback."""
    done = run(closed="<&-", CNI_COMMAND="STATUS", CNI_PATH="/nowhere")
    assert done.returncode == 1
    assert '"code": 6' in done.stdout
    assert "Traceback" not in done.stderr


def test_a_closed_stdout_is_not_a_crash() -> None:
    """The output is lost, and no traceback is printed."""
    done = run(closed=">&-", CNI_COMMAND="VERSION")
    assert "Traceback" not in done.stderr

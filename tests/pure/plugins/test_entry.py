"""The entry of the executables."""

import re
import subprocess
import sys
import tomllib

import pytest

from plugins.__main__ import TYPES, VERSION, load
from tests.conftest import ROOT


def run(kind: str = "bridge", *, closed: str = "", **variables: str) -> subprocess.CompletedProcess:
    """A plugin from source, with the streams that `closed` names in shell words closed."""
    line = f'exec "{sys.executable}" -m plugins {kind} {closed}'
    return subprocess.run(["sh", "-c", line], cwd=ROOT, env=variables, input="{}", capture_output=True, text=True)


def test_version_is_that_of_the_project() -> None:
    """The version that the about text tells is the one in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
    assert f"CNI kubenet plugin {VERSION}\n" in run("kubenet").stderr


@pytest.mark.parametrize("kind", ["bridge", "firewall", "host-local"])
def test_a_plugin_in_the_reference_s_place_states_its_version_by_semver(kind: str) -> None:
    """nerdctl reads what stands behind "CNI firewall plugin " so, and wants 1.7.1 to cut pods off from each other."""
    first = run(kind).stderr.splitlines()[0]
    number, _, ours = first.removeprefix(f"CNI {kind} plugin v").partition("+")
    assert re.fullmatch(r"[0-9A-Za-z.-]+", ours)
    assert tuple(map(int, number.split("."))) >= (1, 7, 1)
    assert VERSION in ours


def test_every_type_loads_as_itself() -> None:
    """Each name in the table leads to a plugin of that type; any other name to none."""
    assert {kind: load(kind).type for kind in TYPES} == {kind: kind for kind in TYPES}
    assert load("no-such-type") is None


def test_a_closed_stdin_is_an_error_document() -> None:
    """Without a stdin there is no configuration: error 6, no traceback."""
    done = run(closed="<&-", CNI_COMMAND="STATUS", CNI_PATH="/nowhere")
    assert done.returncode == 1
    assert '"code": 6' in done.stdout
    assert "Traceback" not in done.stderr


def test_a_closed_stdout_is_no_crash() -> None:
    """Without a stdout the answer is lost, and nothing else happens."""
    done = run(closed=">&-", CNI_COMMAND="VERSION")
    assert "Traceback" not in done.stderr

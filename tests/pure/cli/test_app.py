"""The command line: what all commands have in common."""

import json
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cli import exits
from cli.app import COMMANDS, slash24
from cli.exits import Failure
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "slash24.md").read_text()


def command(name: str) -> click.Command:
    """The command of that name."""
    return slash24.get_command(click.Context(slash24), name)


def run(*arguments: str) -> tuple[int, str]:
    """The exit status of a command line, and what it printed."""
    done = CliRunner().invoke(slash24, arguments)
    return done.exit_code, done.output


def test_the_table_has_every_command() -> None:
    """And nothing else is in cli/commands."""
    files = {path.stem for path in (ROOT / "cli" / "commands").glob("*.py")} - {"__init__"}
    assert set(COMMANDS) == files


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_documented(name: str) -> None:
    """By a row on the page, and by --help; each option has a help of its own, and --json is one of them."""
    assert re.search(rf"^\| `slash24 {name}\b", PAGE, re.MULTILINE)
    assert run(name, "--help")[0] == exits.OK
    options = [one for one in command(name).params if isinstance(one, click.Option)]
    assert [one.name for one in options if not one.help] == []
    assert "as_json" in [one.name for one in options]


def test_exit_statuses_are_documented() -> None:
    """The table of docs/slash24.md has the values of cli/exits.py."""
    rows = re.findall(r"^\| (\d) \|", PAGE, re.MULTILINE)
    assert list(map(int, rows)) == [exits.OK, exits.FOUND, exits.USAGE, exits.FAILED]
    assert Failure.exit_code == exits.FAILED


def test_wrong_arguments_are_usage_errors() -> None:
    """The message names what is wrong."""
    status, output = run("leases", "--no-such-option")
    assert (status, "--no-such-option" in output) == (exits.USAGE, True)
    status, output = run("no-such-command")
    assert (status, "no-such-command" in output) == (exits.USAGE, True)


def test_leases_of_a_folder_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of addresses; files that are no leases are left out, a file without an owner has none."""
    monkeypatch.setattr("cli.commands.leases.read_leases.__defaults__", (str(tmp_path),))
    network = tmp_path / "net"
    network.mkdir()
    for name, text in {"10.1.0.10": "pod\r\neth0", "10.1.0.9": "old", "fd00::2": "", "lock": "", "x": "y"}.items():
        (network / name).write_text(text)
    status, output = run("leases", "--json")
    assert status == exits.OK
    found = [(lease["address"], lease["container"], lease["ifname"]) for lease in json.loads(output)]
    assert found == [("10.1.0.9", "old", ""), ("10.1.0.10", "pod", "eth0"), ("fd00::2", "", "")]
    assert [line.split()[:2] for line in run("leases")[1].splitlines()[1:]] == [["net", one[0]] for one in found]

"""The command line: what all commands have in common."""

import errno
import re

import click
import pytest
from click.testing import CliRunner

from cli import exits
from cli.__main__ import main
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


def test_what_nobody_expects_is_told_in_its_own_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """An error of the system ends a command with status 3 and a sentence."""

    def fail(**_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "/var/lib/cni")

    monkeypatch.delenv("CNI_COMMAND", raising=False)
    monkeypatch.setattr("cli.__main__.slash24", fail)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == exits.FAILED
    assert capsys.readouterr().err == "Error: [Errno 5] Input/output error: '/var/lib/cni'\n"

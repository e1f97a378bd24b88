"""freeze/pages.py: man pages, completion for shells, and what else comes along with the executables."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from cli.app import COMMANDS, slash24
from freeze.pages import COMPLETION, UNITS
from tests.conftest import ROOT

COMPLETE = """
set -eu
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_slash24_completion "$1"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is made when the suite is built."""
    folder = tmp_path_factory.mktemp("share")
    argv = [sys.executable, "-m", "freeze.pages", "1.2.3", "86400", folder]
    subprocess.run(argv, cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def complete(share: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """What bash offers for these words, the last of which is not finished."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "slash24"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m cli "$@"\n')
    command.chmod(0o755)

    def run(*words: str) -> list[str]:
        argv = ["bash", "-c", COMPLETE, "bash", share / "completion" / "bash" / "slash24", *words]
        environment = {"PATH": f"{folder}:/usr/bin:/bin"}
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout.split()

    return run


def test_bash_completes_commands(complete: Callable[..., list[str]]) -> None:
    """All of them, and those that begin as typed."""
    assert sorted(complete("slash24", "")) == sorted(COMMANDS)
    assert complete("slash24", "unin") == ["uninstall"]


def test_bash_completes_options(complete: Callable[..., list[str]]) -> None:
    """Of the command, and not of the program."""
    assert complete("slash24", "install", "--ne") == ["--network"]
    assert complete("slash24", "--ver") == ["--version"]


@pytest.mark.parametrize("shell", COMPLETION)
def test_loading_completion_starts_no_program(share: Path, shell: str) -> None:
    """The file of each shell has the functions themselves; the command runs only when something is completed."""
    text = (share / "completion" / shell / COMPLETION[shell]).read_text()
    assert "_SLASH24_COMPLETE=" in text
    assert "_source" not in text


def test_zsh_finds_the_function_by_the_name_of_its_file(share: Path) -> None:
    """As its first line says."""
    assert (share / "completion" / "zsh" / "_slash24").read_text().startswith("#compdef slash24\n")


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_man_pages(share: Path, name: str) -> None:
    """Each command has a page, with all of its options, that roff accepts without a warning."""
    page = share / "man" / f"slash24{'-' if name else ''}{name}.1"
    lines = page.read_text().splitlines()
    assert lines[0].startswith('.TH "SLASH24')
    assert '"1970-01-02" "1.2.3"' in lines[0]
    assert {line for line in lines if line.startswith(".SH")} >= {".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION"}
    command = slash24.get_command(click.Context(slash24), name) if name else slash24
    options = [option for each in command.params if isinstance(each, click.Option) for option in each.opts]
    text = page.read_text().replace("\\-", "-")
    assert [option for option in options if option not in text] == []
    if shutil.which("groff"):
        done = subprocess.run(
            ["groff", "-man", "-Tascii", "-P-cbou", "-ww", page], capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        assert "OPTIONS" in done.stdout


def test_what_else_comes_along(share: Path) -> None:
    """The examples of the documentation, and systemd's units."""
    for folder, names in (("networks", "docs/conflists/*.conflist"), ("systemd", "deploy/slash24-*.s*")):
        expected = {path.name: path.read_bytes() for path in ROOT.glob(names)}
        assert {path.name: path.read_bytes() for path in (share / folder).iterdir()} == expected
    assert {path.name for path in (share / "systemd").iterdir()} == set(UNITS)

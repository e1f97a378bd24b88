"""What comes along with the executables: man pages and completion of the command `slash24`, examples, systemd's units.

Pages and completion are made here, from the commands themselves, so that no shell starts a program to complete.

    python -m freeze.pages VERSION EPOCH FOLDER
"""

import os
import shutil
import sys
from datetime import UTC, datetime
from glob import glob

import click
from click.shell_completion import get_completion_class
from click_man.core import write_man_pages

from cli.app import COMMANDS, slash24

UNITS = ("slash24-agent.service", "slash24-agent.socket", "slash24-node.service")
COMPLETION = {"bash": "slash24", "zsh": "_slash24", "fish": "slash24.fish"}
"""The names under which the shells look for them."""


def man_pages(version: str, epoch: int, folder: str) -> None:
    """A page for the command, and one for each of its commands."""
    slash24.commands = {name: slash24.get_command(click.Context(slash24), name) for name in COMMANDS}
    for command in slash24.commands.values():
        command.short_help = command.get_short_help_str(limit=200)  # otherwise, 45 characters
    os.makedirs(folder)
    date = datetime.fromtimestamp(epoch, UTC).date().isoformat()
    write_man_pages("slash24", slash24, version=version, target_dir=folder, date=date)


def completion(folder: str) -> None:
    """The file of each shell."""
    for shell, name in COMPLETION.items():
        made = get_completion_class(shell)(slash24, {}, "slash24", "_SLASH24_COMPLETE")
        os.makedirs(os.path.join(folder, shell))
        with open(os.path.join(folder, shell, name), "w", encoding="utf-8") as file:
            file.write(made.source().strip() + "\n")


def main() -> None:
    """Write everything below FOLDER."""
    version, epoch, folder = sys.argv[1:]
    man_pages(version, int(epoch), os.path.join(folder, "man"))
    completion(os.path.join(folder, "completion"))
    others = {"networks": glob("docs/conflists/*.conflist"), "systemd": [f"deploy/{unit}" for unit in UNITS]}
    for name, paths in others.items():
        os.makedirs(os.path.join(folder, name))
        for path in paths:
            shutil.copyfile(path, os.path.join(folder, name, os.path.basename(path)))


if __name__ == "__main__":
    main()

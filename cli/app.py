"""The command line: its commands, each of which is imported only when it is used."""

from importlib import import_module

import click

from plugins.__main__ import VERSION

COMMANDS = ("install", "uninstall", "validate", "status", "pods", "leases", "trace", "gc", "switch")
"""In the order in which `--help` lists them; each is the object `command` of the module of its name in cli/commands."""


class Commands(click.Group):
    """The commands of the table."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Their names."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        return import_module(f"cli.commands.{cmd_name}").command if cmd_name in COMMANDS else None


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, message="%(version)s")
def slash24() -> None:
    """Look after this node's pod network.

    Commands that only look change nothing. Those that change something show it first, or do so with --dry-run.

    Exit status: 0 if all is well, 1 if a problem was found, 2 for wrong arguments, 3 if the command could not do what
    it was asked for.
    """

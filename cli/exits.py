"""The exit statuses of `slash24`, which docs/slash24.md promises to scripts."""

import click

OK = 0
FOUND = 1
"""The command did its work, and what it looked at has a problem."""
USAGE = 2
"""Wrong arguments; click's own."""
FAILED = 3
"""The command could not do what it was asked for; stderr says why."""


class Failure(click.ClickException):
    """Ends the command with FAILED, and a sentence on stderr: what failed, on what, and what to do."""

    exit_code = FAILED

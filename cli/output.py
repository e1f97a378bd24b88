"""What commands print: for people by Rich, for scripts as JSON."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

Command = TypeVar("Command", bound=Callable)

CONTAINER = 13
"""Characters of a container's ID in tables, as in those of crictl."""

Value = Mapping[str, object] | Sequence[object]
"""What `--json` prints: of dicts, lists, texts, numbers, booleans and None."""


def json_option(command: Command) -> Command:
    """Give a command the option --json, as the argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command)


def print_json(value: Value) -> None:
    """Print a document on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


@cache
def console(*, stderr: bool = False) -> "Console":
    """The terminal. Without one, as in a pipe, lines are as long as they need to be, and have no colours."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, soft_wrap=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=1000)


def cell(text: object) -> "Text":
    """A text of others for people: neither markup nor characters that a terminal would obey."""
    from rich.text import Text

    return Text("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text)))


def table(*columns: str, right: Sequence[str] = ()) -> "Table":
    """An empty table with these headings; the columns named in `right` are aligned there."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made

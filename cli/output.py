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

_ANY_WIDTH = 10_000  # columns of a terminal

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


def print_table(made: "Table", spare: Sequence[str] = ()) -> None:
    """Print a table; in a terminal that is too narrow without the columns named in `spare`, as far as it has to be.

    The first of them are left out first. A line tells which.
    """
    out, left_out = console(), []
    for column in spare:
        if out.measure(made, options=out.options.update(width=_ANY_WIDTH)).maximum <= out.width:
            break
        made = _without(made, column)
        left_out.append(column)
    out.print(made)
    if left_out:
        out.print(f"(not shown, as the terminal is narrow: {', '.join(left_out)})", style="dim")


def _without(made: "Table", name: str) -> "Table":
    """A copy of a table without a column."""
    columns = [column for column in made.columns if column.header != name]
    copy = table(*(str(column.header) for column in columns))
    for column, original in zip(copy.columns, columns, strict=True):
        column.justify = original.justify
    for row, cells in zip(made.rows, zip(*(column.cells for column in columns), strict=True), strict=True):
        copy.add_row(*cells, style=row.style)
    return copy

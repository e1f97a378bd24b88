"""What people see: text of others, and tables in terminals that are too narrow for them."""

import io

import pytest
from rich.console import Console

from cli import output


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    """A terminal of 30 columns, which keeps what is printed."""
    made = Console(width=30, file=io.StringIO(), force_terminal=True, color_system=None)
    monkeypatch.setattr(output, "console", lambda: made)
    return made


def lines(terminal: Console) -> list[str]:
    """What was printed, as lines."""
    return [line.rstrip() for line in terminal.file.getvalue().splitlines()]


def test_text_of_others_is_only_text() -> None:
    """Neither Rich's markup nor a terminal's sequences."""
    assert output.cell("[red]a\x1b[2Jb\n").plain == "[red]a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("short", ["pod", "address", "age"]),
        ("a-rather-long-one", ["pod", "age"]),
        ("a-very-long-one-of-thirty-chars", ["pod"]),
    ],
)
def test_a_table_fits_the_terminal(terminal: Console, name: str, shown: list[str]) -> None:
    """Columns that are spare are left out, one after the other, and named."""
    made = output.table("pod", "address", "age", right=("age",))
    made.add_row(output.cell(name), "10.1.0.2", "3 s", style="red")
    output.print_table(made, spare=("address", "age"))
    head, *others = lines(terminal)
    assert head.split() == shown
    left_out = [column for column in ("address", "age") if column not in shown]
    assert ("(not shown, as the terminal is" in " ".join(others)) == bool(left_out)
    assert made.columns[2].justify == "right"


def test_without_a_terminal_nothing_is_left_out(capsys: pytest.CaptureFixture) -> None:
    """Programs find every column."""
    output.console.cache_clear()
    made = output.table("a", "b")
    made.add_row("x" * 100, "y" * 100)
    output.print_table(made, spare=("b",))
    output.console.cache_clear()
    assert capsys.readouterr().out.splitlines()[0].split() == ["a", "b"]

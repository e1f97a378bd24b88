"""`slash24 validate`: is this a good install?"""

import sys
from collections.abc import Iterable

import click

from cli import exits
from cli.output import cell, console, json_option, print_json
from cli.root import require_root

_MARKS = {"ok": ("ok", ""), "problem": ("PROBLEM", "bold red"), "warning": ("warning", "yellow")}
_OTHER = ("-", "dim")
"""By outcome, the word and the style."""


@click.command()
@click.option("--no-trial", is_flag=True, help="Do not try the network with two scratch pods.")
@json_option
def command(*, no_trial: bool, as_json: bool) -> None:
    """Check whether this node is well installed: what was looked at, what was found, and how to mend it.

    In the end two scratch pods are added, checked, used and deleted. The exit status is 1 if a problem was found;
    warnings do not count.
    """
    require_root("read the node's rules, sockets and namespaces, and to add pods")
    from cli.validate.node import Facts
    from cli.validate.table import CHECKS, TRIAL
    from linux.netlink.socket import Netlink

    with Netlink() as host:
        facts = Facts(host)
        made = [(check, list(check.made(facts))) for check in (*CHECKS, *(() if no_trial else (TRIAL,)))]
    documents = [
        {"check": check.name, "lookedAt": check.looks_at, "outcome": one.outcome, "found": one.found, "mend": one.mend}
        for check, found in made
        for one in found
    ]
    outcomes = [document["outcome"] for document in documents]
    counts = {"problems": outcomes.count("problem"), "warnings": outcomes.count("warning")}
    if as_json:
        print_json({**counts, "findings": documents})
    else:
        _show(documents)
        console().print(f"\n{_count(counts['problems'], 'problem')}, {_count(counts['warnings'], 'warning')}")
    sys.exit(exits.FOUND if counts["problems"] else exits.OK)


def _show(documents: Iterable[dict[str, str]]) -> None:
    from rich.table import Table

    shown, last = Table.grid(padding=(0, 2)), ""
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for document in documents:
        mark, style = _MARKS.get(document["outcome"], _OTHER)
        if document["check"] != last:
            last = document["check"]
            looked_at = cell(document["lookedAt"])
            looked_at.stylize("dim")
            shown.add_row(cell(last), looked_at, style="bold")
        shown.add_row(cell(f"  {mark}"), cell(document["found"]), style=style)
        if document["mend"]:
            shown.add_row("  mend", cell(document["mend"]))
    console().print(shown)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"

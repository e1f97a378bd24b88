"""`slash24 switch`: what another provider of pod networks left on this node, and its removal."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from cli import exits
from cli.exits import Failure
from cli.output import cell, console, json_option, print_json, table
from cli.root import require_root
from cli.switch.names import NAMES

if TYPE_CHECKING:
    from cli.switch.find import Findings
    from cli.switch.leftover import Leftover

Results = Mapping["Leftover", str]
"""What became of leftovers: what failed, "" for those that are gone."""


@click.command()
@click.argument("provider", required=False, type=click.Choice(NAMES))
@click.option("--yes", is_flag=True, help="Carry the plan out. Without it, nothing is changed.")
@json_option
def command(*, provider: str | None, yes: bool, as_json: bool) -> None:
    """Find what another provider of pod networks left on this node, and take it away.

    Without PROVIDER, all that left something are listed. With it, the plan is shown: each leftover, and the commands by
    which a person would remove it. With --yes it is carried out, unless pods of the provider run that cannot go on.

    The exit status is 1 if something is left.
    """
    if yes and not provider:
        raise click.UsageError("--yes needs a provider: one at a time")
    require_root("read the rules of the kernel")
    if provider is None:
        _list(as_json=as_json)
    elif yes:
        _carry_out(provider, as_json=as_json)
    else:
        _plan(provider, as_json=as_json)


def _inspect(provider: str) -> "Findings":
    from cli.switch.carry_out import said
    from cli.switch.find import inspect
    from spec.errors import CNIError

    try:
        return inspect(provider)
    except (CNIError, OSError) as error:
        raise Failure(f"cannot see what is on this node: {said(error)}") from error


def _list(*, as_json: bool) -> None:
    from cli.switch.carry_out import said
    from cli.switch.find import find_all
    from spec.errors import CNIError

    try:
        found = find_all()
    except (CNIError, OSError) as error:
        raise Failure(f"cannot see what is on this node: {said(error)}") from error
    if as_json:
        print_json([_document(name, one, {}) for name, one in found.items()])
    elif not found:
        console().print("No other provider left anything on this node.")
    else:
        shown = table("provider", "left", "pods", "in the way", right=("left", "pods"))
        for name, one in found.items():
            shown.add_row(name, str(len(one.leftovers)), str(len(one.pods)), cell(one.obstacle or "-"))
        console().print(shown)
        console().print("\n`slash24 switch PROVIDER` shows what is left, and how it is taken away.")
    sys.exit(exits.FOUND if found else exits.OK)


def _plan(provider: str, *, as_json: bool) -> None:
    found = _inspect(provider)
    if as_json:
        print_json(_document(provider, found, {}))
    elif not found.leftovers:
        console().print(cell(f"Nothing of {found.title} is left on this node."))
    else:
        console().print(cell(f"What is left of {found.title}, and how it is taken away:"))
        for number, one in enumerate(found.leftovers, 1):
            console().print()
            console().print(cell(f"{number}. {one.sentence}"), style="bold")
            if one.waits:
                console().print(cell(f"   stays for now: {one.waits}"), style="yellow")
            for line in one.commands:
                console().print(cell(f"   {line}"), soft_wrap=True)
        _show_notes(found)
        console().print()
        console().print(
            cell(f"Not now: {found.obstacle}." if found.obstacle else f"`slash24 switch {provider} --yes` does it.")
        )
    sys.exit(exits.FOUND if found.leftovers else exits.OK)


def _carry_out(provider: str, *, as_json: bool) -> None:
    from cli.switch.carry_out import carry_out, said
    from spec.errors import CNIError

    found = _inspect(provider)
    if found.obstacle:
        raise Failure(f"nothing was changed: {found.obstacle}")
    results: dict[Leftover, str] = {}
    try:
        for one, failure in carry_out(found):
            results[one] = failure
            if not as_json:
                _show_result(one, failure)
    except (CNIError, OSError) as error:
        raise Failure(f"cannot take the leases over: {said(error)}; the configurations are as they were") from error
    left = _inspect(provider).leftovers
    if as_json:
        print_json({**_document(provider, found, results), "left": [one.sentence for one in left]})
    elif not found.leftovers:
        console().print(cell(f"Nothing of {found.title} is left on this node."))
    else:
        for one in left:
            if one.waits:
                console().print(cell(f"stays for now: {one.sentence}: {one.waits}"), style="yellow")
        _show_notes(found)
    sys.exit(exits.FAILED if any(results.values()) else exits.FOUND if left else exits.OK)


def _show_result(one: "Leftover", failure: str) -> None:
    if not failure:
        console().print(cell(f"done: {one.sentence}"), style="green")
        return
    console(stderr=True).print(cell(f"failed: {one.sentence}: {failure}"), style="red")
    for line in one.commands:
        console(stderr=True).print(cell(f"   {line}"), soft_wrap=True)


def _show_notes(found: "Findings") -> None:
    for sentence in found.notes:
        console().print(cell(f"Note: {sentence}"), style="yellow")
    if found.by_hand:
        console().print("\nBy hand, where it applies:")
        for sentence in found.by_hand:
            console().print(cell(f"- {sentence}"))


def _document(provider: str, found: "Findings", results: "Results") -> dict[str, object]:
    """For scripts. `result`: None if nothing was tried, "" if it is gone, or what failed."""
    return {
        "provider": provider,
        "title": found.title,
        "obstacle": found.obstacle,
        "leftovers": [
            {
                "kind": one.kind,
                "name": one.name,
                "sentence": one.sentence,
                "commands": list(one.commands),
                "waits": one.waits,
                "result": results.get(one),
            }
            for one in found.leftovers
        ],
        "pods": [
            {"link": pod.link, "container": pod.container, "pod": pod.pod, "netns": pod.netns} for pod in found.pods
        ],
        "running": [{"name": name, "pid": pid} for name, pid in found.running],
        "byHand": list(found.by_hand),
        "notes": list(found.notes),
    }

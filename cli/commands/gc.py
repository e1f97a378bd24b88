"""`slash24 gc`: what is left of pods that no runtime knows any more, and its removal."""

import sys
from collections import Counter
from collections.abc import Collection, Sequence

import click

from cli import exits
from cli.gc.inventory import LEASE, Piece
from cli.gc.leftovers import Leftover, Plan, read_plan
from cli.output import CONTAINER, cell, console, json_option, print_json, print_table, table
from cli.root import require_root


@click.command()
@click.option("--network", help="Only what is of this network.")
@click.option("--yes", is_flag=True, help="Remove it. Without this option it is only shown.")
@json_option
def command(*, network: str | None, yes: bool, as_json: bool) -> None:
    """Show what is left of pods that are gone: leases, links, rules and files; with --yes, remove it.

    A pod is gone if neither its network namespace is there, nor a runtime knows its container, nor any namespace has
    its addresses. What may be a pod's is kept. The exit status is 1 if something is left, 3 if it cannot be removed.
    """
    require_root("look into the namespaces of pods")
    plan = read_plan(network)
    failures = _remove(plan, network) if yes else {}
    if as_json:
        print_json(
            {
                "stale": [_document(one) for one in plan.stale],
                "kept": [_document(one) for one in plan.kept],
                "unasked": list(plan.unasked),
                "removed": yes and not failures,
                "failures": list(failures.values()),
            }
        )
    else:
        _show(plan, removed=yes, failures=failures)
    if yes:
        sys.exit(exits.FAILED if failures else exits.OK)
    sys.exit(exits.FOUND if plan.stale else exits.OK)


def _remove(plan: Plan, network: str | None) -> dict[Leftover, str]:
    """Remove what is stale; returns a sentence for each that could not be, or is still there afterwards."""
    from cli.gc.removal import remove
    from spec.errors import CNIError

    failures = {}
    for one in plan.stale:
        try:
            remove(one, plan.configurations.get(one.network), plan.held)
        except (CNIError, OSError) as error:
            failures[one] = f"{_name(one)}: {error}"
    left = {piece for one in read_plan(network).stale for piece in one.pieces} if plan.stale else set()
    for one in plan.stale:
        if one not in failures and not left.isdisjoint(one.pieces):
            failures[one] = f"{_name(one)}: {_pieces(one, left)}"
    return failures


def _show(plan: Plan, *, removed: bool, failures: dict[Leftover, str]) -> None:
    out = console()
    if plan.stale:
        print_table(_table(plan.stale), spare=("interface", "container"))
    for one in plan.kept:
        out.print(cell(f"Kept: {_name(one)}, {_pieces(one)}: {one.why}"))
    for sentence in plan.unasked:
        out.print(cell(f"Note: {sentence}"))
    for sentence in failures.values():
        out.print(cell(f"Could not be removed: {sentence}"), style="red")
    if not plan.stale:
        out.print("Nothing is left of pods that are gone.")
    elif removed:
        out.print(f"Removed what was left of {len(plan.stale) - len(failures)} of {len(plan.stale)}.")
    else:
        out.print("Nothing was changed. To remove this: slash24 gc --yes")


def _table(found: Sequence[Leftover]) -> object:
    shown = table("network", "pod", "container", "interface", "left", "why")
    for one in found:
        names = one.network, one.pod, one.container[:CONTAINER], one.ifname
        shown.add_row(*(cell(name or "-") for name in names), cell(_pieces(one)), cell(one.why))
    return shown


def _pieces(one: Leftover, among: Collection[Piece] | None = None) -> str:
    """What there is, in words; several of a kind are counted, except for leases, whose addresses people look for."""
    pieces = [piece for piece in one.pieces if among is None or piece in among]
    counts = Counter(piece.kind for piece in pieces if piece.kind != LEASE)
    words = [f"lease {piece.name}" for piece in pieces if piece.kind == LEASE]
    return ", ".join([*words, *(kind if count == 1 else f"{count} x {kind}" for kind, count in counts.items())])


def _name(one: Leftover) -> str:
    """What a sentence calls an owner."""
    return f"{one.pod or one.container[:CONTAINER] or 'without an owner'} ({one.network or 'of an unknown network'})"


def _document(one: Leftover) -> dict[str, object]:
    return {
        "network": one.network,
        "container": one.container,
        "ifname": one.ifname,
        "tag": one.tag,
        "pod": one.pod,
        "why": one.why,
        "pieces": [{"kind": piece.kind, "name": piece.name} for piece in one.pieces],
    }

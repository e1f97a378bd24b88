"""`slash24 pods`: what is attached to this node's networks, and what is wrong with it."""

import sys
import time
from dataclasses import asdict

import click

from cli import exits, units
from cli.facts.attachments import AttachedPod, read_attachments
from cli.output import CONTAINER, cell, console, json_option, print_json, print_table, table
from cli.root import require_root

_NAMED = "/run/netns/"


@click.command()
@click.option("--network", help="Only the pods of this network.")
@json_option
def command(*, network: str | None, as_json: bool) -> None:
    """List the pods of this node, with their addresses and links, and what is wrong with them.

    Received and sent are the pod's. The exit status is 1 if something is wrong with one of them.
    """
    require_root("look into the namespaces of pods")
    found = [one for one in read_attachments() if network in (None, one.network)]
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        _show(found)
    sys.exit(exits.FOUND if any(one.problems for one in found) else exits.OK)


def _show(found: list[AttachedPod]) -> None:
    if not found:
        console().print("No pod is attached to a network of this node.")
        return
    names = ("network", "pod", "container", "interface", "address", "host veth", "namespace", "age", "received", "sent")
    shown = table(*names, right=("age", "received", "sent"))
    for one in found:
        shown.add_row(
            *map(cell, (one.network, one.pod or "-", one.container[:CONTAINER] or "-", one.ifname)),
            cell(", ".join(one.addresses) or "-"),
            *map(cell, (one.veth or "-", one.netns.removeprefix("/var").removeprefix(_NAMED) or "-", _age(one))),
            *map(cell, (units.size(one.received.bytes), units.size(one.sent.bytes))),
        )
    print_table(shown, spare=("namespace", "host veth", "container", "interface", "sent", "received"))
    for one in found:
        for problem in one.problems:
            console().print(cell(f"{_name(one)}: {problem}"), style="red")


def _age(one: AttachedPod) -> str:
    return units.span(time.time() - one.since) if one.since else "-"


def _name(one: AttachedPod) -> str:
    """What a sentence calls an attachment."""
    return f"{one.pod or one.container[:CONTAINER] or one.veth} ({one.network}, {one.ifname})"

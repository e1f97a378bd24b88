"""`slash24 leases`: the addresses that this node's pods have, how full the ranges are, and what does not fit."""

import sys
import time
from dataclasses import asdict

import click

from cli import exits, units
from cli.facts.addresses import Addresses, Judged, read_addresses
from cli.facts.evidence import KEPT, STALE
from cli.output import CONTAINER, cell, console, json_option, print_json, print_table, table
from cli.root import require_root

_UNCOUNTABLE = 2**32


@click.command()
@click.option("--network", help="Only the leases of this network.")
@json_option
def command(*, network: str | None, as_json: bool) -> None:
    """List the leases of all networks on this node, and how full their ranges are.

    Leases without a pod and pods without a lease are marked; then the exit status is 1.
    """
    require_root("look into the namespaces of pods")
    found = read_addresses() if network is None else read_addresses().of(network)
    if as_json:
        print_json(_document(found))
    else:
        _show(found)
    is_wrong = found.unleased or any(one.state == STALE for one in found.leases)
    sys.exit(exits.FOUND if is_wrong else exits.OK)


def _show(found: Addresses) -> None:
    out = console()
    if not (found.leases or found.unleased or found.cooling):
        out.print("No address is leased on this node.")
    else:
        print_table(_table(found), spare=("age", "container", "interface"))
    for one in found.ranges:
        more = f", {one.cooling} cooling" if one.cooling else ""
        size = f"{one.addresses} addresses" if one.addresses < _UNCOUNTABLE else "the addresses"
        out.print(cell(f"{one.network}: {one.leased} of {size} of {one.range} leased{more}"))
    if any(one.state == STALE for one in found.leases):
        out.print("Leases without a pod are removed by: slash24 gc --yes", style="red")


def _table(found: Addresses) -> object:
    shown = table("network", "address", "container", "interface", "pod", "age", "state", right=("age",))
    for one in found.leases:
        lease = one.lease
        names = lease.network, lease.address, lease.container[:CONTAINER], lease.ifname, one.pod
        cells = *(cell(name or "-") for name in names), units.span(time.time() - lease.since), cell(_state(one))
        shown.add_row(*cells, style="red" if one.state == STALE else None)
    for pod in found.unleased:
        for address in pod.unleased:
            names = pod.network, address, pod.container[:CONTAINER] or "-", pod.ifname, pod.pod or "-", "-"
            shown.add_row(*map(cell, names), "no lease, and may be given to another pod", style="red")
    for one in found.cooling:
        words = f"cooling, {units.span(one.left)} left"
        shown.add_row(*map(cell, (one.network, one.address, "-", "-", "-", "-", words)), style="dim")
    return shown


def _state(one: Judged) -> str:
    marks = {STALE: "no pod: ", KEPT: "no pod known, but "}
    return f"{marks.get(one.state, '')}{one.why}" or "in use"


def _document(found: Addresses) -> dict[str, object]:
    return {
        "leases": [{**asdict(one.lease), "pod": one.pod, "state": one.state, "why": one.why} for one in found.leases],
        "unleased": [
            {"network": one.network, "container": one.container, "pod": one.pod, "addresses": list(one.unleased)}
            for one in found.unleased
        ],
        "cooling": [asdict(one) for one in found.cooling],
        "ranges": [asdict(one) for one in found.ranges],
    }

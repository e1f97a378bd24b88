"""`slash24 leases`: the addresses that this node's pods have."""

from dataclasses import asdict

import click

from cli.facts.leases import read_leases
from cli.output import console, json_option, print_json, table


@click.command()
@json_option
def command(*, as_json: bool) -> None:
    """List the leases of all networks on this node."""
    found = read_leases()
    if as_json:
        print_json([asdict(lease) for lease in found])
        return
    shown = table("network", "address", "container", "interface")
    for lease in found:
        shown.add_row(lease.network, lease.address, lease.container[:13], lease.ifname)
    console().print(shown)

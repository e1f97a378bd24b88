"""`slash24 trace`: where a packet from a pod goes, hop by hop, and where it stops."""

import signal
import sys
import textwrap
from dataclasses import asdict
from itertools import zip_longest
from types import FrameType

import click

from cli import exits
from cli.output import cell, console, json_option, print_json
from cli.root import require_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cli.trace.route import Traced

_NARROWEST = 20


@click.command()
@click.argument("pod")
@click.argument("destination", metavar="POD|ADDRESS")
@click.option("--port", type=click.IntRange(1, 65535), help="The port that it goes to; by default 80.")
@click.option(
    "--protocol",
    type=click.Choice(["tcp", "udp", "icmp"]),
    help="What is sent: a SYN, a datagram or an echo request. By default icmp, or with --port tcp.",
)
@json_option
def command(*, pod: str, destination: str, port: int | None, protocol: str | None, as_json: bool) -> None:
    """Send one packet from a pod, and tell hop by hop where it went and where it stopped.

    A pod is "namespace/name", a name, the beginning of a container ID, or an address of a pod of this node. Rules that
    the packet meets are traced by nftables; for that there are tables named slash24_trace while the command runs.

    The exit status is 0 if the packet arrived or left the node, 1 if it stopped, 3 if it could not be traced.
    """
    require_root("send packets from a pod, and to trace them")
    from cli.trace.route import trace

    protocol = protocol or ("tcp" if port else "icmp")
    if protocol == "icmp" and port:
        raise click.UsageError("--port: ICMP has no ports")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    found = trace(pod, destination, protocol, port or (0 if protocol == "icmp" else 80))
    if as_json:
        print_json({**found.summary(), "hops": [asdict(hop) for hop in found.story.hops]})
    else:
        _show(found)
    sys.exit(exits.FOUND if found.is_stopped else exits.OK)


def _end(number: int, _frame: FrameType | None) -> None:
    """End as after an error, so that nothing is left behind."""
    raise SystemExit(128 + number)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(_NARROWEST, width), break_long_words=False, break_on_hyphens=False)


def _show(found: "Traced") -> None:
    console().print(cell(found.title), style="bold")
    indent, before = max(len(hop.where) for hop in found.story.hops) + 2, ""
    for hop in found.story.hops:
        lines = _wrapped(hop.text, console().width - indent) or [""]
        for label, line in zip_longest([hop.where if hop.where != before else ""], lines, fillvalue=""):
            console().print(cell(label.ljust(indent) + line), style="red" if hop.is_stop else None, soft_wrap=True)
        before = hop.where
    for sentence in found.untraced:
        console().print(cell(sentence), style="yellow")
    console().print(cell(found.verdict), style="bold red" if found.is_stopped else "bold green")

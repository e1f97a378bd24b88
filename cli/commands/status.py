"""`slash24 status`: the node at a glance, in the terminal or as a drawing."""

import sys
from dataclasses import asdict

import click

from cli import exits
from cli.output import console, json_option, print_json
from cli.root import require_root


@click.command()
@click.option("--svg", type=click.Path(dir_okay=False), help="Draw the node into this SVG file instead.")
@click.option("--html", type=click.Path(dir_okay=False), help="Draw it into this HTML page, with lists of everything.")
@click.option("--watch", is_flag=True, help="Keep what is shown or written true, until Ctrl-C.")
@json_option
def command(*, svg: str | None, html: str | None, watch: bool, as_json: bool) -> None:
    """Show the node: its services, networks, pods and peers, what was repaired lately, and the last errors.

    What is healthy is grouped when there is much of it; what is not is always shown. The exit status is 1 if something
    is wrong.
    """
    if watch and as_json:
        raise click.UsageError("--watch and --json cannot be used together")
    require_root("look into the namespaces of pods")
    from cli.status.picture import everything_wrong
    from cli.status.read import Reader
    from cli.status.watch import keep_true, write

    reader, files = Reader(), {"svg": svg or "", "html": html or ""}
    if watch:
        keep_true(reader, files)
        return
    node = reader.read()
    if as_json:
        print_json({**asdict(node), "wrong": everything_wrong(node)})
    write(node, files)
    if not (as_json or any(files.values())):
        from cli.status.tree import tree_of

        console().print(tree_of(node))
    sys.exit(exits.FOUND if everything_wrong(node) else exits.OK)

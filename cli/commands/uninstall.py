"""`slash24 uninstall`: the node as it was before `slash24 install`."""

import os
from collections.abc import Iterator

import click

from cli.facts.paths import BIN
from cli.facts.runtimes import find_runtimes
from cli.install import links, networks, source, system
from cli.install.steps import Step, planned
from cli.output import json_option, print_json
from cli.root import require_root
from daemon.install import is_launcher, remove


@click.command()
@click.option("--dry-run", is_flag=True, help="Only print the steps.")
@json_option
def command(*, dry_run: bool, as_json: bool) -> None:
    """Remove what `slash24 install` has installed, and put back what that replaced.

    Pods keep their network. An example that was written for the runtimes is deleted, unless it was edited, or pods of
    its network are on the node.
    """
    require_root("uninstall")
    private = source.private_folder()
    done = []
    with planned("uninstall"):
        steps, notes = _steps(private)
        for step in steps:
            done.append(step.text)
            if not as_json:
                click.echo(f"{'would ' if dry_run else ''}{step.text}")
            if not dry_run:
                step.carry_out()
    if as_json:
        print_json({"steps": done, "done": not dry_run, "notes": notes})
        return
    for note in notes or ([] if done else ["nothing is installed"]):
        click.echo(note)


def _steps(private: str) -> tuple[Iterator[Step], list[str]]:
    """What is to be done, in order, and a sentence about each file that stays. Raises OSError."""
    runtimes = find_runtimes()
    unused, staying = networks.written(private, runtimes)

    def steps() -> Iterator[Step]:
        for path in unused:
            yield Step(f"delete {path}", lambda path=path: os.unlink(path))
        yield from system.remove_steps(private)
        yield from links.unlink_steps(runtimes)
        yield from links.undivert_steps()
        # At last: the command that runs is among them, and could load no module afterwards.
        if os.path.isdir(BIN) and any(is_launcher(os.path.join(BIN, name)) for name in os.listdir(BIN)):
            yield Step(f"remove the plugins from {BIN}, and restore what they replaced", lambda: remove(BIN))

    return steps(), staying

"""`slash24 install`: the plugins where the runtimes of this node look, the agent, and a network that was tried."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import click

from cli import exits
from cli.exits import Failure
from cli.facts.networks import Network
from cli.facts.paths import BIN
from cli.facts.runtimes import PODMAN, Runtime, find_runtimes
from cli.install import links, networks, source, system
from cli.install.networks import Target
from cli.install.steps import Step, planned
from cli.output import json_option, print_json
from cli.root import require_root
from cli.trial import scratch_pod
from daemon.install import is_installed, names_of, put
from spec.errors import CNIError


@dataclass(frozen=True)
class Trial:
    """What a scratch pod had: which network, by which version of CNI, and its addresses in CIDR notation."""

    network: str
    cni_version: str
    addresses: list[str]


@click.command()
@click.option("--network", metavar="NAME|FILE", help="Also try this network, and write it for the runtimes.")
@click.option("--dry-run", is_flag=True, help="Only print the steps.")
@json_option
def command(*, network: str | None, dry_run: bool, as_json: bool) -> None:
    """Install the plugins where the container runtimes of this node look for them, and start the agent.

    What has the plugins' names there is kept as NAME.distrib; `slash24 uninstall` puts it back. Installing again
    changes nothing, or what is new.

    With --network, an example of the documentation or a file is tried with a scratch pod, which leaves nothing, and
    written for each runtime, with a cniVersion that it reads. A file that is there already is not overwritten.

    The exit status is 1 if a runtime does not use the network that was written.
    """
    require_root("install")
    private = source.private_folder()
    runtimes = find_runtimes()
    wanted = networks.chosen(private, network) if network else None
    if not as_json:
        _show_runtimes(runtimes)
    steps: list[str] = []
    tried: list[Trial] = []
    with planned("install"):
        targets = networks.targets(wanted, runtimes) if wanted else []
        for step in _steps(private, runtimes, wanted, targets, tried):
            steps.append(step.text)
            if not as_json:
                click.echo(f"{'would ' if dry_run else ''}{step.text}")
            if not dry_run:
                step.carry_out()
        problems = [] if dry_run else list(_unused(targets, runtimes))
    notes = list(_notes(runtimes, wanted))
    if as_json:
        document = {"runtimes": [asdict(one) for one in runtimes], "steps": steps, "done": not dry_run}
        trials = [asdict(one) for one in tried]
        print_json(document | {"trials": trials, "notes": notes, "problems": problems})
    else:
        _show_end(steps, tried, [*notes, *problems])
    sys.exit(exits.FOUND if problems else exits.OK)


def _steps(
    private: str, runtimes: Sequence[Runtime], wanted: Network | None, targets: Sequence[Target], tried: list[Trial]
) -> Iterator[Step]:
    """What is needed, in order; each is looked for when those before it were carried out. Raises Failure, OSError."""
    written = list(networks.write_steps(targets))  # it refuses before anything has changed
    names = names_of(private)
    is_new = not is_installed(private, BIN)
    if is_new:
        yield Step(f"install the plugins in {BIN}", lambda: put(private, BIN))
    yield from links.link_steps(names, runtimes)
    yield from system.command_steps(private)
    yield from system.agent_steps(private, is_new=is_new)
    for target in targets if wanted else ():
        yield Step(
            f"try {wanted.name} with a scratch pod, for {', '.join(target.runtimes) or 'a runtime'}",
            lambda target=target: tried.append(_try(wanted, target)),
        )
    yield from written


def _try(network: Network, target: Target) -> Trial:
    """ADD, CHECK and DEL of a scratch pod, as the runtimes would call them. Raises Failure, OSError."""
    version = network.version_for(target.cni_version) or target.cni_version
    try:
        with scratch_pod(network, version, target.bin_dirs) as pod:
            pod.add()
            pod.check()
            addresses = [ip.address for ip in pod.result.ips]
    except CNIError as error:
        raise Failure(str(error)) from error
    return Trial(network.name, version, addresses)


def _unused(targets: Sequence[Target], runtimes: Sequence[Runtime]) -> Iterator[str]:
    """A sentence about each runtime that uses another network than the one that was written."""
    by_name = {runtime.name: runtime for runtime in runtimes}
    for target in targets:
        before = networks.first_of(target)
        for one in (by_name[name] for name in target.runtimes):
            if one.network not in ("", target.network) and one.name != PODMAN:
                yield f"{one.name} uses the network {one.network}, as {one.config} says: have it name {target.network}"
            elif before and not one.network:
                yield f"{one.name} uses the first file by name, which is {before}: move it away to use the new one"


def _notes(runtimes: Sequence[Runtime], wanted: Network | None) -> Iterator[str]:
    """What to know besides."""
    if not any(runtime.cni_version for runtime in runtimes):
        yield f"no runtime that uses CNI was found: have yours look into {BIN}"
    if not system.has_systemd():
        yield f"systemd does not run here: to make calls fast, have {BIN}/slash24-agent started; again after an upgrade"
    if wanted and any(runtime.name == PODMAN and runtime.cni_version for runtime in runtimes):
        yield f"podman uses a network by its name: podman run --network {wanted.name}"


def _show_runtimes(runtimes: Sequence[Runtime]) -> None:
    for one in runtimes:
        where = f"looks for plugins in {', '.join(one.bin_dirs)}; for networks in {one.conf_dir}"
        name = f"{one.name} {one.version}".strip()
        click.echo(f"{name} {where if one.cni_version else f'does not use CNI: {one.why_not}'}")
        for problem in one.problems:
            click.echo(f"{one.name}: {problem}")


def _show_end(steps: Sequence[str], tried: Sequence[Trial], sentences: Sequence[str]) -> None:
    if len(steps) == len(tried):
        click.echo("nothing had to be installed")
    for one in tried:
        click.echo(f"{one.network} works: the scratch pod had {', '.join(one.addresses) or 'no address'}, and is gone")
    for sentence in sentences:
        click.echo(sentence)

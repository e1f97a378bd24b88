"""Going on with the pods of kubenet, flannel and the CNI project's bridge: their leases, their bridge, their files.

These put pods on a bridge, with addresses of host-local, as slash24 does. So their pods may run on: the leases move to
the network of slash24's configuration, and what the old pods need stays until they are gone.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial

from cli.facts.leases import read_leases
from cli.facts.networks import Network, read_network
from cli.facts.paths import LEASES as LEASES_FOLDER
from cli.switch.files import BACKUP, Configurations, backup_of, deleted, lease_folder, move
from cli.switch.firewall import Choice, rules_leftover
from cli.switch.leftover import LEASES, Leftover, command
from cli.switch.providers import BRIDGE, FLANNEL, KUBENET, Provider
from cli.switch.seen import Seen, SeenTable
from ipam.handover import Handover
from plugins.node.conf import parse_section
from spec.addresses import Address, parse_address, parse_cidr
from spec.errors import CNIError
from state.files import read_file, replace_file

DELEGATES = "/var/lib/cni/flannel"
"""Where flannel's plugin keeps, by container, the configuration with which it called the next plugin."""

_BRIDGES = {KUBENET.name: "cbr0", FLANNEL.name: "cni0", BRIDGE.name: "cni0"}
_NETWORKS = {KUBENET.name: ("kubenet",), FLANNEL.name: ("cbr0",), BRIDGE.name: ()}
_OWN_BRIDGES = {"kubenet": "cbr0", "vxlan": "cbr0", "bridge": "cni0"}
_NODE_TYPES = ("kubenet", "vxlan")
_OWNER = re.compile(r'(?:dnat )?name: "(.*?)" id: "(.*?)"')
"""The comment of the reference plugins' rules for one pod."""


@dataclass(frozen=True)
class Takeover:
    """What is taken over from a provider, and by which configuration of slash24.

    `own`: None if there is none yet. `old`: the provider's configurations. `handovers`: of leases, by network, without
    that of `own`, which needs none. `bridge`: on which its pods are.
    """

    provider: Provider
    own: Network | None
    old: Sequence[Network]
    handovers: Mapping[str, Handover]
    bridge: str

    def problem(self, *, on_bridge: bool) -> str:
        """Why pods that run cannot go on, "" if they can. `on_bridge`: whether some are on the bridge.

        Raises CNIError 11, OSError.
        """
        if self.own is None:
            return "no configuration of slash24 is there to go on with them"
        bridge = bridge_of(self.own)
        if on_bridge and bridge != self.bridge:
            return f'{self.own.path} has the bridge {bridge}, and they are on {self.bridge}: set "bridge" there'
        subnets = _subnets_of(self.own)
        for address in (one for handover in self.handovers.values() for one in handover.addresses()):
            if subnets and not any(subnet.contains(parse_address(address)) for subnet in subnets):
                return f"address {address} is in no subnet of {self.own.path} ({', '.join(map(str, subnets))})"
        return ""

    def start(self) -> None:
        """Share the leases, and move the provider's configurations to the backup folder while no ADD can run.

        If it raises (CNIError 11, OSError), nothing has changed. The handovers have to be finished at the end.
        """
        step = self._move
        for handover in self.handovers.values() if self.own else ():
            step = partial(handover.share, step)
        step()

    def _move(self) -> None:
        with ExitStack() as undo:
            for network in self.old:
                target = backup_of(self.provider, network.path)
                move(network.path, target)
                undo.callback(move, target, network.path)
            for name in self.handovers if self.own else ():
                undo.callback(_rename_delegates, self.own.name, name)
                _rename_delegates(name, self.own.name)
            undo.pop_all()


def find_takeover(provider: Provider, configurations: Configurations) -> Takeover | None:
    """What would be taken over, None from a provider whose pods must be made anew."""
    if provider.name not in _BRIDGES:
        return None
    own = next((one for one in configurations.own if lease_folder(one)), None)
    old = configurations.of(provider)
    folders = {name: os.path.join(LEASES_FOLDER, name) for name in _NETWORKS[provider.name]}
    folders |= {one.name: folder for one in old if (folder := lease_folder(one))}
    taken = lease_folder(own) if own else ""
    present = {name: folder for name, folder in folders.items() if folder != taken and os.path.isdir(folder)}
    handovers = {name: Handover(folder, taken) for name, folder in present.items()}
    return Takeover(provider, own, old, handovers, _bridge(provider, old))


def _bridge(provider: Provider, old: Sequence[Network]) -> str:
    for network in old:
        with suppress(CNIError):
            section = network.main.section("delegate") if provider is FLANNEL else network.main
            if name := section.string("bridge"):
                return name
    return _BRIDGES[provider.name]


def find_leases(takeover: Takeover) -> Iterator[Leftover]:
    """The leases of old networks: they go to slash24's network, or, as nothing goes on with them, are deleted."""
    for name, handover in takeover.handovers.items():
        if not takeover.own:
            yield deleted(LEASES, handover.old, f"leases {handover.old}")
            continue
        old, new = handover.old, handover.new
        copy = f"cp -ln {command(old)}/* {command(new)}/; rm -r {command(old)}"
        locks = ("flock", os.path.join(old, "lock"), "flock", os.path.join(new, "lock"))
        lines = (command("mkdir", "-p", new), command(*locks, "sh", "-c", copy))
        sentence = f"{len(handover.addresses())} leases of network {name}, which go to network {takeover.own.name}"
        yield Leftover(LEASES, old, sentence, lines, handover.finish)


def find_delegates() -> Iterator[Leftover]:
    """What flannel's plugin keeps of each pod."""
    if os.path.isdir(DELEGATES):
        yield deleted(LEASES, DELEGATES, f"folder {DELEGATES}, what flannel's plugin keeps of each pod")


def own_bridges(configurations: Configurations) -> set[str]:
    """The bridges of slash24's configurations."""
    return {bridge_of(network) for network in configurations.own}


def bridge_of(own: Network) -> str:
    """The bridge of a configuration of slash24, "" if it is unreadable."""
    with suppress(CNIError):
        return own.main.string("bridge") or _OWN_BRIDGES.get(own.types[0], "")
    return ""


def _subnets_of(own: Network) -> list[Address]:
    """The subnets from which a configuration of slash24 gives addresses; none if they are not known."""
    with suppress(CNIError, ValueError, TypeError, AttributeError):
        if own.types[0] in _NODE_TYPES:
            return [parse_cidr(subnet) for subnet in parse_section(own.main).subnets]
        ipam = own.main.section("ipam")
        ranges = [one for some in ipam.raw("ranges") or () for one in some] + [{"subnet": ipam.string("subnet")}]
        return [parse_cidr(one["subnet"]) for one in ranges if one.get("subnet")]
    return []


def _rename_delegates(old: str, new: str) -> None:
    """Have flannel's plugin release in the new network what it leased in the old: its DEL calls what it once saved."""
    if old == new:
        return
    for path in delegates():
        with suppress(ValueError):
            saved = json.loads(read_file(path))
            if isinstance(saved, dict) and saved.get("name") == old:
                replace_file(path, f"{path}.new", json.dumps({**saved, "name": new}).encode())


def delegates() -> list[str]:
    """The files of flannel's plugin, one per container."""
    with suppress(OSError):
        names = sorted(name for name in os.listdir(DELEGATES) if not name.endswith(".new"))
        return [path for name in names if os.path.isfile(path := os.path.join(DELEGATES, name))]
    return []


def find_rules_of_gone_pods(takeover: Takeover, seen: Seen) -> Iterator[Leftover]:
    """Rules that the reference plugins made for pods of a network that has another name now, and that are gone.

    Their DEL, under the new name, does not find them.
    """
    former = {*takeover.handovers, *_moved_networks(takeover.provider)} - {takeover.own.name if takeover.own else ""}
    living = {lease.container for lease in read_leases()}

    def choose(table: SeenTable) -> Choice:
        found = [rule for rule in table.rules if (owner := _OWNER.fullmatch(rule.comment)) and owner[1] in former]
        gone = [rule for rule in found if _OWNER.fullmatch(rule.comment)[2] not in living]
        chains = {rule.target for rule in gone if rule.target.startswith("CNI-")} & set(table.chains)
        return Choice(tuple(sorted(chains)), tuple(rule for rule in gone if rule.chain not in chains))

    for table in seen.xtables:
        if chosen := choose(table):
            yield rules_leftover(table, chosen, choose)


def _moved_networks(provider: Provider) -> set[str]:
    """The networks whose configurations were moved away by an earlier run."""
    names = set()
    for folder, _, files in os.walk(os.path.join(BACKUP, provider.name, "etc")):
        for name in files:
            stem = re.sub(r"\.\d+$", "", name)
            if stem.endswith((".conf", ".conflist")):
                network = read_network(os.path.join(folder, name)) if stem == name else None
                names |= {network.name} if network and network.name else set()
    return names

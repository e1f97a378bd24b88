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

from cli.facts.cache import read_cache
from cli.facts.leases import read_leases
from cli.facts.networks import Network, read_network
from cli.facts.paths import LEASES as LEASES_FOLDER
from cli.switch.files import BACKUP, Configurations, backup_of, deleted, lease_folder, move
from cli.switch.firewall import Choice, rules_leftover
from cli.switch.leftover import FILE, LEASES, Leftover, command
from cli.switch.providers import BRIDGE, FLANNEL, KUBENET, Provider
from cli.switch.seen import Seen, SeenTable
from ipam.handover import Handover, is_handed_over
from plugins.node.conf import parse_section
from spec.addresses import Address, parse_address, parse_cidr
from spec.errors import CNIError
from state.files import delete_file, read_file, replace_file

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
    that of `own`, which needs none. `links`: to the new folder in place of those that were handed over, by network.
    `bridge`: on which its pods are.
    """

    provider: Provider
    own: Network | None
    old: Sequence[Network]
    handovers: Mapping[str, Handover]
    links: Mapping[str, str]
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
        """Hand the leases over, and move the provider's configurations to the backup folder while no ADD can run.

        If it raises (CNIError 11, OSError), nothing has changed.
        """
        step = self._move
        for handover in self.handovers.values() if self.own else ():
            step = partial(handover.perform, step)
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
                _rename_cached(name, self.own.name, undo)
            undo.pop_all()

    def finish(self) -> None:
        """Delete the links by which calls with the old names found the leases; the next run does what fails."""
        for handover in self.handovers.values():
            if is_handed_over(handover.old, handover.new):
                with suppress(OSError):
                    delete_file(handover.old)

    @property
    def done_by_start(self) -> set[str]:
        """The names of the leftovers that `start` takes away."""
        leases = {handover.old for handover in self.handovers.values()} if self.own else set()
        return {network.path for network in self.old} | leases


def find_takeover(provider: Provider, configurations: Configurations) -> Takeover | None:
    """What would be taken over, None from a provider whose pods must be made anew."""
    if provider.name not in _BRIDGES:
        return None
    own = next((one for one in configurations.own if lease_folder(one)), None)
    old = configurations.of(provider)
    folders = {name: os.path.join(LEASES_FOLDER, name) for name in _NETWORKS[provider.name]}
    folders |= {one.name: folder for one in old if (folder := lease_folder(one))}
    taken = lease_folder(own) if own else ""
    folders |= {name: os.path.join(LEASES_FOLDER, name) for name in _moved_networks(provider) if name not in folders}
    others = {name: folder for name, folder in folders.items() if folder != taken and os.path.isdir(folder)}
    links = {name: folder for name, folder in others.items() if is_handed_over(folder, taken)}
    handovers = {name: Handover(folder, taken) for name, folder in others.items() if not os.path.islink(folder)}
    return Takeover(provider, own, old, handovers, links, _bridge(provider, old))


def _bridge(provider: Provider, old: Sequence[Network]) -> str:
    for network in old:
        with suppress(CNIError):
            section = network.main.section("delegate") if provider is FLANNEL else network.main
            if name := section.string("bridge"):
                return name
    return _BRIDGES[provider.name]


def find_leases(takeover: Takeover, *, has_pods: bool) -> Iterator[Leftover]:
    """The leases of old networks: they go to slash24's network, or, as nothing goes on with them, are deleted.

    `has_pods`: there are pods for which a runtime may call by the old name.
    """
    for name, handover in takeover.handovers.items():
        if not takeover.own:
            yield deleted(LEASES, handover.old, f"leases {handover.old}")
            continue
        old, new = handover.old, handover.new
        link = f" && ln -s {command(new)} {command(old)}" if has_pods else ""
        copy = f"cp -ln {command(old)}/* {command(new)}/; rm -r {command(old)}{link}"
        locks = ("flock", os.path.join(old, "lock"), "flock", os.path.join(new, "lock"))
        lines = (command("mkdir", "-p", new), command(*locks, "sh", "-c", copy))
        sentence = f"{len(handover.addresses())} leases of network {name}, which go to network {takeover.own.name}"
        yield Leftover(LEASES, old, sentence, lines, partial(handover.perform, lambda: None))


def find_links(takeover: Takeover) -> Iterator[Leftover]:
    """What calls by the old name of a network still find the leases by."""
    own = takeover.own.name if takeover.own else ""
    for name, path in takeover.links.items():
        sentence = f"link {path}, by which calls for network {name} find the leases of network {own}"
        yield deleted(FILE, path, sentence)


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
    """Have flannel's plugin call the next one with the network's new name: its DEL repeats what it has saved.

    The reference's host-local does not release by a link.
    """
    for path in _delegates():
        with suppress(ValueError):
            saved = json.loads(read_file(path))
            if isinstance(saved, dict) and saved.get("name") == old:
                replace_file(path, f"{path}.new", json.dumps({**saved, "name": new}).encode())


def _rename_cached(old: str, new: str, undo: ExitStack) -> None:
    """Have runtimes find what libcni keeps of each ADD when they call DEL by the network's new name."""
    for one in read_cache():
        if one.network != old:
            continue
        content = read_file(one.path)
        target = os.path.join(os.path.dirname(one.path), f"{new}-{one.container}-{one.ifname}")
        renamed = json.dumps({**json.loads(content), "networkName": new}).encode()
        undo.callback(delete_file, target)
        replace_file(target, f"{target}.new", renamed)
        undo.callback(replace_file, one.path, f"{one.path}.new", content)
        delete_file(one.path)


def _delegates() -> list[str]:
    """The files of flannel's plugin, one per container."""
    with suppress(OSError):
        names = sorted(name for name in os.listdir(DELEGATES) if not name.endswith(".new"))
        return [path for name in names if os.path.isfile(path := os.path.join(DELEGATES, name))]
    return []


def find_rules_of_gone_pods(takeover: Takeover, seen: Seen) -> Iterator[Leftover]:
    """Rules that the reference plugins made for pods of a network that has another name now, and that are gone.

    Their DEL, under the new name, does not find them.
    """
    former = {*takeover.handovers, *takeover.links, *_moved_networks(takeover.provider)} - {
        takeover.own.name if takeover.own else ""
    }
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

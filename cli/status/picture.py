"""What `slash24 status` shows of a node, as pure data, and what of it is ill."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

BRIDGE, KUBENET, VXLAN = "bridge", "kubenet", "vxlan"
"""The modes of a network: the types of its main plugin."""


@dataclass(frozen=True)
class Service:
    """The agent, the daemon or the registry: its `state` in a few words, more about it, and what is wrong with it."""

    name: str
    state: str
    details: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Subnet:
    """A subnet of pods: how many addresses it has for them (0: beyond counting), and how many are leased."""

    cidr: str
    used: int
    size: int


@dataclass(frozen=True)
class Device:
    """The bridge or the VTEP of a network, with its addresses."""

    name: str
    addresses: tuple[str, ...] = ()
    details: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class PodPicture:
    """An attachment: its pod ("namespace/name") or else its container, and its veth on the node."""

    name: str
    addresses: tuple[str, ...] = ()
    veth: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class PeerPicture:
    """Another node. `way`: how it is reached, "tunnel" or "route", "" if it is not."""

    name: str
    address: str = ""
    subnets: tuple[str, ...] = ()
    way: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class NetworkPicture:
    """A network of pods. `mode`: bridge, kubenet or vxlan, "" if no configuration says so."""

    name: str
    mode: str = ""
    subnets: tuple[Subnet, ...] = ()
    bridge: Device | None = None
    vtep: Device | None = None
    pods: tuple[PodPicture, ...] = ()
    peers: tuple[PeerPicture, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Event:
    """Something that happened so many seconds ago."""

    seconds_ago: float
    text: str


@dataclass(frozen=True)
class NodePicture:
    """A node: its services and networks, what was repaired lately, the last errors, and what else is wrong with it."""

    name: str
    services: tuple[Service, ...] = ()
    networks: tuple[NetworkPicture, ...] = ()
    repairs: tuple[Event, ...] = ()
    errors: tuple[Event, ...] = ()
    problems: tuple[str, ...] = ()


def everything_wrong(node: NodePicture) -> list[str]:
    """A sentence for everything that is ill, with the thing that it is about."""
    return list(dict.fromkeys(_sentences(node)))


def _sentences(node: NodePicture) -> Iterator[str]:
    yield from node.problems
    for service in node.services:
        yield from _about(service.name, service.problems)
    for network in node.networks:
        yield from _about(f"network {network.name}", network.problems)
        for device in filter(None, (network.bridge, network.vtep)):
            yield from _about(device.name, device.problems)
        for pod in network.pods:
            yield from _about(pod.name, pod.problems)
        for peer in network.peers:
            yield from _about(peer.name, peer.problems)


def _about(name: str, problems: Iterable[str]) -> Iterator[str]:
    return (f"{name}: {problem}" for problem in problems)


Shown = TypeVar("Shown", PodPicture, PeerPicture)


def most_of(all_of_them: Sequence[Shown], limit: int) -> tuple[list[Shown], int]:
    """Those to show, the ill first, and how many well ones are left out: about `limit` are shown, and all the ill."""
    ill = [one for one in all_of_them if one.problems]
    well = [one for one in all_of_them if not one.problems]
    shown = len(well) if len(well) <= limit + 1 else limit  # one more takes no more room than telling so
    return [*ill, *well[:shown]], len(well) - shown


def summary(node: NodePicture) -> str:
    """The node in one line."""
    pods = sum(len(network.pods) for network in node.networks)
    peers = [peer for network in node.networks for peer in network.peers]
    ill = sum(1 for peer in peers if peer.problems)
    parts = [_count(len(node.networks), "network"), _count(pods, "pod")]
    if peers:
        parts.append(f"{_count(len(peers), 'peer')}, {f'{ill} stale' if ill else 'all up'}")
    return " · ".join(parts)


def verdict(node: NodePicture) -> str:
    """Whether all is well."""
    wrong = len(everything_wrong(node))
    return _count(wrong, "problem") if wrong else "all is well"


def leased(subnet: Subnet) -> str:
    """How full a subnet is."""
    addresses = "address" if subnet.used == 1 and not subnet.size else "addresses"
    return f"{subnet.used} of {subnet.size} addresses leased" if subnet.size else f"{subnet.used} {addresses} leased"


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"

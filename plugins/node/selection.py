"""Which records of other nodes are used, and why the others are left out. Pure.

Records come from other machines. One that is wrong must not stop the pods of this node, nor take traffic from a peer
that is served already. Where two peers claim the same, the one whose routes are in place keeps it; if neither's are,
neither gets it, for nothing here tells which of the two is right.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from linux.rtnl.forwarding import PeerPath
from linux.rtnl.vxlan import vtep_mac
from plugins.node.network_set import NetworkSet
from plugins.node.paths import Links, Tunnel, Unusable, addresses_on, direct_path, tunnel_path
from plugins.node.records import Node
from spec.addresses import Address, is_ipv6, parse_address

_WIDEST = {4: 8, 6: 32}
_NO_PODS = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8")
_NO_NODE = ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/127", "fe80::/10", "ff00::/8")


@dataclass(frozen=True)
class Here:
    """This node: its own subnets, the networks of all pods (may be none), its links, its tunnel (None: without)."""

    subnets: tuple[str, ...]
    cluster: tuple[str, ...]
    links: Links
    tunnel: Tunnel | None = None


@dataclass(frozen=True)
class Peers:
    """The other nodes with those of their addresses and subnets that are used, the paths to them, and what is left out.

    `shared`: those of the addresses that get pods' packets as they are: on a link of this node, and not past a tunnel.
    `about_this`: what is wrong with the record of this node itself, from which peers learn of it.
    """

    nodes: tuple[Node, ...]
    paths: tuple[PeerPath, ...]
    left_out: tuple[str, ...]
    shared: tuple[str, ...] = ()
    about_this: tuple[str, ...] = ()


@dataclass(eq=False, slots=True)
class _Claim:
    """A subnet that a record claims for its node, the path to it, and the node's address that it takes."""

    node: Node
    path: PeerPath
    network: Address
    host: Address
    why_not: str = ""

    @property
    def end(self) -> tuple[Address, str]:
        """Where the path ends: the node's address, and the MAC of its VTEP."""
        return self.host, self.path.mac


def select(nodes: Sequence[Node], here: Here, in_place: Callable[[Sequence[PeerPath]], Collection[PeerPath]]) -> Peers:
    """The peers among the records. `in_place`: which of some paths the kernel has now; called for those at odds."""
    judge = _Judge(here)
    for node in nodes:
        judge.take(node)
    quarrels = [*_same_place(judge.claims), *_same_mac(judge.claims)]
    if quarrels:
        _settle(quarrels, in_place)
    claims = [claim for claim in judge.claims if not claim.why_not]
    refused = [f"{claim.node.label} {claim.why_not}" for claim in judge.claims if claim.why_not]
    used = tuple(_with_subnets_of(claims))
    is_direct = here.tunnel is None or here.tunnel.direct
    return Peers(
        nodes=used,
        paths=tuple(dict.fromkeys(claim.path for claim in claims)),
        left_out=(*judge.left_out, *refused),
        shared=addresses_on(here.links, used) if is_direct else (),
        about_this=tuple(judge.about_this),
    )


def _with_subnets_of(claims: Sequence[_Claim]) -> Iterable[Node]:
    subnets: dict[int, dict[str, None]] = {}
    for claim in claims:
        subnets.setdefault(id(claim.node), {})[claim.path.subnet] = None
    for node in {id(claim.node): claim.node for claim in claims}.values():
        used = tuple(subnets[id(node)])
        yield node if used == node.subnets else replace(node, subnets=used)


class _Judge:
    """Looks at each record by itself: is it this node's own, and what of it can be used?"""

    def __init__(self, here: Here) -> None:
        own = [(parse_address(subnet), f"this node's own subnet {subnet}") for subnet in here.subnets]
        self._taken = own + [(network, f"{address.cidr} of this node") for network, address in here.links.networks]
        never_pods = list(map(parse_address, _NO_PODS))
        self._suspect = NetworkSet([*never_pods, *(network for network, _ in self._taken)])
        self._never_pods = NetworkSet(never_pods)
        ends = [one for network, _ in here.links.networks for one in _ends(network)]
        self._never_a_node = NetworkSet([*map(parse_address, _NO_NODE), *map(parse_address, here.subnets), *ends])
        self._cluster = NetworkSet(map(parse_address, here.cluster))
        # Where this node's own subnet is outside of them, they are not the networks of all pods.
        beyond = {network.version for network, _ in own if not self._cluster.contains(network)}
        self._bounded = frozenset(version for version in (4, 6) if self._cluster.has(version)) - beyond
        self._subnets, self._links, self._tunnel = frozenset(here.subnets), here.links, here.tunnel
        self.claims: list[_Claim] = []
        self.left_out: list[str] = []
        self.about_this: list[str] = []

    def take(self, node: Node) -> None:
        """Sort a record into `claims` and `left_out`, or into neither if it is this node's own."""
        own = self._links.own
        if not self._subnets.isdisjoint(node.subnets):
            if own.isdisjoint(node.addresses):
                addresses = ", ".join(node.addresses[:3]) or "none"
                self._leave(node, f"has the subnet of this node, but its addresses ({addresses}) are not on this node")
            elif self._tunnel:
                self._compare(node, self._tunnel)
            return
        if self._tunnel and self._tunnel.local in node.addresses:
            return  # this node, under an earlier subnet
        never = self._never_a_node
        addresses = tuple(one for one in node.addresses if one not in own and not never.overlaps(parse_address(one)))
        if not addresses and not own.isdisjoint(node.addresses):
            return
        if not addresses or not node.subnets:
            unused = f" ({', '.join(node.addresses[:3])})" if node.addresses and not addresses else ""
            self._leave(node, f'has no "{"podCIDRs" if addresses else "addresses"}" that can be used{unused}')
            return
        node = node if addresses == node.addresses else replace(node, addresses=addresses)
        for subnet in node.subnets:
            self._claim(node, subnet)
        if self._tunnel and not node.vtep_mac and sum(not is_ipv6(subnet) for subnet in node.subnets) > 1:
            mac = vtep_mac(node.subnets)
            self._leave(
                node, f'has several IPv4 subnets and no "vtepMAC": it is sent to as {mac}, the MAC of the first'
            )

    def _compare(self, node: Node, tunnel: Tunnel) -> None:
        """The record of this node: what peers make of it has to be what the tunnel here has."""
        mac = node.vtep_mac or vtep_mac(node.subnets)
        if tunnel.mac and mac != tunnel.mac:
            whence = "" if node.vtep_mac else ", that of its first subnet"
            self.about_this.append(
                f"the record of this node has the VTEP MAC {mac}{whence}, but the tunnel {tunnel.mac}"
            )
        if tunnel.local not in node.addresses:
            addresses = ", ".join(node.addresses[:3])
            self.about_this.append(f"the record of this node has {addresses}, but the tunnel sends from {tunnel.local}")

    def _claim(self, node: Node, subnet: str) -> None:
        tunnel, network = self._tunnel, parse_address(subnet)
        try:
            self._check(subnet, network)
            path = tunnel_path(node, subnet, self._links, tunnel) if tunnel else direct_path(node, subnet, self._links)
            host = parse_address(path.underlay or path.via)
            if network.contains(host):
                raise Unusable(f"claims {subnet}, which holds its own address {path.underlay or path.via}")
        except Unusable as error:
            self._leave(node, str(error))
        else:
            self.claims.append(_Claim(node, path, network, host))

    def _check(self, subnet: str, network: Address) -> None:
        """Raise Unusable for a network that no peer's pods can have."""
        if network.prefix < _WIDEST[network.version] or self._suspect.overlaps(network):
            if network.prefix < _WIDEST[network.version] or self._never_pods.overlaps(network):
                raise Unusable(f"claims {subnet}, which is no network for pods")
            what = next(what for taken, what in self._taken if network.overlaps(taken))
            raise Unusable(f"claims {subnet}, which overlaps {what}")
        if network.version in self._bounded and not self._cluster.contains(network):
            raise Unusable(f'claims {subnet}, which is outside "clusterCIDRs"')

    def _leave(self, node: Node, why: str) -> None:
        self.left_out.append(f"{node.label} {why}")


def _ends(network: Address) -> tuple[Address, ...]:
    """The first and the last address of an IPv4 network, which no host has (the last is all hosts')."""
    if network.version == 6 or network.prefix > 30:
        return ()
    return tuple(Address(4, number, 32) for number in (network.first, network.last))


@dataclass(frozen=True)
class _Quarrel:
    """Claims that can not all stand: of one thing (`inner` empty), or of one that holds what the others claim."""

    outer: Sequence[_Claim]
    inner: Sequence[_Claim]
    about: str

    def settle(self, kept: Collection[int]) -> None:
        """What is in place (`kept`, by id) stays, what is at odds with it goes.

        Where nothing is in place all go; but of a network around several peers it is the network that is wrong.
        """
        outer, inner = ([claim for claim in claims if not claim.why_not] for claims in (self.outer, self.inner))
        if len({claim.end for claim in (*outer, *inner)}) < 2 or (self.inner and not (outer and inner)):
            return  # settled already, with another quarrel
        is_kept = any(id(claim) in kept for claim in outer)
        if not self.inner or not is_kept:
            self._refuse(claim for claim in outer if id(claim) not in kept)
        if is_kept or len({claim.end for claim in inner}) == 1:
            self._refuse(claim for claim in inner if id(claim) not in kept)

    def _refuse(self, claims: Iterable[_Claim]) -> None:
        for claim in claims:
            other = next(c.node for c in (*self.outer, *self.inner) if c.end != claim.end)
            claim.why_not = f"claims {claim.path.subnet}, at odds with {other.label} over {self.about}"


def _settle(quarrels: Sequence[_Quarrel], in_place: Callable[[Sequence[PeerPath]], Collection[PeerPath]]) -> None:
    involved = {id(claim): claim for quarrel in quarrels for claim in (*quarrel.outer, *quarrel.inner)}
    paths = in_place([claim.path for claim in involved.values()])
    kept = {key for key, claim in involved.items() if claim.path in paths}
    for quarrel in quarrels:
        quarrel.settle(kept)


def _same_mac(claims: Sequence[_Claim]) -> Iterable[_Quarrel]:
    """Two nodes can not have one VTEP's MAC."""
    by_mac: dict[str, list[_Claim]] = {}
    for claim in claims:
        if claim.path.mac:
            by_mac.setdefault(claim.path.mac, []).append(claim)
    for mac, found in by_mac.items():
        if len(found) > 1 and len({claim.host for claim in found}) > 1:
            yield _Quarrel(found, (), f"the VTEP MAC {mac}")


def _same_place(claims: Sequence[_Claim]) -> Iterable[_Quarrel]:
    """A subnet is one node's. No other's is inside of it, and no node's address: what is sent there would be lost."""
    if _is_orderly(claims):
        return
    owners: dict[Address, list[_Claim]] = {}
    hosts: dict[Address, list[_Claim]] = {}
    for claim in claims:
        owners.setdefault(claim.network, []).append(claim)
        hosts.setdefault(claim.host, []).append(claim)
    inside: dict[Address, dict[int, _Claim]] = {}
    for outer, place in _nested(owners, hosts):
        found = (*owners.get(place, ()), *hosts.get(place, ()))
        inside.setdefault(outer, {}).update((id(claim), claim) for claim in found)
    for outer, found in inside.items():
        mine = {claim.end for claim in owners[outer]}
        others = [claim for claim in found.values() if claim.end not in mine]
        if others:
            yield _Quarrel(owners[outer], others, f"the network {owners[outer][0].path.subnet}")
    for found in owners.values():
        if len({claim.end for claim in found}) > 1:
            yield _Quarrel(found, (), f"the subnet {found[0].path.subnet}")


def _is_orderly(claims: Sequence[_Claim]) -> bool:
    """Whether it is plain that all subnets are disjoint and hold no host, as they mostly are."""
    networks = sorted(claim.network for claim in claims)
    if any(one.contains(other) for one, other in pairwise(networks)):
        return False
    areas = NetworkSet(networks)
    return not any(areas.overlaps(claim.host) for claim in claims)


def _nested(networks: Collection[Address], hosts: Collection[Address]) -> Iterable[tuple[Address, Address]]:
    """(network, network or host inside of it) for all that are; the widest networks first where they begin alike."""
    around: list[Address] = []
    for place in sorted({*networks, *hosts}):
        while around and not around[-1].contains(place):
            around.pop()
        yield from ((outer, place) for outer in around)
        if place in networks:
            around.append(place)

"""Which records of other nodes are used, and why others are left out. Pure.

Records come from other machines. An invalid one must neither stop the pods of this node nor take traffic from a peer
that is already served. If two peers claim the same thing, the one whose routes are installed keeps it; if neither's
are, none gets it, since nothing shows which is right.
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
class ThisNode:
    """This node: its subnets, the networks of all pods (if known), its links, and its tunnel (if any)."""

    subnets: tuple[str, ...]
    cluster: tuple[str, ...]
    links: Links
    tunnel: Tunnel | None = None


@dataclass(frozen=True)
class Peers:
    """The other nodes with their usable addresses and subnets, the paths to them, and why others are left out.

    `shared`: addresses that receive pods' packets unencapsulated, being on a link of this node. `about_this`: problems
    with this node's own record, from which peers learn about it.
    """

    nodes: tuple[Node, ...]
    paths: tuple[PeerPath, ...]
    left_out: tuple[str, ...]
    shared: tuple[str, ...] = ()
    about_this: tuple[str, ...] = ()


@dataclass(eq=False, slots=True)
class _Claim:
    """A subnet that a record claims, the path to it, and the address of the node that the path uses."""

    node: Node
    path: PeerPath
    network: Address
    host: Address
    refusal: str = ""

    @property
    def target(self) -> tuple[Address, str]:
        """Where the path leads: the node's address, and the MAC of its VTEP."""
        return self.host, self.path.mac


def select(
    nodes: Sequence[Node], this: ThisNode, in_place: Callable[[Sequence[PeerPath]], Collection[PeerPath]]
) -> Peers:
    """Select the usable records. `in_place`: returns which of some conflicting paths are installed."""
    selector = _Selector(this)
    for node in nodes:
        selector.add(node)
    conflicts = [*_same_network(selector.claims), *_same_mac(selector.claims)]
    if conflicts:
        _resolve(conflicts, in_place)
    claims = [claim for claim in selector.claims if not claim.refusal]
    refused = [f"{claim.node.label} {claim.refusal}" for claim in selector.claims if claim.refusal]
    used = tuple(_with_subnets_of(claims))
    is_direct = this.tunnel is None or this.tunnel.direct
    return Peers(
        nodes=used,
        paths=tuple(dict.fromkeys(claim.path for claim in claims)),
        left_out=(*selector.left_out, *refused),
        shared=addresses_on(this.links, used) if is_direct else (),
        about_this=tuple(selector.about_this),
    )


def _with_subnets_of(claims: Sequence[_Claim]) -> Iterable[Node]:
    subnets: dict[int, dict[str, None]] = {}
    for claim in claims:
        subnets.setdefault(id(claim.node), {})[claim.path.subnet] = None
    for node in {id(claim.node): claim.node for claim in claims}.values():
        used = tuple(subnets[id(node)])
        yield node if used == node.subnets else replace(node, subnets=used)


class _Selector:
    """Checks each record by itself: is it this node's own, and which parts of it can be used?"""

    def __init__(self, this: ThisNode) -> None:
        own = [(parse_address(subnet), f"this node's own subnet {subnet}") for subnet in this.subnets]
        self._taken = own + [(network, f"{address.cidr} of this node") for network, address in this.links.networks]
        never_pods = list(map(parse_address, _NO_PODS))
        self._suspect = NetworkSet([*never_pods, *(network for network, _ in self._taken)])
        self._never_pods = NetworkSet(never_pods)
        reserved = [one for network, _ in this.links.networks for one in _reserved(network)]
        self._never_a_node = NetworkSet([*map(parse_address, _NO_NODE), *map(parse_address, this.subnets), *reserved])
        self._cluster = NetworkSet(map(parse_address, this.cluster))
        # If this node's own subnet is outside of them, they are not the networks of all pods.
        beyond = {network.version for network, _ in own if not self._cluster.contains(network)}
        self._bounded = frozenset(version for version in (4, 6) if self._cluster.has(version)) - beyond
        self._subnets, self._links, self._tunnel = frozenset(this.subnets), this.links, this.tunnel
        self.claims: list[_Claim] = []
        self.left_out: list[str] = []
        self.about_this: list[str] = []

    def add(self, node: Node) -> None:
        """Add a record to `claims` or `left_out`, or to neither if it is this node's own."""
        own = self._links.own
        if not self._subnets.isdisjoint(node.subnets):
            if own.isdisjoint(node.addresses):
                addresses = ", ".join(node.addresses[:3]) or "none"
                self._leave_out(
                    node, f"has the subnet of this node, but its addresses ({addresses}) are not on this node"
                )
            elif self._tunnel:
                self._compare(node, self._tunnel)
            return
        if self._tunnel and self._tunnel.local in node.addresses:
            return  # this node, with an earlier subnet
        never = self._never_a_node
        addresses = tuple(one for one in node.addresses if one not in own and not never.overlaps(parse_address(one)))
        if not addresses and not own.isdisjoint(node.addresses):
            return
        if not addresses or not node.subnets:
            unused = f" ({', '.join(node.addresses[:3])})" if node.addresses and not addresses else ""
            self._leave_out(node, f'has no "{"podCIDRs" if addresses else "addresses"}" that can be used{unused}')
            return
        node = node if addresses == node.addresses else replace(node, addresses=addresses)
        for subnet in node.subnets:
            self._claim(node, subnet)
        if self._tunnel and not node.vtep_mac and sum(not is_ipv6(subnet) for subnet in node.subnets) > 1:
            mac = vtep_mac(node.subnets)
            self._leave_out(
                node, f'has several IPv4 subnets and no "vtepMAC": frames are sent to {mac}, the MAC of the first'
            )

    def _compare(self, node: Node, tunnel: Tunnel) -> None:
        """Compare the record of this node, which peers use, with its tunnel."""
        mac = node.vtep_mac or vtep_mac(node.subnets)
        if tunnel.mac and mac != tunnel.mac:
            origin = "" if node.vtep_mac else ", that of its first subnet"
            self.about_this.append(
                f"the record of this node has the VTEP MAC {mac}{origin}, but the tunnel has {tunnel.mac}"
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
                raise Unusable(f"claims {subnet}, which contains its own address {path.underlay or path.via}")
        except Unusable as error:
            self._leave_out(node, str(error))
        else:
            self.claims.append(_Claim(node, path, network, host))

    def _check(self, subnet: str, network: Address) -> None:
        """Raises Unusable for a network that cannot be a peer's."""
        if network.prefix < _WIDEST[network.version] or self._suspect.overlaps(network):
            if network.prefix < _WIDEST[network.version] or self._never_pods.overlaps(network):
                raise Unusable(f"claims {subnet}, which cannot be a network of pods")
            what = next(what for taken, what in self._taken if network.overlaps(taken))
            raise Unusable(f"claims {subnet}, which overlaps {what}")
        if network.version in self._bounded and not self._cluster.contains(network):
            raise Unusable(f'claims {subnet}, which is outside "clusterCIDRs"')

    def _leave_out(self, node: Node, why: str) -> None:
        self.left_out.append(f"{node.label} {why}")


def _reserved(network: Address) -> tuple[Address, ...]:
    """The network and broadcast addresses of an IPv4 network, which hosts cannot have."""
    if network.version == 6 or network.prefix > 30:
        return ()
    return tuple(Address(4, number, 32) for number in (network.first, network.last))


@dataclass(frozen=True)
class _Conflict:
    """Conflicting claims: to the same thing (`inner` is empty), or to one that contains what the others claim."""

    outer: Sequence[_Claim]
    inner: Sequence[_Claim]
    about: str

    def resolve(self, kept: Collection[int]) -> None:
        """Keep the claims whose routes are installed (`kept`, by id), and refuse those in conflict with them.

        If none are installed, refuse all; but if a network contains several peers, only the network is wrong.
        """
        outer, inner = ([claim for claim in claims if not claim.refusal] for claims in (self.outer, self.inner))
        if len({claim.target for claim in (*outer, *inner)}) < 2 or (self.inner and not (outer and inner)):
            return  # resolved already, with another conflict
        is_kept = any(id(claim) in kept for claim in outer)
        if not self.inner or not is_kept:
            self._refuse(claim for claim in outer if id(claim) not in kept)
        if is_kept or len({claim.target for claim in inner}) == 1:
            self._refuse(claim for claim in inner if id(claim) not in kept)

    def _refuse(self, claims: Iterable[_Claim]) -> None:
        for claim in claims:
            other = next(c.node for c in (*self.outer, *self.inner) if c.target != claim.target)
            claim.refusal = f"claims {claim.path.subnet}, in conflict with {other.label} over {self.about}"


def _resolve(conflicts: Sequence[_Conflict], in_place: Callable[[Sequence[PeerPath]], Collection[PeerPath]]) -> None:
    involved = {id(claim): claim for conflict in conflicts for claim in (*conflict.outer, *conflict.inner)}
    installed = in_place([claim.path for claim in involved.values()])
    kept = {key for key, claim in involved.items() if claim.path in installed}
    for conflict in conflicts:
        conflict.resolve(kept)


def _same_mac(claims: Sequence[_Claim]) -> Iterable[_Conflict]:
    """Two nodes cannot have the same VTEP MAC."""
    by_mac: dict[str, list[_Claim]] = {}
    for claim in claims:
        if claim.path.mac:
            by_mac.setdefault(claim.path.mac, []).append(claim)
    for mac, found in by_mac.items():
        if len(found) > 1 and len({claim.host for claim in found}) > 1:
            yield _Conflict(found, (), f"the VTEP MAC {mac}")


def _same_network(claims: Sequence[_Claim]) -> Iterable[_Conflict]:
    """A subnet belongs to one node, and contains no other node's subnet or address, which would become unreachable."""
    if _are_disjoint(claims):
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
        own = {claim.target for claim in owners[outer]}
        others = [claim for claim in found.values() if claim.target not in own]
        if others:
            yield _Conflict(owners[outer], others, f"the network {owners[outer][0].path.subnet}")
    for found in owners.values():
        if len({claim.target for claim in found}) > 1:
            yield _Conflict(found, (), f"the subnet {found[0].path.subnet}")


def _are_disjoint(claims: Sequence[_Claim]) -> bool:
    """Whether all subnets are disjoint and contain no host, as usual."""
    networks = sorted(claim.network for claim in claims)
    if any(one.contains(other) for one, other in pairwise(networks)):
        return False
    areas = NetworkSet(networks)
    return not any(areas.overlaps(claim.host) for claim in claims)


def _nested(networks: Collection[Address], hosts: Collection[Address]) -> Iterable[tuple[Address, Address]]:
    """All pairs (network, network or host inside of it)."""
    around: list[Address] = []
    for place in sorted({*networks, *hosts}):
        while around and not around[-1].contains(place):
            around.pop()
        yield from ((outer, place) for outer in around)
        if place in networks:
            around.append(place)

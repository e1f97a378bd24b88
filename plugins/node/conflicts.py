"""Claims of peers that contradict each other, and who keeps what. Pure.

If all the records in a conflict say since when their subnets are theirs, the oldest keeps what it has; that does not
depend on what is installed here, so that all nodes decide alike. If not, the one whose routes are installed keeps it;
if none are, nobody gets it, since nothing shows which is right.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from linux.rtnl.forwarding import PeerPath
from plugins.node.network_set import NetworkSet
from plugins.node.records import Node
from spec.addresses import Address


@dataclass(eq=False, slots=True)
class Claim:
    """A subnet that a record claims, the path to it, and the address of the node that the path uses.

    `refusal`: why it is not used, "" if it is. `is_disputed`: it contradicts another claim.
    """

    node: Node
    path: PeerPath
    network: Address
    host: Address
    refusal: str = ""
    is_disputed: bool = False

    @property
    def target(self) -> tuple[Address, str]:
        """Where the path leads: the node's address, and the MAC of its VTEP."""
        return self.host, self.path.mac

    @property
    def age(self) -> tuple[object, ...]:
        """Sorts the oldest claim first; with the rest of the record, so that its place among others never matters."""
        node = self.node
        return node.since, node.name, node.addresses, node.subnets, node.vtep_mac, self.network

    def refuse(self, other: "Claim", about: str) -> None:
        """Refuse it because of another claim to the same thing."""
        self.refusal = f"claims {self.path.subnet}, in conflict with {other.node.label} over {about}"


def settle(claims: Sequence[Claim], in_place: Callable[[Sequence[PeerPath]], Collection[PeerPath]]) -> None:
    """Refuse claims so that no two that are left contradict each other.

    `in_place`: returns which of some conflicting paths are installed. What was settled before is forgotten.
    """
    for claim in claims:
        if claim.is_disputed:
            claim.is_disputed, claim.refusal = False, ""
    conflicts = [*_same_network(claims), *_same_mac(claims)]
    if not conflicts:
        return
    involved = {id(claim): claim for conflict in conflicts for claim in conflict.claims}
    for claim in involved.values():
        claim.is_disputed = True
    _resolve_by_age([conflict for conflict in conflicts if conflict.is_dated])
    others = [conflict for conflict in conflicts if not conflict.is_dated]
    if others:
        installed = in_place([claim.path for claim in involved.values()])
        kept = {key for key, claim in involved.items() if claim.path in installed and not claim.refusal}
        for conflict in others:
            conflict.resolve(kept)


@dataclass(frozen=True)
class Conflict:
    """Conflicting claims: to the same thing (`inner` is empty), or to one that contains what the others claim."""

    outer: Sequence[Claim]
    inner: Sequence[Claim]
    about: str

    @property
    def claims(self) -> tuple[Claim, ...]:
        """All claims that are involved."""
        return (*self.outer, *self.inner)

    @property
    def is_dated(self) -> bool:
        """Whether the age of every claim is known."""
        return all(claim.node.since for claim in self.claims)

    def resolve(self, kept: Collection[int]) -> None:
        """Keep the claims whose routes are installed (`kept`, by id), and refuse those in conflict with them.

        If none are installed, refuse all; but if a network contains several peers, only the network is wrong.
        """
        outer, inner = ([claim for claim in claims if not claim.refusal] for claims in (self.outer, self.inner))
        if len({claim.target for claim in (*outer, *inner)}) < 2 or (self.inner and not (outer and inner)):
            return  # resolved already, with another conflict
        is_kept = any(id(claim) in kept for claim in outer)
        if not self.inner or not is_kept:
            self.refuse(claim for claim in outer if id(claim) not in kept)
        if is_kept or len({claim.target for claim in inner}) == 1:
            self.refuse(claim for claim in inner if id(claim) not in kept)

    def refuse(self, claims: Iterable[Claim]) -> None:
        """Refuse claims of this conflict, each because of the oldest of the others."""
        first = min(self.claims, key=lambda claim: claim.age)
        second = min((c for c in self.claims if c.target != first.target), key=lambda claim: claim.age)
        for claim in claims:
            claim.refuse(first if first.target != claim.target else second, self.about)


def _resolve_by_age(conflicts: Sequence[Conflict]) -> None:
    """Keep the oldest claims. But if a network contains several peers, only the network is wrong, however old it is."""
    places: dict[int, list[tuple[Conflict, bool]]] = {}
    involved: dict[int, Claim] = {}
    for conflict in conflicts:
        if conflict.inner and len({claim.target for claim in conflict.inner}) > 1:
            conflict.refuse(conflict.outer)
            continue
        for claims, is_outer in ((conflict.outer, True), (conflict.inner, False)):
            for claim in claims:
                involved[id(claim)] = claim
                places.setdefault(id(claim), []).append((conflict, is_outer))
    # By place, one kept claim of each target: very few, whatever the number of claims.
    kept: dict[tuple[int, bool], dict[object, Claim]] = {}
    for claim in sorted(involved.values(), key=lambda claim: claim.age):
        if claim.refusal:
            continue
        for conflict, is_outer in places[id(claim)]:
            against = kept.get((id(conflict), not is_outer if conflict.inner else True), {})
            older = next((other for target, other in against.items() if target != claim.target), None)
            if older:
                claim.refuse(older, conflict.about)
                break
        else:
            for conflict, is_outer in places[id(claim)]:
                kept.setdefault((id(conflict), is_outer), {}).setdefault(claim.target, claim)


def _same_mac(claims: Sequence[Claim]) -> Iterable[Conflict]:
    """Two nodes cannot have the same VTEP MAC."""
    by_mac: dict[str, list[Claim]] = {}
    for claim in claims:
        if claim.path.mac:
            by_mac.setdefault(claim.path.mac, []).append(claim)
    for mac, found in sorted(by_mac.items()):
        if len(found) > 1 and len({claim.host for claim in found}) > 1:
            yield Conflict(found, (), f"the VTEP MAC {mac}")


def _same_network(claims: Sequence[Claim]) -> Iterable[Conflict]:
    """A subnet belongs to one node, and contains no other node's subnet or address, which would become unreachable."""
    if _are_disjoint(claims):
        return
    owners: dict[Address, list[Claim]] = {}
    hosts: dict[Address, list[Claim]] = {}
    for claim in claims:
        owners.setdefault(claim.network, []).append(claim)
        hosts.setdefault(claim.host, []).append(claim)
    inside: dict[Address, dict[int, Claim]] = {}
    for outer, place in _nested(owners, hosts):
        found = (*owners.get(place, ()), *hosts.get(place, ()))
        inside.setdefault(outer, {}).update((id(claim), claim) for claim in found)
    for outer, found in inside.items():
        own = {claim.target for claim in owners[outer]}
        others = [claim for claim in found.values() if claim.target not in own]
        if others:
            yield Conflict(owners[outer], others, f"the network {owners[outer][0].path.subnet}")
    for _, found in sorted(owners.items()):
        if len({claim.target for claim in found}) > 1:
            yield Conflict(found, (), f"the subnet {found[0].path.subnet}")


def _are_disjoint(claims: Sequence[Claim]) -> bool:
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

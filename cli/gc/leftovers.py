"""What is left of pods that are gone, and what is kept because a pod may still be there."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cli.facts.attachments import read_attachments
from cli.facts.cache import Cached, read_cache
from cli.facts.configurations import Configuration, read_configurations
from cli.facts.evidence import KEPT, STALE, Evidence, Verdict
from cli.facts.leases import read_leases
from cli.facts.owners import Owners
from cli.gc.inventory import LEASE, UNNAMED, Piece, read_pieces
from spec.attachment import Attachment


@dataclass(frozen=True)
class Leftover:
    """The pieces of one owner, and why it counts as gone, or is kept. What is not known of the owner is ""."""

    network: str
    container: str
    ifname: str
    tag: str
    pod: str
    why: str
    pieces: tuple[Piece, ...]

    @property
    def attachment(self) -> Attachment:
        """The owner."""
        return Attachment(self.network, self.container, self.ifname)


@dataclass(frozen=True)
class Plan:
    """What can be removed, what is kept in doubt, and a sentence for each runtime that could not be asked.

    `configurations`: of networks, by name. `held`: the addresses that others have, which are not removed with a pod.
    """

    stale: tuple[Leftover, ...]
    kept: tuple[Leftover, ...]
    unasked: tuple[str, ...]
    configurations: Mapping[str, Configuration]
    held: frozenset[str]


def read_plan(network: str | None = None) -> Plan:
    """What is left now, of one network or of all. Raises OSError."""
    cache = read_cache()
    configurations = read_configurations(cache)
    leases = read_leases(configurations=configurations.values())
    pieces = read_pieces(leases, cache, configurations.values())
    # After the pieces: what is attached meanwhile is live.
    attached = read_attachments(leases, cache)
    evidence = Evidence(attached, cache, leases, time.time())
    stale, kept = judge(pieces, evidence, cache, configurations)
    chosen = [tuple(one for one in some if network in (None, one.network)) for some in (stale, kept)]
    gone = {(one.network, piece.name) for one in stale for piece in one.pieces if piece.kind == LEASE}
    held = {lease.address for lease in leases if (lease.network, lease.address) not in gone}
    held.update(address for one in attached if one.is_live for address in one.addresses)
    unasked = evidence.known.unasked if stale or kept else ()
    return Plan(*chosen, unasked, configurations, frozenset(held))


def judge(
    pieces: Sequence[Piece], evidence: Evidence, cache: Sequence[Cached], networks: Iterable[str]
) -> tuple[list[Leftover], list[Leftover]]:
    """The stale and the kept ones, by network and container. `networks`: names that a tag's digest may be of."""
    owners = Owners([piece.owner for piece in pieces if piece.owner], networks)
    pods = {one.attachment: one.pod for one in cache}
    groups: dict[tuple[str, ...], list[Piece]] = {}
    for piece in pieces:
        key = (piece.tag,) if piece.tag else (piece.kind, piece.network, piece.name)
        groups.setdefault(key, []).append(piece)
    found: dict[str, list[Leftover]] = {KEPT: [], STALE: []}
    for group in groups.values():
        tag = group[0].tag
        owner = owners.of(tag) if tag else Attachment(group[0].network, "", "")
        verdict = _verdict(group, owner, evidence)
        if verdict.state in found:
            names = (owner.network, owner.container_id, owner.ifname, tag, pods.get(owner, ""))
            found[verdict.state].append(Leftover(*names, verdict.why, tuple(group)))
    for some in found.values():
        some.sort(key=lambda one: (one.network, one.container, one.ifname, one.tag))
    return found[STALE], found[KEPT]


def _verdict(group: Sequence[Piece], owner: Attachment, evidence: Evidence) -> Verdict:
    if group[0].kind == UNNAMED:
        return Verdict(STALE, "an ADD was killed before it named the owner")
    addresses = {address for piece in group for address in piece.addresses}
    return evidence.of(owner, group[0].tag, sorted(addresses), max(piece.since for piece in group))

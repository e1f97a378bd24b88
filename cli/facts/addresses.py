"""The addresses of this node's networks: leased, cooling or free, and whether pods have those that are leased."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cli.facts.attachments import AttachedPod, read_attachments
from cli.facts.cache import read_cache
from cli.facts.configurations import Configuration, read_configurations
from cli.facts.evidence import Evidence
from cli.facts.leases import Cooling, Lease, read_cooling_addresses, read_leases
from ipam.ranges import Range
from linux.ownership import owner_tag
from spec.addresses import parse_ip


@dataclass(frozen=True)
class Judged:
    """A lease, whose pod it is, and what the node tells of it: `state` as of a Verdict, and `why`."""

    lease: Lease
    pod: str
    state: str
    why: str


@dataclass(frozen=True)
class Fullness:
    """A range of a network: how many addresses it has for pods, and how many of them are leased or cooling."""

    network: str
    range: str
    addresses: int
    leased: int
    cooling: int


@dataclass(frozen=True)
class Addresses:
    """All of them. `unleased`: pods with addresses that should be leased, and are not."""

    leases: list[Judged]
    unleased: list[AttachedPod]
    cooling: list[Cooling]
    ranges: list[Fullness]

    def of(self, network: str) -> "Addresses":
        """The part of one network."""
        return Addresses(
            [one for one in self.leases if one.lease.network == network],
            *([one for one in some if one.network == network] for some in (self.unleased, self.cooling, self.ranges)),
        )


def read_addresses() -> Addresses:
    """Those of all networks, as of now. Raises OSError."""
    cache = read_cache()
    configurations = read_configurations(cache)
    leases = read_leases(configurations=configurations.values())
    attached = read_attachments(leases, cache)
    evidence = Evidence(attached, cache, leases, time.time())
    pods = {one.tag or owner_tag(one.attachment): one.pod for one in attached}
    cooling = read_cooling_addresses(configurations.values())
    return Addresses(
        [_judged(lease, evidence, pods) for lease in leases],
        [one for one in attached if one.unleased],
        cooling,
        [*_fullness(configurations.values(), leases, cooling)],
    )


def _judged(lease: Lease, evidence: Evidence, pods: dict[str, str]) -> Judged:
    tag = owner_tag(lease.attachment) if lease.container else ""
    verdict = evidence.of(lease.attachment, tag, since=lease.since)
    return Judged(lease, pods.get(tag, ""), verdict.state, verdict.why)


def _fullness(
    configurations: Iterable[Configuration], leases: Iterable[Lease], cooling: Iterable[Cooling]
) -> Iterator[Fullness]:
    taken = {(one.network, one.address) for one in leases}
    for one in configurations:
        for each in (each for ranges in one.range_sets for each in ranges.ranges):
            size = each.last - each.first + 1 - len(each.gateways)
            yield Fullness(
                one.name,
                str(each),
                size,
                _count(each, (address for network, address in taken if network == one.name)),
                _count(each, (other.address for other in cooling if other.network == one.name)),
            )


def _count(span: Range, addresses: Iterable[str]) -> int:
    return sum(span.contains(parse_ip(address)) for address in addresses)

"""What the records of all nodes want of this node, kept so that one changed record costs no work for the others. Pure.

A record that contradicts no other one is used whatever the others are, and a record that was in no contradiction leaves
the others as they are. So only changes that contradict something, and those of records that say something about this
node, need the selection of all records (plugins/node/selection.py).
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from linux.rtnl.forwarding import PeerPath
from plugins.node.conflicts import Claim
from plugins.node.network_set import NetworkSet
from plugins.node.paths import Links, Tunnel
from plugins.node.records import Node
from plugins.node.selection import Judge, Peers, Verdict, is_direct, used_part
from spec.addresses import Address, is_ipv6, parse_address


@dataclass(frozen=True)
class Change:
    """What changed records change: the paths `before` and `after`, and addresses that came and went.

    `vteps`: from which the tunnel's frames may come; `shared`: as in `Peers`; each (gone, new).
    """

    before: tuple[PeerPath, ...] = ()
    after: tuple[PeerPath, ...] = ()
    vteps: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
    shared: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())


class Wanted:
    """The verdict about each record, and an index of all claims.

    `keys`: those of the records from which `peers` were selected, in order. `inside`: networks to which nothing is
    masqueraded whoever the peers are.
    """

    def __init__(self, keys: Iterable[str], peers: Peers, inside: Iterable[str]) -> None:
        self._judge: Judge = peers.judge
        self._verdicts = dict(zip(keys, peers.verdicts, strict=True))
        self._inside = NetworkSet(map(parse_address, inside))
        self._index = _Index(claim for verdict in peers.verdicts for claim in verdict.claims)
        this = peers.judge.this
        tunnel = this.tunnel
        families = () if tunnel is None else (tunnel.over_ipv6,)
        self._vteps = _Addresses(lambda address: is_ipv6(address) in families)
        self._shared = _Addresses(_on(this.links) if is_direct(this) else lambda _address: False)
        for verdict in peers.verdicts:
            self._count(verdict, 1)
        self._flush()
        self._left_out = {key: found for key, verdict in self._verdicts.items() if (found := verdict.sentences)}

    @property
    def tunnel(self) -> Tunnel | None:
        """This node's end of the tunnel, None without one."""
        return self._judge.this.tunnel

    @property
    def left_out(self) -> tuple[str, ...]:
        """A sentence for each record, or part of one, that is not used."""
        return tuple(sentence for sentences in self._left_out.values() for sentence in sentences)

    def change(self, records: Mapping[str, Node | None]) -> Change | None:
        """Take in changed records by key, None for those that are gone.

        Returns None if all records have to be selected again; this object is of no use any more then.
        """
        before: dict[str, list[PeerPath]] = {}
        after: dict[str, list[PeerPath]] = {}
        removed: list[Claim] = []
        for key in records:
            self._left_out.pop(key, None)
            if old := self._verdicts.pop(key, None):
                if old.is_of_this or any(claim.is_disputed for claim in old.claims):
                    return None
                before[key] = [claim.path for claim in old.claims]
                self._count(old, -1)
                self._index.remove(old.claims)
                removed += old.claims
        if not all(map(self._index.is_apart, removed)):
            return None
        for key, node in records.items():
            if node is None:
                continue
            new = self._judge.of(node)
            if new.is_of_this or not self._fits(new.claims):
                return None
            self._verdicts[key] = new
            after[key] = [claim.path for claim in new.claims]
            self._count(new, 1)
            if new.left_out:
                self._left_out[key] = new.left_out
        if before == after:
            before = after = {}
        # With the paths that stay, since they may share an entry with one that goes.
        gone, new = (tuple(path for paths in each.values() for path in paths) for each in (before, after))
        return Change(gone, new, *self._flush())

    def _fits(self, claims: Sequence[Claim]) -> bool:
        """Whether the claims contradict nothing; they are in the index then."""
        return all(self._inside.contains(claim.network) for claim in claims) and self._index.add(claims)

    def _count(self, verdict: Verdict, by: int) -> None:
        used = used_part(verdict)
        for address in used.addresses if used else ():
            self._vteps.count(address, by)
            self._shared.count(address, by)

    def _flush(self) -> tuple[tuple[frozenset[str], frozenset[str]], tuple[frozenset[str], frozenset[str]]]:
        return self._vteps.flush(), self._shared.flush()


class _Addresses:
    """How many records have an address, of those that count; several may have the same one."""

    def __init__(self, matters: Callable[[str], object]) -> None:
        self._matters, self._counts = matters, Counter()
        self._before: dict[str, int] = {}

    def count(self, address: str, by: int) -> None:
        """Count an address once more or less."""
        if self._matters(address):
            self._before.setdefault(address, self._counts[address])
            self._counts[address] += by

    def flush(self) -> tuple[frozenset[str], frozenset[str]]:
        """The addresses that have gone, and those that are new, since the last time."""
        gone = frozenset(one for one, count in self._before.items() if count and not self._counts[one])
        new = frozenset(one for one, count in self._before.items() if not count and self._counts[one])
        for address in gone:
            del self._counts[address]
        self._before = {}
        return gone, new


class _Index:
    """Where claims are: their networks, the addresses of their nodes, and the MACs of their VTEPs."""

    def __init__(self, claims: Iterable[Claim]) -> None:
        claims = list(claims)
        self._networks = Counter(map(_network_key, claims))
        self._lengths = Counter((claim.network.version, claim.network.prefix) for claim in claims)
        self._starts = {v: sorted(c.network.first for c in claims if c.network.version == v) for v in (4, 6)}
        self._hosts = {v: sorted(c.host.number for c in claims if c.host.version == v) for v in (4, 6)}
        self._macs = Counter(claim.path.mac for claim in claims)

    def add(self, claims: Sequence[Claim]) -> bool:
        """Add the claims of one record; False if one has something in common with another claim."""
        if any(claim.path.mac and self._macs[claim.path.mac] for claim in claims):
            return False
        for claim in claims:
            if not self._has_room(claim.network):
                return False
            self._networks[_network_key(claim)] += 1
            self._lengths[claim.network.version, claim.network.prefix] += 1
            insort(self._starts[claim.network.version], claim.network.first)
        for claim in claims:
            insort(self._hosts[claim.host.version], claim.host.number)
            self._macs[claim.path.mac] += 1
        return not any(self._has_around(claim.host) for claim in claims)

    def remove(self, claims: Sequence[Claim]) -> None:
        """Remove the claims of one record."""
        for claim in claims:
            self._networks[_network_key(claim)] -= 1
            self._lengths[claim.network.version, claim.network.prefix] -= 1
            self._macs[claim.path.mac] -= 1
            for numbers, number in (
                (self._starts[claim.network.version], claim.network.first),
                (self._hosts[claim.host.version], claim.host.number),
            ):
                del numbers[bisect_left(numbers, number)]

    def is_apart(self, claim: Claim) -> bool:
        """Whether a claim that is not in the index has nothing in common with those that are."""
        has_mac = claim.path.mac and self._macs[claim.path.mac]
        return not has_mac and self._has_room(claim.network) and not self._has_around(claim.host)

    def _has_room(self, network: Address) -> bool:
        """Whether the network contains no network and no host, and is in no network."""
        places = (numbers[network.version] for numbers in (self._starts, self._hosts))
        return not any(_has_between(numbers, network.first, network.last) for numbers in places) and not (
            self._has_around(network)
        )

    def _has_around(self, inner: Address) -> bool:
        """Whether a network contains that one, or is the same."""
        for (version, prefix), count in self._lengths.items():
            if count and version == inner.version and prefix <= inner.prefix:
                first = inner.number >> (inner.bits - prefix) << (inner.bits - prefix)
                if self._networks[version, prefix, first]:
                    return True
        return False


def _network_key(claim: Claim) -> tuple[int, int, int]:
    return claim.network.version, claim.network.prefix, claim.network.first


def _has_between(numbers: Sequence[int], first: int, last: int) -> bool:
    at = bisect_left(numbers, first)
    return at < len(numbers) and numbers[at] <= last


def _on(links: Links) -> Callable[[str], object]:
    return lambda address: links.of(address, good=True)

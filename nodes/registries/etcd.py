"""The registry in an etcd: "etcd://192.0.2.1:2379,192.0.2.2:2379/slash24"; `docs/registry-etcd.md` describes it.

| key | value |
|---|---|
| PREFIX/nodes/NAME | the record of a node, under a lease that the node renews |
| PREFIX/subnets/10.244.1.0-24 | the name of the node whose subnet it is, under a lease that lasts longer |
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Event, RLock

from nodes.etcd.answers import KeyValue
from nodes.etcd.client import Client
from nodes.etcd.conf import parse
from nodes.etcd.follow import follow
from nodes.etcd.leases import Keeper, Leases
from nodes.records import from_text, to_text
from nodes.registry import Entry, Grant, Readiness, RegistryError, Sink, Wish
from nodes.subnets import choose
from plugins.node.records import Node
from spec.addresses import Address, parse_cidr
from spec.config import Section

_PREFIX = "/slash24"
_TRIES = 50  # to lease subnets, when other nodes are faster


@dataclass(frozen=True)
class _Subnet:
    """A subnet that the node `owner` has leased, and its key."""

    network: Address
    owner: str
    pair: KeyValue


class EtcdRegistry:
    """See `nodes.registry.Registry`. A thread of its own renews the leases."""

    def __init__(self, url: str, node: str, options: Section) -> None:
        self._conf = parse(url, options, _PREFIX)
        self._client = Client(self._conf)
        self._name = node
        self._own_key = f"{self._conf.prefix}/nodes/{node}"
        self._subnets_prefix = f"{self._conf.prefix}/subnets/"
        self._lock = RLock()
        self._held: dict[str, int] = {}  # the keys of this node's subnets, and their leases
        self._record: Node | None = None
        self._closed = Event()
        self._leases = Leases(self._client)
        self._keeper = Keeper(self._renew, self._conf.ttl)

    def lease(self, wish: Wish) -> Grant:
        """See Registry. Of two that overlap, the subnet that was leased later is given up."""
        claimed: dict[str, int] = {}
        with self._lock:
            for _ in range(_TRIES):
                subnets = list(self._list_subnets())
                own = {one.network.cidr: one for one in subnets if one.owner == self._name}
                chosen = choose(
                    replace(wish, preferred=(*own, *wish.preferred)), _taken(subnets, self._name), self._name
                )
                missing = [cidr for cidr in chosen if cidr not in own]
                if not missing:
                    break
                claimed |= self._claim(missing)
            else:
                raise RegistryError(f"other nodes were faster to lease a subnet, {_TRIES} times")
            for key in claimed.keys() - {own[cidr].pair.key for cidr in chosen}:
                self._client.revoke(claimed[key])
            pairs = [own[cidr].pair for cidr in chosen]
            self._held = {pair.key: self._leases.renewed(pair, self._conf.reserve) for pair in pairs}
        self._keeper.start()
        return Grant(chosen, since=max((pair.created for pair in pairs), default=0))

    def publish(self, node: Node) -> None:
        """See Registry."""
        with self._lock:
            self._record = node
            text, found = to_text(node).strip(), self._client.get(self._own_key)
            lease = self._leases.of(found, self._conf.ttl) if found else 0
            if not lease or found.value != text:
                self._client.put(self._own_key, text, lease or self._leases.granted(self._conf.ttl))
        self._keeper.start()

    def watch(self, sink: Sink) -> None:
        """See Registry."""
        follow(self._client, f"{self._conf.prefix}/nodes/", sink, _entry, self._closed)

    def tell(self, readiness: Readiness) -> None:
        """See Registry: etcd has no place for it."""

    def withdraw(self) -> None:
        """See Registry. The subnets stay reserved until their leases end, because pods may still have addresses."""
        with self._lock:
            self._record, self._held = None, {}
            self._client.delete(self._own_key)

    def close(self) -> None:
        """See Registry."""
        self._closed.set()
        self._keeper.close()
        self._client.close()

    def _list_subnets(self) -> Iterator[_Subnet]:
        for pair in self._client.list_keys(self._subnets_prefix)[0]:
            with suppress(ValueError):  # not one of ours
                address, _, length = pair.key.removeprefix(self._subnets_prefix).rpartition("-")
                network = parse_cidr(f"{address}/{length}").network
                yield _Subnet(network, pair.value.decode(errors="surrogateescape"), pair)

    def _claim(self, subnets: Sequence[str]) -> dict[str, int]:
        """Lease all of the subnets, or none if one is taken; returns their keys with the leases."""
        leases = {
            self._subnets_prefix + cidr.replace("/", "-"): self._leases.granted(self._conf.reserve) for cidr in subnets
        }
        puts = [(key, self._name.encode(errors="surrogateescape"), lease) for key, lease in leases.items()]
        if self._client.put_if(puts, absent=leases):
            return leases
        for lease in leases.values():
            self._client.revoke(lease)
        return {}

    def _renew(self) -> None:
        """Renew the leases, and make the record anew if it is gone.

        If a subnet is not this node's any more, its record is deleted instead: that makes the daemon lease another one.
        """
        with self._lock:
            kept = [self._client.keep_alive(lease) for lease in self._held.values() if lease]
            name = self._name.encode(errors="surrogateescape")
            if not all(kept) or not self._client.put_if((), equal=[(key, name) for key in self._held]):
                self.withdraw()
            elif self._record:
                self.publish(self._record)


def _taken(subnets: Sequence[_Subnet], name: str) -> list[str]:
    """The subnets of other nodes, except those that were leased later than one of this node that they overlap."""
    own = [one for one in subnets if one.owner == name]
    return [
        one.network.cidr
        for one in subnets
        if one.owner != name
        and not any(mine.pair.created < one.pair.created and mine.network.overlaps(one.network) for mine in own)
    ]


def _entry(name: str, pair: KeyValue) -> Entry:
    try:
        node = from_text(pair.value)
        if node.name != name:
            raise ValueError(f'its key says "{name}", but its name is "{node.name}"')
    except ValueError as error:
        return Entry(name, None, str(error))
    return Entry(name, node)

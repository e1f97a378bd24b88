"""flannel's registry in an etcd: "flannel+etcd://192.0.2.1:2379/coreos.com/network"; see `docs/registry-flannel.md`.

A record is the lease of a subnet; the node with its address has it. Records have no names.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Event, RLock

from linux.netlink.socket import Netlink
from linux.rtnl.addresses import list_addresses
from nodes import flannel
from nodes.etcd.answers import KeyValue
from nodes.etcd.client import Client
from nodes.etcd.conf import parse
from nodes.etcd.follow import follow
from nodes.etcd.leases import Keeper, Leases
from nodes.flannel import NetConf
from nodes.registry import Entry, Grant, Readiness, RegistryError, Sink, Wish
from nodes.subnets import choose
from plugins.node.records import Node
from spec.addresses import parse_cidr
from spec.config import Section

_PREFIX = "/coreos.com/network"
_TRIES = 10


@dataclass(frozen=True)
class _Lease:
    """A record: its subnets, and the IPv4 address of its node."""

    subnets: tuple[str, ...]
    address: str
    pair: KeyValue

    def overlaps(self, other: "_Lease") -> bool:
        """Whether they have addresses in common."""
        return any(parse_cidr(one).overlaps(parse_cidr(each)) for one in self.subnets for each in other.subnets)


class FlannelEtcdRegistry:
    """See `nodes.registry.Registry`. A thread of its own renews the lease."""

    def __init__(self, url: str, node: str, options: Section) -> None:
        self._conf = parse(url, options, _PREFIX)
        self._client = Client(self._conf)
        self._name = node
        self._prefix = f"{self._conf.prefix}/subnets/"
        self._lock = RLock()
        self._own = ""  # the key of this node's record
        self._lease = 0
        self._vni, self._port = 0, 0
        self._addresses: tuple[str, ...] = ()
        self._has_addresses, self._closed = Event(), Event()
        self._leases = Leases(self._client)
        self._keeper = Keeper(self._renew, self._conf.reserve)

    def lease(self, wish: Wish) -> Grant:
        """See Registry. `wish.cluster` and `wish.lengths` are flannel's own to determine."""
        if not wish.addresses or ":" in wish.addresses[0]:
            raise RegistryError('flannel needs an IPv4 address of this node, and it has none; set a key of "address"')
        with self._lock:
            self._addresses = wish.addresses
            self._has_addresses.set()
            conf = self._net_conf()
            self._check_cluster(conf, wish)
            self._vni, self._port = conf.vni, conf.port
            for _ in range(_TRIES):
                leases = self._list()
                own = self._find_own(leases, conf)
                if own:
                    break
                self._claim(conf, wish, leases)
            else:
                raise RegistryError(f"other nodes were faster to lease a subnet, {_TRIES} times")
            self._own, self._lease = own.pair.key, self._leases.renewed(own.pair, self._conf.reserve)
        self._keeper.start()
        return Grant(own.subnets, since=own.pair.created)

    def publish(self, node: Node) -> None:
        """See Registry."""
        with self._lock:
            if not self._own:
                raise RegistryError("this node has no lease of flannel's yet")
            if (node.vni, node.port) != (self._vni, self._port):
                raise RegistryError(
                    f"flannel's network has VNI {self._vni} and port {self._port}, but the tunnel of this node has VNI "
                    f'{node.vni} and port {node.port}; set "vni" and "port" in [vxlan]'
                )
            subnets = flannel.subnets_of(self._own.removeprefix(self._prefix))
            try:
                value = flannel.write_lease(replace(node, subnets=subnets), self._vni)
            except ValueError as error:
                raise RegistryError(str(error)) from error
            pair = self._client.get(self._own)
            if pair is None:
                raise RegistryError(f'"{self._own}" has been deleted in etcd')
            if pair.value != value:
                put = (self._own, value, pair.lease)
                if not self._client.put_if([put], equal=[(self._own, pair.value)]):
                    raise RegistryError(f'"{self._own}" has just been changed in etcd')
            self._addresses = node.addresses

    def watch(self, sink: Sink) -> None:
        """See Registry. Begins when this node's addresses are known, by which its own record is."""
        while not self._has_addresses.wait(0.2):
            if self._closed.is_set():
                return
        follow(self._client, self._prefix, sink, self._entry, self._closed)

    def tell(self, readiness: Readiness) -> None:
        """See Registry: flannel has no place for it."""

    def withdraw(self) -> None:
        """See Registry: the subnet stays reserved until its lease ends, and other nodes remove what leads to it."""
        with self._lock:
            own = self._addresses or _local_addresses()
            for lease in self._list():
                if lease.address in own:
                    put = (lease.pair.key, flannel.write_reservation(lease.address), lease.pair.lease)
                    self._client.put_if([put], equal=[(lease.pair.key, lease.pair.value)])
            self._own = ""

    def close(self) -> None:
        """See Registry."""
        self._closed.set()
        self._keeper.close()
        self._client.close()

    def _net_conf(self) -> NetConf:
        key = f"{self._conf.prefix}/config"
        pair = self._client.get(key)
        if pair is None:
            raise RegistryError(f'etcd has no "{key}", which is flannel\'s configuration of the network')
        try:
            return flannel.read_net_conf(pair.value)
        except ValueError as error:
            raise RegistryError(f'"{key}" in etcd: {error}') from error

    def _check_cluster(self, conf: NetConf, wish: Wish) -> None:
        """Without it, packets to flannel's network would be masqueraded."""
        cluster = list(map(parse_cidr, wish.cluster))
        for network in map(parse_cidr, conf.networks):
            if not any(each.contains(network) for each in cluster):
                networks = ", ".join(f'"{each}"' for each in conf.networks)
                raise RegistryError(f'flannel\'s network is not in "cluster"; set it to [{networks}]')

    def _list(self) -> list[_Lease]:
        found = []
        for pair in self._client.list_keys(self._prefix)[0]:
            with suppress(ValueError):  # not a lease
                subnets = flannel.subnets_of(pair.key.removeprefix(self._prefix))
                found.append(_Lease(subnets, flannel.public_address(pair.value), pair))
        return found

    def _find_own(self, leases: Sequence[_Lease], conf: NetConf) -> _Lease | None:
        """This node's lease; one that does not suit the network, or overlaps an older one, is deleted as in flannel."""
        for lease in leases:
            if lease.pair.key == self._own or lease.address in self._addresses:
                older = [each for each in leases if each.pair.created < lease.pair.created and each.overlaps(lease)]
                if conf.fits(lease.subnets) and not older:
                    return lease
                self._client.delete(lease.pair.key)
        return None

    def _claim(self, conf: NetConf, wish: Wish, leases: Sequence[_Lease]) -> None:
        """Reserve subnets, unless another node is faster."""
        preferred = wish.preferred if conf.fits(wish.preferred) else ()
        asked = Wish(conf.networks, conf.lengths, (*wish.excluded, *conf.outside), preferred)
        subnets = choose(asked, [subnet for lease in leases for subnet in lease.subnets], self._name)
        key, lease = self._prefix + flannel.key_of(subnets), self._leases.granted(self._conf.reserve)
        value = flannel.write_reservation(self._addresses[0])
        if not self._client.put_if([(key, value, lease)], absent=[key]):
            self._client.revoke(lease)

    def _renew(self) -> None:
        with self._lock:
            if self._lease and not self._client.keep_alive(self._lease):
                self._lease = 0  # the watch shows that the record is gone, and the daemon leases again

    def _entry(self, key: str, pair: KeyValue) -> Entry:
        try:
            node = flannel.read_lease(key, pair.value)
        except ValueError as error:
            return Entry(key, None, str(error))
        name = self._name if node.addresses[0] in self._addresses else key
        return Entry(key, replace(node, name=name, since=pair.created))


def _local_addresses() -> tuple[str, ...]:
    """The addresses of this node's links."""
    try:
        with Netlink() as host:
            return tuple(one.ip for one in list_addresses(host) if one.is_global)
    except OSError as error:
        raise RegistryError(f"cannot read this node's addresses: {error}") from error

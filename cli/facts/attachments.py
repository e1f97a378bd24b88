"""The pods that are attached to this node's networks, and what is wrong with each.

An attachment is found by its host veth, whose alias names the owner, or by libcni's cache if that veth is gone though
the pod's namespace is there. Leases, the cache and the pod's own namespace tell the rest. Needs root.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from cli.facts.cache import Cached, read_cache
from cli.facts.leases import Lease, read_leases
from cli.facts.owners import Owners
from cli.facts.paths import LEASES
from linux.netlink.socket import Netlink, NetlinkError
from linux.netns import is_netns
from linux.netns_ids import paths_of
from linux.ownership import is_owner_tag, owner_tag
from linux.rtnl.addresses import list_addresses
from linux.rtnl.counters import Counters, read_counters
from linux.rtnl.links import Link, find_peer, list_links
from plugins.pod import pod_files
from spec.attachment import Attachment

_OURS = ("bridge", "kubenet", "vxlan")
_NOTHING = Counters(0, 0, 0, 0)


@dataclass(frozen=True)
class Traffic:
    """What a pod has received or sent by its interface."""

    packets: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class AttachedPod:
    """A pod's interface in a network. What is not known is "", 0 or empty.

    `tag`: the alias of its host veth, see linux/ownership.py. `pod`: "namespace/name" of Kubernetes. `addresses`:
    without prefix lengths. `veth`, `index`: the host veth. `mac`: of the pod's interface. `bridge`: the one that the
    host veth is a port of. `netns`: a path of the pod's namespace. `since`: when it was attached, in seconds since
    1970. `problems`: a sentence for each. `is_live`: its host veth leads to another namespace, which therefore exists.
    `unleased`: those of its addresses that host-local should have leased, and has not.
    """

    network: str
    container: str
    ifname: str
    tag: str
    pod: str
    addresses: tuple[str, ...]
    veth: str
    index: int
    mac: str
    bridge: str
    netns: str
    since: float
    received: Traffic = Traffic()
    sent: Traffic = Traffic()
    problems: tuple[str, ...] = ()
    is_live: bool = False
    unleased: tuple[str, ...] = ()

    @property
    def attachment(self) -> Attachment:
        """The owner of all that it has."""
        return Attachment(self.network, self.container, self.ifname)


def read_attachments(leases: Sequence[Lease] | None = None, cache: Sequence[Cached] | None = None) -> list[AttachedPod]:
    """All of this node's, by network, pod and container. Raises OSError.

    `leases`, `cache`: what is known of them already, so that they are not read again.
    """
    leases = read_leases() if leases is None else leases
    cache = read_cache() if cache is None else cache
    with Netlink() as host:
        found = list(_Reader(host, leases, cache).attached())
    return sorted(found, key=lambda one: (one.network, one.pod, one.container, one.ifname, one.tag))


@dataclass(frozen=True)
class _Seen:
    """What a pod's links show: its own end of the pair, the addresses there (None: unknown), and its bridge."""

    peer: Link | None
    addresses: tuple[str, ...] | None
    bridge: Link | None


class _Reader:
    """The node's links, leases and cache, read once."""

    def __init__(self, host: Netlink, leases: Sequence[Lease], cache: Sequence[Cached]) -> None:
        self._host, self._leases, self._cache = host, leases, cache
        self._links = {link.index: link for link in list_links(host)}
        self._counters = read_counters(host)
        self._leased = {(lease.network, lease.address): lease for lease in leases}
        self._cached = {owner_tag(one.attachment): one for one in cache}

    def attached(self) -> Iterator[AttachedPod]:
        veths = [link for link in self._links.values() if link.kind == "veth"]
        owners = Owners([*(one.attachment for one in self._cache), *(lease.attachment for lease in self._leases)])
        pairs = [(owners.of(veth.alias), veth) for veth in veths if is_owner_tag(veth.alias)]
        tags = {veth.alias for _, veth in pairs}
        others = {link.name: link for link in veths if link.alias not in tags}
        for tag, one in self._cached.items():
            if tag not in tags and one.kind in _OURS:
                veth = next((others[name] for name in one.links if name in others), None)
                if veth:  # the reference plugin's, which has no alias
                    pairs.append((one.attachment, veth))
                elif is_netns(one.netns):
                    yield self._without_veth(one)
        wanted = {veth.peer_netns for _, veth in pairs if veth.peer_is_elsewhere}
        paths = paths_of(self._host, wanted, [one.netns for one in self._cache])
        for owner, veth in pairs:
            yield self._of(owner, veth, paths.get(veth.peer_netns, "") if veth.peer_is_elsewhere else "")

    def _of(self, owner: Attachment, veth: Link, path: str) -> AttachedPod:
        cached, seen = self._cached.get(owner_tag(owner)), self._look_inside(veth)
        own = [lease for lease in self._leases if lease.is_of(owner)]
        due = tuple(dict.fromkeys([*(lease.address for lease in own), *(cached.addresses if cached else ())]))
        count = self._counters.get(veth.index, _NOTHING)
        unleased = self._unleased(owner, due or seen.addresses or (), cached)
        return AttachedPod(
            owner.network,
            owner.container_id,
            owner.ifname or (seen.peer.name if seen.peer else ""),
            tag=veth.alias,
            pod=(cached.pod if cached else "") or _name_for_daemon(owner),
            addresses=due or seen.addresses or (),
            veth=veth.name,
            index=veth.index,
            mac=seen.peer.mac if seen.peer else "",
            bridge=seen.bridge.name if seen.bridge else "",
            netns=path,
            since=min((lease.since for lease in own), default=cached.since if cached else 0),
            received=Traffic(count.sent_packets, count.sent_bytes),  # what the host's end sends, the pod receives
            sent=Traffic(count.received_packets, count.received_bytes),
            problems=(
                *_of_links(veth, seen),
                *_of_namespace(veth, cached, path),
                *self._of_addresses(owner, due, seen.addresses),
                *(f"{address} is not leased, and may be given to another pod" for address in unleased),
            ),
            is_live=veth.peer_is_elsewhere,
            unleased=unleased,
        )

    def _without_veth(self, one: Cached) -> AttachedPod:
        return AttachedPod(
            one.network,
            one.container,
            one.ifname,
            tag="",
            pod=one.pod,
            addresses=one.addresses,
            veth="",
            index=0,
            mac="",
            bridge="",
            netns=one.netns,
            since=one.since,
            problems=(f"its host veth is gone, though its namespace {one.netns} is there",),
        )

    def _look_inside(self, veth: Link) -> _Seen:
        bridge = self._links.get(veth.master)
        with suppress(NetlinkError):  # the pod is being deleted, or the kernel is too old
            peer = find_peer(self._host, veth)
            found = list_addresses(self._host, veth.peer, netns=veth.peer_netns)
            return _Seen(peer, tuple(one.ip for one in found if one.is_global), bridge)
        return _Seen(None, None, bridge)

    def _of_addresses(self, owner: Attachment, due: Collection[str], inside: Collection[str] | None) -> Iterator[str]:
        """What is wrong with its addresses: those that are `due`, and those that it has (None: unknown)."""
        if inside is None:
            return
        if not inside and not due:
            yield "it has no address"
        yield from (f"{address} is missing in its namespace" for address in due if address not in inside)
        for address in due or inside:
            lease = self._leased.get((owner.network, address))
            if lease and owner.container_id and not lease.is_of(owner):
                yield f"{address} is leased to {f'container {lease.container}' if lease.container else 'nobody'}"

    def _unleased(self, owner: Attachment, addresses: Collection[str], cached: Cached | None) -> tuple[str, ...]:
        if not _keeps_leases(owner.network, cached):
            return ()
        return tuple(address for address in addresses if (owner.network, address) not in self._leased)


def _name_for_daemon(owner: Attachment) -> str:
    """The pod's name in the file that an ADD with `policyWait` writes, which is there without a cache, too."""
    with suppress(OSError):
        if (file := pod_files.find(owner)) and file.name:
            return f"{file.namespace}/{file.name}"
    return ""


def _of_links(veth: Link, seen: _Seen) -> Iterator[str]:
    if not veth.up:
        yield f'its host veth "{veth.name}" is down'
    elif seen.peer and not seen.peer.up:
        yield f'its interface "{seen.peer.name}" is down'
    if not seen.bridge:
        yield f'its host veth "{veth.name}" is not a port of a bridge'
    elif not seen.bridge.up:
        yield f'its bridge "{seen.bridge.name}" is down'


def _of_namespace(veth: Link, cached: Cached | None, path: str) -> Iterator[str]:
    if not veth.peer_is_elsewhere:
        yield "both ends of its veth pair are in the node's namespace"
    elif cached and cached.netns and cached.netns != path and not is_netns(cached.netns):
        where = f"only {path} leads there" if path else "no path leads there"
        yield f"its namespace is no longer at {cached.netns}, and {where}"


def _keeps_leases(network: str, cached: Cached | None) -> bool:
    """Whether the addresses of an attachment are leased by host-local in the usual folder."""
    if cached and cached.kind:
        return cached.ipam.get("type") == "host-local" and not cached.ipam.get("dataDir")
    return os.path.isdir(os.path.join(LEASES, network))

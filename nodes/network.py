"""The node's network in the kernel, made equal to what the records of all nodes want.

It is the same code, and reads the same keys, as an ADD of `kubenet` and `vxlan`: without the daemon the plugins make
and keep the same state.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

from linux.netlink.socket import Netlink
from linux.nftables import static_table
from linux.rtnl import forwarding
from linux.rtnl.addresses import list_addresses
from linux.rtnl.forwarding import Changes
from linux.rtnl.monitor import Change as Announced
from linux.rtnl.vxlan import Vtep
from nodes import running_pods
from nodes.expected import Expected
from nodes.registry import Grant
from nodes.wanted import Change, Wanted
from plugins.node import conf, host_rules, reachability, state, tunnel
from plugins.node.bridge import ensure_bridge
from plugins.node.conf import NodeConf
from plugins.node.mtu import pod_mtu
from plugins.node.records import Node, Records, parse_peers
from plugins.node.selection import Peers
from plugins.node.tunnel import TunnelConf
from plugins.pod import host_bridge
from rules import cluster_masquerade, vtep_filter
from spec.addresses import family_of
from spec.config import Section
from spec.errors import CNIError


@dataclass(frozen=True)
class Outcome:
    """What a synchronisation found and did.

    `is_complete`: all was done; if not, the last of `problems` says what failed. `written`, `removed`: routes,
    neighbours and FDB entries. `left_out`: a sentence for each peer, or subnet of one, that is not reached. `problems`:
    sentences about this node. `own_conflict`: "", or why this node's subnet is another node's. `mtu` of pods in bytes,
    0 if it is not determined here. `mac`, `vni`, `port`, `address` of this node's VTEP, "" and 0 without a tunnel.
    """

    is_complete: bool = False
    written: int = 0
    removed: int = 0
    left_out: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    own_conflict: str = ""
    mtu: int = 0
    mac: str = ""
    vni: int = 0
    port: int = 0
    address: str = ""


class Network:
    """The network of that name on this node.

    `plugin`: the main plugin's object in the configuration list. `node`: this node's name; records under it are its
    own. All methods are called by one thread, in the node's network namespace, and raise nothing: what fails is in
    `Outcome.problems`, and to be tried again.
    """

    def __init__(self, name: str, plugin: Mapping[str, object], node: str = "") -> None:
        self._name, self._plugin, self._node = name, plugin, node
        self._bridge_mac, self._vtep_mac = "", ""
        self._about_pods: tuple[str, ...] = ()
        self._own = Grant(())
        self._synced: _Synced | None = None
        self._peers: Peers | None = None

    def sync(self, own: Grant, nodes: Mapping[str, Node]) -> Outcome:
        """Read all that the kernel has, and make it equal to what `own` and the records of `nodes` want."""
        before, self._own, self._synced = self._synced, own, None
        if not own.subnets:
            return Outcome(problems=("this node has no subnet yet",))
        try:
            with Netlink() as host:
                if self._plugin.get("type") == "bridge":
                    return self._forward(host, own)
                return self._sync(host, own, nodes, before)
        except (CNIError, OSError) as error:
            return Outcome(problems=(str(error),))

    def is_expected(self, change: Announced) -> bool:
        """Whether an announcement of the kernel says that something is as it should be."""
        return self._synced is not None and self._synced.expected.covers(change)

    def update(self, own: Grant, nodes: Mapping[str, Node], changed: Collection[str]) -> Outcome:
        """As `sync`, if nothing but the records with the keys `changed` has changed since the last call.

        Takes as long as there are changed records, whatever the number of the others, and reads nothing.
        """
        synced, self._synced = self._synced, None  # in case of an error below
        if synced is None or own != self._own:
            return self.sync(own, nodes)
        records = {key: nodes.get(key) for key in changed}
        change = synced.wanted.change({key: node if self._is_other(node) else None for key, node in records.items()})
        if change is None:
            return self.sync(own, nodes)
        try:
            done = self._apply(synced, change)
        except (CNIError, OSError):
            return self.sync(own, nodes)
        self._synced = replace(synced, keys=())
        return replace(synced.outcome, written=done.added, removed=done.removed, left_out=synced.left_out)

    def repair(self, own: Grant, nodes: Mapping[str, Node], changes: Collection[Announced]) -> Outcome:
        """As `sync`, after others have changed routes, neighbours or FDB entries as announced, in order.

        What they have deleted is written again, reading nothing; anything else needs all of `sync`.
        """
        synced, self._synced = self._synced, None  # in case of an error below
        lost = synced.expected.lost(changes) if synced and own == self._own else None
        if lost is None:
            return self.sync(own, nodes)
        end = synced.wanted.tunnel
        try:
            with host_rules.locked(self._name), Netlink() as host:
                written = forwarding.restore(host, lost, device=end.device if end else 0)
        except (CNIError, OSError):
            return self.sync(own, nodes)
        self._synced = synced
        return replace(synced.outcome, written=written, removed=0, left_out=synced.left_out)

    def _is_other(self, node: Node | None) -> bool:
        return node is not None and (not self._node or node.name != self._node)

    def _forward(self, host: Netlink, own: Grant) -> Outcome:
        """Pods on a bridge that something else connects with the other nodes."""
        for family in sorted(map(family_of, own.subnets)):
            host_bridge.enable_forwarding(host, family)
        return Outcome(is_complete=True)

    def _sync(self, host: Netlink, own: Grant, nodes: Mapping[str, Node], before: "_Synced | None") -> Outcome:
        section = Section({**self._plugin, "podCIDRs": list(own.subnets), **self._local_address(host, own)})
        node = replace(conf.parse_section(section), name=self._node, since=own.since)
        end = tunnel.parse_section(section) if self._plugin.get("type") == "vxlan" else None
        inline = {f"peers[{place}]": peer for place, peer in enumerate(parse_peers(section))}
        others = {key: record for key, record in nodes.items() if self._is_other(record)}
        if not reachability.is_set_up(host, node):
            reachability.check_subnets(host, node, end.device if end else "")
        with host_rules.locked(self._name):
            end = end and tunnel.with_lasting_mac(host, node, end, self._vtep_mac)
            mtu = tunnel.plan(host, node, end).mtu if end else pod_mtu(host, node)
            set_bridge = partial(self._ensure_bridge, host, node, node.mtu or mtu)
            records = Records((*inline.values(), *others.values()), earlier=self._peers)
            found = state.ensure(host, self._name, node, end, records, set_bridge)
            outcome = _outcome(host, node, end, found, node.mtu or mtu)
            outcome = replace(outcome, problems=(*outcome.problems, *self._about_pods))
            self._vtep_mac = outcome.mac
        keys, inside, is_known = (*inline, *others), node.inside, found.peers is self._peers
        self._peers = found.peers
        if is_known and before and (before.keys, before.inside) == (keys, inside):
            self._synced = replace(before, outcome=outcome, blocked=found.blocked)
        elif found.peers.judge:
            wanted, expected = Wanted(keys, found.peers, inside), Expected(found.peers.objects)
            masquerades = bool(node.ip_masq or end)
            self._synced = _Synced(keys, inside, wanted, expected, outcome, found.blocked, masquerades)
        return outcome

    def _local_address(self, host: Netlink, own: Grant) -> dict[str, str]:
        """The tunnel sends from the first address of this node that a link has, unless the plugin says otherwise."""
        section = Section(self._plugin)
        if self._plugin.get("type") != "vxlan" or section.has("localAddress") or section.has("parent"):
            return {}
        present = {one.ip for one in list_addresses(host)}
        usable = [address for address in own.addresses if address in present]
        return {"localAddress": usable[0]} if usable else {}

    def _ensure_bridge(self, host: Netlink, node: NodeConf, mtu: int) -> None:
        bridge = ensure_bridge(host, node, mtu, self._bridge_mac)
        self._bridge_mac = bridge.mac
        ipam = Section(self._plugin).section("ipam")
        self._about_pods = running_pods.keep(host, self._name, node, bridge, mtu, ipam)

    def _apply(self, synced: "_Synced", change: Change) -> Changes:
        """Write what changed records change; new peers may send before this node sends to them. Raises CNIError."""
        rules, end = [], synced.wanted.tunnel
        if end:
            rules += vtep_filter.changes(self._name, *change.vteps)
        if synced.masquerades:
            rules += cluster_masquerade.changes(self._name, *change.shared)
        with host_rules.locked(self._name):
            static_table.exchange_addresses(rules)
            if not change.before and not change.after:
                return Changes(0, 0)
            with Netlink() as host:
                done = forwarding.exchange(host, change.before, change.after, device=end.device if end else 0)
        synced.expected.exchange(change.before, change.after)
        return done


@dataclass(frozen=True)
class _Synced:
    """The state that the kernel has, if nothing else has changed it.

    `keys` of the records, and networks `inside`: those with which `wanted` was made; no keys if it has been changed
    since. `expected`: its routes, neighbours and FDB entries. `outcome`, `blocked`: of the last `sync`. `masquerades`:
    whether there is a masquerade, with its exceptions.
    """

    keys: tuple[str, ...]
    inside: tuple[str, ...]
    wanted: Wanted
    expected: Expected
    outcome: Outcome
    blocked: tuple[str, ...]
    masquerades: bool

    @property
    def left_out(self) -> tuple[str, ...]:
        """As in the outcome."""
        return (*self.wanted.left_out, *self.blocked)


def _outcome(host: Netlink, node: NodeConf, end: TunnelConf | None, found: state.State, mtu: int) -> Outcome:
    off = state.not_forwarding(host, node, end, found.peers)
    return Outcome(
        is_complete=True,
        written=found.changes.added,
        removed=found.changes.removed,
        left_out=(*found.peers.left_out, *found.blocked),
        problems=(*found.peers.about_this, *off, *reachability.unreachable_subnets(host, node)),
        own_conflict=found.peers.own_conflict,
        mtu=mtu,
        **_published(found.vtep),
    )


def _published(vtep: Vtep | None) -> dict[str, object]:
    """What the other nodes must know of this node's VTEP."""
    return {"mac": vtep.mac, "vni": vtep.vni, "port": vtep.port, "address": vtep.local} if vtep else {}

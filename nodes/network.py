"""The node's network in the kernel, made equal to what the records of all nodes want.

It is the same code, and reads the same keys, as an ADD of `kubenet` and `vxlan`: without the daemon the plugins make
and keep the same state.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from linux.netlink.socket import Netlink
from linux.rtnl.vxlan import Vtep
from nodes.registry import Grant
from plugins.node import conf, host_rules, reachability, state, tunnel
from plugins.node.bridge import ensure_bridge
from plugins.node.conf import NodeConf
from plugins.node.mtu import pod_mtu
from plugins.node.records import Node, Records, parse_peers
from plugins.node.tunnel import TunnelConf
from plugins.pod import host_bridge
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
        self._bridge_mac = ""

    def sync(self, own: Grant, nodes: Mapping[str, Node]) -> Outcome:
        """Read all that the kernel has, and make it equal to what `own` and the records of `nodes` want."""
        if not own.subnets:
            return Outcome(problems=("this node has no subnet yet",))
        try:
            with Netlink() as host:
                if self._plugin.get("type") == "bridge":
                    return self._forward(host, own)
                return self._sync(host, own, nodes)
        except (CNIError, OSError) as error:
            return Outcome(problems=(str(error),))

    def _forward(self, host: Netlink, own: Grant) -> Outcome:
        """Pods on a bridge that something else connects with the other nodes."""
        for family in sorted(map(family_of, own.subnets)):
            host_bridge.enable_forwarding(host, family)
        return Outcome(is_complete=True)

    def _sync(self, host: Netlink, own: Grant, nodes: Mapping[str, Node]) -> Outcome:
        section = Section({**self._plugin, "podCIDRs": list(own.subnets)})
        node = conf.parse_section(section)
        end = tunnel.parse_section(section) if self._plugin.get("type") == "vxlan" else None
        others = [record for record in nodes.values() if not self._node or record.name != self._node]
        records = Records((*parse_peers(section), *others))
        if not reachability.is_set_up(host, node):
            reachability.check_subnets(host, node, end.device if end else "")
        with host_rules.locked(self._name):
            mtu = tunnel.plan(host, node, end).mtu if end else pod_mtu(host, node)
            set_bridge = partial(self._ensure_bridge, host, node, node.mtu or mtu)
            found = state.ensure(host, self._name, node, end, records, set_bridge)
            return self._outcome(host, node, end, found, node.mtu or mtu)

    def _ensure_bridge(self, host: Netlink, node: NodeConf, mtu: int) -> None:
        self._bridge_mac = ensure_bridge(host, node, mtu, self._bridge_mac).mac

    def _outcome(self, host: Netlink, node: NodeConf, end: TunnelConf | None, found: state.State, mtu: int) -> Outcome:
        off = state.not_forwarding(host, node, end, found.peers)
        return Outcome(
            is_complete=True,
            written=found.changes.added,
            removed=found.changes.removed,
            left_out=(*found.peers.left_out, *found.blocked),
            problems=(*found.peers.about_this, *off, *reachability.unreachable_subnets(host, node)),
            mtu=mtu,
            **_published(found.vtep),
        )


def _published(vtep: Vtep | None) -> dict[str, object]:
    """What the other nodes must know of this node's VTEP."""
    return {"mac": vtep.mac, "vni": vtep.vni, "port": vtep.port, "address": vtep.local} if vtep else {}

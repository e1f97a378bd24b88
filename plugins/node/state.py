"""The node's part of a network in the kernel, whoever makes it: an ADD of `kubenet` or `vxlan`, or the daemon.

All of it follows from the configuration, the records of the other nodes, and the node's links. The caller holds
`host_rules.locked`.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from linux.errors import step
from linux.netlink.socket import Netlink
from linux.rtnl import vxlan
from linux.rtnl.forwarding import Changes
from linux.rtnl.links import find_link, find_link_by_index
from plugins.node import host_rules, paths, peers, reachability, tunnel
from plugins.node.conf import NodeConf
from plugins.node.records import Records
from plugins.node.selection import Peers
from plugins.node.tunnel import TunnelConf
from spec.addresses import is_ipv6


@dataclass(frozen=True)
class State:
    """What `ensure` made: for these `peers`, with this `vtep` (None without a tunnel).

    `changes`: of routes, neighbours and FDB entries. `blocked`: a sentence for each subnet of a peer that has no route.
    """

    peers: Peers
    vtep: vxlan.Vtep | None
    changes: Changes
    blocked: tuple[str, ...]


def ensure(
    host: Netlink,
    network: str,
    node: NodeConf,
    conf: TunnelConf | None,
    records: Records,
    set_gateways: Callable[[], object],
) -> State:
    """Make tunnel, paths and rules as wanted; without `conf` there is no tunnel. Raises CNIError.

    `set_gateways` is called when the tunnel is there, and before the rules, which depend on the bridge's addresses.
    """
    vtep, device, links = None, 0, [node.bridge]
    if conf:
        vtep = tunnel.plan(host, node, conf)
        others = _ensure_device(host, network, records, node, conf, vtep)
        device, links = index_of(host, vtep.name), [node.bridge, vtep.name]
    else:
        others = select(host, records, node)
    set_gateways()
    reachability.ensure_forwarding(node, links)
    changes, blocked = peers.ensure_paths(host, others, device=device, within=node.cluster)
    host_rules.ensure(host, network, node, others, vtep.name if vtep else "")
    if conf:
        host_rules.ensure_untracked(network, vtep if is_untracked(conf) else None)
    return State(others, vtep, changes, tuple(blocked))


def select(
    host: Netlink,
    records: Records,
    node: NodeConf,
    conf: TunnelConf | None = None,
    vtep: vxlan.Vtep | None = None,
) -> Peers:
    """The usable records and the paths to their nodes. Raises CNIError."""
    with step("read the node's network"):
        end = None
        if conf and vtep:
            has_ipv6 = reachability.has_ipv6(vtep.name)
            index, is_direct = index_of(host, vtep.name), conf.direct_routing
            end = paths.Tunnel(index, vtep.local, vtep.mac, is_direct, has_ipv6, vtep.vni, vtep.port)
        return peers.select_peers(host, records, node, end)


def not_forwarding(host: Netlink, node: NodeConf, conf: TunnelConf | None, others: Peers) -> list[str]:
    """A sentence for each link that does not forward IPv4; see `reachability.not_forwarding`."""
    names = [node.bridge, conf.device] if conf else [node.bridge]
    return reachability.not_forwarding(host, node, names, {path.link for path in others.paths if not path.mac})


def problems(
    host: Netlink,
    records: Records,
    node: NodeConf,
    conf: TunnelConf | None = None,
    vtep: vxlan.Vtep | None = None,
) -> list[str]:
    """A sentence for each record, and each link, that keeps pods from reaching other nodes' pods."""
    others = select(host, records, node, conf, vtep)
    return [*others.about_this, *not_forwarding(host, node, conf, others), *others.left_out]


def filter_of(host: Netlink, node: NodeConf, others: Peers, vtep: vxlan.Vtep) -> "Tunnel":  # noqa: F821
    """What the VTEP filter lets through."""
    from rules.vtep_filter import Tunnel

    known = paths.vteps(others.nodes, over_ipv6=is_ipv6(vtep.local))
    parent = find_link_by_index(host, vtep.parent)
    return Tunnel(vtep.vni, vtep.port, known, parent.name if parent else "", vtep.name, node.bridge)


def is_untracked(conf: TunnelConf) -> bool:
    """Whether the tunnel's datagrams bypass connection tracking. Raises CNIError."""
    if conf.notrack is not None:
        return conf.notrack
    from rules import host_firewall

    with step("read the node's firewall"):
        return not host_firewall.may_filter_by_state()


def index_of(host: Netlink, name: str) -> int:
    """The index of the link with that name, 0 if there is none."""
    with suppress(OSError):
        found = find_link(host, name)
        return found.index if found else 0
    return 0


def _ensure_device(
    host: Netlink, network: str, records: Records, node: NodeConf, conf: TunnelConf, vtep: vxlan.Vtep
) -> Peers:
    """Create the device, and its filter before it is up. Without the device, the filter would affect others."""
    from rules import vtep_filter

    others = None

    def filter_frames() -> None:
        nonlocal others
        others = select(host, records, node, conf, vtep)
        with step("filter frames of unknown VTEPs"):
            vtep_filter.ensure(network, filter_of(host, node, others, vtep))

    with step(f'set up "{vtep.name}"'):
        try:
            vxlan.ensure_vtep(host, vtep, tunnel.addresses_of(node), filter_frames)
        except OSError:
            found = find_link(host, vtep.name)
            if not found or not found.up:
                vtep_filter.delete(network)
            raise
    return others

"""The nftables rules of a node that no pod owns: masquerade, duplicate filter, notrack. Every ADD updates them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from linux.errors import step
from linux.netlink.socket import Netlink
from linux.rtnl.links import Link, find_link, set_promiscuous
from linux.rtnl.vxlan import Vtep
from plugins.daemon import FOLDER
from plugins.node.conf import PROMISCUOUS_BRIDGE, NodeConf
from plugins.node.gateways import gateways_on
from plugins.node.records import Node
from plugins.node.selection import Peers
from spec.addresses import is_ipv6, network_of

_LOCK_SECONDS = 60


@contextmanager
def locked(network: str) -> Iterator[None]:
    """Serialise changes to the node's state of a network, so that an older list of peers never undoes a newer one.

    Raises CNIError 11 if the lock is not released in time.
    """
    from state.lock import locked as lock_of

    with step(f'lock the state of network "{network}"'):
        os.makedirs(FOLDER, mode=0o755, exist_ok=True)
        with lock_of(os.path.join(FOLDER, f"{network}.lock"), _LOCK_SECONDS):
            yield


def ensure(host: Netlink, network: str, node: NodeConf, peers: Peers, tunnel: str = "") -> None:
    """Set masquerade and duplicate filter, and remove what is no longer configured. Raises CNIError.

    `tunnel`: the name of the tunnel device, "" without one.
    """
    from rules import cluster_masquerade, hairpin_duplicates

    bridge = find_link(host, node.bridge)
    gateways = _all_gateways(host, bridge, node)
    with step("set the masquerade of the node"):
        cluster_masquerade.ensure(network, _masquerade_scope(node, peers, gateways, tunnel))
    with step("set the filter of duplicate frames"):
        if _has_duplicates(node) and bridge:
            hairpin_duplicates.ensure(network, bridge.mac, _filtered(gateways))
        else:
            hairpin_duplicates.delete(network)
        if node.hairpin_mode != PROMISCUOUS_BRIDGE and bridge and bridge.promiscuous:
            set_promiscuous(host, bridge.index, on=False)


def ensure_untracked(network: str, vtep: Vtep | None) -> None:
    """Exempt a VTEP's datagrams from connection tracking; None: track everything. Raises CNIError."""
    from rules import notrack

    with step("set the exemption from connection tracking"):
        if vtep:
            notrack.ensure(network, vtep)
        else:
            notrack.delete(network)


def missing(host: Netlink, network: str, node: NodeConf, peers: Peers, tunnel: str = "") -> list[str]:
    """A sentence for each part of `ensure` that is missing."""
    from rules import cluster_masquerade, hairpin_duplicates

    bridge = find_link(host, node.bridge)
    gateways = _all_gateways(host, bridge, node)
    problems = cluster_masquerade.problems(network, _masquerade_scope(node, peers, gateways, tunnel))
    if _has_duplicates(node) and bridge:
        problems += hairpin_duplicates.problems(network, bridge.mac, _filtered(gateways))
    return problems


def delete(network: str) -> None:
    """Delete the rules of `ensure` and of the tunnel. Raises NetlinkError."""
    from rules import cluster_masquerade, hairpin_duplicates, notrack, vtep_filter

    for feature in (cluster_masquerade, hairpin_duplicates, notrack, vtep_filter):
        feature.delete(network)


def _has_duplicates(node: NodeConf) -> bool:
    """Whether pods may get frames twice. With policies frames between pods are routed, never switched.

    The filter would take those for duplicates: from the bridge's MAC, and with a pod's address.
    """
    return node.hairpin_mode == PROMISCUOUS_BRIDGE and node.policy_wait is None


def _masquerade_scope(node: NodeConf, peers: Peers, gateways: Sequence[str], tunnel: str) -> "Scope":  # noqa: F821
    from rules.cluster_masquerade import Scope

    own, inside = [network_of(gateway) for gateway in gateways], _networks_inside(node, peers.nodes)
    return Scope(own, inside, nodes=peers.shared, tunnel=tunnel, beyond=node.ip_masq)


def _networks_inside(node: NodeConf, peers: Sequence[Node]) -> tuple[str, ...]:
    """The networks to which pods are not masqueraded: the cluster's, configured ones, and all nodes' subnets."""
    return (*node.inside, *node.subnets, *(subnet for peer in peers for subnet in peer.subnets))


def _all_gateways(host: Netlink, bridge: Link | None, node: NodeConf) -> list[str]:
    """Those of the configured subnets, and of earlier ones that still have pods."""
    return sorted({*node.gateways, *gateways_on(host, bridge)})


def _filtered(gateways: Sequence[str]) -> list[str]:
    """The gateways of the families that have a single subnet on the bridge.

    Between two subnets the bridge routes, and those frames look like duplicates: its own MAC with a pod's address.
    """
    return [one for one in gateways if sum(is_ipv6(one) == is_ipv6(other) for other in gateways) == 1]

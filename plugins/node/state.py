"""The node's own state, which no pod owns: ways to the peers, masquerade, the bridge's gateways.

It is made equal to what is wanted at every ADD: what is there already costs a look, what has drifted is repaired.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from linux.overlay import Way

from linux.addresses import Address, delete_address, list_addresses
from linux.errors import step
from linux.links import find_link, list_ports
from linux.netlink import Netlink
from plugins.node.conf import PROMISCUOUS_BRIDGE, NodeConf
from plugins.node.records import Node

FOLDER = "/run/slash24"
_PATIENCE_SECONDS = 60


@contextmanager
def locked(network: str) -> Iterator[None]:
    """One at a time changes the state of a network's node, so that an older list of peers never undoes a newer one.

    Raises CNIError 11 if the lock can not be had in time.
    """
    from ipam.lock import locked as lock_of

    with step(f'lock the state of network "{network}"'):
        os.makedirs(FOLDER, mode=0o755, exist_ok=True)
        with lock_of(os.path.join(FOLDER, f"{network}.lock"), _PATIENCE_SECONDS):
            yield


def ensure_rules(host: Netlink, network: str, node: NodeConf, peers: Sequence[Node]) -> None:
    """Masquerade and duplicate filter as wanted; what is not wanted is removed. Raises CNIError."""
    from linux import dedup, egress

    with step("set the masquerade of the node"):
        if node.ip_masq:
            egress.ensure(network, node.subnets, inside_of(node, peers), nodes_of(peers))
        else:
            egress.delete(network)
    with step("set the filter of duplicate frames"):
        bridge = find_link(host, node.bridge)
        if node.hairpin_mode == PROMISCUOUS_BRIDGE and bridge:
            dedup.ensure(network, bridge.mac, node.gateways)
        else:
            dedup.delete(network)


def missing_rules(host: Netlink, network: str, node: NodeConf, peers: Sequence[Node]) -> list[str]:
    """What of `ensure_rules` is not there, a sentence each."""
    from linux import dedup, egress

    problems = []
    if node.ip_masq:
        problems += egress.missing(network, node.subnets, inside_of(node, peers), nodes_of(peers))
    bridge = find_link(host, node.bridge)
    if node.hairpin_mode == PROMISCUOUS_BRIDGE and bridge:
        problems += dedup.missing(network, bridge.mac, node.gateways)
    return problems


def delete_rules(network: str) -> None:
    """Remove all that `ensure_rules` and the tunnel's filter made. Raises NetlinkError."""
    from linux import dedup, egress, vtep_filter

    for feature in (egress, dedup, vtep_filter):
        feature.delete(network)


def inside_of(node: NodeConf, peers: Sequence[Node]) -> tuple[str, ...]:
    """The networks that pods reach under their own address: the cluster's, what is configured, all nodes' subnets."""
    return (*node.inside, *node.subnets, *(subnet for peer in peers for subnet in peer.subnets))


def nodes_of(peers: Sequence[Node]) -> tuple[str, ...]:
    """The addresses of the other nodes, which pods reach under their own address too. (This one's are local.)"""
    return tuple(sorted({address for peer in peers for address in peer.addresses}))


def apart_from_bridge(host: Netlink, bridge: str) -> tuple[list[Address], int]:
    """All addresses of the node, and the index of the pods' bridge (0: there is none)."""
    found = find_link(host, bridge)
    return list_addresses(host), found.index if found else 0


def drop_old_gateways(host: Netlink, bridge: str, kept: Sequence[str], leased: Callable[[], Sequence[str]]) -> None:
    """Take the gateways of earlier subnets from the bridge, each when no address of its subnet is leased any more.

    `kept`: the gateways of today (CIDR). `leased`: the addresses in use, asked only if there is an old gateway.
    """
    found = find_link(host, bridge)
    if found is None or not kept:
        return
    old = [one.cidr for one in list_addresses(host, found.index) if one.is_global and one.cidr not in kept]
    if not old:
        return
    from netaddr.ip import IPAddress, IPNetwork

    used = [IPAddress(address) for address in leased()]
    for gateway in old:
        if not any(address in IPNetwork(gateway) for address in used):
            delete_address(host, found.index, gateway)


def addresses_behind(host: Netlink, bridge: str) -> Sequence[str]:
    """For IPAM plugins that do not say what is leased: while the bridge has any port, its gateways are in use."""
    found = find_link(host, bridge)
    if found is None or not list_ports(host, found.index):
        return ()
    return [one.cidr.partition("/")[0] for one in list_addresses(host, found.index)]


def ways_missing(host: Netlink, ways: Sequence[Way], device: int) -> list[str]:
    """What of the ways to the peers is not there, a sentence each."""
    from linux import overlay

    return overlay.missing(host, ways, device=device)

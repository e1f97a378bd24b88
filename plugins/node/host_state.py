"""The node's own state, which no pod owns: paths to the peers, masquerade, the bridge's gateways.

It is made equal to what is wanted at every ADD: what is there already costs a look, what has drifted is repaired.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from linux.errors import step
from linux.netlink.socket import Netlink
from linux.ownership import is_of_network
from linux.rtnl.addresses import add_address, carries, delete_address, list_addresses
from linux.rtnl.forwarding import PeerPath
from linux.rtnl.links import Link, find_link, list_ports, set_mac, set_promiscuous
from linux.rtnl.vxlan import Vtep
from plugins.node.conf import PROMISCUOUS_BRIDGE, NodeConf
from plugins.node.records import Node
from plugins.node.selection import Peers
from spec.addresses import is_ipv6, network_of, parse_address

FOLDER = "/run/slash24"
_PATIENCE_SECONDS = 60


@contextmanager
def locked(network: str) -> Iterator[None]:
    """One at a time changes the state of a network's node, so that an older list of peers never undoes a newer one.

    Raises CNIError 11 if the lock can not be had in time.
    """
    from state.lock import locked as lock_of

    with step(f'lock the state of network "{network}"'):
        os.makedirs(FOLDER, mode=0o755, exist_ok=True)
        with lock_of(os.path.join(FOLDER, f"{network}.lock"), _PATIENCE_SECONDS):
            yield


def ensure_rules(host: Netlink, network: str, node: NodeConf, peers: Peers, tunnel: str = "") -> None:
    """Masquerade and duplicate filter as wanted; what is not wanted is removed. Raises CNIError.

    `tunnel`: the name of the device by which peers are reached, "" without one.
    """
    from rules import cluster_masquerade, hairpin_duplicates

    bridge = find_link(host, node.bridge)
    gateways = _all_gateways(host, bridge, node)
    with step("set the masquerade of the node"):
        cluster_masquerade.ensure(network, _egress(node, peers, gateways, tunnel))
    with step("set the filter of duplicate frames"):
        if node.hairpin_mode == PROMISCUOUS_BRIDGE and bridge:
            hairpin_duplicates.ensure(network, bridge.mac, _filtered(gateways))
        else:
            hairpin_duplicates.delete(network)
            if bridge and bridge.promiscuous:
                set_promiscuous(host, bridge.index, on=False)


def ensure_untracked(network: str, vtep: Vtep | None) -> None:
    """Have the datagrams of a VTEP pass untracked; None: have all of the network tracked. Raises CNIError."""
    from rules import notrack

    with step("set what is not tracked"):
        if vtep:
            notrack.ensure(network, vtep)
        else:
            notrack.delete(network)


def missing_rules(host: Netlink, network: str, node: NodeConf, peers: Peers, tunnel: str = "") -> list[str]:
    """What of `ensure_rules` is not there, a sentence each."""
    from rules import cluster_masquerade, hairpin_duplicates

    bridge = find_link(host, node.bridge)
    gateways = _all_gateways(host, bridge, node)
    problems = cluster_masquerade.missing(network, _egress(node, peers, gateways, tunnel))
    if node.hairpin_mode == PROMISCUOUS_BRIDGE and bridge:
        problems += hairpin_duplicates.missing(network, bridge.mac, _filtered(gateways))
    return problems


def delete_rules(network: str) -> None:
    """Remove all that `ensure_rules` and the tunnel made. Raises NetlinkError."""
    from rules import cluster_masquerade, hairpin_duplicates, notrack, vtep_filter

    for feature in (cluster_masquerade, hairpin_duplicates, notrack, vtep_filter):
        feature.delete(network)


def inside_of(node: NodeConf, peers: Sequence[Node]) -> tuple[str, ...]:
    """The networks that pods reach under their own address: the cluster's, what is configured, all nodes' subnets."""
    return (*node.inside, *node.subnets, *(subnet for peer in peers for subnet in peer.subnets))


def _egress(node: NodeConf, peers: Peers, gateways: Sequence[str], tunnel: str) -> "Egress":  # noqa: F821
    from rules.cluster_masquerade import Egress

    own, inside = _subnets_of(gateways), inside_of(node, peers.nodes)
    return Egress(own, inside, nodes=peers.shared, tunnel=tunnel, beyond=node.ip_masq)


def ensure_gateways(host: Netlink, bridge: str, gateways: Sequence[str]) -> None:
    """Put gateways (CIDR) back on the bridge, should they have been dropped between an ADD's lease and now.

    Raises CNIError.
    """
    with step(f'set the gateway address of "{bridge}"'):
        found = find_link(host, bridge)
        present = gateways_on(host, found)
        for gateway in gateways:
            if found and not carries(present, gateway) and add_address(host, found.index, gateway, dad=False):
                set_mac(host, found.index, found.mac)


def drop_old_gateways(
    host: Netlink, network: str, bridge: str, kept: Sequence[str], leased: Callable[[], Sequence[str]]
) -> bool:
    """Take the gateways of earlier subnets from the bridge, each when no address of its subnet is leased any more.

    `kept`: the gateways of today (CIDR). `leased`: the addresses in use, asked only if there is an old gateway. Whether
    one went. A bridge with pods of another network is left alone: whose its gateways are can not be told.
    """
    found = find_link(host, bridge)
    old = [gateway for gateway in gateways_on(host, found) if gateway not in kept]
    if not old or any(port.alias and not is_of_network(port.alias, network) for port in list_ports(host, found.index)):
        return False
    used = list(map(parse_address, leased()))
    unused = [gateway for gateway in old if not any(map(parse_address(gateway).contains, used))]
    for gateway in unused:
        delete_address(host, found.index, gateway)
    return bool(unused)


def gateways_on(host: Netlink, bridge: Link | None) -> list[str]:
    """Those of the bridge's addresses (CIDR) that are the first of their subnet; others somebody else has put there."""
    if bridge is None:
        return []
    found = [one.cidr for one in list_addresses(host, bridge.index) if one.is_global]
    return [cidr for cidr in found if (address := parse_address(cidr)) == address.first_host]


def addresses_behind(host: Netlink, bridge: str) -> Sequence[str]:
    """For IPAM plugins that do not say what is leased: while the bridge has any port, its gateways are in use."""
    found = find_link(host, bridge)
    if found is None or not list_ports(host, found.index):
        return ()
    return [one.ip for one in list_addresses(host, found.index)]


def ensure_paths(host: Netlink, wanted: Sequence[PeerPath], *, device: int, within: Sequence[str]) -> list[str]:
    """Make the paths to the peers equal to `wanted`; see `forwarding.sync`. Raises CNIError.

    Returns a sentence if a peer's subnet got no route, as somebody else's is in the way, or the kernel took none: that
    costs the traffic with this peer, and no other pod.
    """
    from linux.rtnl import forwarding

    with step("set the paths to the other nodes"):
        try:
            forwarding.sync(host, wanted, device=device, within=within)
        except forwarding.RouteRefused as error:
            return [str(error.strerror)]
    return []


def missing_paths(host: Netlink, paths: Sequence[PeerPath], device: int) -> list[str]:
    """A sentence for each route, neighbour or FDB entry of the paths to the peers that is missing."""
    from linux.rtnl import forwarding

    return forwarding.missing(host, paths, device=device)


def _all_gateways(host: Netlink, bridge: Link | None, node: NodeConf) -> list[str]:
    """Those of today, and those of earlier subnets that still have pods."""
    return sorted({*node.gateways, *gateways_on(host, bridge)})


def _filtered(gateways: Sequence[str]) -> list[str]:
    """The gateways of those families that have one subnet on the bridge.

    Between two, the bridge routes: with its own MAC and a pod's address, as the duplicates have them.
    """
    return [one for one in gateways if sum(is_ipv6(one) == is_ipv6(other) for other in gateways) == 1]


def _subnets_of(gateways: Sequence[str]) -> list[str]:
    return [network_of(gateway) for gateway in gateways]

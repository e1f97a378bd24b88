"""The other nodes as the kernel and the peers file alone tell of them, if no configuration of the network is found."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from cli.status.peers import Others
from cli.status.picture import KUBENET, VXLAN, Device, NetworkPicture, PeerPicture
from linux.netlink.socket import Netlink
from linux.rtnl.addresses import list_addresses
from linux.rtnl.links import list_links
from linux.rtnl.neighbours import list_forwarding, list_neighbours
from linux.rtnl.peer_routes import Hop, list_hops
from linux.rtnl.vxlan import OWNER
from plugins.node.records import PEERS_FILE, Node, read_peers_file
from spec.addresses import unpack
from spec.errors import CNIError

_NAMELESS = "(no configuration found)"


def with_unconfigured(host: Netlink, networks: Sequence[NetworkPicture]) -> list[NetworkPicture]:
    """The networks, and the peers to which routes of ours lead though no network has a configuration with peers.

    They belong to the network without a configuration that has pods, if there is one. Raises OSError.
    """
    hops = {f"{unpack(dst)}/{length}": hop for (dst, length), hop in list_hops(host).items() if hop}
    if not hops or any(network.mode in (KUBENET, VXLAN) for network in networks):
        return list(networks)
    others = _read(host, hops)
    bare = next((network for network in networks if not network.mode), NetworkPicture(_NAMELESS))
    rest = [network for network in networks if network is not bare]
    mode = VXLAN if others.vtep else KUBENET
    problems = (*bare.problems, *others.problems)
    return [replace(bare, mode=mode, vtep=others.vtep, peers=others.peers, problems=problems), *rest]


def _read(host: Netlink, hops: dict[str, Hop]) -> Others:
    own = {one.ip for one in list_addresses(host)}
    try:
        known, problems = read_peers_file(PEERS_FILE, required=False), ()
        records = [node for node in known.nodes if own.isdisjoint(node.addresses)]
    except CNIError as error:
        records, problems = [], (str(error),)
    vteps = {link.index: link for link in list_links(host) if link.alias == OWNER}
    remotes = {index: _remotes(host, index) for index in vteps}
    device = next(iter(vteps.values()), None)
    vtep = Device(device.name, problems=() if device.up else ("it is down",)) if device else None
    return Others(vtep, tuple(_peers(records, hops, remotes)), problems)


def _remotes(host: Netlink, device: int) -> dict[bytes, str]:
    """The address of the node behind each next hop in the tunnel."""
    addresses = list_forwarding(host, device).entries
    hops = list_neighbours(host, device).entries
    return {hop: unpack(addresses[mac]) for hop, mac in hops.items() if addresses.get(mac)}


def _peers(
    records: Iterable[Node], hops: dict[str, Hop], remotes: dict[int, dict[bytes, str]]
) -> Iterator[PeerPicture]:
    """The nodes with a record, then the routes that lead to none of these."""
    left = dict(hops)
    for node in records:
        found = [left.pop(subnet) for subnet in node.subnets if subnet in left]
        missing = [f"its route for {subnet} is missing" for subnet in node.subnets if subnet not in hops]
        way = "tunnel" if any(link in remotes for _, link in found) else "route" if found else ""
        yield PeerPicture(node.name or node.label, next(iter(node.addresses), ""), node.subnets, way, tuple(missing))
    for subnet, (via, link) in left.items():
        address = remotes[link].get(via, "") if link in remotes else unpack(via) if via else ""
        lost = () if address or link not in remotes else (f"its neighbour or FDB entry for {subnet} is missing",)
        yield PeerPicture(subnet, address, (subnet,), "tunnel" if link in remotes else "route", lost)

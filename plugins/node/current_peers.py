"""The other nodes as this one sees them now: the records, held against its links, addresses and routes."""

from collections.abc import Iterable
from dataclasses import replace

from linux.netlink.socket import Netlink
from linux.rtnl.addresses import list_addresses
from linux.rtnl.links import find_link, find_link_by_index
from plugins.node.conf import NodeConf
from plugins.node.paths import Links, Tunnel
from plugins.node.records import Records
from plugins.node.selection import Here, Peers, select
from spec.request import Request

_TOLD = 10


def peers_of(host: Netlink, records: Records, node: NodeConf, tunnel: Tunnel | None = None) -> Peers:
    """The records of other nodes that are used, and the paths to them. Raises NetlinkError."""
    from linux.rtnl import forwarding

    if not records.nodes:
        return Peers((), (), records.left_out)
    device = tunnel.device if tunnel else 0
    here = Here(node.subnets, node.cluster, _links(host, node.bridge, device), tunnel)
    found = select(records.nodes, here, lambda paths: forwarding.in_place(host, paths, device=device))
    return replace(found, left_out=(*records.left_out, *found.left_out))


def tell(request: Request, sentences: Iterable[str], *, at_most: int = _TOLD) -> None:
    """Write on stderr what does not stop a call; runtimes log it. (STATUS has no bound, and lists all.)"""
    sentences = list(sentences)
    for sentence in sentences[:at_most]:
        request.log(f"{request.conf.type}: {sentence}")
    if len(sentences) > at_most:
        request.log(f"{request.conf.type}: {len(sentences) - at_most} more; STATUS lists all")


def _links(host: Netlink, bridge_name: str, device: int) -> Links:
    addresses = list_addresses(host)
    bridge = find_link(host, bridge_name)
    apart = {bridge.index if bridge else 0, device}
    of_others = {one.link for one in addresses if one.is_global} - apart
    links = [link for index in sorted(of_others) if (link := find_link_by_index(host, index))]
    return Links(
        addresses,
        apart_from=apart,
        down={link.index for link in links if not link.up},
        idle={link.index for link in links if not link.carrier},
    )

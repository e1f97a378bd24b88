"""The other nodes: reads their records, selects the usable ones, and installs the paths to them."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from linux.errors import step
from linux.netlink.socket import Netlink
from linux.rtnl.addresses import list_addresses
from linux.rtnl.forwarding import Changes, PeerPath
from linux.rtnl.links import find_link, find_link_by_index
from plugins.node.conf import NodeConf
from plugins.node.paths import Links, Tunnel
from plugins.node.records import PEERS_FILE, Records, parse_peers, read_peers_file
from plugins.node.selection import Peers, ThisNode, select
from spec.config import Section, absolute_path
from spec.errors import CNIError, Code
from spec.request import Request
from state.files import delete_file, make_folders

FOLDER = "/var/lib/cni/slash24"
_LOGGED = 10


def read_records(request: Request) -> Records:
    """The records of the nodes in the configuration and in the peers file, possibly including this node's own.

    Raises CNIError 7 (configuration) or 11: the file is unreadable, or it is missing although the configuration names
    it or it had peers when it was last read.
    """
    section = request.conf.section
    path = absolute_path(section, "peersFile")
    if not path and not os.path.lexists(PEERS_FILE) and os.path.exists(marker_of(request.conf.name)):
        message = f'the peers file "{PEERS_FILE}" is missing, but had peers when it was last read'
        raise CNIError(Code.TRY_AGAIN_LATER, message, 'write it; {"peers": []} means that there are none any more')
    return records_of(section)


def records_of(section: Section) -> Records:
    """As `read_records`, also if the default peers file is missing; `section`: the main plugin's configuration."""
    path = absolute_path(section, "peersFile")
    inline, filed = parse_peers(section), read_peers_file(path or PEERS_FILE, required=bool(path))
    from_default_file = not path and bool(filed.nodes or filed.left_out)
    return Records(inline + filed.nodes, filed.left_out, from_default_file)


def remember_default_file(network: str, *, has_peers: bool) -> None:
    """Remember whether the default peers file has peers; it must not be missing then.

    A node without that file may get its routes from something else, or may have been rebooted, which empties /run. An
    empty marker file on disk distinguishes the two. A failure, for instance on a read-only disk, is ignored.
    """
    marker = marker_of(network)
    if os.path.exists(marker) == has_peers:
        return
    with suppress(OSError):
        if has_peers:
            make_folders(FOLDER, 0o755)
            os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        else:
            delete_file(marker)


def select_peers(host: Netlink, records: Records, node: NodeConf, tunnel: Tunnel | None = None) -> Peers:
    """The usable records and the paths to their nodes, given this node's links, addresses and routes.

    Raises NetlinkError.
    """
    from linux.rtnl import forwarding

    if not records.nodes:
        return Peers((), (), records.left_out)
    device = tunnel.device if tunnel else 0
    links = _links(host, node.bridge, device)
    this = ThisNode(node.subnets, node.cluster, links, tunnel, name=node.name, since=node.since)
    in_place = partial(forwarding.in_place, host, device=device)
    peers = select(records.nodes, this, in_place, records.earlier)
    return replace(peers, left_out=(*records.left_out, *peers.left_out)) if records.left_out else peers


def ensure_paths(host: Netlink, others: Peers, *, device: int, within: Sequence[str]) -> tuple[Changes, Sequence[str]]:
    """Make the routes, neighbours and FDB entries those of the peers; see `forwarding.sync`. Raises CNIError.

    Also returns a sentence for each subnet that got no route because of another one, or because the kernel refused it:
    that affects the traffic with this peer, but no other pod.
    """
    from linux.rtnl import forwarding

    with step("set the paths to the other nodes"):
        try:
            return forwarding.sync(host, others.objects, device=device, within=within), ()
        except forwarding.RouteRefused as error:
            return error.changes, error.sentences


def missing_paths(host: Netlink, paths: Sequence[PeerPath], device: int) -> list[str]:
    """A sentence for each route, neighbour or FDB entry of the paths that is missing."""
    from linux.rtnl import forwarding

    return forwarding.missing(host, paths, device=device)


def log(request: Request, sentences: Iterable[str], *, at_most: int = _LOGGED) -> None:
    """Log problems that do not fail a call. (STATUS logs all.)"""
    sentences = list(sentences)
    for sentence in sentences[:at_most]:
        request.log(f"{request.conf.type}: {sentence}")
    if len(sentences) > at_most:
        request.log(f"{request.conf.type}: {len(sentences) - at_most} more; STATUS lists all")


def _links(host: Netlink, bridge_name: str, device: int) -> Links:
    # The device's own are those of this node's subnets, or of earlier ones.
    addresses = [one for one in list_addresses(host) if one.link != device]
    bridge = find_link(host, bridge_name)
    excluded = {bridge.index if bridge else 0, device}
    indexes = {one.link for one in addresses if one.is_global} - excluded
    links = [link for index in sorted(indexes) if (link := find_link_by_index(host, index))]
    return Links(
        addresses,
        excluded=excluded,
        down={link.index for link in links if not link.up},
        without_carrier={link.index for link in links if not link.carrier},
    )


def marker_of(network: str) -> str:
    """The path of the file that `remember_default_file` makes."""
    return os.path.join(FOLDER, f"{network}.peers")

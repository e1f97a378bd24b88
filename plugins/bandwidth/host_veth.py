"""The host's end of a pod's veth, on which the limits are."""

import os
from collections.abc import Iterator

from linux.errors import step
from linux.netlink.socket import Netlink
from linux.netns import entered, open_netns
from linux.ownership import host_end_name, owner_tag
from linux.rtnl.links import Link, find_link, find_link_by_index, list_links
from spec.errors import CNIError, Code, is_shortage
from spec.request import Request
from spec.result import Result


def find_host_end(host: Netlink, request: Request, result: Result) -> Link:
    """The host's end of the veth that is CNI_IFNAME in the container; raises CNIError if there is none.

    It must be listed in `result`, as the reference has it: indexes of links are unique in one namespace only, so the
    kernel's word that its peer is number 5 might mean number 5 of a namespace that is not the host's.
    """
    if not result.interfaces:
        raise CNIError(Code.INVALID_NETWORK_CONFIG, "no interfaces provided", "prevResult lists none")
    with step(f'look at "{request.ifname}" in the container'):
        link = _container_link(request)
    if link is None or link.kind != "veth":
        what = f"it is {link.kind or 'a device'}" if link else "there is no such link"
        raise CNIError(Code.INTERNAL, f"container interface {request.ifname} has no veth peer: {what}")
    with step(f'look at the host\'s end of "{request.ifname}"'):
        end = find_link_by_index(host, link.peer) if link.peer_is_elsewhere else None
    if end is None or not _is_end(end) or end.peer != link.index:
        raise CNIError(Code.INTERNAL, f"veth peer with index {link.peer} is not in host ns")
    if end.name not in _listed(result):
        details = f'it is "{end.name}", which prevResult does not list as a link of the host'
        raise CNIError(Code.INTERNAL, "no veth peer of container interface found in host ns", details)
    return end


def find_left_ends(host: Netlink, request: Request) -> Iterator[Link]:
    """For DEL: what still stands of the host's end, whether or not there is a prevResult or a namespace."""
    result, tag = request.conf.prev_result, owner_tag(request.attachment)
    names = _listed(result) if result else set()
    seen = set()
    for name in sorted(names):
        link = find_link(host, name)
        if link and _is_end(link) and link.alias in ("", tag):
            seen.add(link.index)
            yield link
    usual = find_link(host, host_end_name(request.attachment))
    # Where neither the result nor the usual name leads to it, all links are looked through.
    for link in [usual] if usual or seen else list_links(host, containing=tag.encode()):
        if link and link.alias == tag and _is_end(link) and link.index not in seen:
            seen.add(link.index)
            yield link
    if not names and not seen:
        yield from _end_without_a_result(host, request)


def _end_without_a_result(host: Netlink, request: Request) -> Iterator[Link]:
    """By way of the namespace, of which nothing may be left: a runtime before 0.4.0 gives a DEL no prevResult."""
    try:
        link = _container_link(request) if request.netns else None
    except OSError as error:
        if is_shortage(error):
            raise
        return
    end = find_link_by_index(host, link.peer) if link and link.peer_is_elsewhere else None
    if end and _is_end(end) and end.peer == link.index and not end.alias:
        yield end


def _container_link(request: Request) -> Link | None:
    netns = open_netns(request.netns, request.netns_fd)
    try:
        with entered(netns), Netlink() as pod:
            return find_link(pod, request.ifname)
    finally:
        os.close(netns)


def _listed(result: Result) -> set[str]:
    return {interface.name for interface in result.interfaces if not interface.sandbox}


def _is_end(link: Link) -> bool:
    """A pair with both ends on the host (a bridge's link for the gateway of a VLAN) is no pod's."""
    return link.kind == "veth" and link.peer_is_elsewhere

"""The host veth of a pod's interface, which carries the limits."""

import os
from collections.abc import Iterator

from linux.errors import step
from linux.netlink.socket import Netlink
from linux.netns import entered, open_netns
from linux.ownership import host_veth_name, owner_tag
from linux.rtnl.links import Link, find_link, find_link_by_index, list_links
from spec.errors import CNIError, Code, is_shortage
from spec.request import Request
from spec.result import Result


def find_host_veth(host: Netlink, request: Request, result: Result) -> Link:
    """The peer on the host of the veth that is CNI_IFNAME in the container; raises CNIError if there is none.

    `result` must list it, as with the reference plugin: link indexes are unique only within a namespace, so "peer 5"
    may be link 5 of a namespace other than the host's.
    """
    if not result.interfaces:
        raise CNIError(Code.INVALID_NETWORK_CONFIG, "no interfaces provided", "prevResult lists none")
    with step(f'look up "{request.ifname}" in the container'):
        link = _pod_interface(request)
    if link is None or link.kind != "veth":
        what = f"it is {link.kind or 'a device'}" if link else "there is no such link"
        raise CNIError(Code.INTERNAL, f"container interface {request.ifname} has no veth peer: {what}")
    with step(f'look up the host veth of "{request.ifname}"'):
        veth = find_link_by_index(host, link.peer) if link.peer_is_elsewhere else None
    if veth is None or not _is_host_veth(veth) or veth.peer != link.index:
        raise CNIError(Code.INTERNAL, f"veth peer with index {link.peer} is not in host ns")
    if veth.name not in _host_interfaces(result):
        details = f'it is "{veth.name}", which prevResult does not list as a host interface'
        raise CNIError(Code.INTERNAL, "no veth peer of container interface found in host ns", details)
    return veth


def find_remaining_veths(host: Netlink, request: Request) -> Iterator[Link]:
    """For DEL: the host veths of the attachment that still exist, with or without a prevResult or a namespace."""
    result, tag = request.conf.prev_result, owner_tag(request.attachment)
    names = _host_interfaces(result) if result else set()
    found = set()
    for name in sorted(names):
        link = find_link(host, name)
        if link and _is_host_veth(link) and link.alias in ("", tag):
            found.add(link.index)
            yield link
    usual = find_link(host, host_veth_name(request.attachment))
    # Search all links only if neither the result nor the usual name leads to it.
    for link in [usual] if usual or found else list_links(host, containing=tag.encode()):
        if link and link.alias == tag and _is_host_veth(link) and link.index not in found:
            found.add(link.index)
            yield link
    if not names and not found:
        yield from _veth_by_namespace(host, request)


def _veth_by_namespace(host: Netlink, request: Request) -> Iterator[Link]:
    """Found through the namespace, if it still exists: before 0.4.0 a DEL gets no prevResult."""
    try:
        link = _pod_interface(request) if request.netns else None
    except OSError as error:
        if is_shortage(error):
            raise
        return
    veth = find_link_by_index(host, link.peer) if link and link.peer_is_elsewhere else None
    if veth and _is_host_veth(veth) and veth.peer == link.index and not veth.alias:
        yield veth


def _pod_interface(request: Request) -> Link | None:
    netns = open_netns(request.netns, request.netns_fd)
    try:
        with entered(netns), Netlink() as pod:
            return find_link(pod, request.ifname)
    finally:
        os.close(netns)


def _host_interfaces(result: Result) -> set[str]:
    return {interface.name for interface in result.interfaces if not interface.sandbox}


def _is_host_veth(link: Link) -> bool:
    """A pair with both ends on the host, such as a bridge's VLAN gateway, does not belong to a pod."""
    return link.kind == "veth" and link.peer_is_elsewhere

"""DEL: whatever state it finds, it finishes; whatever is gone already is no error."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from linux.netlink.socket import Netlink
from linux.netns import entered, open_netns
from linux.ownership import group_of, host_end_name, owner_tag
from linux.rtnl.addresses import list_addresses
from linux.rtnl.deletion import delete_links
from linux.rtnl.links import Link, find_link, find_link_by_index, list_links
from plugins.failures import Attempts
from rules import antispoof, masquerade, reference, source_validation
from spec.delegate import delegate
from spec.errors import is_shortage
from spec.request import Request


@dataclass(frozen=True)
class _Found:
    """What there is in a container: the host's end of its link if that is the pod's, and the addresses of its own.

    `looked` False: there is no container to look into.
    """

    end: Link | None = None
    addresses: Sequence[str] = ()
    looked: bool = True


def delete_pod(request: Request, *, ipam_type: str, gateway_link: str = "") -> None:
    """Take the pod from the network: link, lease, masquerade, filter, whatever the configuration has of these by now.

    `gateway_link`: the name of the VLAN's, which goes too if it is but half made. Every step is tried, also after one
    has failed; then the first failure is raised with the others in its details.
    """
    owner = request.attachment
    addresses: list[str] = [ip.address for ip in request.conf.prev_result.ips] if request.conf.prev_result else []
    attempts = Attempts()
    attempts.run(f'delete link "{request.ifname}"', lambda: addresses.extend(_delete_links(request)))
    if ipam_type:
        attempts.run("release the addresses", delegate, request, "DEL", ipam_type)
    attempts.run("delete the masquerade", masquerade.delete, owner, addresses)
    attempts.run("delete another implementation's masquerade", reference.delete_masquerade, owner, addresses)
    attempts.run("delete the MAC filter", antispoof.delete, owner)
    attempts.run("delete the source validation", source_validation.delete, owner)
    attempts.run("delete another implementation's MAC filter", reference.delete_antispoof, owner)
    if gateway_link:
        attempts.run(f'look at "{gateway_link}"', _delete_half_made, request, gateway_link)
    attempts.finish()


def _delete_half_made(request: Request, gateway_link: str) -> None:
    from plugins.pod.vlan_gateway import delete_half_made

    with Netlink() as host:
        delete_half_made(host, request.conf.name, gateway_link)


def _delete_links(request: Request) -> Sequence[str]:
    """Delete the pod's pair from whichever end can be reached; the addresses that the container's end had.

    From the container by name. And by the name that the host's end has, should the namespace's path be lost while a
    process still lives in it; its alias says whether it is the pod's. By other names only what could be reached neither
    way is looked for, for that may mean to look through all links of the node.
    """
    tag = owner_tag(request.attachment)
    with Netlink() as host:
        found = _look_into_container(host, request, tag)
        ends = [found.end] if found.end else []
        name = host_end_name(request.attachment)
        if name not in (end.name for end in ends):
            named = find_link(host, name)
            if named and _is_ours(named, request, tag):
                ends.append(named)
        if not ends and not found.looked:
            ends = _ends_of_other_names(host, request, tag)
        delete_links(host, ends)
    return found.addresses


def _look_into_container(host: Netlink, request: Request, tag: str) -> _Found:
    """A pair of which the host's end names nobody, or is not on this host, is deleted here."""
    try:
        netns = open_netns(request.netns, request.netns_fd) if request.netns else None
    except OSError as error:
        if is_shortage(error):
            raise
        netns = None
    if netns is None:
        return _Found(looked=False)
    try:
        with entered(netns), Netlink() as pod:
            link = find_link(pod, request.ifname)
            if link is None or link.kind != "veth":
                return _Found()
            end = find_link_by_index(host, link.peer) if link.peer_is_elsewhere else None
            if end and end.alias.startswith("v1") and end.alias != tag:
                # Another attachment's: an ADD that failed because the name was taken is followed by a DEL, which must
                # not take the interface of the one that has it.
                return _Found()
            addresses = [address.cidr for address in list_addresses(pod, link.index) if address.is_global]
            if end and end.alias == tag and end.peer == link.index:
                return _Found(end, addresses)
            delete_links(pod, [link])
            return _Found(None, addresses)
    finally:
        os.close(netns)


def _is_ours(link: Link, request: Request, tag: str) -> bool:
    """Whether the link of that name is; one without alias is that of an ADD that was killed before it could give it."""
    is_unnamed = not link.alias and link.group == group_of(request.conf.name)
    return link.kind == "veth" and (link.alias == tag or is_unnamed)


def _ends_of_other_names(host: Netlink, request: Request, tag: str) -> list[Link]:
    """Host's ends with a random name: where somebody else had the other, or an earlier release made them.

    The result of the ADD tells their names; without one, all links are looked through.
    """
    result = request.conf.prev_result
    names = [interface.name for interface in result.interfaces if not interface.sandbox] if result else []
    found = [find_link(host, name) for name in names] if names else list_links(host, containing=tag.encode())
    return [link for link in found if link and link.alias == tag]

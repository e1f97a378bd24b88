"""DEL and GC: remove everything of a pod, whatever state it is in; what is already gone is not an error."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from linux.netlink.socket import Netlink
from linux.netns import entered, open_netns
from linux.ownership import group_of, host_veth_name, owner_tag, stale_predicate
from linux.rtnl.addresses import list_addresses
from linux.rtnl.deletion import delete_links
from linux.rtnl.links import Link, find_link, find_link_by_index, list_group, list_links
from plugins.daemon import POD_FILES
from plugins.failures import Attempts
from rules import antispoof, masquerade, reference, source_validation
from spec.attachment import Attachment
from spec.delegate import delegate
from spec.errors import is_shortage
from spec.request import Request

_NAMING_SECONDS = 2


@dataclass(frozen=True)
class _Pod:
    """What the container's namespace shows: the host veth, if it is the attachment's, and the interface's addresses.

    `exists` False: there is no namespace to look into.
    """

    veth: Link | None = None
    addresses: Sequence[str] = ()
    exists: bool = True


def delete_pod(request: Request, *, ipam_type: str, gateway_link: str = "") -> None:
    """Remove links, leases, masquerade, filters and policies of the pod, whether or not they are still configured.

    `gateway_link`: the name of the VLAN's, which is deleted if an ADD left it incomplete. Every step is tried, but
    policies stay in force while a link is left; then the first failure is raised with the others in its details.
    """
    owner = request.attachment
    addresses: list[str] = [ip.address for ip in request.conf.prev_result.ips] if request.conf.prev_result else []
    attempts = Attempts()
    if attempts.run(f'delete link "{request.ifname}"', lambda: addresses.extend(_delete_links(request))):
        # Before the addresses can be another pod's.
        attempts.run("delete the network policies", _release_policies, owner)
    if ipam_type:
        attempts.run("release the addresses", delegate, request, "DEL", ipam_type)
    attempts.run("delete the masquerade", masquerade.delete, owner, addresses)
    attempts.run("delete another implementation's masquerade", reference.delete_masquerade, owner, addresses)
    attempts.run("delete the MAC filter", antispoof.delete, owner)
    attempts.run("delete the source address validation", source_validation.delete, owner)
    attempts.run("delete another implementation's MAC filter", reference.delete_antispoof, owner)
    if gateway_link:
        attempts.run(f'look up "{gateway_link}"', _delete_incomplete_gateway, request, gateway_link)
    attempts.finish()


def sweep_pods(request: Request, *, ipam_type: str) -> None:
    """Delete links, masquerade, filters, policies of this network's stale attachments, then let IPAM release leases.

    VLAN gateways that an ADD left incomplete go with the links. Every step is tried; then the first failure is raised
    with the others in its details.
    """
    network, valid, attempts = request.conf.name, request.valid_attachments, Attempts()
    if attempts.run("delete stale links", _sweep_links, network, valid):
        attempts.run("delete stale network policies", _sweep_policies, network, valid)
    attempts.run("delete stale masquerade", masquerade.sweep, network, valid)
    attempts.run("delete stale MAC filters", antispoof.sweep, network, valid)
    attempts.run("delete stale source address validation", source_validation.sweep, network, valid)
    if ipam_type:
        attempts.run("release stale addresses", delegate, request, "GC", ipam_type)
    attempts.finish()


def _release_policies(owner: Attachment) -> None:
    if os.path.isdir(POD_FILES):
        from plugins.pod import policies

        policies.release(owner)


def _sweep_policies(network: str, valid: frozenset[Attachment]) -> None:
    if os.path.isdir(POD_FILES):
        from plugins.pod import policies

        policies.sweep(network, valid)


def _delete_incomplete_gateway(request: Request, gateway_link: str) -> None:
    from plugins.pod.vlan_gateway import delete_incomplete

    with Netlink() as host:
        delete_incomplete(host, request.conf.name, gateway_link)


def _delete_links(request: Request) -> Sequence[str]:
    """Delete the pod's veth pair from whichever end can be reached; returns the addresses that the pod's end had.

    Looks in the container by name, and on the host by the host veth's usual name, in case the path of the namespace was
    removed while a process still lives in it; the alias identifies the pod's. Other names on the host are searched only
    if both fail, since that may require listing all links of the node.
    """
    tag = owner_tag(request.attachment)
    with Netlink() as host:
        pod = _look_into_container(host, request, tag)
        veths = [pod.veth] if pod.veth else []
        name = host_veth_name(request.attachment)
        if name not in (veth.name for veth in veths):
            named = find_link(host, name)
            if named and _is_owned(named, request, tag):
                veths.append(named)
        if not veths and not pod.exists:
            veths = _find_other_names(host, request, tag)
        delete_links(host, veths)
    return pod.addresses


def _look_into_container(host: Netlink, request: Request, tag: str) -> _Pod:
    """Look for the pod's interface. A pair whose host veth names no owner, or is not on this host, is deleted here."""
    try:
        netns = open_netns(request.netns, request.netns_fd) if request.netns else None
    except OSError as error:
        if is_shortage(error):
            raise
        netns = None
    if netns is None:
        return _Pod(exists=False)
    try:
        with entered(netns), Netlink() as pod:
            link = find_link(pod, request.ifname)
            if link is None or link.kind != "veth":
                return _Pod()
            veth = find_link_by_index(host, link.peer) if link.peer_is_elsewhere else None
            if veth and veth.alias.startswith("v1") and veth.alias != tag:
                # Another attachment's: an ADD that fails because the name is taken is followed by a DEL, which must
                # not delete the interface that has it.
                return _Pod()
            addresses = [address.cidr for address in list_addresses(pod, link.index) if address.is_global]
            if veth and veth.alias == tag and veth.peer == link.index:
                return _Pod(veth, addresses)
            delete_links(pod, [link])
            return _Pod(None, addresses)
    finally:
        os.close(netns)


def _is_owned(link: Link, request: Request, tag: str) -> bool:
    """Whether the link is the attachment's. One without alias was left by an ADD that was killed before setting it."""
    is_unnamed = not link.alias and link.group == group_of(request.conf.name)
    return link.kind == "veth" and (link.alias == tag or is_unnamed)


def _find_other_names(host: Netlink, request: Request, tag: str) -> list[Link]:
    """Host veths with a random name, because the usual one was taken or an earlier release created them.

    The result of the ADD names them; without one, all links are searched.
    """
    result = request.conf.prev_result
    names = [interface.name for interface in result.interfaces if not interface.sandbox] if result else []
    found = [find_link(host, name) for name in names] if names else list_links(host, containing=tag.encode())
    return [link for link in found if link and link.alias == tag]


def _sweep_links(network: str, valid: frozenset[Attachment]) -> None:
    is_stale = stale_predicate(network, valid)
    with Netlink() as host:
        delete_links(host, [link for link in list_links(host, containing=b"v1") if is_stale(link.alias)])
        delete_links(host, find_unnamed(partial(list_group, host, group_of(network))))


def find_unnamed(list_network: Callable[[], Sequence[Link]], *, seconds: float = _NAMING_SECONDS) -> list[Link]:
    """Links of ADDs that were killed before they set the owner. `list_network`: lists the network's links.

    A running ADD names its links within moments, so only those that stay unnamed count. Links that appear meanwhile
    belong to a running ADD.
    """
    from linux.waiting import wait_until

    unnamed = [link for link in list_network() if not link.alias]

    def are_named() -> bool:
        nonlocal unnamed
        now = {link.index for link in list_network() if not link.alias} if unnamed else set()
        unnamed = [link for link in unnamed if link.index in now]
        return not unnamed

    wait_until(are_named, seconds=seconds)
    return unnamed

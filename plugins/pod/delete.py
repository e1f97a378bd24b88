"""DEL: whatever state it finds, it finishes; whatever is gone already is no error."""

import os
from collections.abc import Callable

from linux.addresses import list_addresses
from linux.errors import reason
from linux.links import Link, delete_link, find_link, find_link_by_index, list_links
from linux.netlink import Netlink
from linux.netns import entered, open_netns
from linux.ownership import owner_tag
from spec.delegate import delegate
from spec.errors import CNIError, Code
from spec.request import Request


def delete_pod(request: Request, *, ipam_type: str, ip_masq: bool, check_mac: bool) -> None:
    """Take the pod from the network: link, lease, masquerade, filter.

    Every step is tried, also after one has failed; then the first failure is raised with the others in its details.
    """
    owner = request.attachment
    addresses: list[str] = [ip.address for ip in request.conf.prev_result.ips] if request.conf.prev_result else []
    failures: list[CNIError] = []
    _attempt(f'delete link "{request.ifname}"', lambda: addresses.extend(_delete_links(request)), failures)
    if ipam_type:
        _attempt("release the addresses", lambda: delegate(request, "DEL", ipam_type), failures)
    if ip_masq:
        from linux import masquerade, reference_leftovers

        _attempt("delete the masquerade", lambda: masquerade.delete(owner), failures)
        _attempt(
            "delete another implementation's masquerade",
            lambda: reference_leftovers.delete_masquerade(owner, addresses),
            failures,
        )
    if check_mac:
        from linux import antispoof, reference_leftovers

        _attempt("delete the MAC filter", lambda: antispoof.delete(owner), failures)
        _attempt(
            "delete another implementation's MAC filter",
            lambda: reference_leftovers.delete_antispoof(owner),
            failures,
        )
    if failures:
        first, *others = failures
        first.details = "; ".join(filter(None, [first.details, *map(str, others)]))
        raise first


def _attempt(what: str, action: Callable[[], object], failures: list[CNIError]) -> None:
    try:
        action()
    except CNIError as error:
        failures.append(error)
    except OSError as error:
        failures.append(CNIError(Code.INTERNAL, f"failed to {what}: {reason(error)}"))


def _delete_links(request: Request) -> list[str]:
    """Delete the pod's pair from whichever end can be reached; the addresses that the container's end had.

    From the container by name; and by the owner in the alias of the host's end, should the namespace's path be lost
    while a process still lives in it.
    """
    with Netlink() as host:
        addresses = _delete_from_container(host, request)
        tag = owner_tag(request.attachment)
        for link in list_links(host, containing=tag.encode()):
            if link.alias == tag:
                delete_link(host, link.index)
    return addresses


def _delete_from_container(host: Netlink, request: Request) -> list[str]:
    try:
        netns = open_netns(request.netns, request.netns_fd) if request.netns else None
    except OSError:
        return []
    if netns is None:
        return []
    try:
        with entered(netns), Netlink() as pod:
            link = find_link(pod, request.ifname)
            if link is None or link.kind != "veth" or _belongs_to_another(host, link, request):
                return []
            addresses = [address.cidr for address in list_addresses(pod, link.index) if address.is_global]
            delete_link(pod, link.index)
            return addresses
    finally:
        os.close(netns)


def _belongs_to_another(host: Netlink, link: Link, request: Request) -> bool:
    """Whether the other end names another attachment as its owner: an ADD that failed because the name was taken is
    followed by a DEL, which must not take the interface of the one that has it."""
    peer = find_link_by_index(host, link.peer) if link.peer_is_elsewhere else None
    return peer is not None and peer.alias.startswith("v1") and peer.alias != owner_tag(request.attachment)

"""GC: what belongs to attachments that the runtime no longer knows goes."""

from linux.netlink.socket import Netlink
from linux.ownership import forfeited, group_of
from linux.rtnl.deletion import delete_links
from linux.rtnl.links import Link, list_group, list_links
from linux.waiting import wait_until
from plugins.failures import Attempts
from rules import antispoof, masquerade, source_validation
from spec.attachment import Attachment
from spec.delegate import delegate
from spec.request import Request

_NAMING_SECONDS = 2


def sweep_pods(request: Request, *, ipam_type: str) -> None:
    """Delete links, masquerade and filters of this network's attachments that are not valid, then let IPAM do its part.

    A VLAN's gateway link that an ADD could not complete goes with the links. Every step is tried; then the first
    failure is raised with the others in its details.
    """
    network, valid, attempts = request.conf.name, request.valid_attachments, Attempts()
    attempts.run("delete stale links", _sweep_links, network, valid)
    attempts.run("delete stale masquerade", masquerade.sweep, network, valid)
    attempts.run("delete stale MAC filters", antispoof.sweep, network, valid)
    attempts.run("unbind stale pods", source_validation.sweep, network, valid)
    if ipam_type:
        attempts.run("release stale addresses", delegate, request, "GC", ipam_type)
    attempts.finish()


def _sweep_links(network: str, valid: frozenset[Attachment]) -> None:
    is_stale = forfeited(network, valid)
    with Netlink() as host:
        delete_links(host, [link for link in list_links(host, containing=b"v1") if is_stale(link.alias)])
        delete_links(host, _left_nameless(host, network))


def _left_nameless(host: Netlink, network: str) -> list[Link]:
    """Links of ADDs that were killed before they could name the owner. One that lives does so in a moment.

    A link that comes meanwhile is of an ADD that lives.
    """
    left = _nameless(host, network)

    def are_named() -> bool:
        nonlocal left
        now = {link.index for link in _nameless(host, network)} if left else set()
        left = [link for link in left if link.index in now]
        return not left

    wait_until(are_named, seconds=_NAMING_SECONDS)
    return left


def _nameless(host: Netlink, network: str) -> list[Link]:
    return [link for link in list_group(host, group_of(network)) if not link.alias]

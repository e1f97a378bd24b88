"""DEL and GC: remove the limits of deleted pods."""

from linux.errors import step
from linux.netlink.socket import Netlink
from linux.ownership import stale_predicate
from linux.rtnl import tc
from linux.rtnl.deletion import delete_links
from linux.rtnl.links import list_links
from plugins.bandwidth import shaping
from plugins.bandwidth.host_veth import find_remaining_veths
from plugins.failures import Attempts
from spec.request import Request


def delete_shaping(request: Request) -> None:
    """Remove the limits and the ifb, including those that the reference plugin made.

    Every step is tried; then the first failure is raised with the others in its details.
    """
    attempts = Attempts()
    with step("find limits"), Netlink() as host:
        veths = list(find_remaining_veths(host, request))
        own = shaping.find_ifb(host, request.attachment)
        reference = shaping.find_reference_ifb(host, request.attachment)
        ifbs = [ifb for ifb in (own, reference) if ifb]
        targets = {0, *(ifb.index for ifb in ifbs)}
        for veth in veths:
            attempts.run(f'remove the limits from "{veth.name}"', shaping.delete_limits, host, veth.index, targets)
        for ifb in ifbs:
            if ifb is own or not any(shaping.redirecting_links(host, [ifb.index])):
                attempts.run(f'delete "{ifb.name}"', delete_links, host, [ifb])
    attempts.finish()


def sweep_shaping(request: Request) -> None:
    """Delete the ifbs of this network's stale attachments, and the filters that redirect packets to them.

    The reference plugin's ifbs do not name their owner; they stay.
    """
    is_stale = stale_predicate(request.conf.name, request.valid_attachments)
    attempts = Attempts()
    with step("find stale limits"), Netlink() as host:
        stale = [ifb for ifb in list_links(host, containing=b"v1") if ifb.kind == "ifb" and is_stale(ifb.alias)]
        # The pods may still run: without the ifb, what is redirected to it would be dropped.
        indexes = {ifb.index for ifb in stale}
        for link, ifb in list(shaping.redirecting_links(host, indexes)) if stale else ():
            attempts.run("delete a filter", _delete_redirects, host, link, {ifb})
        for ifb in stale:
            attempts.run(f'delete "{ifb.name}"', delete_links, host, [ifb])
    attempts.finish()


def _delete_redirects(host: Netlink, link: int, targets: set[int]) -> None:
    for redirect in tc.list_redirects(host, link):
        if redirect.everything and redirect.target in targets:
            tc.delete_redirect(host, redirect)
    shaping.delete_unused_ingress(host, link)

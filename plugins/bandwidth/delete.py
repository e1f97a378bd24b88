"""DEL and GC: nothing is left of the limits of a pod that is gone."""

from collections.abc import Callable

from linux.errors import reason, step
from linux.netlink.socket import Netlink
from linux.ownership import forfeited
from linux.rtnl import tc
from linux.rtnl.deletion import delete_links
from linux.rtnl.links import list_links
from plugins.bandwidth import shaping
from plugins.bandwidth.host_veth import find_left_ends
from plugins.bandwidth.ifbs import find_ifb, find_reference_ifb
from spec.errors import CNIError, Code
from spec.request import Request


def delete_shaping(request: Request) -> None:
    """Take limits and ifb away, also those that the reference plugin made.

    Every step is tried, also after one has failed; then the first failure is raised with the others in its details.
    """
    failures: list[str] = []
    with step("look for limits"), Netlink() as host:
        ends = list(find_left_ends(host, request))
        own, theirs = find_ifb(host, request.attachment), find_reference_ifb(host, request.attachment)
        ifbs = [ifb for ifb in (own, theirs) if ifb]
        targets = {0, *(ifb.index for ifb in ifbs)}
        for end in ends:
            what = f'take the limits from "{end.name}"'
            _attempt(what, lambda end=end: shaping.delete_limits(host, end.index, targets), failures)
        for ifb in ifbs:
            if ifb is own or not any(shaping.redirecting_links(host, [ifb.index])):
                _attempt(f'delete "{ifb.name}"', lambda ifb=ifb: delete_links(host, [ifb]), failures)
    if failures:
        raise CNIError(Code.INTERNAL, failures[0], "; ".join(failures[1:]))


def sweep_shaping(request: Request) -> None:
    """Delete the ifbs of this network's attachments that are not valid, and let what was sent to them pass.

    An ifb of the reference plugin does not say whose it is; those stay.
    """
    is_stale = forfeited(request.conf.name, request.valid_attachments)
    failures: list[str] = []
    with step("look for stale limits"), Netlink() as host:
        stale = [ifb for ifb in list_links(host, containing=b"v1") if ifb.kind == "ifb" and is_stale(ifb.alias)]
        # The pods may still live: without its ifb, what is redirected there would be dropped.
        indexes = {ifb.index for ifb in stale}
        for link, ifb in list(shaping.redirecting_links(host, indexes)) if stale else ():
            _attempt("delete a filter", lambda link=link, ifb=ifb: _delete_redirects(host, link, {ifb}), failures)
        for ifb in stale:
            _attempt(f'delete "{ifb.name}"', lambda ifb=ifb: delete_links(host, [ifb]), failures)
    if failures:
        raise CNIError(Code.INTERNAL, failures[0], "; ".join(failures[1:]))


def _delete_redirects(host: Netlink, link: int, targets: set[int]) -> None:
    for redirect in tc.list_redirects(host, link):
        if redirect.everything and redirect.target in targets:
            tc.delete_redirect(host, redirect)
    shaping.delete_unused_ingress(host, link)


def _attempt(what: str, action: Callable[[], object], failures: list[str]) -> None:
    try:
        action()
    except OSError as error:
        failures.append(f"failed to {what}: {reason(error)}")

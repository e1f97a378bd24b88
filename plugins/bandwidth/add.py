"""ADD: applies the limits, or leaves everything as it was."""

from dataclasses import replace
from errno import EEXIST

from linux.errors import step
from linux.netlink.socket import Netlink, NetlinkError
from linux.ownership import owner_tag
from linux.rtnl import tc
from linux.rtnl.links import Link, delete_link, find_link
from linux.rtnl.tc import Bucket
from plugins.bandwidth import shaping
from plugins.bandwidth.conf import Limits, ifb_name, reference_ifb_name
from plugins.bandwidth.host_veth import find_host_veth
from plugins.failures import Undo
from spec.request import Request
from spec.result import Interface, Result


def add_shaping(request: Request, limits: Limits, result: Result) -> Result:
    """Limit the pod's link, replacing the limits of an earlier ADD; returns the result with the ifb.

    Raises CNIError; then nothing has changed.
    """
    ingress, egress = shaping.buckets(limits)
    with Netlink() as host, Undo() as undo:
        veth = find_host_veth(host, request, result)
        if ingress:
            _put_bucket(host, veth, ingress, undo)
        else:
            _delete_bucket(host, veth, undo)
        if egress:
            ifb, is_new = _ensure_ifb(host, request, veth, undo)
            _put_bucket(host, ifb, egress, undo, is_new=is_new)
            _redirect(host, veth, ifb, request, undo)
            result = _with_ifb(result, ifb)
        else:
            _stop_redirecting(host, veth, request, undo)
        undo.pop_all()
    return result


def _put_bucket(host: Netlink, link: Link, bucket: Bucket, undo: Undo, *, is_new: bool = False) -> None:
    with step(f'limit "{link.name}"'):
        before = None if is_new else shaping.bucket_of(host, link.index)
        if before != bucket:
            tc.put_bucket(host, link.index, bucket)
            undo.callback(_restore_bucket, host, link, before)


def _delete_bucket(host: Netlink, link: Link, undo: Undo) -> None:
    with step(f'remove the limit from "{link.name}"'):
        before = shaping.bucket_of(host, link.index)
        if before:
            tc.delete_bucket(host, link.index)
            undo.callback(_restore_bucket, host, link, before)


def _restore_bucket(host: Netlink, link: Link, before: Bucket | None) -> None:
    if before is None:
        tc.delete_bucket(host, link.index)
    else:
        tc.put_bucket(host, link.index, before)


def _ensure_ifb(host: Netlink, request: Request, veth: Link, undo: Undo) -> tuple[Link, bool]:
    """Find or create the attachment's ifb; returns the link and whether it is new."""
    names = (reference_ifb_name(request.attachment), ifb_name(request.attachment))
    with step(f'create "{names[0]}"'):
        ifb = shaping.find_ifb(host, request.attachment)
        is_new = ifb is None
        if ifb is None:
            name = next((name for name in names if shaping.create_ifb(host, name, mtu=veth.mtu)), None)
            ifb = find_link(host, name) if name else None
            if ifb is None:
                raise NetlinkError(EEXIST, f'"{names[0]}" and "{names[1]}" exist and belong to other interfaces')
            undo.callback(delete_link, host, ifb.index)
        shaping.set_ifb(host, ifb.index, mtu=veth.mtu, alias=owner_tag(request.attachment))
    return ifb, is_new


def _redirect(host: Netlink, veth: Link, ifb: Link, request: Request, undo: Undo) -> None:
    """Redirect what the pod sends to its ifb, and no longer to the ifb of an earlier ADD of either implementation."""
    with step(f'redirect what comes in through "{veth.name}"'):
        is_new = tc.create_ingress(host, veth.index)
        if is_new:
            undo.callback(tc.delete_ingress, host, veth.index)
        others = _reference_ifb(host, request)
        is_redirected = False
        for redirect in () if is_new else tc.list_redirects(host, veth.index):
            if redirect.everything and redirect.target == ifb.index:
                is_redirected = True
            elif redirect.everything and redirect.target in (0, *others):
                _delete_redirect(host, veth, redirect, undo)
        if not is_redirected:
            tc.create_redirect(host, veth.index, ifb.index)
            undo.callback(_delete_redirects, host, veth, ifb)
    with step("delete another implementation's ifb"):
        _delete_unused(host, others)


def _stop_redirecting(host: Netlink, veth: Link, request: Request, undo: Undo) -> None:
    """Remove the limit on what the pod sends, if there is one."""
    with step(f'stop redirecting what comes in through "{veth.name}"'):
        own = shaping.find_ifb(host, request.attachment)
        ifbs = [*([own.index] if own else []), *_reference_ifb(host, request)]
        if not ifbs:
            return
        for redirect in tc.list_redirects(host, veth.index):
            if redirect.everything and redirect.target in ifbs:
                _delete_redirect(host, veth, redirect, undo)
        if shaping.delete_unused_ingress(host, veth.index):
            undo.callback(tc.create_ingress, host, veth.index)
        _delete_unused(host, ifbs)


def _delete_redirect(host: Netlink, veth: Link, redirect: tc.Redirect, undo: Undo) -> None:
    """Delete a redirect. One whose target does not exist (0) drops everything, so it is not restored."""
    if tc.delete_redirect(host, redirect) and redirect.target:
        undo.callback(tc.create_redirect, host, veth.index, redirect.target)


def _delete_redirects(host: Netlink, veth: Link, ifb: Link) -> None:
    for redirect in tc.list_redirects(host, veth.index):
        if redirect.target == ifb.index:
            tc.delete_redirect(host, redirect)


def _reference_ifb(host: Netlink, request: Request) -> list[int]:
    """The index of the reference plugin's ifb for this container and network, in a list; empty if there is none."""
    link = shaping.find_reference_ifb(host, request.attachment)
    return [link.index] if link else []


def _delete_unused(host: Netlink, ifbs: list[int]) -> None:
    """Delete the ifbs that nothing is redirected to; the reference's may serve other interfaces of the container."""
    for index in ifbs:
        if not any(shaping.redirecting_links(host, [index])):
            delete_link(host, index)


def _with_ifb(result: Result, ifb: Link) -> Result:
    entry = Interface(name=ifb.name, mac=ifb.mac)
    kept = tuple(one for one in result.interfaces if one.name != ifb.name or one.sandbox)
    return replace(result, interfaces=(*kept, entry))

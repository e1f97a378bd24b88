"""ADD: the limits in force, or everything as it was."""

from collections.abc import Callable
from dataclasses import replace
from errno import EEXIST

from linux.errors import step
from linux.netlink.socket import Netlink, NetlinkError
from linux.ownership import owner_tag
from linux.rtnl import tc
from linux.rtnl.links import Link, delete_link, find_link
from linux.rtnl.tc import Bucket
from plugins.bandwidth import shaping
from plugins.bandwidth.host_veth import find_host_end
from plugins.bandwidth.ifbs import find_ifb, find_reference_ifb
from plugins.bandwidth.limits import Limit, Limits
from plugins.bandwidth.names import ifb_name, reference_ifb_name
from plugins.undo import Undo
from spec.request import Request
from spec.result import Interface, Result


def add_shaping(request: Request, limits: Limits, result: Result) -> Result:
    """Put the limits on the pod's link, in place of those that an earlier ADD put there; raises CNIError."""
    ingress, egress = buckets(limits)
    with Netlink() as host, Undo() as undo:
        end = find_host_end(host, request, result)
        if ingress:
            _fill(host, end, ingress, undo)
        else:
            _empty(host, end, undo)
        if egress:
            ifb, is_new = _ensure_ifb(host, request, end, undo)
            _fill(host, ifb, egress, undo, is_new=is_new)
            _redirect(host, end, ifb, request, undo)
            result = _with_ifb(result, ifb)
        else:
            _let_pass(host, end, request, undo)
        undo.keep()
    return result


def buckets(limits: Limits) -> tuple[Bucket | None, Bucket | None]:
    """The token buckets for what the pod receives and for what it sends; raises CNIError."""
    with step("read the packet scheduler's clock"):
        ticks = shaping.ticks_per_microsecond()
    return _bucket(limits, limits.ingress, "ingress", ticks), _bucket(limits, limits.egress, "egress", ticks)


def _bucket(limits: Limits, limit: Limit | None, direction: str, ticks: float) -> Bucket | None:
    if limit is None:
        return None
    try:
        return shaping.bucket(limit.rate, limit.burst, ticks)
    except ValueError:
        rate = f"{direction}Rate {limit.rate}"
        expected = f"a longer burst (at {rate} the kernel would let nothing pass)"
        raise limits.section.error(f"{direction}Burst", expected) from None


def _fill(host: Netlink, link: Link, bucket: Bucket, undo: Undo, *, is_new: bool = False) -> None:
    with step(f'limit "{link.name}"'):
        before = None if is_new else shaping.bucket_of(host, link.index)
        if before != bucket:
            tc.put_bucket(host, link.index, bucket)
            undo.push(_way_back_to(host, link, before))


def _empty(host: Netlink, link: Link, undo: Undo) -> None:
    with step(f'take the limit from "{link.name}"'):
        before = shaping.bucket_of(host, link.index)
        if before:
            tc.delete_bucket(host, link.index)
            undo.push(_way_back_to(host, link, before))


def _way_back_to(host: Netlink, link: Link, before: Bucket | None) -> Callable[[], object]:
    if before is None:
        return lambda: tc.delete_bucket(host, link.index)
    return lambda: tc.put_bucket(host, link.index, before)


def _ensure_ifb(host: Netlink, request: Request, end: Link, undo: Undo) -> tuple[Link, bool]:
    """The ifb, and whether it was made."""
    names = (reference_ifb_name(request.attachment), ifb_name(request.attachment))
    with step(f'make "{names[0]}"'):
        ifb = find_ifb(host, request.attachment)
        made = ifb is None
        if ifb is None:
            name = next((name for name in names if shaping.create_ifb(host, name, mtu=end.mtu)), None)
            ifb = find_link(host, name) if name else None
            if ifb is None:
                raise NetlinkError(EEXIST, f'"{names[0]}" and "{names[1]}" are there, and are not this interface\'s')
            undo.push(lambda: delete_link(host, ifb.index))
        shaping.set_ifb(host, ifb.index, mtu=end.mtu, alias=owner_tag(request.attachment))
    return ifb, made


def _redirect(host: Netlink, end: Link, ifb: Link, request: Request, undo: Undo) -> None:
    """Send what the pod sends through its ifb, and no longer through one of an earlier ADD, whoever's."""
    with step(f'redirect what comes in by "{end.name}"'):
        made = tc.create_ingress(host, end.index)
        if made:
            undo.push(lambda: tc.delete_ingress(host, end.index))
        others = _reference_ifb(host, request)
        there = False
        for redirect in () if made else tc.list_redirects(host, end.index):
            if redirect.everything and redirect.target == ifb.index:
                there = True
            elif redirect.everything and redirect.target in (0, *others):
                _take(host, end, redirect, undo)
        if not there:
            tc.create_redirect(host, end.index, ifb.index)
            undo.push(lambda: _delete_redirects(host, end, ifb))
    with step("delete another implementation's ifb"):
        _delete_unused(host, others)


def _let_pass(host: Netlink, end: Link, request: Request, undo: Undo) -> None:
    """Nothing limits what the pod sends any more, if something did."""
    with step(f'let pass what comes in by "{end.name}"'):
        own = find_ifb(host, request.attachment)
        ifbs = [*([own.index] if own else []), *_reference_ifb(host, request)]
        if not ifbs:
            return
        for redirect in tc.list_redirects(host, end.index):
            if redirect.everything and redirect.target in ifbs:
                _take(host, end, redirect, undo)
        if shaping.delete_unused_ingress(host, end.index):
            undo.push(lambda: tc.create_ingress(host, end.index))
        _delete_unused(host, ifbs)


def _take(host: Netlink, end: Link, redirect: tc.Redirect, undo: Undo) -> None:
    """Take a redirect away; one whose target is gone (0) swallows all and is not to come back."""
    if tc.delete_redirect(host, redirect) and redirect.target:
        undo.push(lambda: tc.create_redirect(host, end.index, redirect.target))


def _delete_redirects(host: Netlink, end: Link, ifb: Link) -> None:
    for redirect in tc.list_redirects(host, end.index):
        if redirect.target == ifb.index:
            tc.delete_redirect(host, redirect)


def _reference_ifb(host: Netlink, request: Request) -> list[int]:
    """The index of the ifb that the reference plugin made for this container on this network, in a list, or none."""
    link = find_reference_ifb(host, request.attachment)
    return [link.index] if link else []


def _delete_unused(host: Netlink, ifbs: list[int]) -> None:
    """Delete those that nothing is sent to any more: the reference's may be another interface's of the container."""
    for index in ifbs:
        if not any(shaping.redirecting_links(host, [index])):
            delete_link(host, index)


def _with_ifb(result: Result, ifb: Link) -> Result:
    entry = Interface(name=ifb.name, mac=ifb.mac)
    kept = tuple(one for one in result.interfaces if one.name != ifb.name or one.sandbox)
    return replace(result, interfaces=(*kept, entry))

"""CHECK: are the limits in force, and those that are configured?"""

from collections.abc import Iterator

from linux.errors import step
from linux.netlink.socket import Netlink
from linux.rtnl import tc
from linux.rtnl.links import Link
from linux.rtnl.tc import Bucket
from plugins.bandwidth.add import buckets
from plugins.bandwidth.host_veth import find_host_end
from plugins.bandwidth.ifbs import find_ifb, find_reference_ifb
from plugins.bandwidth.limits import Limits
from plugins.bandwidth.names import reference_ifb_name
from spec.errors import CNIError, Code
from spec.request import Request
from spec.result import Result


def check_shaping(request: Request, limits: Limits, result: Result) -> None:
    """Compare the kernel with the configuration; raises CNIError with all that is missing or wrong."""
    ingress, egress = buckets(limits)
    with Netlink() as host:
        end = find_host_end(host, request, result)
        with step("look at the limits"):
            wrong = list(_bucket(host, end, ingress)) if ingress else []
            if egress:
                wrong += _egress(host, end, request, egress)
    if wrong:
        raise CNIError(Code.INTERNAL, wrong[0], "; ".join(wrong[1:]))


def _egress(host: Netlink, end: Link, request: Request, wanted: Bucket) -> Iterator[str]:
    """What the pod sends may go through an ifb of ours, or one that the reference plugin made before we came."""
    redirects = [one for one in tc.list_redirects(host, end.index) if one.everything]
    own, theirs = find_ifb(host, request.attachment), find_reference_ifb(host, request.attachment)
    ifbs = [ifb for ifb in (own, theirs) if ifb]
    if not ifbs:
        yield f'ifb "{reference_ifb_name(request.attachment)}" not found'
    if not any(qdisc.parent == tc.INGRESS for qdisc in tc.list_qdiscs(host, end.index)):
        yield f'"{end.name}" has no ingress qdisc'
    elif not redirects:
        yield f'"{end.name}" has no filter that redirects what comes in'
    elif ifbs and redirects[0].target not in [ifb.index for ifb in ifbs]:
        yield f'What comes in by "{end.name}" is not redirected to "{ifbs[0].name}"'
    else:
        ifbs = [ifb for ifb in ifbs if ifb.index == redirects[0].target]
    for ifb in ifbs[:1]:
        if not ifb.up:
            yield f'ifb "{ifb.name}" is down'
        yield from _bucket(host, ifb, wanted)


def _bucket(host: Netlink, link: Link, wanted: Bucket) -> Iterator[str]:
    roots = [qdisc for qdisc in tc.list_qdiscs(host, link.index) if qdisc.parent == tc.ROOT]
    found = next((qdisc.bucket for qdisc in roots if qdisc.bucket), None)
    if found is None:
        yield f'Failed to find qdisc: "{link.name}" has no token bucket'
        return
    if found.rate != wanted.rate:
        yield f'Rate doesn\'t match on "{link.name}": {found.rate} bytes/s, configured are {wanted.rate}'
    if found.limit != wanted.limit:
        yield f'Limit doesn\'t match on "{link.name}": {found.limit} bytes, configured are {wanted.limit}'
    if found.buffer != wanted.buffer:
        yield f'Buffer doesn\'t match on "{link.name}": {found.buffer} ticks, configured are {wanted.buffer}'

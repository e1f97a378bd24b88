"""CHECK: compares the kernel with the configured limits."""

from collections.abc import Iterator

from linux.errors import step
from linux.netlink.socket import Netlink
from linux.rtnl import tc, uapi
from linux.rtnl.links import Link
from linux.rtnl.tc import Bucket
from plugins.bandwidth import shaping
from plugins.bandwidth.conf import Limits, reference_ifb_name
from plugins.bandwidth.host_veth import find_host_veth
from spec.errors import raise_problems
from spec.request import Request
from spec.result import Result


def check_shaping(request: Request, limits: Limits, result: Result) -> None:
    """Raises CNIError with everything that is missing or differs."""
    ingress, egress = shaping.buckets(limits)
    with Netlink() as host:
        veth = find_host_veth(host, request, result)
        with step("read the limits"):
            problems = list(_bucket_problems(host, veth, ingress)) if ingress else []
            if egress:
                problems += _egress_problems(host, veth, request, egress)
    raise_problems(problems)


def _egress_problems(host: Netlink, veth: Link, request: Request, wanted: Bucket) -> Iterator[str]:
    """What the pod sends may be redirected to our ifb, or to one that the reference plugin made before the switch."""
    redirects = [one for one in tc.list_redirects(host, veth.index) if one.everything]
    own = shaping.find_ifb(host, request.attachment)
    reference = shaping.find_reference_ifb(host, request.attachment)
    ifbs = [ifb for ifb in (own, reference) if ifb]
    if not ifbs:
        yield f'ifb "{reference_ifb_name(request.attachment)}" not found'
    if not any(qdisc.parent == uapi.TC_H_INGRESS for qdisc in tc.list_qdiscs(host, veth.index)):
        yield f'"{veth.name}" has no ingress qdisc'
    elif not redirects:
        yield f'"{veth.name}" has no filter that redirects incoming packets'
    elif ifbs and redirects[0].target not in [ifb.index for ifb in ifbs]:
        yield f'Incoming packets of "{veth.name}" are not redirected to "{ifbs[0].name}"'
    else:
        ifbs = [ifb for ifb in ifbs if ifb.index == redirects[0].target]
    for ifb in ifbs[:1]:
        if not ifb.up:
            yield f'ifb "{ifb.name}" is down'
        yield from _bucket_problems(host, ifb, wanted)


def _bucket_problems(host: Netlink, link: Link, wanted: Bucket) -> Iterator[str]:
    roots = [qdisc for qdisc in tc.list_qdiscs(host, link.index) if qdisc.parent == uapi.TC_H_ROOT]
    found = next((qdisc.bucket for qdisc in roots if qdisc.bucket), None)
    if found is None:
        yield f'Failed to find qdisc: "{link.name}" has no token bucket'
        return
    for attribute, unit in (("rate", "bytes/s"), ("limit", "bytes"), ("buffer", "ticks")):
        actual, expected = getattr(found, attribute), getattr(wanted, attribute)
        if actual != expected:
            yield f'{attribute.title()} doesn\'t match on "{link.name}": it is {actual} {unit}, expected {expected}'

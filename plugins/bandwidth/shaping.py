"""Shaping: the token buckets that enforce limits, and the ifb links through which a pod's egress is redirected.

Only outgoing packets are queued. What a pod receives leaves through its host veth, so its bucket is there. What it
sends comes in through the host veth, so it is redirected through an ifb, which has its bucket.
"""

from collections.abc import Collection, Iterator
from errno import EADDRNOTAVAIL, EEXIST
from struct import Struct

from linux.errors import reason, step
from linux.netlink.attributes import attribute, nested, number, text
from linux.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Netlink, NetlinkError
from linux.ownership import owner_tag
from linux.rtnl import tc, uapi
from linux.rtnl.links import Link, find_link, pack_mac, random_mac
from linux.rtnl.tc import Bucket
from plugins.bandwidth.conf import Limit, Limits, ifb_name, reference_ifb_name
from spec.attachment import Attachment
from spec.errors import CNIError, Code

PSCHED = "/proc/net/psched"
_LATENCY = 25_000  # microseconds that a packet may wait once the burst is used up, as in the reference plugin
_SECOND = 1_000_000  # microseconds
_UINT32_MAX = (1 << 32) - 1
_BODY = Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, mask of the flags to change
_IFB = nested(uapi.IFLA_LINKINFO, text(uapi.IFLA_INFO_KIND, "ifb"))
_LARGEST_PACKET = 1 << 16  # bytes, before segmentation
_MODULES = "sch_tbf, sch_ingress, cls_u32, act_mirred, ifb"


def check_kernel() -> None:
    """Raises CNIError 50 if the kernel lacks token buckets or ifb links; changes nothing.

    Filters cannot be probed without a link to attach them to.
    """
    try:
        ticks_per_microsecond()
        with Netlink() as host:
            loopback = find_link(host, "lo")
            if loopback:
                tc.probe_bucket(host, loopback.index)
            _probe_ifb(host)
    except OSError as error:
        message = f"the kernel cannot limit bandwidth: {reason(error)}"
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, message, f"it needs {_MODULES}") from error


def buckets(limits: Limits) -> tuple[Bucket | None, Bucket | None]:
    """The token buckets for what the pod receives and for what it sends; raises CNIError."""
    with step("read the packet scheduler's clock"):
        ticks = ticks_per_microsecond()
    return _bucket(limits, limits.ingress, "ingress", ticks), _bucket(limits, limits.egress, "egress", ticks)


def _bucket(limits: Limits, limit: Limit | None, direction: str, ticks: float) -> Bucket | None:
    if limit is None:
        return None
    try:
        return bucket(limit.rate, limit.burst, ticks)
    except ValueError:
        rate = f"{direction}Rate {limit.rate}"
        expected = f"a longer burst (at {rate} the kernel would let nothing pass)"
        raise limits.section.error(f"{direction}Burst", expected) from None


def ticks_per_microsecond(path: str = PSCHED) -> float:
    """The resolution of the kernel's packet scheduler clock; raises OSError if it has none."""
    with open(path) as file:
        ticks, units, resolution, *_ = (int(word, 16) for word in file.read().split())
    return ticks / units * resolution / _SECOND


def bucket(rate: int, burst: int, ticks: float) -> Bucket:
    """The bucket for a rate in bits/s (8 or more) and a burst in bits, at `ticks` per microsecond.

    It equals the reference plugin's, including the rounding, unless the burst exceeds the kernel's 32 bits: the
    reference keeps the lower 32 bits of the result. We use the largest possible bucket, and leave the burst out of the
    queue's limit, which would otherwise hold minutes of traffic. Raises ValueError if the kernel would refuse the
    bucket because the burst is too small.
    """
    rate, burst = rate // 8, burst // 8
    most = int(_UINT32_MAX / ticks)  # microseconds: 4.5 minutes
    duration = int(burst * _SECOND / rate)
    waiting = int(rate * _LATENCY / _SECOND)
    if duration <= most and waiting + burst <= _UINT32_MAX:
        limit = waiting + burst
    else:
        duration = min(duration, most)
        limit = min(max(waiting, _LARGEST_PACKET), _UINT32_MAX)
    made = Bucket(rate=rate, limit=limit, buffer=int(duration * ticks))
    if made.buffer * rate < ticks * _SECOND:  # tbf_change() requires room for one byte
        raise ValueError("the kernel would let nothing pass")
    return made


def bucket_of(netlink: Netlink, link: int) -> Bucket | None:
    """Our bucket at the root of a link, None if the kernel's default is there; raises NetlinkError for any other."""
    for one in tc.list_qdiscs(netlink, link):
        if one.parent == uapi.TC_H_ROOT and one.handle:
            if one.handle == tc.BUCKET_HANDLE and one.bucket:
                return one.bucket
            raise NetlinkError(EEXIST, f"it has a queueing discipline already: {one.kind} {one.handle >> 16:x}:")
    return None


def find_ifb(host: Netlink, owner: Attachment) -> Link | None:
    """The attachment's own ifb; raises NetlinkError."""
    tag = owner_tag(owner)
    for name, aliases in ((reference_ifb_name(owner), (tag,)), (ifb_name(owner), (tag, ""))):
        link = find_link(host, name)
        if link and link.kind == "ifb" and link.alias in aliases:
            return link
    return None


def find_reference_ifb(host: Netlink, owner: Attachment) -> Link | None:
    """The ifb that the reference plugin made for the container on the network; raises NetlinkError."""
    link = find_link(host, reference_ifb_name(owner))
    return link if link and link.kind == "ifb" and not link.alias else None


def create_ifb(netlink: Netlink, name: str, *, mtu: int) -> bool:
    """Create an ifb; False if a link of that name exists.

    An explicit MAC keeps udev's MACAddressPolicy from changing the one that the result reports. The bucket's queue is
    its only queue.
    """
    content = text(uapi.IFLA_IFNAME, name) + attribute(uapi.IFLA_ADDRESS, pack_mac(random_mac()))
    content += number(uapi.IFLA_TXQLEN, 0) + number(uapi.IFLA_MTU, mtu)
    message = _BODY.pack(0, 0, 0, 0, 0) + content + _IFB
    try:
        netlink.change(message, uapi.RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
    except NetlinkError as error:
        if error.errno != EEXIST:
            raise
        return False
    return True


def set_ifb(netlink: Netlink, index: int, *, mtu: int, alias: str) -> None:
    """Set the MTU and the alias (its owner) of an ifb and bring it up."""
    body = _BODY.pack(0, 0, index, uapi.IFF_UP, uapi.IFF_UP)
    netlink.change(body + number(uapi.IFLA_MTU, mtu) + text(uapi.IFLA_IFALIAS, alias), uapi.RTM_SETLINK)


def redirecting_links(netlink: Netlink, targets: Collection[int]) -> Iterator[tuple[int, int]]:
    """(link, target) by index, for the links that redirect incoming packets to one of `targets`."""
    for qdisc in tc.list_qdiscs(netlink):
        if qdisc.parent == uapi.TC_H_INGRESS:
            found = {redirect.target for redirect in tc.list_redirects(netlink, qdisc.link)}
            yield from ((qdisc.link, target) for target in sorted(found.intersection(targets)))


def delete_unused_ingress(netlink: Netlink, link: int) -> bool:
    """Delete a link's ingress qdisc if it holds no filters and is not a `clsact`, which we never make; else False."""
    kinds = [qdisc.kind for qdisc in tc.list_qdiscs(netlink, link) if qdisc.parent == uapi.TC_H_INGRESS]
    return kinds == ["ingress"] and not tc.list_redirects(netlink, link) and tc.delete_ingress(netlink, link)


def delete_limits(netlink: Netlink, link: int, targets: Collection[int]) -> None:
    """Delete our bucket at a link's root and the filters that redirect all incoming packets to one of `targets`.

    Anything else stays. Raises NetlinkError.
    """
    qdiscs, redirects = tc.list_qdiscs(netlink, link), tc.list_redirects(netlink, link)
    ours = [one for one in redirects if one.everything and one.target in targets]
    tables = {one.info for one in ours}
    others = [one for one in redirects if one not in ours and (one.is_filter or one.info not in tables)]
    if others:
        for redirect in ours:
            tc.delete_redirect(netlink, redirect)
    doomed = [
        one
        for one in qdiscs
        if (one.parent == uapi.TC_H_ROOT and one.handle == tc.BUCKET_HANDLE and one.bucket)
        or (one.parent == uapi.TC_H_INGRESS and one.kind == "ingress" and not others)
    ]
    if doomed:
        tc.delete_qdiscs(netlink, doomed)
    if ours and not others and not any(one.parent == uapi.TC_H_INGRESS for one in doomed):
        for redirect in ours:  # in a `clsact` that another program created
            tc.delete_redirect(netlink, redirect)


def _probe_ifb(netlink: Netlink) -> None:
    """Request an ifb with an invalid MAC, so that none is made. Raises NetlinkError if the kernel does not support ifb.

    The kernel looks up the kind first and loads its module, as an ADD would have it do.
    """
    message = _BODY.pack(0, 0, 0, 0, 0) + attribute(uapi.IFLA_ADDRESS, bytes(6)) + _IFB
    try:
        netlink.change(message, uapi.RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
    except NetlinkError as error:
        if error.errno != EADDRNOTAVAIL:
            raise

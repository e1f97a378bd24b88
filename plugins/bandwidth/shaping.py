"""Shaping: how limits become token buckets, and the ifb links through which a pod's sending is made to queue.

A link queues what goes out of it. What a pod receives goes out of the host's end of its veth, so the bucket is there.
What it sends comes in, where nothing queues; so it is sent on through an ifb, and the bucket is on that.
"""

from collections.abc import Collection, Iterator
from errno import EADDRNOTAVAIL, EEXIST
from struct import Struct

from linux.netlink.attributes import attribute, nested, number, text
from linux.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Netlink, NetlinkError
from linux.rtnl import tc
from linux.rtnl.links import IFF_UP, RTM_NEWLINK, RTM_SETLINK, random_mac
from linux.rtnl.tc import Bucket

PSCHED = "/proc/net/psched"
_LATENCY = 25_000  # microseconds that a packet may wait once the burst is used up: what the reference plugin allows
_SECOND = 1_000_000  # microseconds
_UINT32_MAX = (1 << 32) - 1
_BODY = Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, which of them to change
_ADDRESS, _IFNAME, _MTU, _TXQLEN, _LINKINFO, _IFALIAS, _INFO_KIND = 1, 3, 4, 13, 18, 20, 1
_IFB = nested(_LINKINFO, text(_INFO_KIND, "ifb"))
_LARGEST_PACKET = 1 << 16  # bytes of a packet before it is segmented


def ticks_per_microsecond(path: str = PSCHED) -> float:
    """What the kernel says of the clock of its packet scheduler; raises OSError where it has none."""
    with open(path) as file:
        ticks, units, resolution, *_ = (int(word, 16) for word in file.read().split())
    return ticks / units * resolution / _SECOND


def bucket(rate: int, burst: int, ticks: float) -> Bucket:
    """The bucket for a rate in bits/s (8 or more) and a burst in bits, at `ticks` a microsecond.

    It is what the reference plugin makes, down to its rounding, but for a burst that does not fit the kernel's 32
    bits: the reference keeps the lower 32 bits of what is too large, whatever they are. Here the bucket is the largest
    that fits, and what may wait is not the burst as well, which would be minutes. Raises ValueError if the burst is
    so small that the kernel would refuse the bucket.
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
    if made.buffer * rate < ticks * _SECOND:  # tbf_change() wants room for one byte
        raise ValueError("the kernel would let nothing pass")
    return made


def bucket_of(netlink: Netlink, link: int) -> Bucket | None:
    """Our bucket at the root of a link, None if only the kernel's own is there; raises NetlinkError for another's."""
    for one in tc.list_qdiscs(netlink, link):
        if one.parent == tc.ROOT and one.handle:
            if one.handle == tc.BUCKET_HANDLE and one.bucket:
                return one.bucket
            raise NetlinkError(EEXIST, f"it has a queueing discipline already: {one.kind} {one.handle >> 16:x}:")
    return None


def create_ifb(netlink: Netlink, name: str, *, mtu: int) -> bool:
    """Make an ifb; False if a link of that name is there already.

    It has a MAC of its own from the start, so that udev's MACAddressPolicy leaves it as the result reports it, and no
    queue beside the bucket's.
    """
    mac = bytes.fromhex(random_mac().replace(":", ""))
    content = text(_IFNAME, name) + attribute(_ADDRESS, mac) + number(_TXQLEN, 0) + number(_MTU, mtu)
    message = _BODY.pack(0, 0, 0, 0, 0) + content + _IFB
    try:
        netlink.change(message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
    except NetlinkError as error:
        if error.errno != EEXIST:
            raise
        return False
    return True


def set_ifb(netlink: Netlink, index: int, *, mtu: int, alias: str) -> None:
    """Bring an ifb up with this MTU, and name its owner in its alias."""
    body = _BODY.pack(0, 0, index, IFF_UP, IFF_UP)
    netlink.change(body + number(_MTU, mtu) + text(_IFALIAS, alias), RTM_SETLINK)


def redirecting_links(netlink: Netlink, targets: Collection[int]) -> Iterator[tuple[int, int]]:
    """(link, target), indexes both, for the links that send what comes in by them to one of the links `targets`."""
    for qdisc in tc.list_qdiscs(netlink):
        if qdisc.parent == tc.INGRESS:
            found = {redirect.target for redirect in tc.list_redirects(netlink, qdisc.link)}
            yield from ((qdisc.link, target) for target in sorted(found.intersection(targets)))


def delete_unused_ingress(netlink: Netlink, link: int) -> bool:
    """Take away a link's place for filters if it holds none (and is no `clsact`, which we never make); else False."""
    kinds = [qdisc.kind for qdisc in tc.list_qdiscs(netlink, link) if qdisc.parent == tc.INGRESS]
    return kinds == ["ingress"] and not tc.list_redirects(netlink, link) and tc.delete_ingress(netlink, link)


def delete_limits(netlink: Netlink, link: int, targets: Collection[int]) -> None:
    """Take away the bucket at a link's root, and what sends all that comes in to one of `targets`; no more than that.

    Raises NetlinkError.
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
        if (one.parent == tc.ROOT and one.handle == tc.BUCKET_HANDLE and one.bucket)
        or (one.parent == tc.INGRESS and one.kind == "ingress" and not others)
    ]
    if doomed:
        tc.delete_qdiscs(netlink, doomed)
    if ours and not others and not any(one.parent == tc.INGRESS for one in doomed):
        for redirect in ours:  # in a `clsact`, which is somebody else's
            tc.delete_redirect(netlink, redirect)


def probe_ifb(netlink: Netlink) -> None:
    """Ask for an ifb with a MAC that no link may have, so none is made. Raises NetlinkError if the kernel knows no ifb.

    The kernel looks for the kind first, and loads its module, as an ADD would have it do.
    """
    message = _BODY.pack(0, 0, 0, 0, 0) + attribute(_ADDRESS, bytes(6)) + _IFB
    try:
        netlink.change(message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
    except NetlinkError as error:
        if error.errno != EADDRNOTAVAIL:
            raise

"""Traffic control by rtnetlink: token buckets on links, and filters that redirect what comes in.

Numbers are those of <linux/pkt_sched.h>, <linux/pkt_cls.h> and <linux/tc_act/tc_mirred.h>.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import EEXIST, EINVAL, ENODEV, ENOENT
from struct import Struct, pack, unpack

from linux.netlink.attributes import attribute, attributes_of, nested, number, text
from linux.netlink.socket import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_ECHO,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    Netlink,
    NetlinkError,
)

ROOT, INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
INGRESS_HANDLE = 0xFFFF0000  # ffff:
_INCOMING = 0xFFFFFFF2  # where filters on what comes in belong, for the kind `ingress` and for `clsact`
BUCKET_HANDLE = 0x00010000  # 1:
_BUCKET_CLASS = 0x00010001  # 1:1

_NEWQDISC, _DELQDISC, _GETQDISC = 36, 37, 38
_NEWTFILTER, _DELTFILTER, _GETTFILTER = 44, 45, 46
# The filter's preference, 1, in the upper half; in the lower the ethertype in network order, which is ETH_P_ALL.
_ALL_PACKETS = 1 << 16 | unpack("=H", b"\x00\x03")[0]
_STOLEN, _EGRESS_REDIR = 4, 1
# TC_U32_TERMINAL, one key: match 00000000/00000000 at 0.
_MATCH_ALL = pack("=BBBx", 1, 0, 1) + bytes(12) + bytes(16)
_UINT32_MAX = 0xFFFFFFFF
_BODY = Struct("=B3xiIII")  # struct tcmsg: family, index of the link, handle, parent, info
_HEADER_BYTES, _ATTRIBUTES_AT = 16, 36
_KIND, _OPTIONS = 1, 2
_TBF_PARMS, _TBF_RATE64 = 1, 4
_TBF = Struct("=8xI8xIIIxxxx")  # struct tc_tbf_qopt: rate, peak rate, limit, buffer
_U32_CLASSID, _U32_SEL, _U32_ACT = 1, 5, 7
_ACT_FIRST, _ACT_KIND, _ACT_OPTIONS = 1, 1, 2
_MIRRED_PARMS = 2
_MIRRED = Struct("=8xi8xiI")  # struct tc_mirred: action, eaction, index of the link
_GONE = frozenset((ENODEV, ENOENT, EINVAL))  # EINVAL: the link has no such qdisc any more, or never had


@dataclass(frozen=True)
class Bucket:
    """A token bucket (TBF) in the kernel's units: `rate` in bytes a second, `limit` in bytes, `buffer` in ticks.

    `limit` is how much may wait, the burst included; `buffer` is how long the burst takes at that rate.
    """

    rate: int
    limit: int
    buffer: int


@dataclass(frozen=True)
class Qdisc:
    """A queueing discipline of the link with index `link`; `bucket` is what a TBF does, None for all other kinds."""

    link: int
    kind: str
    handle: int
    parent: int
    bucket: Bucket | None


@dataclass(frozen=True)
class Redirect:
    """A filter on what comes in by the link with index `link`; `target` is the index of the link it sends that to.

    `info` has the filter's preference and protocol; `handle` is 0 for what is no filter but a part of its table.
    `everything`: whether it is one as `create_redirect` makes, which lets nothing pass by.
    """

    link: int
    info: int
    handle: int
    target: int
    everything: bool

    @property
    def is_filter(self) -> bool:
        """Whether the handle is of a filter (TC_U32_NODE), not of a table of filters."""
        return bool(self.handle & 0xFFF)


def list_qdiscs(netlink: Netlink, link: int | None = None) -> list[Qdisc]:
    """The queueing disciplines of all links; or those at the root and for what comes in of the link with that index."""
    if link is None:
        return [_qdisc(body) for body in netlink.dump_raw(_message(0), _GETQDISC)]
    # The kernel knows no dump of one link's; asked for one discipline, it shows it to whoever wants its announcements.
    asked = [
        netlink.encode(_message(link, parent=parent), _GETQDISC, NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO)
        for parent in (ROOT, INGRESS)
    ]
    return [_qdisc(body) for body in netlink.send(asked, tolerated=_GONE)]


def list_redirects(netlink: Netlink, link: int) -> list[Redirect]:
    """The filters on what comes in by the link with that index, which may have none and need not be there."""
    try:
        found = netlink.dump_raw(_message(link, parent=_INCOMING), _GETTFILTER)
    except NetlinkError as error:
        if error.errno not in _GONE:
            raise
        return []
    return [one for one in map(_redirect, found) if one.link == link]


def put_bucket(netlink: Netlink, link: int, bucket: Bucket) -> None:
    """Make this the link's root; one of ours that is there changes to it in place. Raises NetlinkError."""
    rate64 = attribute(_TBF_RATE64, pack("=Q", bucket.rate)) if bucket.rate > _UINT32_MAX else b""
    parms = _TBF.pack(min(bucket.rate, _UINT32_MAX), 0, bucket.limit, bucket.buffer)
    message = _message(link, BUCKET_HANDLE, ROOT, "tbf", attribute(_TBF_PARMS, parms), rate64)
    netlink.change(message, _NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE)


def delete_bucket(netlink: Netlink, link: int) -> bool:
    """Take the link's root `1:` away; False if it was gone."""
    return _delete(lambda: netlink.change(_message(link, BUCKET_HANDLE, ROOT), _DELQDISC))


def create_ingress(netlink: Netlink, link: int) -> bool:
    """Give the link a place for filters on what comes in; False if it has one (`clsact` will do too)."""
    try:
        netlink.change(_message(link, INGRESS_HANDLE, INGRESS, "ingress"), _NEWQDISC, NLM_F_CREATE | NLM_F_EXCL)
    except NetlinkError as error:
        if error.errno != EEXIST:
            raise
        return False
    return True


def delete_ingress(netlink: Netlink, link: int) -> bool:
    """Take it away with all its filters; False if it was gone."""
    return _delete(lambda: netlink.change(_message(link, INGRESS_HANDLE, INGRESS), _DELQDISC))


def delete_qdiscs(netlink: Netlink, qdiscs: Sequence[Qdisc]) -> None:
    """Take several away with all that is in them, in one exchange; those that are gone already are no error."""
    flags = NLM_F_REQUEST | NLM_F_ACK
    doomed = (_message(one.link, one.handle, one.parent) for one in qdiscs)
    requests = [netlink.encode(message, _DELQDISC, flags) for message in doomed]
    netlink.send(requests, tolerated=_GONE)


def create_redirect(netlink: Netlink, link: int, target: int) -> None:
    """Send all that comes in by a link, of whatever protocol, out by the link with the index `target`."""
    parms = attribute(_MIRRED_PARMS, _MIRRED.pack(_STOLEN, _EGRESS_REDIR, target))
    mirred = text(_ACT_KIND, "mirred") + nested(_ACT_OPTIONS, parms)
    options = (
        number(_U32_CLASSID, _BUCKET_CLASS),
        attribute(_U32_SEL, _MATCH_ALL),
        nested(_U32_ACT, nested(_ACT_FIRST, mirred)),
    )
    message = _message(link, 0, _INCOMING, "u32", *options, info=_ALL_PACKETS)
    netlink.change(message, _NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL)


def delete_redirect(netlink: Netlink, redirect: Redirect) -> bool:
    """Take one filter away; False if it was gone."""
    message = _message(redirect.link, redirect.handle, _INCOMING, "u32", info=redirect.info)
    deleted = _delete(lambda: netlink.change(message, _DELTFILTER))
    # The kernel takes the table of the last filter of a preference with it, unless there are others on the link.
    rest = [one.is_filter for one in list_redirects(netlink, redirect.link) if one.info == redirect.info]
    if rest and not any(rest):
        table = _message(redirect.link, 0, _INCOMING, "u32", info=redirect.info)
        _delete(lambda: netlink.change(table, _DELTFILTER))
    return deleted


def probe_bucket(netlink: Netlink, link: int) -> None:
    """Ask for a token bucket without parameters, which no kernel makes. Raises NetlinkError if it knows none at all."""
    try:
        netlink.change(_message(link, BUCKET_HANDLE, ROOT, "tbf"), _NEWQDISC, NLM_F_CREATE | NLM_F_EXCL)
    except NetlinkError as error:
        if error.errno not in (EINVAL, EEXIST):
            raise


def _message(link: int, handle: int = 0, parent: int = 0, kind: str = "", *options: bytes, info: int = 0) -> bytes:
    body = _BODY.pack(0, link, handle, parent, info)
    return body + (text(_KIND, kind) if kind else b"") + (nested(_OPTIONS, *options) if options else b"")


def _parts(body: bytes) -> tuple[tuple[int, int, int, int], str, dict[int, bytes]]:
    """Of a message: link, handle, parent and info; kind; options."""
    _, *fields = _BODY.unpack_from(body, _HEADER_BYTES)
    found = attributes_of(body, _ATTRIBUTES_AT)
    kind = found.get(_KIND, b"").rstrip(b"\0").decode("utf-8", "replace")
    return tuple(fields), kind, attributes_of(found.get(_OPTIONS, b""))


def _delete(request: Callable[[], None]) -> bool:
    try:
        request()
    except NetlinkError as error:
        if error.errno not in _GONE:
            raise
        return False
    return True


def _qdisc(body: bytes) -> Qdisc:
    (link, handle, parent, _), kind, options = _parts(body)
    return Qdisc(link, kind, handle, parent, _bucket(options) if kind == "tbf" else None)


def _bucket(options: dict[int, bytes]) -> Bucket:
    rate, _, limit, buffer = _TBF.unpack(options[_TBF_PARMS][: _TBF.size])
    if _TBF_RATE64 in options:
        (rate,) = unpack("=Q", options[_TBF_RATE64])
    return Bucket(rate=rate, limit=limit, buffer=buffer)


def _redirect(body: bytes) -> Redirect:
    (link, handle, _, info), kind, options = _parts(body)
    target = _redirected_to(options) if kind == "u32" else None
    everything = target is not None and info == _ALL_PACKETS and _matches_all(options.get(_U32_SEL))
    return Redirect(link, info, handle, target or 0, everything)


def _redirected_to(options: dict[int, bytes]) -> int | None:
    """The index of the link to which a filter sends what it matches; None if it does something else."""
    action = attributes_of(attributes_of(options.get(_U32_ACT, b"")).get(_ACT_FIRST, b""))
    if action.get(_ACT_KIND) != b"mirred\0":
        return None
    parms = attributes_of(action.get(_ACT_OPTIONS, b"")).get(_MIRRED_PARMS, b"")
    _, eaction, target = _MIRRED.unpack(parms[: _MIRRED.size])
    return target if eaction == _EGRESS_REDIR else None


def _matches_all(selector: bytes | None) -> bool:
    """Whether each key of the selector (struct tc_u32_sel) has an empty mask."""
    masks = [selector[at : at + 4] for at in range(16, len(selector), 16)] if selector else [b"?"]
    return not any(map(any, masks))

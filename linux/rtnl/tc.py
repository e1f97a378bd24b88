"""Traffic control by rtnetlink: token buckets on links, and filters that redirect incoming packets."""

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
from linux.rtnl import uapi

INGRESS_HANDLE = 0xFFFF0000  # ffff:
BUCKET_HANDLE = 0x00010000  # 1:
_BUCKET_CLASS = 0x00010001  # 1:1

# The filter's preference, 1, in the upper half; in the lower the ethertype in network order, which is ETH_P_ALL.
_ALL_PACKETS = 1 << 16 | unpack("=H", b"\x00\x03")[0]
# TC_U32_TERMINAL, one key: match 00000000/00000000 at 0.
_MATCH_ALL = pack("=BBBx", uapi.TC_U32_TERMINAL, 0, 1) + bytes(12) + bytes(16)
_FIRST_ACTION = 1  # TCA_U32_ACT numbers its actions from 1
_UINT32_MAX = 0xFFFFFFFF
_BODY = Struct("=B3xiIII")  # struct tcmsg: family, index of the link, handle, parent, info
_HEADER_BYTES, _ATTRIBUTES_AT = 16, 36
_TBF = Struct("=8xI8xIIIxxxx")  # struct tc_tbf_qopt: rate, peak rate, limit, buffer
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
        return [_qdisc(body) for body in netlink.dump(_message(0), uapi.RTM_GETQDISC)]
    # The kernel knows no dump of one link's; asked for one discipline, it shows it to whoever wants its announcements.
    asked = [
        netlink.encode(_message(link, parent=parent), uapi.RTM_GETQDISC, NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO)
        for parent in (uapi.TC_H_ROOT, uapi.TC_H_INGRESS)
    ]
    return [_qdisc(body) for body in netlink.send(asked, tolerated=_GONE)]


def list_redirects(netlink: Netlink, link: int) -> list[Redirect]:
    """The filters on what comes in by the link with that index, which may have none and need not be there."""
    try:
        found = netlink.dump(_message(link, parent=uapi.TC_H_MIN_INGRESS_PARENT), uapi.RTM_GETTFILTER)
    except NetlinkError as error:
        if error.errno not in _GONE:
            raise
        return []
    return [one for one in map(_redirect, found) if one.link == link]


def put_bucket(netlink: Netlink, link: int, bucket: Bucket) -> None:
    """Make this the link's root; one of ours that is there changes to it in place. Raises NetlinkError."""
    rate64 = attribute(uapi.TCA_TBF_RATE64, pack("=Q", bucket.rate)) if bucket.rate > _UINT32_MAX else b""
    parms = _TBF.pack(min(bucket.rate, _UINT32_MAX), 0, bucket.limit, bucket.buffer)
    message = _message(link, BUCKET_HANDLE, uapi.TC_H_ROOT, "tbf", attribute(uapi.TCA_TBF_PARMS, parms), rate64)
    netlink.change(message, uapi.RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE)


def delete_bucket(netlink: Netlink, link: int) -> bool:
    """Take the link's root `1:` away; False if it was gone."""
    return _delete(lambda: netlink.change(_message(link, BUCKET_HANDLE, uapi.TC_H_ROOT), uapi.RTM_DELQDISC))


def create_ingress(netlink: Netlink, link: int) -> bool:
    """Give the link a place for filters on what comes in; False if it has one (`clsact` will do too)."""
    try:
        netlink.change(
            _message(link, INGRESS_HANDLE, uapi.TC_H_INGRESS, "ingress"), uapi.RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL
        )
    except NetlinkError as error:
        if error.errno != EEXIST:
            raise
        return False
    return True


def delete_ingress(netlink: Netlink, link: int) -> bool:
    """Take it away with all its filters; False if it was gone."""
    return _delete(lambda: netlink.change(_message(link, INGRESS_HANDLE, uapi.TC_H_INGRESS), uapi.RTM_DELQDISC))


def delete_qdiscs(netlink: Netlink, qdiscs: Sequence[Qdisc]) -> None:
    """Take several away with all that is in them, in one exchange; those that are gone already are no error."""
    flags = NLM_F_REQUEST | NLM_F_ACK
    doomed = (_message(one.link, one.handle, one.parent) for one in qdiscs)
    requests = [netlink.encode(message, uapi.RTM_DELQDISC, flags) for message in doomed]
    netlink.send(requests, tolerated=_GONE)


def create_redirect(netlink: Netlink, link: int, target: int) -> None:
    """Send all that comes in by a link, of whatever protocol, out by the link with the index `target`."""
    parms = attribute(uapi.TCA_MIRRED_PARMS, _MIRRED.pack(uapi.TC_ACT_STOLEN, uapi.TCA_EGRESS_REDIR, target))
    mirred = text(uapi.TCA_ACT_KIND, "mirred") + nested(uapi.TCA_ACT_OPTIONS, parms)
    options = (
        number(uapi.TCA_U32_CLASSID, _BUCKET_CLASS),
        attribute(uapi.TCA_U32_SEL, _MATCH_ALL),
        nested(uapi.TCA_U32_ACT, nested(_FIRST_ACTION, mirred)),
    )
    message = _message(link, 0, uapi.TC_H_MIN_INGRESS_PARENT, "u32", *options, info=_ALL_PACKETS)
    netlink.change(message, uapi.RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL)


def delete_redirect(netlink: Netlink, redirect: Redirect) -> bool:
    """Take one filter away; False if it was gone."""
    message = _message(redirect.link, redirect.handle, uapi.TC_H_MIN_INGRESS_PARENT, "u32", info=redirect.info)
    deleted = _delete(lambda: netlink.change(message, uapi.RTM_DELTFILTER))
    # The kernel takes the table of the last filter of a preference with it, unless there are others on the link.
    rest = [one.is_filter for one in list_redirects(netlink, redirect.link) if one.info == redirect.info]
    if rest and not any(rest):
        table = _message(redirect.link, 0, uapi.TC_H_MIN_INGRESS_PARENT, "u32", info=redirect.info)
        _delete(lambda: netlink.change(table, uapi.RTM_DELTFILTER))
    return deleted


def probe_bucket(netlink: Netlink, link: int) -> None:
    """Ask for a token bucket without parameters, which no kernel makes. Raises NetlinkError if it knows none at all."""
    try:
        netlink.change(
            _message(link, BUCKET_HANDLE, uapi.TC_H_ROOT, "tbf"), uapi.RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL
        )
    except NetlinkError as error:
        if error.errno not in (EINVAL, EEXIST):
            raise


def _message(link: int, handle: int = 0, parent: int = 0, kind: str = "", *options: bytes, info: int = 0) -> bytes:
    body = _BODY.pack(0, link, handle, parent, info)
    return (
        body + (text(uapi.TCA_KIND, kind) if kind else b"") + (nested(uapi.TCA_OPTIONS, *options) if options else b"")
    )


def _parts(body: bytes) -> tuple[tuple[int, int, int, int], str, dict[int, bytes]]:
    """Of a message: link, handle, parent and info; kind; options."""
    _, *fields = _BODY.unpack_from(body, _HEADER_BYTES)
    found = attributes_of(body, _ATTRIBUTES_AT)
    kind = found.get(uapi.TCA_KIND, b"").rstrip(b"\0").decode("utf-8", "replace")
    return tuple(fields), kind, attributes_of(found.get(uapi.TCA_OPTIONS, b""))


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
    rate, _, limit, buffer = _TBF.unpack(options[uapi.TCA_TBF_PARMS][: _TBF.size])
    if uapi.TCA_TBF_RATE64 in options:
        (rate,) = unpack("=Q", options[uapi.TCA_TBF_RATE64])
    return Bucket(rate=rate, limit=limit, buffer=buffer)


def _redirect(body: bytes) -> Redirect:
    (link, handle, _, info), kind, options = _parts(body)
    target = _redirected_to(options) if kind == "u32" else None
    everything = target is not None and info == _ALL_PACKETS and _matches_all(options.get(uapi.TCA_U32_SEL))
    return Redirect(link, info, handle, target or 0, everything)


def _redirected_to(options: dict[int, bytes]) -> int | None:
    """The index of the link to which a filter sends what it matches; None if it does something else."""
    action = attributes_of(attributes_of(options.get(uapi.TCA_U32_ACT, b"")).get(_FIRST_ACTION, b""))
    if action.get(uapi.TCA_ACT_KIND) != b"mirred\0":
        return None
    parms = attributes_of(action.get(uapi.TCA_ACT_OPTIONS, b"")).get(uapi.TCA_MIRRED_PARMS, b"")
    _, eaction, target = _MIRRED.unpack(parms[: _MIRRED.size])
    return target if eaction == uapi.TCA_EGRESS_REDIR else None


def _matches_all(selector: bytes | None) -> bool:
    """Whether each key of the selector (struct tc_u32_sel) has an empty mask."""
    masks = [selector[at : at + 4] for at in range(16, len(selector), 16)] if selector else [b"?"]
    return not any(map(any, masks))

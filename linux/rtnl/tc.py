"""Traffic control by rtnetlink: token buckets on links, and filters that redirect incoming packets."""

from collections.abc import Callable, Sequence
from contextlib import suppress
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

    `limit`: how much may be queued, including the burst. `buffer`: how long the burst takes at that rate.
    """

    rate: int
    limit: int
    buffer: int


@dataclass(frozen=True)
class Qdisc:
    """A queueing discipline of the link with index `link`; `bucket`: the parameters of a TBF, None for other kinds."""

    link: int
    kind: str
    handle: int
    parent: int
    bucket: Bucket | None


@dataclass(frozen=True)
class Program:
    """A BPF program as a filter of the link with index `link`; `info`: its preference and protocol."""

    link: int
    handle: int
    parent: int
    info: int
    name: str

    def __str__(self) -> str:
        """As `tc filter del` reads it, after the name of the link."""
        side = "ingress" if self.parent == uapi.TC_H_MIN_INGRESS_PARENT else "egress"
        return f"{side} pref {self.info >> 16} handle {self.handle:#x} bpf"


@dataclass(frozen=True)
class Redirect:
    """A filter on incoming packets of the link with index `link`; `target`: index of the link to which it redirects.

    `info`: the filter's preference and protocol. `handle`: 0 for a part of its hash table. `everything`: whether it
    matches all packets, as those of `create_redirect` do.
    """

    link: int
    info: int
    handle: int
    target: int
    everything: bool

    @property
    def is_filter(self) -> bool:
        """Whether the handle is of a filter (TC_U32_NODE), not of a hash table."""
        return bool(self.handle & 0xFFF)


def list_qdiscs(netlink: Netlink, link: int | None = None) -> list[Qdisc]:
    """The queueing disciplines of all links; or the root and ingress ones of the link with that index."""
    if link is None:
        return [_qdisc(body) for body in netlink.dump(_message(0), uapi.RTM_GETQDISC)]
    # The kernel cannot dump those of one link; it echoes a single one only as a notification.
    requests = [
        netlink.encode(_message(link, parent=parent), uapi.RTM_GETQDISC, NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO)
        for parent in (uapi.TC_H_ROOT, uapi.TC_H_INGRESS)
    ]
    return [_qdisc(body) for body in netlink.send(requests, tolerated=_GONE)]


def list_redirects(netlink: Netlink, link: int) -> list[Redirect]:
    """The filters on incoming packets of the link with that index; none if it has none or does not exist."""
    try:
        filters = netlink.dump(_message(link, parent=uapi.TC_H_MIN_INGRESS_PARENT), uapi.RTM_GETTFILTER)
    except NetlinkError as error:
        if error.errno not in _GONE:
            raise
        return []
    return [one for one in map(_redirect, filters) if one.link == link]


def list_programs(netlink: Netlink, link: int) -> list[Program]:
    """The BPF programs on what the link with that index receives and sends; none if it has none or does not exist."""
    found = []
    for parent in (uapi.TC_H_MIN_INGRESS_PARENT, uapi.TC_H_MIN_EGRESS_PARENT):
        with suppress(NetlinkError):  # it has no such qdisc
            parts = map(_parts, netlink.dump(_message(link, parent=parent), uapi.RTM_GETTFILTER))
            for (_, handle, _, info), kind, options in parts:
                name = options.get(uapi.TCA_BPF_NAME, b"").rstrip(b"\0").decode("utf-8", "replace")
                if kind == "bpf" and handle:
                    found.append(Program(link, handle, parent, info, name))
    return found


def delete_program(netlink: Netlink, program: Program) -> bool:
    """Take a BPF program off its link; False if it was gone."""
    message = _message(program.link, program.handle, program.parent, "bpf", info=program.info)
    return _delete(lambda: netlink.change(message, uapi.RTM_DELTFILTER))


def put_bucket(netlink: Netlink, link: int, bucket: Bucket) -> None:
    """Make the bucket the link's root, or change our existing one in place. Raises NetlinkError."""
    rate64 = attribute(uapi.TCA_TBF_RATE64, pack("=Q", bucket.rate)) if bucket.rate > _UINT32_MAX else b""
    parms = _TBF.pack(min(bucket.rate, _UINT32_MAX), 0, bucket.limit, bucket.buffer)
    message = _message(link, BUCKET_HANDLE, uapi.TC_H_ROOT, "tbf", attribute(uapi.TCA_TBF_PARMS, parms), rate64)
    netlink.change(message, uapi.RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE)


def delete_bucket(netlink: Netlink, link: int) -> bool:
    """Delete the link's root `1:`; False if it was gone."""
    return _delete(lambda: netlink.change(_message(link, BUCKET_HANDLE, uapi.TC_H_ROOT), uapi.RTM_DELQDISC))


def create_ingress(netlink: Netlink, link: int) -> bool:
    """Create an ingress qdisc; False if the link has one, or a clsact."""
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
    """Delete the ingress qdisc with all its filters; False if it was gone."""
    return _delete(lambda: netlink.change(_message(link, INGRESS_HANDLE, uapi.TC_H_INGRESS), uapi.RTM_DELQDISC))


def delete_qdiscs(netlink: Netlink, qdiscs: Sequence[Qdisc]) -> None:
    """Delete several with their contents, in one datagram; those that do not exist are not an error."""
    flags = NLM_F_REQUEST | NLM_F_ACK
    messages = (_message(one.link, one.handle, one.parent) for one in qdiscs)
    requests = [netlink.encode(message, uapi.RTM_DELQDISC, flags) for message in messages]
    netlink.send(requests, tolerated=_GONE)


def create_redirect(netlink: Netlink, link: int, target: int) -> None:
    """Redirect all incoming packets of a link, of any protocol, to the link with the index `target`."""
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
    """Delete one filter; False if it was gone."""
    message = _message(redirect.link, redirect.handle, uapi.TC_H_MIN_INGRESS_PARENT, "u32", info=redirect.info)
    deleted = _delete(lambda: netlink.change(message, uapi.RTM_DELTFILTER))
    # The kernel deletes the hash table with the last filter of a preference only if there are no others on the link.
    rest = [one.is_filter for one in list_redirects(netlink, redirect.link) if one.info == redirect.info]
    if rest and not any(rest):
        table = _message(redirect.link, 0, uapi.TC_H_MIN_INGRESS_PARENT, "u32", info=redirect.info)
        _delete(lambda: netlink.change(table, uapi.RTM_DELTFILTER))
    return deleted


def probe_bucket(netlink: Netlink, link: int) -> None:
    """Request a TBF without parameters, which every kernel refuses. Raises NetlinkError if it has no TBF."""
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
    """Link, handle, parent and info; kind; options of a message."""
    _, *fields = _BODY.unpack_from(body, _HEADER_BYTES)
    attributes = attributes_of(body, _ATTRIBUTES_AT)
    kind = attributes.get(uapi.TCA_KIND, b"").rstrip(b"\0").decode("utf-8", "replace")
    return tuple(fields), kind, attributes_of(attributes.get(uapi.TCA_OPTIONS, b""))


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
    """The index of the link to which a filter redirects; None if its action is another."""
    action = attributes_of(attributes_of(options.get(uapi.TCA_U32_ACT, b"")).get(_FIRST_ACTION, b""))
    if action.get(uapi.TCA_ACT_KIND) != b"mirred\0":
        return None
    parms = attributes_of(action.get(uapi.TCA_ACT_OPTIONS, b"")).get(uapi.TCA_MIRRED_PARMS, b"")
    _, eaction, target = _MIRRED.unpack(parms[: _MIRRED.size])
    return target if eaction == uapi.TCA_EGRESS_REDIR else None


def _matches_all(selector: bytes | None) -> bool:
    """Whether all keys of the selector (struct tc_u32_sel) have empty masks."""
    masks = [selector[at : at + 4] for at in range(16, len(selector), 16)] if selector else [b"?"]
    return not any(map(any, masks))

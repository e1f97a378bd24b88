"""Traffic control by rtnetlink: token buckets on links, and filters that redirect what comes in.

The messages are of pyroute2's base classes, but not those of its tcmsg: that package imports all its thirty kinds at
once and reads /etc/iproute2, which costs a cold call 16 to 22 ms, and its token bucket knows no rate of 2^32 bytes a
second. Numbers are those of <linux/pkt_sched.h>, <linux/pkt_cls.h> and <linux/tc_act/tc_mirred.h>.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from errno import EEXIST, EINVAL, ENODEV, ENOENT

from pyroute2.netlink import nla, nlmsg

from linux.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Netlink, NetlinkError, decode

ROOT, INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
INGRESS_HANDLE = 0xFFFF0000  # ffff:
_INCOMING = 0xFFFFFFF2  # where filters on what comes in belong, for the kind `ingress` and for `clsact`
BUCKET_HANDLE = 0x00010000  # 1:
_BUCKET_CLASS = 0x00010001  # 1:1

_NEWQDISC, _DELQDISC, _GETQDISC = 36, 37, 38
_NEWTFILTER, _DELTFILTER, _GETTFILTER = 44, 45, 46
# The filter's preference, 1, in the upper half; in the lower the ethertype in network order, which is ETH_P_ALL.
_ALL_PACKETS = 1 << 16 | struct.unpack("=H", b"\x00\x03")[0]
_STOLEN, _EGRESS_REDIR = 4, 1
# TC_U32_TERMINAL, one key: match 00000000/00000000 at 0.
_MATCH_ALL = struct.pack("=BBBx", 1, 0, 1) + bytes(12) + bytes(16)
_UINT32_MAX = 0xFFFFFFFF
_INDEX = struct.Struct("=i")
_INDEX_AT = 20  # of tcm_ifindex: after the header of 16 bytes, and four more
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


class _Bucket(nla):
    nla_map = (
        ("TCA_TBF_UNSPEC", "none"),
        ("TCA_TBF_PARMS", "parms"),
        ("TCA_TBF_RTAB", "none"),
        ("TCA_TBF_PTAB", "none"),
        ("TCA_TBF_RATE64", "uint64"),
    )

    class parms(nla):  # struct tc_tbf_qopt
        fields = (
            *(("rate_head", "Q"), ("rate", "I"), ("peak_head", "Q"), ("peak", "I")),
            *(("limit", "I"), ("buffer", "I"), ("mtu", "I")),
        )


class _Filter(nla):
    nla_map = (
        (0, "TCA_U32_UNSPEC", "none"),
        (1, "TCA_U32_CLASSID", "uint32"),
        (5, "TCA_U32_SEL", "cdata"),
        (7, "TCA_U32_ACT", "actions"),
    )

    class actions(nla):
        nla_map = (("TCA_ACT_PRIO_0", "none"), ("TCA_ACT_PRIO_1", "action"))

        class action(nla):
            nla_map = (("TCA_ACT_UNSPEC", "none"), ("TCA_ACT_KIND", "asciiz"), ("TCA_ACT_OPTIONS", "mirred"))

            class mirred(nla):
                nla_map = (("TCA_MIRRED_UNSPEC", "none"), ("TCA_MIRRED_TM", "none"), ("TCA_MIRRED_PARMS", "parms"))

                class parms(nla):  # struct tc_mirred
                    fields = (
                        *(("index", "I"), ("capab", "I"), ("action", "i"), ("refcnt", "i"), ("bindcnt", "i")),
                        *(("eaction", "i"), ("ifindex", "I")),
                    )


class _Message(nlmsg):
    prefix = "TCA_"
    fields = (
        *(("family", "B"), ("pad1", "B"), ("pad2", "H"), ("index", "i")),
        *(("handle", "I"), ("parent", "I"), ("info", "I")),
    )
    nla_map = (("TCA_UNSPEC", "none"), ("TCA_KIND", "asciiz"), ("TCA_OPTIONS", "options_of"))

    tbf = _Bucket
    u32 = _Filter

    @staticmethod
    def options_of(message: "_Message", *_: object, **__: object) -> type[nla]:
        """What the options of this kind are made of; those of kinds that are not ours stay bytes."""
        return {"tbf": _Bucket, "u32": _Filter}.get(message.get_attr("TCA_KIND"), message.cdata)


def list_qdiscs(netlink: Netlink, link: int | None = None) -> list[Qdisc]:
    """The queueing disciplines of the link with that index, or of all links."""
    return [
        Qdisc(
            link=found["index"],
            kind=found.get_attr("TCA_KIND") or "",
            handle=found["handle"],
            parent=found["parent"],
            bucket=_bucket(found) if found.get_attr("TCA_KIND") == "tbf" else None,
        )
        # The kernel knows no dump of one link's.
        for found in _of_link(netlink.dump_raw(_message(0), _GETQDISC), link)
    ]


def list_redirects(netlink: Netlink, link: int) -> list[Redirect]:
    """The filters on what comes in by the link with that index, which may have none and need not be there."""
    try:
        found = netlink.dump_raw(_message(link, parent=_INCOMING), _GETTFILTER)
    except NetlinkError as error:
        if error.errno not in _GONE:
            raise
        return []
    return [_redirect(one) for one in _of_link(found, link)]


def put_bucket(netlink: Netlink, link: int, bucket: Bucket) -> None:
    """Make this the link's root; one of ours that is there changes to it in place. Raises NetlinkError."""
    parms = {"rate": min(bucket.rate, _UINT32_MAX), "limit": bucket.limit, "buffer": bucket.buffer}
    attrs: list[tuple[str, object]] = [("TCA_TBF_PARMS", parms)]
    if bucket.rate > _UINT32_MAX:
        attrs.append(("TCA_TBF_RATE64", bucket.rate))
    message = _message(link, BUCKET_HANDLE, ROOT, kind="tbf", options={"attrs": attrs})
    netlink.change(message, _NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE)


def delete_bucket(netlink: Netlink, link: int) -> bool:
    """Take the link's root `1:` away; False if it was gone."""
    return _delete(lambda: netlink.change(_message(link, BUCKET_HANDLE, ROOT), _DELQDISC))


def create_ingress(netlink: Netlink, link: int) -> bool:
    """Give the link a place for filters on what comes in; False if it has one (`clsact` will do too)."""
    try:
        netlink.change(_message(link, INGRESS_HANDLE, INGRESS, kind="ingress"), _NEWQDISC, NLM_F_CREATE | NLM_F_EXCL)
    except NetlinkError as error:
        if error.errno != EEXIST:
            raise
        return False
    return True


def delete_ingress(netlink: Netlink, link: int) -> bool:
    """Take it away with all its filters; False if it was gone."""
    return _delete(lambda: netlink.change(_message(link, INGRESS_HANDLE, INGRESS), _DELQDISC))


def create_redirect(netlink: Netlink, link: int, target: int) -> None:
    """Send all that comes in by a link, of whatever protocol, out by the link with the index `target`."""
    parms = {"action": _STOLEN, "eaction": _EGRESS_REDIR, "ifindex": target}
    mirred = {"attrs": [("TCA_ACT_KIND", "mirred"), ("TCA_ACT_OPTIONS", {"attrs": [("TCA_MIRRED_PARMS", parms)]})]}
    actions = {"attrs": [("TCA_ACT_PRIO_1", mirred)]}
    options = [("TCA_U32_CLASSID", _BUCKET_CLASS), ("TCA_U32_SEL", _MATCH_ALL), ("TCA_U32_ACT", actions)]
    message = _message(link, 0, _INCOMING, kind="u32", options={"attrs": options}, info=_ALL_PACKETS)
    netlink.change(message, _NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL)


def delete_redirect(netlink: Netlink, redirect: Redirect) -> bool:
    """Take one filter away; False if it was gone."""
    message = _message(redirect.link, redirect.handle, _INCOMING, kind="u32", info=redirect.info)
    deleted = _delete(lambda: netlink.change(message, _DELTFILTER))
    # The kernel takes the table of the last filter of a preference with it, unless there are others on the link.
    rest = [one.handle for one in list_redirects(netlink, redirect.link) if one.info == redirect.info]
    if rest and not any(map(_is_filter, rest)):
        table = _message(redirect.link, 0, _INCOMING, kind="u32", info=redirect.info)
        _delete(lambda: netlink.change(table, _DELTFILTER))
    return deleted


def probe_bucket(netlink: Netlink, link: int) -> None:
    """Ask for a token bucket without parameters, which no kernel makes. Raises NetlinkError if it knows none at all."""
    try:
        netlink.change(_message(link, BUCKET_HANDLE, ROOT, kind="tbf"), _NEWQDISC, NLM_F_CREATE | NLM_F_EXCL)
    except NetlinkError as error:
        if error.errno not in (EINVAL, EEXIST):
            raise


def _message(
    link: int, handle: int = 0, parent: int = 0, *, kind: str = "", options: object = None, info: int = 0
) -> _Message:
    attrs: list[tuple[str, object]] = [("TCA_KIND", kind)] if kind else []
    if options is not None:
        attrs.append(("TCA_OPTIONS", options))
    message = _Message()
    message.update(family=0, index=link, handle=handle, parent=parent, info=info, attrs=attrs)
    return message


def _of_link(bodies: list[bytes], link: int | None) -> list[_Message]:
    """The messages about a link, decoded; those about others are not worth decoding."""
    return [decode(_Message, body) for body in bodies if link is None or _INDEX.unpack_from(body, _INDEX_AT)[0] == link]


def _delete(request: Callable[[], None]) -> bool:
    try:
        request()
    except NetlinkError as error:
        if error.errno not in _GONE:
            raise
        return False
    return True


def _bucket(found: _Message) -> Bucket:
    options = found.get_attr("TCA_OPTIONS")
    parms = options.get_attr("TCA_TBF_PARMS")
    rate = options.get_attr("TCA_TBF_RATE64") or parms["rate"]
    return Bucket(rate=rate, limit=parms["limit"], buffer=parms["buffer"])


def _redirect(found: _Message) -> Redirect:
    options = found.get_attr("TCA_OPTIONS") if found.get_attr("TCA_KIND") == "u32" else None
    actions = options and options.get_attr("TCA_U32_ACT")
    action = actions and actions.get_attr("TCA_ACT_PRIO_1")
    mirred = action and action.get_attr("TCA_ACT_KIND") == "mirred" and action.get_attr("TCA_ACT_OPTIONS")
    parms = mirred and mirred.get_attr("TCA_MIRRED_PARMS")
    sends = parms and parms["eaction"] == _EGRESS_REDIR
    return Redirect(
        link=found["index"],
        info=found["info"],
        handle=found["handle"],
        target=parms["ifindex"] if sends else 0,
        everything=bool(sends) and found["info"] == _ALL_PACKETS and _matches_all(options.get_attr("TCA_U32_SEL")),
    )


def _is_filter(handle: int) -> bool:
    """Whether the handle is of a filter (TC_U32_NODE), not of a table of filters."""
    return bool(handle & 0xFFF)


def _matches_all(selector: bytes | None) -> bool:
    """Whether each key of the selector (struct tc_u32_sel) has an empty mask."""
    masks = [selector[at : at + 4] for at in range(16, len(selector), 16)] if selector else [b"?"]
    return not any(map(any, masks))

"""Routing as other programs left it: the rules that choose a table, and the routes of all tables, listed and deleted.

What is deleted is named by the kernel's own message about it, so that exactly that one goes, whatever it consists of.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from errno import EEXIST, ENOENT, ESRCH
from socket import AF_INET, AF_INET6
from struct import Struct
from sys import byteorder

from linux.netlink.attributes import RTNL_BODY, attributes_of, number
from linux.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Netlink, NetlinkError
from linux.rtnl import uapi
from linux.rtnl.routes import destination_of
from spec.addresses import unpack

_HEADER = Struct("=BBBBBBBBI")  # struct fib_rule_hdr, struct rtmsg: family, dst_len, src_len, tos, table, ...
_FAMILIES = (AF_INET, AF_INET6)
_PROTOCOL, _FLAGS = 5, slice(8, 12)  # rtm_protocol and rtm_flags in struct rtmsg
_INVERT = 2  # FIB_RULE_INVERT
_TO_TABLE = 1  # FR_ACT_TO_TBL
MAIN, LOCAL = uapi.RT_TABLE_MAIN, 255
KINDS = {
    uapi.RTN_UNICAST: "",
    uapi.RTN_LOCAL: "local",
    uapi.RTN_BLACKHOLE: "blackhole",
    uapi.RTN_UNREACHABLE: "unreachable",
    uapi.RTN_PROHIBIT: "prohibit",
    uapi.RTN_THROW: "throw",
}


@dataclass(frozen=True)
class PolicyRule:
    """A rule of policy routing. `src`, `dst`: networks, "" for any. `iif`, `oif`: names of links, "" for any."""

    family: int
    priority: int
    table: int
    src: str
    dst: str
    mark: int
    mask: int
    iif: str
    oif: str
    inverted: bool
    message: bytes = field(compare=False, repr=False)

    def __str__(self) -> str:
        """As `ip rule add` and `ip rule del` read it."""
        words = ["not"] if self.inverted else []
        words += ["pref", str(self.priority), "from", self.src or "all"]
        words += ["to", self.dst] if self.dst else []
        words += ["fwmark", f"{self.mark:#x}/{self.mask:#x}"] if self.mark or self.mask else []
        words += ["iif", self.iif] if self.iif else []
        words += ["oif", self.oif] if self.oif else []
        return " ".join([*words, "lookup", _TABLES.get(self.table, str(self.table))])


@dataclass(frozen=True)
class AnyRoute:
    """A route of whatever table and kind (a value of KINDS). `dst` is a CIDR; `link` an index, `via` "" for none."""

    family: int
    kind: str
    dst: str
    via: str
    link: int
    table: int
    protocol: int
    onlink: bool
    message: bytes = field(compare=False, repr=False)

    def words(self, link: str) -> str:
        """As `ip route add` and `ip route del` read it; `link`: the name of its link, "" without one."""
        words = [self.kind] if self.kind else []
        words += [self.dst]
        words += ["via", self.via] if self.via else []
        words += ["dev", link] if link else []
        words += ["onlink"] if self.onlink else []
        words += ["proto", str(self.protocol)]
        return " ".join([*words, *(["table", str(self.table)] if self.table != MAIN else [])])


_TABLES = {253: "default", MAIN: "main", LOCAL: "local"}


def list_rules(netlink: Netlink) -> list[PolicyRule]:
    """The rules of IPv4 and IPv6 that lead to a table. Raises NetlinkError."""
    return [
        rule
        for family in _FAMILIES
        for message in netlink.dump(_HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), uapi.RTM_GETRULE)
        if (rule := _rule(message)) and rule.family == family
    ]


def delete_rule(netlink: Netlink, rule: PolicyRule) -> None:
    """Delete a rule, if it is still there. Raises NetlinkError."""
    _delete(netlink, rule.message, uapi.RTM_DELRULE)


def restore_local_rule(netlink: Netlink, family: int) -> None:
    """Have the table `local` be looked up first, as the kernel does by itself. Raises NetlinkError."""
    header = _HEADER.pack(family, 0, 0, 0, LOCAL, 0, 0, _TO_TABLE, 0)
    try:
        netlink.change(
            header + number(uapi.FRA_PRIORITY, 0) + number(uapi.FRA_TABLE, LOCAL),
            uapi.RTM_NEWRULE,
            NLM_F_CREATE | NLM_F_EXCL,
        )
    except NetlinkError as error:
        if error.errno != EEXIST:
            raise


def list_all_routes(netlink: Netlink) -> Iterator[AnyRoute]:
    """The routes of all tables but `local`, which has the node's own addresses. Raises NetlinkError."""
    for family in _FAMILIES:
        for message in netlink.dump(_HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), uapi.RTM_GETROUTE):
            *_, table, protocol, _, kind, flags = _HEADER.unpack_from(message, 16)
            found = attributes_of(message, RTNL_BODY)
            table = _number(found, uapi.RTA_TABLE) or table
            if message[16] != family or kind not in KINDS or table == LOCAL:
                continue
            via = found.get(uapi.RTA_GATEWAY, b"")
            yield AnyRoute(
                family=family,
                kind=KINDS[kind],
                dst=destination_of(message, found).cidr,
                via=unpack(via) if via else "",
                link=_number(found, uapi.RTA_OIF),
                table=table,
                protocol=protocol,
                onlink=bool(flags & uapi.RTNH_F_ONLINK),
                message=message,
            )


def delete_route(netlink: Netlink, route: AnyRoute) -> None:
    """Delete a route, if it is still there. Raises NetlinkError."""
    _delete(netlink, route.message, uapi.RTM_DELROUTE)


def hand_over_route(netlink: Netlink, route: AnyRoute, protocol: int) -> None:
    """Give a route another protocol (RTPROT_*), in one step. Raises NetlinkError."""
    body = bytearray(route.message[16:])
    body[_PROTOCOL] = protocol
    flags = int.from_bytes(body[_FLAGS], byteorder) & uapi.RTNH_F_ONLINK  # others tell the state of the link
    body[_FLAGS] = flags.to_bytes(4, byteorder)
    netlink.change(bytes(body), uapi.RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE)


def _delete(netlink: Netlink, message: bytes, kind: int) -> None:
    try:
        netlink.change(message[16:], kind)
    except NetlinkError as error:
        if error.errno not in (ENOENT, ESRCH):
            raise


def _rule(message: bytes) -> PolicyRule | None:
    family, dst_length, src_length, _, table, _, _, action, flags = _HEADER.unpack_from(message, 16)
    if action != _TO_TABLE:
        return None
    found = attributes_of(message, RTNL_BODY)
    return PolicyRule(
        family=family,
        priority=_number(found, uapi.FRA_PRIORITY),
        table=_number(found, uapi.FRA_TABLE) or table,
        src=_network(found.get(uapi.FRA_SRC), src_length),
        dst=_network(found.get(uapi.FRA_DST), dst_length),
        mark=_number(found, uapi.FRA_FWMARK),
        mask=_number(found, uapi.FRA_FWMASK),
        iif=_text(found.get(uapi.FRA_IIFNAME)),
        oif=_text(found.get(uapi.FRA_OIFNAME)),
        inverted=bool(flags & _INVERT),
        message=message,
    )


def _network(packed: bytes | None, length: int) -> str:
    return f"{unpack(packed)}/{length}" if packed else ""


def _number(found: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(found.get(kind, b""), byteorder)


def _text(data: bytes | None) -> str:
    return (data or b"").split(b"\0", 1)[0].decode("utf-8", "replace")

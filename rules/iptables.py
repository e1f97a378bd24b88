"""iptables: how to write and read rules in its tables (nf_tables variant) that it lists and deletes as its own.

The expressions are those that iptables makes of the same options, in the same order. Matches without a native
expression of nftables are those of the kernel's x_tables, with their structures (<linux/netfilter/xt_conntrack.h>,
<linux/netfilter/xt_comment.h>). Callers are rules/firewall.py and rules/portmap/iptables_nat.py.
"""

import struct
from collections.abc import Sequence

from linux.netlink.attributes import attribute, text
from linux.nftables import expressions, listing, messages, uapi
from linux.nftables.expressions import ACCEPT, be32, cmp_eq, expression, ip_daddr, ip_saddr, l4proto_is
from linux.nftables.listing import FoundRule
from linux.nftables.messages import TableName

FILTER = {4: TableName(messages.IP, "filter"), 6: TableName(messages.IP6, "filter")}
NAT = {4: TableName(messages.IP, "nat"), 6: TableName(messages.IP6, "nat")}

_COMMENT_BYTES = 256
_CONNTRACK_BYTES, _FLAGS_AT = 168, 146  # sizeof(struct xt_conntrack_mtinfo3), aligned; offset of match_flags
_STATE = 1
_TO_PORTS = 1  # XT_MULTIPORT_DESTINATION
MOST_PORTS = 15
"""The most ports of a rule: XT_MULTI_PORTS."""
_LOCAL = 1 << 2  # XT_ADDRTYPE_LOCAL
RELATED_ESTABLISHED, DNAT = 0b110, 1 << 7
"""States of a connection, as bits: --ctstate."""


def jump(chain: str, comment: str) -> list[bytes]:
    """-m comment --comment COMMENT -j CHAIN"""
    return [_commented(comment), _counter(), expressions.jump(chain)]


def accept_from(address: bytes) -> list[bytes]:
    """-s ADDRESS -j ACCEPT"""
    return [ip_saddr(_version(address)), cmp_eq(address), _counter(), ACCEPT]


def accept_replies_to(address: bytes) -> list[bytes]:
    """-d ADDRESS -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"""
    return [ip_daddr(_version(address)), cmp_eq(address), _in_state(RELATED_ESTABLISHED), _counter(), ACCEPT]


def accept_translated_to(address: bytes) -> list[bytes]:
    """-d ADDRESS -m conntrack --ctstate DNAT -j ACCEPT"""
    return [ip_daddr(_version(address)), cmp_eq(address), _in_state(DNAT), _counter(), ACCEPT]


def mark_local(bit: int, comment: str) -> list[bytes]:
    """-m addrtype --dst-type LOCAL -m comment --comment COMMENT -j MARK --set-xmark BIT/BIT"""
    info = struct.pack("=II", bit, bit)  # struct xt_mark_tginfo2
    mark = expression(
        "target",
        text(uapi.NFTA_TARGET_NAME, "MARK"),
        be32(uapi.NFTA_TARGET_REV, 2),
        attribute(uapi.NFTA_TARGET_INFO, info),
    )
    local = struct.pack("=HHI", 0, _LOCAL, 0)  # struct xt_addrtype_info_v1: source, dest, flags
    return [_match("addrtype", 1, local), _commented(comment), _counter(), mark]


def to_ports(protocol: int, host: bytes, ports: Sequence[int], comment: str) -> list[bytes]:
    """[-d HOST] -p PROTOCOL -m multiport --dports PORTS -m comment --comment COMMENT, without a target.

    `ports`: MOST_PORTS at most. `host`: a packed IPv4 address, or b"".
    """
    numbers = b"".join(struct.pack("=H", port) for port in ports).ljust(2 * MOST_PORTS, b"\0")
    info = bytes([_TO_PORTS, len(ports)]) + numbers + bytes(MOST_PORTS + 1)  # struct xt_multiport_v1
    to_host = [ip_daddr(4), cmp_eq(host)] if host else []
    return [*to_host, *l4proto_is(protocol), _match("multiport", 1, info), _commented(comment), _counter()]


def comment_of(rule: FoundRule) -> str:
    """The comment (-m comment) of a rule, "" if it has none."""
    return listing.match_info(rule, "comment").split(b"\0", 1)[0].decode("utf-8", "replace") or rule.comment


def is_mark_local(rule: FoundRule, bit: int, comment: str) -> bool:
    """Whether `mark_local` made the rule.

    Also after nft saved and loaded it: nft writes it in its own expressions and without the comment.
    """
    if listing.target_info(rule, "MARK") == struct.pack("=II", bit, bit):
        return comment_of(rule) == comment
    return listing.bit_marked(rule) == bit


def states_of(rule: FoundRule) -> int:
    """The connection states that a rule matches, 0 if it matches none.

    By a match of iptables, or by the expressions that nft makes of it when it lists rules and loads them again.
    """
    info = listing.match_info(rule, "conntrack")
    if len(info) == _CONNTRACK_BYTES:
        return struct.unpack_from("=H", info, _FLAGS_AT + 4)[0]
    bits = listing.conntrack_bits(rule)
    if bits.get(uapi.NFT_CT_STATUS) == uapi.IPS_DST_NAT:
        return DNAT
    return bits.get(uapi.NFT_CT_STATE, 0)  # NFT_CT_STATE has the same bits


def _commented(comment: str) -> bytes:
    return _match("comment", 0, comment.encode().ljust(_COMMENT_BYTES, b"\0"))


def _in_state(states: int) -> bytes:
    info = bytearray(_CONNTRACK_BYTES)
    struct.pack_into("=HHH", info, _FLAGS_AT, _STATE, 0, states)
    return _match("conntrack", 3, bytes(info))


def _version(address: bytes) -> int:
    return 4 if len(address) == 4 else 6


def _counter() -> bytes:
    return expression(
        "counter", attribute(uapi.NFTA_COUNTER_BYTES, bytes(8)), attribute(uapi.NFTA_COUNTER_PACKETS, bytes(8))
    )


def _match(name: str, revision: int, info: bytes) -> bytes:
    return expression(
        "match",
        text(uapi.NFTA_MATCH_NAME, name),
        be32(uapi.NFTA_MATCH_REV, revision),
        attribute(uapi.NFTA_MATCH_INFO, info),
    )

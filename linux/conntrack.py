"""Tracked connections (ctnetlink): lists those of some addresses, and deletes single ones.

What a list costs: the kernel walks all buckets of its hash table, which all network namespaces share (5 ms for 262,144
of them, even without a connection), and each connection costs 1 µs there and 1.5 µs here. If the kernel filters
(CTA_FILTER), it is 0.2 µs for each that it leaves out, but it filters by one address at a time. So 100,000 connections
are 0.25 s, or 0.03 s for an address. Numbers are those of <linux/netfilter/nfnetlink_conntrack.h>.
"""

import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from errno import ENOENT
from socket import IPPROTO_UDP

from linux import sysctls
from linux.connection import (
    CTA_IP_DST,
    CTA_IP_SRC,
    CTA_PROTO_DST_PORT,
    CTA_PROTO_NUM,
    CTA_TUPLE_IP,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_PROTO,
    CTA_TUPLE_REPLY,
    Connection,
    ends_of,
    identity_of,
    read,
)
from linux.netlink.attributes import NLA_F_NESTED, attribute, nested
from linux.netlink.socket import NLM_F_REQUEST, Netlink, NetlinkError
from linux.nftables.transactions import retry_on_change
from spec.addresses import FAMILIES, pack

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
_GET = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET
_DELETE = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE
CTA_FILTER, CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 25, 1, 2
CTA_FILTER_F_CTA_IP_SRC, CTA_FILTER_F_CTA_IP_DST = 1 << 0, 1 << 1
CTA_FILTER_F_CTA_PROTO_NUM, CTA_FILTER_F_CTA_PROTO_DST_PORT = 1 << 3, 1 << 5

PARTIES, ANY_END = slice(0, None, 2), slice(None)
"""Which of the four addresses of a connection are meant: `source` and `answered_by`, or all."""

_ENDS = (
    (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS, CTA_FILTER_F_CTA_IP_SRC, CTA_IP_SRC),
    (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS, CTA_FILTER_F_CTA_IP_DST, CTA_IP_DST),
    (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS, CTA_FILTER_F_CTA_IP_SRC, CTA_IP_SRC),
    (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS, CTA_FILTER_F_CTA_IP_DST, CTA_IP_DST),
)
"""How a filter names each of these addresses, in the order of `ends_of`."""

_BUCKET_NS, _FILTERED_NS, _LISTED_NS = 20, 200, 2500
"""What a bucket costs, a connection that the kernel leaves out, and one that it lists."""

_BATCH = 128  # so many errors fit into the socket's buffer, should all be refused


def flush_udp(version: int, port: int, doomed: Callable[[Connection], bool]) -> int:
    """Delete the UDP flows of an IP version to a port that are `doomed`; returns how many. Raises NetlinkError.

    A UDP flow that never pauses stays tracked with the translation, or the lack of one, that its first packet met, and
    would never notice that a port was added or removed. In the network namespace of the calling thread.
    """

    def flush(netlink: Netlink) -> int:
        found = filter(None, map(read, netlink.stream(_request_udp(version, port), _GET)))
        is_it = [one for one in found if one.protocol == IPPROTO_UDP and one.port == port and doomed(one)]
        return delete(netlink, is_it)

    # The kernel takes a socket of this kind for one of nftables: closing it waits until what was deleted is freed.
    return retry_on_change(flush)


def flush_addresses(ips: Iterable[str]) -> int:
    """Delete all connections that have one of these addresses at any end; returns how many. Raises OSError.

    For addresses whose pod is gone. In the network namespace of the calling thread.
    """
    addresses = frozenset(map(pack, ips))

    def flush(netlink: Netlink) -> int:
        return delete(netlink, list(connections(netlink, addresses, ANY_END)))

    return retry_on_change(flush) if addresses else 0


def connections(netlink: Netlink, addresses: Collection[bytes], ends: slice = PARTIES) -> Iterator[Connection]:
    """The connections that have one of these packed addresses at one of the ends, as the kernel lists them.

    Each once. Do not use the socket for anything else meanwhile. Raises OSError.
    """
    wanted = frozenset(addresses)
    requests = _requests(wanted, ends)
    seen: set[bytes] = set()
    for request in requests:
        for message in netlink.stream(request, _GET):
            if wanted.isdisjoint(ends_of(message)[ends]):
                continue
            if len(requests) > 1:
                identity = identity_of(message)
                if identity in seen:
                    continue
                seen.add(identity)
            connection = read(message)
            if connection:
                yield connection


def find(netlink: Netlink, version: int, original: bytes) -> Connection | None:
    """The connection with that tuple (as `Connection.master` has it), None if there is none. Raises NetlinkError."""
    try:
        return read(netlink.get(_head(version) + nested(CTA_TUPLE_ORIG | NLA_F_NESTED, original), _GET))
    except NetlinkError as error:
        if error.errno != ENOENT:
            raise
        return None


def delete(netlink: Netlink, doomed: Collection[Connection]) -> int:
    """Delete connections; returns how many were still there. Tries all, then raises the first NetlinkError.

    Each by its ID too: another may have the same addresses and ports by now.
    """
    requests = [netlink.encode(_head(one.version) + identity_of(one.message), _DELETE, NLM_F_REQUEST) for one in doomed]
    errors = []
    for start in range(0, len(requests), _BATCH):
        errors += [error for _, error in netlink.transact(requests[start : start + _BATCH]) if error]
    for error in errors:
        if error.errno != ENOENT:
            raise error
    return len(requests) - len(errors)


def _requests(addresses: frozenset[bytes], ends: slice) -> list[bytes]:
    """The lists to ask for: one of everything, or one for each address and end, whichever costs less."""
    kinds = _ENDS[ends]
    buckets, count = map(sysctls.read_if_there, ("netfilter/nf_conntrack_buckets", "netfilter/nf_conntrack_count"))
    if not addresses or count == "0":
        return []
    if buckets and count:
        walk, tracked = int(buckets) * _BUCKET_NS, int(count)
        if len(addresses) * len(kinds) * (walk + tracked * _FILTERED_NS) < walk + tracked * _LISTED_NS:
            return [_request(address, *kind) for address in addresses for kind in kinds]
    return [bytes(4)]  # struct nfgenmsg of all families


def _request(address: bytes, tuple_kind: int, flags_kind: int, flag: int, ip_kinds: dict[int, int]) -> bytes:
    """The list of the connections that have the address at one end; the kernel filters since 5.8."""
    version = 4 if len(address) == 4 else 6
    ip = nested(CTA_TUPLE_IP | NLA_F_NESTED, attribute(ip_kinds[version], address))
    flags = attribute(flags_kind, struct.pack("=I", flag))
    return _head(version) + nested(tuple_kind | NLA_F_NESTED, ip) + nested(CTA_FILTER | NLA_F_NESTED, flags)


def _request_udp(version: int, port: int) -> bytes:
    """The list of the flows to that port; a kernel before 5.8 ignores the filter and lists all of the family."""
    number = attribute(CTA_PROTO_NUM, bytes([IPPROTO_UDP]))
    proto = nested(CTA_TUPLE_PROTO | NLA_F_NESTED, number, attribute(CTA_PROTO_DST_PORT, port.to_bytes(2, "big")))
    flags = attribute(
        CTA_FILTER_ORIG_FLAGS, struct.pack("=I", CTA_FILTER_F_CTA_PROTO_NUM | CTA_FILTER_F_CTA_PROTO_DST_PORT)
    )
    return _head(version) + nested(CTA_TUPLE_ORIG | NLA_F_NESTED, proto) + nested(CTA_FILTER | NLA_F_NESTED, flags)


def _head(version: int) -> bytes:
    """struct nfgenmsg"""
    return bytes([FAMILIES[version], 0, 0, 0])

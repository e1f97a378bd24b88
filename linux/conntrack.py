"""Tracked connections (ctnetlink): flushes the UDP flows that still go to where a port led before.

A UDP flow that never pauses stays tracked with the translation, or the lack of one, that its first packet met, and
would never notice that a port was added or removed. Numbers are those of <linux/netfilter/nfnetlink_conntrack.h>.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from errno import ENOENT
from socket import IPPROTO_UDP

from linux.netlink.attributes import NLA_F_NESTED, attribute, attributes_of, nested
from linux.netlink.socket import Netlink, NetlinkError
from linux.nftables.transactions import retry_on_change
from spec.addresses import FAMILIES

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
_GET = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET
_DELETE = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE
_BODY = 20  # bytes of the netlink and nfnetlink headers before the attributes
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_ZONE, CTA_FILTER = 1, 2, 12, 18, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO, CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 1, 2, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_F_CTA_PROTO_NUM, CTA_FILTER_F_CTA_PROTO_DST_PORT = 1, 1 << 3, 1 << 5
CTA_IP_SRC, CTA_IP_DST = {4: 1, 6: 3}, {4: 2, 6: 4}  # CTA_IP_V4_SRC and so on


@dataclass(frozen=True)
class Flow:
    """A UDP flow: where its first packet was sent, and which address and port answer (packed addresses)."""

    version: int
    to: bytes
    port: int
    answered_by: bytes
    answering_port: int


def flush_udp(version: int, port: int, doomed: Callable[[Flow], bool]) -> int:
    """Delete the UDP flows of an IP version to a port that are `doomed`; returns how many. Raises NetlinkError.

    In the network namespace of the calling thread.
    """

    def flush(netlink: Netlink) -> int:
        flushed = 0
        for message in netlink.dump(_dump_request(version, port), _GET):
            attributes = attributes_of(message[_BODY:])
            flow = _flow(version, attributes)
            if flow and flow.port == port and doomed(flow):
                flushed += _delete_flow(netlink, version, attributes)
        return flushed

    # The kernel takes a socket of this kind for one of nftables: closing it waits until what was deleted is freed.
    return retry_on_change(flush)


def _dump_request(version: int, port: int) -> bytes:
    """The dump of the flows to that port; a kernel before 5.8 ignores the filter and lists all flows of the family."""
    number = attribute(CTA_PROTO_NUM, bytes([IPPROTO_UDP]))
    proto = nested(CTA_TUPLE_PROTO | NLA_F_NESTED, number, attribute(CTA_PROTO_DST_PORT, port.to_bytes(2, "big")))
    flags = attribute(
        CTA_FILTER_ORIG_FLAGS, struct.pack("=I", CTA_FILTER_F_CTA_PROTO_NUM | CTA_FILTER_F_CTA_PROTO_DST_PORT)
    )
    return _head(version) + nested(CTA_TUPLE_ORIG | NLA_F_NESTED, proto) + nested(CTA_FILTER | NLA_F_NESTED, flags)


def _delete_flow(netlink: Netlink, version: int, attributes: dict[int, bytes]) -> bool:
    """Delete one flow, by its ID too: another may have the same addresses by now."""
    kinds = {CTA_TUPLE_ORIG: CTA_TUPLE_ORIG | NLA_F_NESTED, CTA_ID: CTA_ID, CTA_ZONE: CTA_ZONE}
    keep = [attribute(kind, attributes[number]) for number, kind in kinds.items() if number in attributes]
    try:
        netlink.change(_head(version) + b"".join(keep), _DELETE)
    except NetlinkError as error:
        if error.errno != ENOENT:
            raise
        return False
    return True


def _head(version: int) -> bytes:
    """struct nfgenmsg"""
    return bytes([FAMILIES[version], 0, 0, 0])


def _flow(version: int, attributes: dict[int, bytes]) -> Flow | None:
    """The flow of a message with these attributes, None if it is not UDP."""
    (there, forth), (back, answering) = (
        _ends(attributes.get(number, b"")) for number in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY)
    )
    if forth.get(CTA_PROTO_NUM) != bytes([IPPROTO_UDP]) or CTA_IP_DST[version] not in there:
        return None
    return Flow(
        version,
        there[CTA_IP_DST[version]],
        int.from_bytes(forth.get(CTA_PROTO_DST_PORT, b""), "big"),
        back.get(CTA_IP_SRC[version], b""),
        int.from_bytes(answering.get(CTA_PROTO_SRC_PORT, b""), "big"),
    )


def _ends(data: bytes) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """The addresses and the ports of one direction of a flow."""
    attributes = attributes_of(data)
    return attributes_of(attributes.get(CTA_TUPLE_IP, b"")), attributes_of(attributes.get(CTA_TUPLE_PROTO, b""))

"""Connections that the kernel tracks (ctnetlink): those that go on to where a port led before are forgotten.

A UDP flow that never pauses stays tracked with the translation, or the lack of one, that its first packet met, and
would never see a port that came or went. Numbers are those of <linux/netfilter/nfnetlink_conntrack.h>.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, IPPROTO_UDP

from linux.netlink.attributes import attribute, attributes_of, nested
from linux.netlink.socket import Netlink, NetlinkError
from linux.nftables.pod_table import retry_on_change

_SUBSYSTEM = 1  # NFNL_SUBSYS_CTNETLINK
_GET, _DELETE = _SUBSYSTEM << 8 | 1, _SUBSYSTEM << 8 | 2
_BODY = 20  # bytes of the netlink and nfnetlink headers before the attributes
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTO, _PROTO_NUMBER, _PROTO_PORT_FROM, _PROTO_PORT_TO = 1, 2, 1, 2, 3
_FILTER_ORIGINAL, _FILTER_PROTO_NUMBER, _FILTER_PORT_TO = 1, 1 << 3, 1 << 5
_NESTED = 0x8000
_FAMILY = {4: AF_INET, 6: AF_INET6}
_FROM, _TO = {4: 1, 6: 3}, {4: 2, 6: 4}  # CTA_IP_V4_SRC and so on
_ENOENT = 2


@dataclass(frozen=True)
class Flow:
    """A UDP flow: where its first packet was sent, and who answers it (packed addresses)."""

    version: int
    to: bytes
    port: int
    answered_by: bytes
    answering_port: int


def forget_udp(version: int, port: int, doomed: Callable[[Flow], bool]) -> int:
    """Forget the UDP flows of an IP version to a port that are `doomed`; returns how many. Raises NetlinkError.

    In the network namespace of the calling thread.
    """

    def forget(netlink: Netlink, _: int) -> int:
        forgotten = 0
        for message in netlink.dump_raw(_wanted(version, port), _GET):
            found = attributes_of(message[_BODY:])
            flow = _flow(version, found)
            if flow and flow.port == port and doomed(flow):
                forgotten += _forget(netlink, version, found)
        return forgotten

    # The kernel takes a socket of this kind for one of nftables: closing it waits until what was deleted is freed.
    return retry_on_change(forget)


def _wanted(version: int, port: int) -> bytes:
    """A dump of the flows to that port; a kernel before 5.8 has no filter, and lists every flow of the family."""
    number = attribute(_PROTO_NUMBER, bytes([IPPROTO_UDP]))
    proto = nested(_TUPLE_PROTO | _NESTED, number, attribute(_PROTO_PORT_TO, port.to_bytes(2, "big")))
    flags = attribute(_FILTER_ORIGINAL, struct.pack("=I", _FILTER_PROTO_NUMBER | _FILTER_PORT_TO))
    return _head(version) + nested(_TUPLE_ORIG | _NESTED, proto) + nested(_FILTER | _NESTED, flags)


def _forget(netlink: Netlink, version: int, found: dict[int, bytes]) -> bool:
    """Delete one flow, by its identity too: another may have the same addresses by now."""
    kinds = {_TUPLE_ORIG: _TUPLE_ORIG | _NESTED, _ID: _ID, _ZONE: _ZONE}
    sent_back = [attribute(kind, found[number]) for number, kind in kinds.items() if number in found]
    try:
        netlink.change(_head(version) + b"".join(sent_back), _DELETE)
    except NetlinkError as error:
        if error.errno != _ENOENT:
            raise
        return False
    return True


def _head(version: int) -> bytes:
    """struct nfgenmsg"""
    return bytes([_FAMILY[version], 0, 0, 0])


def _flow(version: int, found: dict[int, bytes]) -> Flow | None:
    """The flow that a message shows, None if it is not of UDP."""
    (there, forth), (back, answering) = (_ends(found.get(number, b"")) for number in (_TUPLE_ORIG, _TUPLE_REPLY))
    if forth.get(_PROTO_NUMBER) != bytes([IPPROTO_UDP]) or _TO[version] not in there:
        return None
    return Flow(
        version,
        there[_TO[version]],
        int.from_bytes(forth.get(_PROTO_PORT_TO, b""), "big"),
        back.get(_FROM[version], b""),
        int.from_bytes(answering.get(_PROTO_PORT_FROM, b""), "big"),
    )


def _ends(data: bytes) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """The addresses and the ports of one direction of a flow."""
    found = attributes_of(data)
    return attributes_of(found.get(_TUPLE_IP, b"")), attributes_of(found.get(_TUPLE_PROTO, b""))

"""Connections that the kernel tracks (ctnetlink): those that go on to where a port led before are forgotten.

A UDP flow that never pauses stays tracked with the translation, or the lack of one, that its first packet met, and
would never see a port that came or went. Numbers are those of <linux/netfilter/nfnetlink_conntrack.h>.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, IPPROTO_UDP

from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_CTNETLINK, nfgen_msg

from linux.attributes import attributes_of
from linux.netlink import NETLINK_NETFILTER, Netlink, NetlinkError

_GET, _DELETE = NFNL_SUBSYS_CTNETLINK << 8 | 1, NFNL_SUBSYS_CTNETLINK << 8 | 2
_BODY = 20  # bytes of the netlink and nfnetlink headers before the attributes
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTO, _PROTO_NUMBER, _PROTO_PORT_FROM, _PROTO_PORT_TO = 1, 2, 1, 2, 3
_FILTER_ORIGINAL, _FILTER_PROTO_NUMBER, _FILTER_PORT_TO = 1, 1 << 3, 1 << 5
_NESTED = 0x8000
_FAMILY = {4: AF_INET, 6: AF_INET6}
_FROM, _TO = {4: 1, 6: 3}, {4: 2, 6: 4}  # CTA_IP_V4_SRC and so on
_ENOENT = 2


_NAMES = {_TUPLE_ORIG: "CTA_TUPLE_ORIG", _ID: "CTA_ID", _ZONE: "CTA_ZONE", _FILTER: "CTA_FILTER"}


class _Request(nfgen_msg):
    """A message about connections, its attributes as bytes: what is found is sent back as it came."""

    nla_map = tuple(
        (number | (_NESTED if number in (_TUPLE_ORIG, _FILTER) else 0), name, "cdata")
        for number, name in _NAMES.items()
    )


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
    forgotten = 0
    with Netlink(NETLINK_NETFILTER) as netlink:
        for message in netlink.dump_raw(_wanted(version, port), _GET):
            found = attributes_of(message[_BODY:])
            flow = _flow(version, found)
            if flow and flow.port == port and doomed(flow):
                forgotten += _forget(netlink, version, found)
    return forgotten


def _wanted(version: int, port: int) -> nfgen_msg:
    """A dump of the flows to that port; a kernel before 5.8 has no filter, and lists every flow of the family."""
    proto = _attribute(_PROTO_NUMBER, bytes([IPPROTO_UDP])) + _attribute(_PROTO_PORT_TO, port.to_bytes(2, "big"))
    flags = struct.pack("=I", _FILTER_PROTO_NUMBER | _FILTER_PORT_TO)
    content = {_TUPLE_ORIG: _attribute(_TUPLE_PROTO | _NESTED, proto), _FILTER: _attribute(_FILTER_ORIGINAL, flags)}
    return _message(version, content)


def _forget(netlink: Netlink, version: int, found: dict[int, bytes]) -> bool:
    """Delete one flow, by its identity too: another may have the same addresses by now."""
    content = {number: found[number] for number in (_TUPLE_ORIG, _ID, _ZONE) if number in found}
    try:
        netlink.change(_message(version, content), _DELETE)
    except NetlinkError as error:
        if error.errno != _ENOENT:
            raise
        return False
    return True


def _message(version: int, content: dict[int, bytes]) -> nfgen_msg:
    request = _Request()
    request["nfgen_family"] = _FAMILY[version]
    request["attrs"] = [(_NAMES[number], data) for number, data in content.items()]
    return request


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


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

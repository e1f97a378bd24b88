"""Thousands of routes, neighbours and forwarding entries: requests made by filling in bytes, dumps read as bytes.

pyroute2 encodes one message of each shape; the others differ from it in a few bytes. To encode and decode each one
would take some thirty times as long.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, inet_pton

from pyroute2.netlink import nlmsg

from linux.netlink.attributes import RTNL_BODY, attributes_of
from linux.netlink.socket import NLM_F_REQUEST, Netlink, NetlinkError

# Values that stand for what is filled in; no index of a link and no length looks like them.
SLOT_MAC = "f1:f3:f5:f7:f9:fb"
SLOT_DST = {AF_INET: "241.243.245.247", AF_INET6: "f1f3:f5f7:f9fb:fdff:f1f3:f5f7:f9fb:fdff"}
SLOT_VIA = {AF_INET: "242.244.246.248", AF_INET6: "f2f4:f6f8:fafc:fef2:f2f4:f6f8:fafc:fef2"}

_ATTRIBUTE = struct.Struct("=HH")


@dataclass(frozen=True)
class Write:
    """A request that writes an object, and the message that shows what stands in its place now (b"": nothing)."""

    request: bytes
    instead: bytes = b""


def template(netlink: Netlink, message: nlmsg, kind: int, flags: int, slots: Sequence[str]) -> bytes:
    """A request as a format for `%`: the addresses `slots`, each once in `message` and in this order, left open."""
    request = netlink.encode(message, kind, NLM_F_REQUEST | flags).replace(b"%", b"%%")
    at = 0
    for slot in slots:
        found = request.index(packed(slot), at)
        request = request[:found] + b"%b" + request[found + len(packed(slot)) :]
        at = found
    return request


def packed(address: str) -> bytes:
    """The bytes of an IPv4 or IPv6 address, or of a MAC (six groups of two digits)."""
    if len(address) == 17 and address[2] == ":" == address[5] == address[14]:
        return bytes.fromhex(address.replace(":", ""))
    return inet_pton(AF_INET6 if ":" in address else AF_INET, address)


def echo(message: bytes, kind: int, keep: Sequence[int]) -> bytes:
    """A request of that kind about the very object that a message of a dump shows, by its attributes in `keep`."""
    shown = attributes_of(message, RTNL_BODY)
    body = bytearray(message[16:RTNL_BODY])
    for number in keep:
        if number in shown:
            content = shown[number]
            body += _ATTRIBUTE.pack(4 + len(content), number) + content + bytes(-len(content) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST, 0, 0) + body


def change_all(netlink: Netlink, requests: Sequence[bytes], *, tolerated: Sequence[int] = ()) -> int:
    """Send all; how many the kernel took. Raises the first NetlinkError but for those `tolerated`, all being sent."""
    refused = netlink.change_many(requests)
    for place, error in refused:
        if error.errno not in tolerated:
            raise named(netlink, error, requests[place])
    return len(requests) - len(refused)


def named(netlink: Netlink, error: NetlinkError, request: bytes) -> NetlinkError:
    """The error, with the object that the refused request was about."""
    from linux.rtnl.describe import describe

    return NetlinkError(error.errno, f"{describe(netlink, request)}: {error.strerror}")

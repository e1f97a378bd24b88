"""Thousands of routes, neighbours and FDB entries: requests filled into templates, dumps read as bytes.

Most requests of a sync differ in two addresses alone. To fill those in takes a fifth of the time of encoding each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from linux.netlink.attributes import ATTRIBUTE_HEADER, MESSAGE_HEADER, RTNL_BODY, attribute, attributes_of
from linux.netlink.socket import NLM_F_REQUEST, Netlink, NetlinkError
from linux.rtnl.describe import describe


@dataclass(frozen=True)
class Write:
    """A request that writes an object, and the dumped message of the object that it replaces (b"": none)."""

    request: bytes
    replaced: bytes = b""


def template(kind: int, flags: int, body: bytes, slots: Mapping[int, int], rest: bytes = b"") -> bytes:
    """A request without a sequence number, as a format for `%`.

    After `body` come the attributes `slots`, type to bytes of payload, whose payloads are left open; then `rest`.
    """
    length = (
        MESSAGE_HEADER.size + len(body) + sum(len(attribute(0, bytes(size))) for size in slots.values()) + len(rest)
    )
    parts = [MESSAGE_HEADER.pack(length, kind, NLM_F_REQUEST | flags, 0, 0) + body]
    for number, size in slots.items():
        parts[-1] += ATTRIBUTE_HEADER.pack(4 + size, number)
        parts.append(bytes(-size & 3))
    parts[-1] += rest
    return b"%b".join(part.replace(b"%", b"%%") for part in parts)


def request_about(message: bytes, kind: int, keep: Sequence[int]) -> bytes:
    """A request of that kind about exactly the object of a dumped message, with those of its attributes in `keep`."""
    attributes = attributes_of(message, RTNL_BODY)
    body = message[MESSAGE_HEADER.size : RTNL_BODY]
    body += b"".join(attribute(number, attributes[number]) for number in keep if number in attributes)
    return MESSAGE_HEADER.pack(MESSAGE_HEADER.size + len(body), kind, NLM_F_REQUEST, 0, 0) + body


def change_all(netlink: Netlink, requests: Sequence[bytes], *, tolerated: Sequence[int] = ()) -> int:
    """Send all requests; returns how many succeeded. Then raises the first NetlinkError that is not `tolerated`."""
    refused = netlink.change_many(requests)
    for place, error in refused:
        if error.errno not in tolerated:
            raise named(netlink, error, requests[place])
    return len(requests) - len(refused)


def named(netlink: Netlink, error: NetlinkError, request: bytes) -> NetlinkError:
    """The error, with the object of the refused request in its text."""
    return NetlinkError(error.errno, f"{describe(netlink, request)}: {error.strerror}")

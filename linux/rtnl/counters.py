"""What links have received and sent since they were made."""

from dataclasses import dataclass
from struct import Struct

from linux.netlink.attributes import attributes_of
from linux.netlink.socket import Netlink
from linux.rtnl import uapi

_BODY = Struct("=BxHiII")  # struct ifinfomsg
_ATTRIBUTES = 32  # offset in a message
_COUNTERS = Struct("=QQQQ")  # the first ones of struct rtnl_link_stats64


@dataclass(frozen=True)
class Counters:
    """Packets and bytes that a link has received and sent, as its own namespace sees it."""

    received_packets: int
    sent_packets: int
    received_bytes: int
    sent_bytes: int


def read_counters(netlink: Netlink) -> dict[int, Counters]:
    """Those of all links, by index. Raises NetlinkError."""
    found = {}
    for message in netlink.dump(_BODY.pack(0, 0, 0, 0, 0), uapi.RTM_GETLINK):
        statistics = attributes_of(message, _ATTRIBUTES).get(uapi.IFLA_STATS64, b"")
        if len(statistics) >= _COUNTERS.size:
            found[_BODY.unpack_from(message, 16)[2]] = Counters(*_COUNTERS.unpack_from(statistics))
    return found

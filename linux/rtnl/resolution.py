"""Address resolution: what the kernel knows of neighbours by itself, and the packets that wait for their MACs."""

from socket import AF_INET, AF_INET6
from struct import Struct

from linux.netlink.attributes import attribute
from linux.netlink.socket import NLM_F_ACK, NLM_F_REQUEST, Netlink
from linux.rtnl import uapi
from spec.addresses import pack

_NDMSG = Struct("=B3xiHBB")  # struct ndmsg: family, index of the link, state, flags, type


def forget_request(netlink: Netlink, link: int, ip: str) -> bytes:
    """The request to forget the neighbour with an address on a link, and to drop the packets that wait for its MAC.

    To be sent with others; refused with ENOENT if the kernel knows none.
    """
    address = pack(ip)
    body = _NDMSG.pack(AF_INET if len(address) == 4 else AF_INET6, link, 0, 0, 0) + attribute(uapi.NDA_DST, address)
    return netlink.encode(body, uapi.RTM_DELNEIGH, NLM_F_REQUEST | NLM_F_ACK)

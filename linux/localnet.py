"""Ways from the node's 127.0.0.1 to a pod: the kernel routes such packets only over links that allow it."""

from errno import EHOSTUNREACH, ENETUNREACH
from socket import AF_INET

from pyroute2.netlink.rtnl.rtmsg import rtmsg

from linux import sysctls
from linux.links import Link, find_link_by_index
from linux.netlink import Netlink, NetlinkError

_RTM_GETROUTE = 26


def link_towards(netlink: Netlink, address: str) -> Link | None:
    """The link by which the node reaches an IPv4 address; None if it does not."""
    request = rtmsg()
    request.update(family=AF_INET, dst_len=32, attrs=[("RTA_DST", address)])
    try:
        index = netlink.get(request, _RTM_GETROUTE, rtmsg).get_attr("RTA_OIF")
    except NetlinkError as error:
        if error.errno not in (ENETUNREACH, EHOSTUNREACH):
            raise
        return None
    return find_link_by_index(netlink, index) if index else None


def ensure_routed(link: str) -> None:
    """Let packets of 127.0.0.0/8 be routed over a link (route_localnet, ip-sysctl.rst); raises OSError."""
    sysctls.ensure(_key(link), "1")


def is_routed(link: str) -> bool:
    """Whether they are; raises OSError."""
    return sysctls.read(_key(link)) == "1"


def _key(link: str) -> str:
    return f"ipv4/conf/{link}/route_localnet"

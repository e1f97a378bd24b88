"""Ways from the node's 127.0.0.1 to a pod: the kernel routes such packets only over links that allow it."""

from errno import EHOSTUNREACH, ENETUNREACH
from socket import AF_INET, AF_INET6
from struct import pack
from sys import byteorder

from linux import sysctls
from linux.netlink.attributes import RTNL_BODY, attribute, attributes_of
from linux.netlink.socket import Netlink, NetlinkError
from linux.rtnl.links import Link, find_link_by_index

_RTM_GETROUTE = 26
_DESTINATION, _OUT_LINK = 1, 4  # RTA_DST, RTA_OIF


def link_towards(netlink: Netlink, address: bytes) -> Link | None:
    """The link by which the node reaches an address (packed); None if it does not."""
    family = AF_INET if len(address) == 4 else AF_INET6
    body = pack("=BB10x", family, 8 * len(address))  # struct rtmsg: family, bits of the destination
    try:
        found = netlink.get_raw(body + attribute(_DESTINATION, address), _RTM_GETROUTE)
    except NetlinkError as error:
        if error.errno not in (ENETUNREACH, EHOSTUNREACH):
            raise
        return None
    index = int.from_bytes(attributes_of(found, RTNL_BODY).get(_OUT_LINK, b""), byteorder)
    return find_link_by_index(netlink, index) if index else None


def ensure_routed(link: str) -> None:
    """Let packets of 127.0.0.0/8 be routed over a link (route_localnet, ip-sysctl.rst); raises OSError."""
    sysctls.ensure(_key(link), "1")


def is_routed(link: str) -> bool:
    """Whether they are; raises OSError."""
    return sysctls.read(_key(link)) == "1"


def is_any_routed() -> bool:
    """Whether they are over any link; a setting for all links is somebody else's, who has rules of his own."""
    return any(sysctls.read_if_there(_key(link)) == "1" for link in sysctls.list_scopes("ipv4/conf") if link != "all")


def _key(link: str) -> str:
    return f"ipv4/conf/{link}/route_localnet"

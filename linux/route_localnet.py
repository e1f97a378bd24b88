"""Packets from 127.0.0.0/8 to a pod: the kernel routes them only over links with the sysctl route_localnet."""

from errno import EHOSTUNREACH, ENETUNREACH

from linux import sysctls
from linux.netlink.socket import Netlink, NetlinkError
from linux.rtnl.links import Link, find_link_by_index
from linux.rtnl.routes import look_up
from spec.addresses import unpack


def link_towards(netlink: Netlink, address: bytes) -> Link | None:
    """The link over which the node reaches an address (packed); None if it does not."""
    try:
        return find_link_by_index(netlink, look_up(netlink, unpack(address)).link)
    except NetlinkError as error:
        if error.errno not in (ENETUNREACH, EHOSTUNREACH):
            raise
        return None


def ensure_routed(link: str) -> None:
    """Let packets of 127.0.0.0/8 be routed over a link (route_localnet, ip-sysctl.rst); raises OSError."""
    sysctls.ensure(_key(link), "1")


def is_routed(link: str) -> bool:
    """Whether packets of 127.0.0.0/8 are routed over a link; raises OSError."""
    return sysctls.read(_key(link)) == "1"


def is_any_routed() -> bool:
    """Whether any link other than `all` has the setting; an administrator that sets conf/all also writes the rules."""
    return any(sysctls.read_if_there(_key(link)) == "1" for link in sysctls.list_scopes("ipv4/conf") if link != "all")


def _key(link: str) -> str:
    return f"ipv4/conf/{link}/route_localnet"

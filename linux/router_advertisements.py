"""Router advertisements (RFC 4861, section 6): which links of the node accept them, by the sysctl accept_ra.

    0   no                 1   yes, unless the link forwards                 2   yes, also if it forwards

When net.ipv6.conf.all.forwarding changes to 1, the kernel deletes the default routes that came by advertisements over
links with 1 and ignores later ones (rt6_purge_dflt_routers() and ipv6_accept_ra(), ip-sysctl.rst).
"""

from socket import AF_INET, AF_INET6

from linux import sysctls
from linux.netlink.socket import Netlink
from linux.ownership import is_owner_tag
from linux.rtnl.addresses import list_addresses
from linux.rtnl.links import Link, list_links, list_ports
from linux.rtnl.routes import list_routes
from linux.rtnl.uapi import IFF_LOOPBACK, RTPROT_RA

_REFUSED, _UNLESS_FORWARDING, _ALWAYS = "0", "1", "2"
_OURS = "slash24 "  # prefix of the aliases of the node's own links: gateways of VLANs, the tunnel
_UPLINK_KINDS = ("", "bond", "team", "vlan", "macvlan", "ipvlan")  # "": hardware, or a virtual machine's device


def refuse(netlink: Netlink, link: Link) -> None:
    """Disable them on a link to pods, which could give the node routes and addresses (CVE-2020-10749).

    A bridge that is also an uplink of the node keeps accepting them: one with ports other than those of pods, and with
    an address or a route from an advertisement, or with the setting 2. Does nothing if /proc/sys is read-only. Raises
    OSError.
    """
    if accepts(link.name):
        sysctls.try_write(_key(link.name), _ALWAYS if _is_uplink(netlink, link) else _REFUSED)


def accepts(link: str) -> bool:
    """Whether a link accepts them. Raises OSError."""
    return _setting(link) not in (_REFUSED, "")


def accepts_from_pods(netlink: Netlink, link: Link) -> bool:
    """Whether `refuse` would change something. Raises OSError."""
    return accepts(link.name) and not _is_uplink(netlink, link)


def keep_while_forwarding(netlink: Netlink) -> None:
    """Before forwarding is enabled: set uplinks that accept advertisements to accept them also while forwarding.

    Uplinks are links with an address or a route from an advertisement, links with a default route of either family, and
    hardware devices (also bonds, VLANs and the like) that are not ports of other links. Raises OSError.
    """
    uplinks = _learning(netlink) | _default_links(netlink)
    for link in list_links(netlink):
        is_uplink = link.index in uplinks or (link.kind in _UPLINK_KINDS and not link.master)
        if is_uplink and not link.flags & IFF_LOOPBACK and _setting(link.name) == _UNLESS_FORWARDING:
            sysctls.write(_key(link.name), _ALWAYS)


def ignored(netlink: Netlink) -> list[str]:
    """The names of the links with a default route from an advertisement that will not be renewed."""
    routes = list_routes(netlink, AF_INET6)
    learned = {route.link for route in routes if route.protocol == RTPROT_RA and route.dst == "::/0"}
    names = [link.name for link in list_links(netlink) if link.index in learned] if learned else []
    return [name for name in names if _setting(name) == _UNLESS_FORWARDING and _forwards(name)]


def _learning(netlink: Netlink) -> set[int]:
    """The indexes of the links with an IPv6 address or a route from an advertisement."""
    dynamic = {one.link for one in list_addresses(netlink, family=AF_INET6) if one.is_global and one.dynamic}
    return dynamic | {route.link for route in list_routes(netlink, AF_INET6) if route.protocol == RTPROT_RA}


def _default_links(netlink: Netlink) -> set[int]:
    routes = list_routes(netlink, AF_INET) + list_routes(netlink, AF_INET6)
    return {route.link for route in routes if route.dst in ("0.0.0.0/0", "::/0")}


def _is_uplink(netlink: Netlink, bridge: Link) -> bool:
    ports = list_ports(netlink, bridge.index)
    if all(is_owner_tag(port.alias) or port.alias.startswith(_OURS) for port in ports):
        return False
    return _setting(bridge.name) == _ALWAYS or bridge.index in _learning(netlink)


def _forwards(link: str) -> bool:
    return sysctls.read_if_there(f"ipv6/conf/{link}/forwarding") == "1"


def _setting(link: str) -> str:
    return sysctls.read_if_there(_key(link))


def _key(link: str) -> str:
    return f"ipv6/conf/{link}/accept_ra"

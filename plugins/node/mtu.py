"""The MTU of pods where nobody gave one."""

from linux.netlink.socket import Netlink
from linux.rtnl.links import find_link, list_links, list_links_beside

_IFF_LOOPBACK, _IFF_POINTOPOINT = 0x8, 0x10
_SMALLEST, _FALLBACK = 576, 1460  # RFC 791's smallest datagram; what kubenet took where it found nothing better


def smallest_mtu(host: Netlink, bridge: str) -> int:
    """In bytes, as kubenet derived it: of the links that are up, neither loopback nor point-to-point, the smallest.

    The pods' own bridge and its ports do not count: they have the MTU that is asked for here.
    """
    own = find_link(host, bridge)
    links = list_links_beside(host, own.index) if own else list_links(host)
    mtus = [link.mtu for link in links if link.up and not link.flags & (_IFF_LOOPBACK | _IFF_POINTOPOINT)]
    smallest = min(mtus, default=_FALLBACK)
    return smallest if smallest >= _SMALLEST else _FALLBACK

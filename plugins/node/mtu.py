"""The MTU of pods where there is no tunnel."""

from linux.errors import step
from linux.netlink.socket import Netlink
from linux.rtnl.links import find_link, list_links, list_links_beside
from plugins.node.conf import NodeConf
from spec.links import require_suitable_mtu

_IFF_LOOPBACK, _IFF_POINTOPOINT = 0x8, 0x10
_SMALLEST_MTU, _FALLBACK_MTU = 576, 1460  # RFC 791's smallest datagram; kubenet's fallback


def pod_mtu(host: Netlink, node: NodeConf) -> int:
    """The MTU of pods, in bytes. Raises CNIError 7 if the node's links leave too little for IPv6."""
    with step("find the MTU"):
        mtu = node.mtu or _smallest_mtu(host, node.bridge)
    require_suitable_mtu(mtu, node.subnets, of="the smallest MTU of the node's links")
    return mtu


def _smallest_mtu(host: Netlink, bridge: str) -> int:
    """In bytes, as in kubenet: the smallest of the links that are up, except loopback and point-to-point ones.

    The pods' bridge and its ports are ignored, since their MTU is what this determines.
    """
    own = find_link(host, bridge)
    links = list_links_beside(host, own.index) if own else list_links(host)
    mtus = [link.mtu for link in links if link.up and not link.flags & (_IFF_LOOPBACK | _IFF_POINTOPOINT)]
    smallest = min(mtus, default=_FALLBACK_MTU)
    return smallest if smallest >= _SMALLEST_MTU else _FALLBACK_MTU

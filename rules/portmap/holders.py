"""Whether a pod that still holds something on the node is gone, as far as the node alone can prove it."""

from linux.netlink.socket import Netlink
from linux.route_localnet import link_towards
from linux.rtnl.links import Link, find_link_by_index, list_links, list_ports

_TAGS = ("v1:", "v1#")  # as linux.ownership writes them


def is_dead(netlink: Netlink, owner: str, pod: bytes) -> bool:
    """Whether the attachment with the tag `owner` has no link any more; `pod` is an address it had, packed.

    It is dead if no link has its tag, and the node reaches its address by a bridge of whose pods' links each has
    another's tag. Where one has none, it may be the pod's, made by another implementation: nothing is proven. Raises
    OSError.
    """
    bridge = _bridge_towards(netlink, pod)
    if not bridge or any(one.alias == owner for one in list_links(netlink, containing=owner.encode())):
        return False
    ends = [port for port in list_ports(netlink, bridge.index) if port.kind == "veth" and port.peer_is_elsewhere]
    return all(port.alias.startswith(_TAGS) for port in ends)


def _bridge_towards(netlink: Netlink, address: bytes) -> Link | None:
    """The bridge behind which an address is: the gateway's link is that itself, or of one of its VLANs."""
    link = link_towards(netlink, address)
    if link and link.kind in ("veth", "vlan") and not link.peer_is_elsewhere:
        link = find_link_by_index(netlink, link.peer)
        if link and link.master:
            link = find_link_by_index(netlink, link.master)
    return link if link and link.kind == "bridge" else None

"""Whether a pod that still holds something on the node is gone, as far as the node alone can prove it."""

from linux.links import list_links, list_ports
from linux.localnet import link_towards
from linux.netlink import Netlink

_TAGS = ("v1:", "v1#")  # as linux.ownership writes them


def is_dead(netlink: Netlink, owner: str, pod: bytes) -> bool:
    """Whether the attachment with the tag `owner` has no link any more; `pod` is an address it had, packed.

    It is dead if no link has its tag, and the node reaches its address by a bridge of whose veths each has another's
    tag. Where one has none, it may be the pod's, made by another implementation: nothing is proven. Raises OSError.
    """
    link = link_towards(netlink, pod)
    if link is None or link.kind != "bridge":
        return False
    if any(one.alias == owner for one in list_links(netlink, containing=owner.encode())):
        return False
    return all(port.alias.startswith(_TAGS) for port in list_ports(netlink, link.index) if port.kind == "veth")

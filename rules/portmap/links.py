"""Host ports and the node's links: the addresses of services, and whether a pod that has ports is gone."""

from linux import sysctls
from linux.netlink.socket import Netlink
from linux.route_localnet import link_towards
from linux.rtnl.addresses import list_addresses
from linux.rtnl.links import Link, find_link, find_link_by_index, list_links, list_ports
from linux.rtnl.uapi import RT_SCOPE_LINK
from spec.addresses import pack

_IPVS_LINKS = ("kube-ipvs0", "kube-dummy-if")  # of kube-proxy in IPVS mode, of kube-router
_TAGS = ("v1:", "v1#")  # as linux.ownership writes them


def list_service_addresses() -> list[bytes]:
    """The addresses, packed, that an IPVS proxy holds for services and no other link has. Raises NetlinkError."""
    present = [name for name in _IPVS_LINKS if sysctls.exists(f"ipv4/conf/{name}")]
    if not present:
        return []  # most nodes: that costs next to nothing
    found: dict[bool, set[str]] = {True: set(), False: set()}
    with Netlink() as host:
        links = [link.index for name in present if (link := find_link(host, name))]
        for address in list_addresses(host):
            if address.scope != RT_SCOPE_LINK:
                found[address.link in links].add(address.ip)
    return [pack(address) for address in sorted(found[True] - found[False])]


def is_gone(netlink: Netlink, owner: str, pod: bytes) -> bool:
    """Whether the attachment with the tag `owner` provably has no link any more; `pod` is an address it had, packed.

    It is gone if no link has its tag, and the node routes its address to a bridge on which every pod's link has another
    owner's tag. A link without a tag may be the pod's, made by another implementation: then nothing is proven. Raises
    OSError.
    """
    bridge = _bridge_towards(netlink, pod)
    if not bridge or any(one.alias == owner for one in list_links(netlink, containing=owner.encode())):
        return False
    veths = [port for port in list_ports(netlink, bridge.index) if port.kind == "veth" and port.peer_is_elsewhere]
    return all(port.alias.startswith(_TAGS) for port in veths)


def _bridge_towards(netlink: Netlink, address: bytes) -> Link | None:
    """The bridge that an address is routed to, by the bridge itself or by the gateway's link of one of its VLANs."""
    link = link_towards(netlink, address)
    if link and link.kind in ("veth", "vlan") and not link.peer_is_elsewhere:
        link = find_link_by_index(netlink, link.peer)
        if link and link.master:
            link = find_link_by_index(netlink, link.master)
    return link if link and link.kind == "bridge" else None

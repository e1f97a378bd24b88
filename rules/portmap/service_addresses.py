"""Addresses that an IPVS proxy holds for services: kube-proxy on the link kube-ipvs0, kube-router on kube-dummy-if."""

from linux import sysctls
from linux.netlink.socket import Netlink
from linux.rtnl.addresses import list_addresses
from linux.rtnl.links import find_link
from spec.addresses import pack

_LINKS = ("kube-ipvs0", "kube-dummy-if")
_SCOPE_LINK = 253


def list_service_addresses() -> list[bytes]:
    """The addresses (packed) that no other link has: what is on one too is the node's own. Raises NetlinkError."""
    there = [name for name in _LINKS if sysctls.exists(f"ipv4/conf/{name}")]
    if not there:
        return []  # most nodes: that costs next to nothing
    theirs: dict[bool, set[str]] = {True: set(), False: set()}
    with Netlink() as host:
        links = [link.index for name in there if (link := find_link(host, name))]
        for address in list_addresses(host):
            if address.scope != _SCOPE_LINK:
                theirs[address.link in links].add(address.ip)
    return [pack(address) for address in sorted(theirs[True] - theirs[False])]

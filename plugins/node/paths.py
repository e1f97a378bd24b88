"""How a peer's subnet is reached: directly over a shared link, or through the tunnel. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from linux.rtnl.addresses import InterfaceAddress
from linux.rtnl.forwarding import PeerPath
from linux.rtnl.vxlan import vtep_mac
from plugins.node.records import Node
from spec.addresses import is_ipv6, parse_address


class Unusable(Exception):
    """A record, or a subnet of it, can not be used here; the text goes on where the peer's label ends."""


@dataclass(frozen=True)
class Tunnel:
    """The node's end of the tunnel: the device's index, its MAC, and the address that it sends from.

    `direct`: peers on a shared link are reached without the tunnel. `has_ipv6`: the node has IPv6 not switched off.
    """

    device: int
    local: str
    mac: str = ""
    direct: bool = False
    has_ipv6: bool = True

    @property
    def over_ipv6(self) -> bool:
        """Whether the tunnel's packets travel over IPv6."""
        return is_ipv6(self.local)


class Links:
    """The node's links and the networks on them, asked for the link on which an address is."""

    def __init__(
        self,
        addresses: Sequence[InterfaceAddress],
        *,
        apart_from: Collection[int] = (),
        down: Collection[int] = (),
        idle: Collection[int] = (),
    ) -> None:
        """`addresses`: all of the node's. The others are indexes of links.

        Nobody is reached over links `apart_from` (the pods' bridge, the tunnel) or `down`; `idle` ones (without
        carrier) are the last resort.
        """
        usable = [one for one in addresses if one.is_global]
        self.own = frozenset(one.ip for one in usable)
        self.networks = tuple((parse_address(one.cidr).network, one) for one in usable)
        found = [
            (network, one.link, not one.deprecated and one.link not in idle)
            for network, one in self.networks
            if network.prefix < network.bits and not one.failed and one.link not in apart_from and one.link not in down
        ]
        # The narrowest network decides, as it does in the kernel.
        self._paths = sorted(found, key=lambda path: (path[0].bits - path[0].prefix, not path[2]))

    def of(self, address: str, *, good: bool = False) -> int:
        """The index of the link on which a host with that address is, 0 if it is on none.

        `good`: only of a link with carrier and an address that is not deprecated.
        """
        host = parse_address(address)
        for network, link, is_good in self._paths:
            if (is_good or not good) and network.contains(host):
                return link
        return 0


def direct_path(peer: Node, subnet: str, links: Links) -> PeerPath:
    """The route to a subnet of a peer: by the first of its addresses of that family that is on a link of this node.

    Raises Unusable.
    """
    candidates = _of_family(peer, over_ipv6=is_ipv6(subnet), takes=f"the route to {subnet}")
    for good in (True, False):
        for address in candidates:
            if link := links.of(address, good=good):
                return PeerPath(subnet=subnet, via=address, link=link)
    where = f"({', '.join(candidates[:3])}) is on no link of this node that is up"
    raise Unusable(f'{where}: a route needs a shared link; use type "vxlan", or have something else distribute routes')


def tunnel_path(peer: Node, subnet: str, links: Links, tunnel: Tunnel) -> PeerPath:
    """The path to a subnet of a peer: through the tunnel, or directly over a shared link if `tunnel.direct`.

    Raises Unusable.
    """
    if is_ipv6(subnet) and not tunnel.has_ipv6:
        raise Unusable(f"claims {subnet}, and IPv6 is switched off on this node")
    if tunnel.direct:
        for address in peer.addresses:
            if is_ipv6(address) == is_ipv6(subnet) and (link := links.of(address, good=True)):
                return PeerPath(subnet=subnet, via=address, link=link)
    underlay = _of_family(peer, over_ipv6=tunnel.over_ipv6, takes="the tunnel")[0]
    mac = peer.vtep_mac or vtep_mac(peer.subnets)
    if mac == tunnel.mac:
        raise Unusable(f"has the VTEP MAC of this node, {mac}")
    return PeerPath(subnet=subnet, via=subnet.partition("/")[0], link=tunnel.device, mac=mac, underlay=underlay)


def addresses_on(links: Links, peers: Sequence[Node]) -> tuple[str, ...]:
    """Those of the peers' addresses that are on a link of this node: there nobody between minds a pod's address."""
    return tuple(sorted({address for peer in peers for address in peer.addresses if links.of(address, good=True)}))


def vteps(peers: Sequence[Node], *, over_ipv6: bool) -> list[str]:
    """The addresses from which frames of the tunnel may come: also those of peers that are reached directly.

    The peer decides how it sends, and its VTEP may have any of its addresses.
    """
    return sorted({address for peer in peers for address in peer.addresses if is_ipv6(address) == over_ipv6})


def _of_family(peer: Node, *, over_ipv6: bool, takes: str) -> list[str]:
    found = [address for address in peer.addresses if is_ipv6(address) == over_ipv6]
    if not found:
        raise Unusable(f"has no {'IPv6' if over_ipv6 else 'IPv4'} address, which {takes} takes")
    return found

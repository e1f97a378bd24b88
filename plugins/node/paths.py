"""How a peer's subnet is reached: directly over a shared link, or through the tunnel. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from linux.rtnl.addresses import InterfaceAddress
from linux.rtnl.forwarding import PeerPath
from linux.rtnl.vxlan import vtep_mac
from plugins.node.records import Node
from spec.addresses import is_ipv6, parse_address


class Unusable(Exception):
    """A record, or one of its subnets, cannot be used; the text continues after the peer's label."""


@dataclass(frozen=True)
class Tunnel:
    """This node's VTEP: the index and MAC of its device, the address it sends from, its VNI and port (0: unknown).

    `direct`: peers on a shared link are reached without the tunnel. `has_ipv6`: IPv6 is enabled on this node.
    """

    device: int
    local: str
    mac: str = ""
    direct: bool = False
    has_ipv6: bool = True
    vni: int = 0
    port: int = 0

    @property
    def over_ipv6(self) -> bool:
        """Whether the tunnel's packets are sent over IPv6."""
        return is_ipv6(self.local)


class Links:
    """The node's links and their networks, for finding the link that an address is on."""

    def __init__(
        self,
        addresses: Sequence[InterfaceAddress],
        *,
        excluded: Collection[int] = (),
        down: Collection[int] = (),
        without_carrier: Collection[int] = (),
    ) -> None:
        """`addresses`: all of the node's. The other arguments are link indexes.

        Links that are `excluded` (the pods' bridge, the tunnel) or `down` are not used; those `without_carrier` are a
        last resort.
        """
        usable = [one for one in addresses if one.is_global]
        self.own = frozenset(one.ip for one in usable)
        self.networks = tuple((parse_address(one.cidr).network, one) for one in usable)
        found = [
            (network, one.link, not one.deprecated and one.link not in without_carrier)
            for network, one in self.networks
            if network.prefix < network.bits and not one.failed and one.link not in excluded and one.link not in down
        ]
        # The longest prefix wins, as in the kernel.
        self._networks = sorted(found, key=lambda one: (one[0].bits - one[0].prefix, not one[2]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Links) and (self.networks, self._networks) == (other.networks, other._networks)

    __hash__ = None

    def of(self, address: str, *, good: bool = False) -> int:
        """The index of the link that a host with that address is on, 0 for none.

        `good`: only a link with carrier and an address that is not deprecated.
        """
        host = parse_address(address)
        for network, link, is_good in self._networks:
            if (is_good or not good) and network.contains(host):
                return link
        return 0


def direct_path(peer: Node, subnet: str, links: Links) -> PeerPath:
    """The path to a subnet of a peer, via its first address of that family that is on a link of this node.

    Raises Unusable.
    """
    candidates = _of_family(peer, over_ipv6=is_ipv6(subnet), needed_for=f"the route to {subnet}")
    for good in (True, False):
        for address in candidates:
            if link := links.of(address, good=good):
                return PeerPath(subnet=subnet, via=address, link=link)
    where = f"({', '.join(candidates[:3])}) is not on a link of this node that is up"
    raise Unusable(f'{where}: a route needs a shared link; use type "vxlan", or have something else distribute routes')


def tunnel_path(peer: Node, subnet: str, links: Links, tunnel: Tunnel) -> PeerPath:
    """The path to a subnet of a peer through the tunnel, or over a shared link if the tunnel is `direct`.

    Raises Unusable.
    """
    if is_ipv6(subnet) and not tunnel.has_ipv6:
        raise Unusable(f"claims {subnet}, but IPv6 is disabled on this node")
    if tunnel.direct:
        for address in peer.addresses:
            if is_ipv6(address) == is_ipv6(subnet) and (link := links.of(address, good=True)):
                return PeerPath(subnet=subnet, via=address, link=link)
    underlay = _of_family(peer, over_ipv6=tunnel.over_ipv6, needed_for="the tunnel")[0]
    mac = peer.vtep_mac or vtep_mac(peer.subnets)
    if mac == tunnel.mac:
        raise Unusable(f"has the VTEP MAC of this node, {mac}")
    return PeerPath(subnet=subnet, via=subnet.partition("/")[0], link=tunnel.device, mac=mac, underlay=underlay)


def addresses_on(links: Links, peers: Sequence[Node]) -> tuple[str, ...]:
    """The peers' addresses that are on a link of this node, with no router between that would drop pods' addresses."""
    return tuple(sorted({address for peer in peers for address in peer.addresses if links.of(address, good=True)}))


def vteps(peers: Sequence[Node], *, over_ipv6: bool) -> list[str]:
    """The addresses from which the tunnel's frames may come, including peers that are reached directly.

    The peer decides how it sends, and may use any of its addresses for its VTEP.
    """
    return sorted({address for peer in peers for address in peer.addresses if is_ipv6(address) == over_ipv6})


def _of_family(peer: Node, *, over_ipv6: bool, needed_for: str) -> list[str]:
    found = [address for address in peer.addresses if is_ipv6(address) == over_ipv6]
    if not found:
        raise Unusable(f"has no {'IPv6' if over_ipv6 else 'IPv4'} address, which {needed_for} needs")
    return found

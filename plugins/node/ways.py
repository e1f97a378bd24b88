"""Which way each peer's subnets are reached: straight over a shared link, or through the tunnel. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from linux.addresses import Address
from linux.overlay import Way
from plugins.node.records import Node
from spec.addresses import is_ipv6
from spec.errors import CNIError, Code


@dataclass(frozen=True)
class Tunnel:
    """The node's end of the tunnel: the device's index, and whether its packets travel over IPv6."""

    device: int
    over_ipv6: bool


class Links:
    """The node's links and the networks on them, asked for the link on which an address is."""

    def __init__(self, addresses: Sequence[Address], *, apart_from: int = 0) -> None:
        """`addresses`: all of the node's; those of the link with index `apart_from` (the pods' bridge) do not count."""
        from netaddr.ip import IPNetwork

        self._networks = []
        self._own = {address.cidr.partition("/")[0] for address in addresses if address.is_global}
        for address in addresses:
            network = IPNetwork(address.cidr)
            if address.is_global and address.link != apart_from and network.size > 1:
                self._networks.append((network.version, network.first, network.last, address.link))
        # The narrowest network decides, as it does in the kernel.
        self._networks.sort(key=lambda entry: entry[2] - entry[1])

    def others(self, peers: Sequence[Node]) -> list[Node]:
        """Without this node itself, which may still be listed with an earlier subnet of its own."""
        return [peer for peer in peers if self._own.isdisjoint(peer.addresses)]

    def of(self, address: str) -> int:
        """The index of the link on which a host with that address is, 0 if it is on none."""
        from socket import AF_INET, AF_INET6, inet_pton

        version, family = (6, AF_INET6) if is_ipv6(address) else (4, AF_INET)
        number = int.from_bytes(inet_pton(family, address), "big")
        for of_version, first, last, link in self._networks:
            if of_version == version and first <= number <= last:
                return link
        return 0


def direct_ways(peers: Sequence[Node], links: Links) -> list[Way]:
    """A route for each subnet of each peer. Raises CNIError 7 for a peer that is on no link of this node."""
    ways = []
    for peer in links.others(peers):
        for subnet in peer.subnets:
            via = address_of(peer, over_ipv6=is_ipv6(subnet), why=f"the way to {subnet}")
            link = links.of(via)
            if not link:
                message = f'peer "{peer.name}" ({via}) is on no link of this node'
                details = 'a route needs a shared link: use type "vxlan", or have something else distribute the routes'
                raise CNIError(Code.INVALID_NETWORK_CONFIG, message, details)
            ways.append(Way(subnet=subnet, via=via, link=link))
    return ways


def tunnel_ways(peers: Sequence[Node], links: Links, tunnel: Tunnel, *, direct: bool) -> list[Way]:
    """A way through the tunnel for each subnet of each peer; straight, if `direct`, where there is a shared link."""
    from linux.vxlan import vtep_mac

    ways = []
    for peer in links.others(peers):
        mac = peer.vtep_mac or vtep_mac(peer.subnets)
        underlay = address_of(peer, over_ipv6=tunnel.over_ipv6, why="the tunnel")
        for subnet in peer.subnets:
            via, link = next(_shared(peer, subnet, links), ("", 0)) if direct else ("", 0)
            if not link:
                network = subnet.partition("/")[0]
                ways.append(Way(subnet=subnet, via=network, link=tunnel.device, mac=mac, underlay=underlay))
            else:
                ways.append(Way(subnet=subnet, via=via, link=link))
    return ways


def vteps(peers: Sequence[Node], *, over_ipv6: bool) -> list[str]:
    """The addresses from which frames of the tunnel may come: also those of peers that are reached directly.

    Which way a peer sends is for the peer to say, and any of its addresses may be the one of its VTEP.
    """
    return sorted({address for peer in peers for address in peer.addresses if is_ipv6(address) == over_ipv6})


def address_of(peer: Node, *, over_ipv6: bool, why: str) -> str:
    """The peer's first address of that family. Raises CNIError 7."""
    for address in peer.addresses:
        if is_ipv6(address) == over_ipv6:
            return address
    family = "IPv6" if over_ipv6 else "IPv4"
    raise CNIError(Code.INVALID_NETWORK_CONFIG, f'peer "{peer.name}": "addresses": {why} takes an {family} address')


def _shared(peer: Node, subnet: str, links: Links) -> Iterator[tuple[str, int]]:
    for address in peer.addresses:
        if is_ipv6(address) == is_ipv6(subnet) and (link := links.of(address)):
            yield address, link

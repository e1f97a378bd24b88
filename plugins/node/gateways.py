"""The gateway addresses on the bridge: those of the configured subnets, and of earlier ones while pods use them."""

from collections.abc import Callable, Sequence

from linux.errors import step
from linux.netlink.socket import Netlink
from linux.ownership import is_of_network
from linux.rtnl.addresses import add_address, carries, delete_address, list_addresses
from linux.rtnl.links import Link, find_link, list_ports, set_mac
from spec.addresses import parse_address


def ensure_gateways(host: Netlink, bridge: str, gateways: Sequence[str]) -> None:
    """Add gateways (CIDR) to the bridge, in case they were dropped between an ADD's lease and now. Raises CNIError."""
    with step(f'set the gateway address of "{bridge}"'):
        link = find_link(host, bridge)
        present = gateways_on(host, link)
        for gateway in gateways:
            if link and not carries(present, gateway) and add_address(host, link.index, gateway, dad=False):
                set_mac(host, link.index, link.mac)


def drop_old_gateways(
    host: Netlink, network: str, bridge: str, kept: Sequence[str], leased: Callable[[], Sequence[str]]
) -> bool:
    """Remove the gateways of earlier subnets without leased addresses from the bridge; returns whether there were any.

    `kept`: the gateways of the configured subnets (CIDR). `leased`: returns the addresses in use; only called if there
    are earlier gateways. A bridge with pods of other networks is left alone, since the gateways may be theirs.
    """
    link = find_link(host, bridge)
    old = [gateway for gateway in gateways_on(host, link) if gateway not in kept]
    if not old or any(port.alias and not is_of_network(port.alias, network) for port in list_ports(host, link.index)):
        return False
    used = list(map(parse_address, leased()))
    unused = [gateway for gateway in old if not any(map(parse_address(gateway).contains, used))]
    for gateway in unused:
        delete_address(host, link.index, gateway)
    return bool(unused)


def gateways_on(host: Netlink, bridge: Link | None) -> list[str]:
    """The bridge's addresses (CIDR) that are the first of their subnet; others are not ours."""
    if bridge is None:
        return []
    addresses = [one.cidr for one in list_addresses(host, bridge.index) if one.is_global]
    return [cidr for cidr in addresses if (address := parse_address(cidr)) == address.first_host]


def addresses_in_use(host: Netlink, bridge: str) -> Sequence[str]:
    """For IPAM plugins that cannot list their leases: all gateways count as used while the bridge has any port."""
    link = find_link(host, bridge)
    if link is None or not list_ports(host, link.index):
        return ()
    return [one.ip for one in list_addresses(host, link.index)]

"""Whether packets reach this node's pods: conflicting subnets and routes, and disabled forwarding."""

from collections.abc import Iterable
from contextlib import suppress
from errno import EACCES, EHOSTUNREACH, EINVAL, ENETUNREACH

from linux import sysctls
from linux.errors import step
from linux.netlink.socket import Netlink
from linux.rtnl.addresses import InterfaceAddress, list_addresses
from linux.rtnl.links import Link, find_link, find_link_by_index
from linux.rtnl.routes import FAR, look_up
from plugins.node.conf import NodeConf
from spec.addresses import Address, is_ipv6, parse_address, text_of
from spec.errors import CNIError, Code, raise_problems
from spec.result import Result

_NO_ROUTE = (EINVAL, EACCES, EHOSTUNREACH, ENETUNREACH)  # blackhole, prohibit, unreachable; no route at all


def check_subnets(host: Netlink, node: NodeConf, device: str = "") -> None:
    """Raises CNIError 7 if a subnet overlaps the network of a link, which would make hosts there, or pods, unreachable.

    `device`: the tunnel device, "" without one. Raises OSError.
    """
    addresses = list_addresses(host)  # before the links, since another call may create the bridge in between
    excluded = {link.index for link in (find_link(host, node.bridge), device and find_link(host, device)) if link}
    others = [one for one in addresses if one.is_global and one.link not in excluded]
    for subnet in node.subnets:
        for one in others:
            own, other = parse_address(subnet), parse_address(one.cidr)
            if own.overlaps(other) and not _is_pod_gateway(other, own):
                link = find_link_by_index(host, one.link)
                if link and link.up:
                    raise _overlap(subnet, one, link)


def is_set_up(host: Netlink, node: NodeConf) -> bool:
    """Whether the bridge already has the gateways of the node's subnets."""
    bridge = find_link(host, node.bridge)
    return bridge is not None and set(node.gateways) <= {one.cidr for one in list_addresses(host, bridge.index)}


def check_ready(host: Netlink, node: NodeConf, device: str = "") -> None:
    """For STATUS: raises CNIError 50 if no pod of this node can be reached. Raises OSError."""
    from rules import masquerade

    masquerade.check_ready()
    try:
        check_subnets(host, node, device)
    except CNIError as error:
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, error.msg, error.details) from error
    raise_problems(unreachable_subnets(host, node), Code.PLUGIN_NOT_AVAILABLE)


def check_reachable(host: Netlink, node: NodeConf, result: Result) -> None:
    """Raises CNIError if the node's packets to a new pod are not routed to the bridge. Raises OSError."""
    raise_problems(unreachable(host, node, result))


def unreachable(host: Netlink, node: NodeConf, result: Result) -> list[str]:
    """A sentence for each address of a pod that the node does not route to the bridge."""
    bridge, addresses = find_link(host, node.bridge), [ip.address.partition("/")[0] for ip in result.ips]
    subnets = list(map(parse_address, node.subnets))
    inside = [one for one in addresses if any(subnet.contains(parse_address(one)) for subnet in subnets)]
    return [why for one in inside if bridge and bridge.carrier and (why := _why_not_to_bridge(host, one, bridge))]


def unreachable_subnets(host: Netlink, node: NodeConf) -> list[str]:
    """The same for an address of each of the node's subnets; works before the bridge exists."""
    bridge, found = find_link(host, node.bridge), []
    for subnet in map(parse_address, node.subnets):
        probe = text_of(subnet.version, min(subnet.first + 2, subnet.last))
        found.append(_why_not_to_bridge(host, probe, bridge if bridge and bridge.carrier else None, within=subnet))
    if bridge is None and find_link(host, node.bridge):
        return []  # it was created just now, and the problems may be its own routes
    return [why for why in found if why]


def has_ipv6(name: str) -> bool:
    """Whether IPv6 is enabled on a link, or on new links if it does not exist. (False on a kernel without IPv6.)"""
    disabled = _setting(f"ipv6/conf/{name}/disable_ipv6") or _setting("ipv6/conf/default/disable_ipv6")
    return disabled == "0"


def ensure_forwarding(node: NodeConf, names: Iterable[str]) -> None:
    """Enable IPv4 forwarding on our links, in case it is off by default. (IPv6 has no such setting per link.)

    Raises CNIError.
    """
    if all(is_ipv6(subnet) for subnet in node.subnets):
        return
    for name in names:
        with step(f'enable forwarding on "{name}"'):
            sysctls.ensure(f"ipv4/conf/{name}/forwarding", "1")


def not_forwarding(host: Netlink, node: NodeConf, names: Iterable[str], links: Iterable[int]) -> list[str]:
    """A sentence for each link that does not forward IPv4 although the node does: ours, `links` (by index) to peers,
    and that of the default route. The last two are up to the administrator.
    """
    if all(is_ipv6(subnet) for subnet in node.subnets) or _setting("ipv4/ip_forward") != "1":
        return []
    indexes = set(links)
    with suppress(OSError):
        indexes.add(look_up(host, FAR[4]).link)
    found = [link.name for index in sorted(indexes) if (link := find_link_by_index(host, index))]
    every = dict.fromkeys([*names, *found])
    off = [name for name in every if _setting(f"ipv4/conf/{name}/forwarding") == "0"]
    return [f'"{name}" does not forward IPv4: set net/ipv4/conf/{name}/forwarding to 1' for name in off]


def _why_not_to_bridge(host: Netlink, address: str, bridge: Link | None, *, within: Address | None = None) -> str:
    """Why packets to an address are not routed to the bridge, or ""; without a bridge, only if one would not help."""
    from linux.rtnl.describe import overriding

    try:
        choice = look_up(host, address)
    except OSError as error:
        if error.errno not in _NO_ROUTE:
            raise
    else:
        if bridge is None or choice.link == bridge.index:
            return ""
    route, network = overriding(host, address, bridge.index if bridge else 0)
    if bridge is None and not (route and within and within.contains(parse_address(network))):
        return ""
    return f"{address} is not routed to the pods' bridge, in the way: {route or 'a rule (ip rule) or a local address'}"


def _is_pod_gateway(address: Address, subnet: Address) -> bool:
    """Whether it is an address that plugins without a bridge assign to every pod's link, or flannel to its device."""
    return address.prefix == address.bits and address.number in (subnet.first, subnet.first + 1)


def _overlap(subnet: str, address: InterfaceAddress, link: Link) -> CNIError:
    from linux.rtnl.describe import likely_owner

    message = f'"podCIDRs": {subnet} overlaps {address.cidr} of link "{link.name}"'
    if owner := likely_owner(0, link.name):
        message += f" ({owner})"
    return CNIError(Code.INVALID_NETWORK_CONFIG, message, "give the node another subnet, or the link another network")


def _setting(key: str) -> str:
    try:
        return sysctls.read(key)
    except FileNotFoundError:
        return ""

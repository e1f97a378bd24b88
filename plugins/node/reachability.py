"""This node's own subnet and links: what would keep packets from its pods though all that an ADD makes is there."""

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
from spec.errors import CNIError, Code
from spec.result import Result

_NO_WAY = (EINVAL, EACCES, EHOSTUNREACH, ENETUNREACH)  # a blackhole, prohibit, unreachable; no route at all


def check_subnets(host: Netlink, node: NodeConf, device: str = "") -> None:
    """The node's subnets are nobody else's on this node; `device`: the tunnel's, "" without one.

    Raises CNIError 7, OSError. Pods in a network of one of the node's links cut off what is there, and are cut off.
    """
    addresses = list_addresses(host)  # before the links: another call may make the bridge in between
    apart = {link.index for link in (find_link(host, node.bridge), device and find_link(host, device)) if link}
    others = [one for one in addresses if one.is_global and one.link not in apart]
    for subnet in node.subnets:
        for one in others:
            own, other = parse_address(subnet), parse_address(one.cidr)
            if own.overlaps(other) and not _is_of_a_pod(other, own):
                link = find_link_by_index(host, one.link)
                if link and link.up:
                    raise _overlap(subnet, one, link)


def is_set_up(host: Netlink, node: NodeConf) -> bool:
    """Whether the bridge has the gateways of the node's subnets already."""
    bridge = find_link(host, node.bridge)
    return bridge is not None and set(node.gateways) <= {one.cidr for one in list_addresses(host, bridge.index)}


def check_ready(host: Netlink, node: NodeConf, device: str = "") -> None:
    """Can a pod of this node be reached? Raises CNIError 50 where no pod can, OSError."""
    from rules import masquerade

    masquerade.check_ready()
    try:
        check_subnets(host, node, device)
    except CNIError as error:
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, error.msg, error.details) from error
    _raise_first(_subnets_cut_off(host, node), Code.PLUGIN_NOT_AVAILABLE)


def check_reach(host: Netlink, node: NodeConf, result: Result) -> None:
    """Does what the node sends to a pod just added go by the bridge? Raises CNIError, OSError."""
    _raise_first(cut_off(host, node, result), Code.INTERNAL)


def cut_off(host: Netlink, node: NodeConf, result: Result) -> list[str]:
    """For each address of a pod to which the node's packets do not go by the bridge, a sentence that says why."""
    bridge, addresses = find_link(host, node.bridge), [ip.address.partition("/")[0] for ip in result.ips]
    subnets = list(map(parse_address, node.subnets))
    inside = [one for one in addresses if any(subnet.contains(parse_address(one)) for subnet in subnets)]
    return [why for one in inside if bridge and bridge.carrier and (why := _elsewhere(host, one, bridge))]


def _subnets_cut_off(host: Netlink, node: NodeConf) -> list[str]:
    """The same for the node's subnets, by an address of each, also before there is a bridge."""
    bridge, found = find_link(host, node.bridge), []
    for subnet in map(parse_address, node.subnets):
        probe = text_of(subnet.version, min(subnet.first + 2, subnet.last))
        found.append(_elsewhere(host, probe, bridge if bridge and bridge.carrier else None, within=subnet))
    if bridge is None and find_link(host, node.bridge):
        return []  # the first pod has just made it: what was found may be its own route
    return [why for why in found if why]


def has_ipv6(name: str) -> bool:
    """Whether a link has IPv6, or would have it as a new one. (A kernel without IPv6 has no such settings.)"""
    disabled = _setting(f"ipv6/conf/{name}/disable_ipv6") or _setting("ipv6/conf/default/disable_ipv6")
    return disabled == "0"


def ensure_forwarding(node: NodeConf, names: Iterable[str]) -> None:
    """Links of ours pass IPv4 on, also where new links do not by default. (IPv6 knows no such switch of a link.)

    Raises CNIError.
    """
    if all(is_ipv6(subnet) for subnet in node.subnets):
        return
    for name in names:
        with step(f'have "{name}" forward'):
            sysctls.ensure(f"ipv4/conf/{name}/forwarding", "1")


def not_forwarding(host: Netlink, node: NodeConf, names: Iterable[str], links: Iterable[int]) -> list[str]:
    """Sentences for links that do not pass IPv4 on though the node does: those of ours, `links` (by index) on which
    peers are, and that of the default route. These are the administrator's to switch.
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


def _elsewhere(host: Netlink, address: str, bridge: Link | None, *, within: Address | None = None) -> str:
    """ "", or why packets to an address do not go by the bridge; of a bridge that is not there yet only what stays."""
    from linux.rtnl.describe import overriding

    try:
        choice = look_up(host, address)
    except OSError as error:
        if error.errno not in _NO_WAY:
            raise
    else:
        if bridge is None or choice.link == bridge.index:
            return ""
    route, network = overriding(host, address, bridge.index if bridge else 0)
    if bridge is None and not (route and within and within.contains(parse_address(network))):
        return ""
    return f"{address} is not reached by the pods' bridge, in the way: {route or 'a rule (ip rule) or a local address'}"


def _is_of_a_pod(address: Address, subnet: Address) -> bool:
    """Whether it is what plugins without a bridge put on every pod's link, or flannel on its device."""
    return address.prefix == address.bits and address.number in (subnet.first, subnet.first + 1)


def _overlap(subnet: str, address: InterfaceAddress, link: Link) -> CNIError:
    message = f'"podCIDRs": {subnet} overlaps {address.cidr} of link "{link.name}"'
    return CNIError(Code.INVALID_NETWORK_CONFIG, message, "give the node another subnet, or the link another network")


def _raise_first(wrong: list[str], code: int) -> None:
    if wrong:
        raise CNIError(code, wrong[0], "; ".join(wrong[1:]))


def _setting(key: str) -> str:
    try:
        return sysctls.read(key)
    except FileNotFoundError:
        return ""

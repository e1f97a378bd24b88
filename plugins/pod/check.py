"""CHECK: compares the kernel with what ADD created."""

from collections.abc import Iterator
from socket import AF_INET6

from linux import router_advertisements, sysctls
from linux.errors import step
from linux.netlink.socket import Netlink
from linux.netns import entered, opened
from linux.rtnl.addresses import carries, list_addresses
from linux.rtnl.links import Link, find_link, find_link_by_index
from linux.rtnl.routes import KernelRoute, list_routes
from plugins.pod import vlans
from plugins.pod.conf import PodConf
from plugins.pod.host_bridge import FORWARDING
from plugins.pod.interface import next_hop
from spec.addresses import family_of, network_of
from spec.delegate import delegate
from spec.errors import raise_problems
from spec.request import Request
from spec.result import Interface, Result, Route


def check_pod(request: Request, conf: PodConf) -> None:
    """Compare the kernel with prevResult and `conf`; raises CNIError with everything that is missing or differs."""
    result = request.conf.require_prev_result()
    if conf.ipam_type:
        delegate(request, "CHECK", conf.ipam_type)
    with opened(request.netns, request.netns_fd) as netns, step("read the network"), Netlink() as host:
        problems = list(_differences(host, netns, request, conf, result))
    raise_problems(problems)


def _differences(host: Netlink, netns: int, request: Request, conf: PodConf, result: Result) -> Iterator[str]:
    entry = next((one for one in result.interfaces if one.name == request.ifname and one.sandbox), None)
    if entry is None:
        yield f'prevResult has no interface "{request.ifname}" in a sandbox'
        return
    if entry.sandbox != request.netns:
        yield f"Sandbox in prevResult {entry.sandbox} doesn't match configured netns: {request.netns}"
    with entered(netns), Netlink() as pod:
        link = find_link(pod, request.ifname)
        yield from _interface(link, entry, conf)
        if link:
            yield from _addresses_and_routes(pod, link, result)
    bridge = find_link(host, conf.bridge)
    yield from _bridge(host, bridge, conf, result)
    if link and bridge:
        port = find_link_by_index(host, link.peer)
        yield from _port(host, port, link, bridge, conf)
        if conf.check_mac and port:
            yield from _mac_filter(request, port, entry)
        if conf.check_sources and port and result.ips:
            yield from _source_filter(request, port, result)
        if conf.has_policies and port and result.ips:
            yield from _policies(request, port, conf, result)
    if conf.is_gateway:
        yield from _gateways(host, bridge, conf, result)
    if conf.ip_masq and result.ips:
        yield from _masquerade(request, result)


def _interface(link: Link | None, entry: Interface, conf: PodConf) -> Iterator[str]:
    if link is None:
        yield f'Interface "{entry.name}" is not in the container'
        return
    if link.kind != "veth":
        yield f'Interface "{link.name}" in the container is not a veth but {link.kind!r}'
    if entry.mac and link.mac != entry.mac.lower():
        yield f'Interface "{link.name}" has MAC {link.mac}, prevResult says {entry.mac}'
    if conf.container_up and not link.up:
        yield f'Interface "{link.name}" in the container is down'
    # Not its MTU: a later plugin of the chain may have changed it without a trace in the result.


def _addresses_and_routes(pod: Netlink, link: Link, result: Result) -> Iterator[str]:
    present = {address.cidr for address in list_addresses(pod, link.index)}
    mine = [ip for ip in result.ips if ip.interface is None or _name(result, ip.interface) == link.name]
    for ip in mine:
        if ip.address not in present:
            yield f"Failed to match addr {ip.address} on interface {link.name}"
    routes: dict[str, list[KernelRoute]] = {}
    for family in {family_of(route.dst) for route in result.routes}:
        for route in list_routes(pod, family):
            if route.link == link.index:
                routes.setdefault(route.dst, []).append(route)
    for route in result.routes:
        # Other plugins' results may have host bits in a destination; the kernel's routes have none.
        destination, gateway = network_of(route.dst), next_hop(result, route)
        if not any(_matches(found, route, gateway) for found in routes.get(destination, ())):
            yield f"Expected Route {destination} via {gateway or 'the link'}{_attributes(route)} not found"


def _matches(found: KernelRoute, route: Route, gateway: str) -> bool:
    return (
        found.via == gateway
        and (not route.priority or found.priority == route.priority)
        and (route.table is None or found.table == route.table)
        and found.mtu == route.mtu
        and found.advmss == route.advmss
    )


def _attributes(route: Route) -> str:
    """A route's attributes other than its gateway, as `ip route` prints them."""
    attributes = {"metric": route.priority, "table": route.table, "mtu": route.mtu, "advmss": route.advmss}
    return "".join(f" {name} {value}" for name, value in attributes.items() if value)


def _bridge(host: Netlink, bridge: Link | None, conf: PodConf, result: Result) -> Iterator[str]:
    if bridge is None:
        yield f'Bridge interface "{conf.bridge}" not found'
        return
    if bridge.kind != "bridge":
        yield f'"{conf.bridge}" is not a bridge but {bridge.kind!r}'
    entry = next((one for one in result.interfaces if one.name == conf.bridge and not one.sandbox), None)
    if entry is None:
        yield f'prevResult has no bridge "{conf.bridge}"'
    # Not its MAC: unless it is set explicitly, the kernel uses the lowest MAC of the ports.
    if conf.promiscuous and not bridge.promiscuous:
        yield f'Bridge "{conf.bridge}" is not in promiscuous mode'
    if not bridge.up:
        yield f'Bridge "{conf.bridge}" is down'
    if conf.filters_vlans and not bridge.vlan_filtering:
        yield f'Bridge "{conf.bridge}" does not filter VLANs'
    if router_advertisements.accepts_from_pods(host, bridge):
        yield f"Pods can change the node's routes: net/ipv6/conf/{conf.bridge}/accept_ra is not 0"


def _port(host: Netlink, port: Link | None, link: Link, bridge: Link, conf: PodConf) -> Iterator[str]:
    if port is None or port.kind != "veth" or port.peer != link.index or port.master != bridge.index:
        yield f"CNI veth created for bridge {bridge.name} was not found"
        return
    if not port.up:
        yield f'Bridge port "{port.name}" is down'
    if port.hairpin != conf.hairpin:
        yield f'Bridge port "{port.name}" has hairpin mode {_on(port.hairpin)}, configured is {_on(conf.hairpin)}'
    if port.isolated != conf.isolated:
        yield f'Bridge port "{port.name}" has isolation {_on(port.isolated)}, configured is {_on(conf.isolated)}'
    for sentence in vlans.differences(host, port.index, bridge, conf):
        yield f'Bridge port "{port.name}": {sentence}'


def _gateways(host: Netlink, bridge: Link | None, conf: PodConf, result: Result) -> Iterator[str]:
    if conf.vlan and bridge and any(ip.gateway for ip in result.ips):
        from plugins.pod import vlan_gateway

        yield from vlan_gateway.differences(host, conf, bridge)
    link = find_link(host, conf.gateway_link)
    present = {address.cidr for address in list_addresses(host, link.index)} if link else set()
    for ip in result.ips:
        gateway = f"{ip.gateway}/{ip.address.partition('/')[2]}"
        if ip.gateway and not carries(present, gateway):
            yield f'Gateway address {gateway} is not on "{conf.gateway_link}"'
    for family in {family_of(ip.address) for ip in result.ips}:
        if sysctls.read(FORWARDING[family]) != "1":
            yield f"The node does not forward: net/{FORWARDING[family]} is not 1"
        elif family == AF_INET6:
            for name in router_advertisements.ignored(host):
                yield f'The default route by "{name}" will expire: net/ipv6/conf/{name}/accept_ra is not 2'
    if conf.vlan and link and router_advertisements.accepts_from_pods(host, link):
        yield f"Pods can change the node's routes: net/ipv6/conf/{link.name}/accept_ra is not 0"


def _masquerade(request: Request, result: Result) -> Iterator[str]:
    from rules import masquerade, reference

    addresses = [ip.address for ip in result.ips]
    missing = masquerade.problems(request.attachment, addresses)
    if missing and not reference.masquerades(request.attachment, addresses):
        yield from missing


def _mac_filter(request: Request, port: Link, entry: Interface) -> Iterator[str]:
    from rules import antispoof, reference

    missing = antispoof.problems(request.attachment, port.name, entry.mac.lower())
    if missing and not reference.filters_mac(request.attachment):
        yield from missing


def _source_filter(request: Request, port: Link, result: Result) -> Iterator[str]:
    from rules import source_validation

    yield from source_validation.problems(request.attachment, port.name, _own(request, result))


def _policies(request: Request, port: Link, conf: PodConf, result: Result) -> Iterator[str]:
    from plugins.pod import policies

    yield from policies.problems(request.attachment, port, conf.gateway_link, _own(request, result))


def _own(request: Request, result: Result) -> list[str]:
    """The addresses of the attachment's interface."""
    return [ip.address for ip in result.ips if ip.interface is None or _name(result, ip.interface) == request.ifname]


def _name(result: Result, index: int) -> str:
    return result.interfaces[index].name if index < len(result.interfaces) else ""


def _on(value: bool) -> str:  # noqa: FBT001
    return "on" if value else "off"

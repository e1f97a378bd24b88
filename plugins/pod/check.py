"""CHECK: is everything that ADD made still there, and as it was made?"""

import os
from collections.abc import Iterator
from socket import AF_INET6

from linux import router_advertisements, sysctls
from linux.errors import step
from linux.netlink.socket import Netlink
from linux.netns import entered, open_netns
from linux.rtnl.addresses import carries, family_of, list_addresses
from linux.rtnl.links import Link, find_link, find_link_by_index
from linux.rtnl.routes import KernelRoute, list_routes
from plugins.pod import vlans
from plugins.pod.conf import PodConf
from plugins.pod.container import next_hop
from plugins.pod.network import FORWARDING
from spec.addresses import network_of
from spec.delegate import delegate
from spec.errors import CNIError, Code
from spec.request import Request
from spec.result import Interface, Result, Route


def check_pod(request: Request, conf: PodConf) -> None:
    """Compare the kernel with prevResult and `conf`; raises CNIError with all that is missing or wrong."""
    result = request.conf.require_prev_result()
    if conf.ipam_type:
        delegate(request, "CHECK", conf.ipam_type)
    with step(f'open network namespace "{request.netns}"'):
        netns = open_netns(request.netns, request.netns_fd)
    try:
        with step("look at the network"), Netlink() as host:
            wrong = list(_differences(host, netns, request, conf, result))
    finally:
        os.close(netns)
    if wrong:
        raise CNIError(Code.INTERNAL, wrong[0], "; ".join(wrong[1:]))


def _differences(host: Netlink, netns: int, request: Request, conf: PodConf, result: Result) -> Iterator[str]:
    entry = next((one for one in result.interfaces if one.name == request.ifname and one.sandbox), None)
    if entry is None:
        yield f'prevResult has no interface "{request.ifname}" in a sandbox'
        return
    if entry.sandbox != request.netns:
        yield f"Sandbox in prevResult {entry.sandbox} doesn't match configured netns: {request.netns}"
    with entered(netns), Netlink() as pod:
        link = find_link(pod, request.ifname)
        yield from _container_link(link, entry, conf)
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
    if conf.is_gateway:
        yield from _gateways(host, bridge, conf, result)
    if conf.ip_masq and result.ips:
        yield from _masquerade(request, result)


def _container_link(link: Link | None, entry: Interface, conf: PodConf) -> Iterator[str]:
    if link is None:
        yield f'Interface "{entry.name}" is not in the container'
        return
    if link.kind != "veth":
        yield f'Interface "{link.name}" in the container is not a veth but {link.kind!r}'
    if entry.mac and link.mac != entry.mac.lower():
        yield f'Interface "{link.name}" has MAC {link.mac}, prevResult says {entry.mac}'
    if conf.container_up and not link.up:
        yield f'Interface "{link.name}" in the container is down'
    # Not its MTU: a plugin further on in the chain may have changed it, and no result tells.


def _addresses_and_routes(pod: Netlink, link: Link, result: Result) -> Iterator[str]:
    has = {address.cidr for address in list_addresses(pod, link.index)}
    mine = [ip for ip in result.ips if ip.interface is None or _name(result, ip.interface) == link.name]
    for ip in mine:
        if ip.address not in has:
            yield f"Failed to match addr {ip.address} on interface {link.name}"
    routes: dict[str, list[KernelRoute]] = {}
    for family in {family_of(route.dst) for route in result.routes}:
        for route in list_routes(pod, family):
            if route.link == link.index:
                routes.setdefault(route.dst, []).append(route)
    for wanted in result.routes:
        # Somebody else's result may have bits of the host in a destination; the kernel has none.
        destination, gateway = network_of(wanted.dst), next_hop(result, wanted)
        if not any(_is_as_wanted(route, wanted, gateway) for route in routes.get(destination, ())):
            yield f"Expected Route {destination} via {gateway or 'the link'}{_attributes(wanted)} not found"


def _is_as_wanted(route: KernelRoute, wanted: Route, gateway: str) -> bool:
    return (
        route.via == gateway
        and (not wanted.priority or route.priority == wanted.priority)
        and (wanted.table is None or route.table == wanted.table)
        and route.mtu == wanted.mtu
        and route.advmss == wanted.advmss
    )


def _attributes(route: Route) -> str:
    """What is asked of a route beyond its gateway, as `ip route` would print it."""
    asked = {"metric": route.priority, "table": route.table, "mtu": route.mtu, "advmss": route.advmss}
    return "".join(f" {name} {value}" for name, value in asked.items() if value)


def _bridge(host: Netlink, bridge: Link | None, conf: PodConf, result: Result) -> Iterator[str]:
    if bridge is None:
        yield f'Bridge interface "{conf.bridge}" not found'
        return
    if bridge.kind != "bridge":
        yield f'"{conf.bridge}" is not a bridge but {bridge.kind!r}'
    entry = next((one for one in result.interfaces if one.name == conf.bridge and not one.sandbox), None)
    if entry is None:
        yield f'prevResult has no bridge "{conf.bridge}"'
    # Not its MAC: the kernel gives a bridge that has none of its own the lowest of its ports', whoever they are.
    if conf.promiscuous and not bridge.promiscuous:
        yield f'Bridge "{conf.bridge}" is not in promiscuous mode'
    if not bridge.up:
        yield f'Bridge "{conf.bridge}" is down'
    if conf.filters_vlans and not bridge.vlan_filtering:
        yield f'Bridge "{conf.bridge}" does not filter VLANs'
    if router_advertisements.accepts_from_pods(host, bridge):
        yield f"A pod can give the node routes: net/ipv6/conf/{conf.bridge}/accept_ra is not 0"


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
    has = {address.cidr for address in list_addresses(host, link.index)} if link else set()
    for ip in result.ips:
        gateway = f"{ip.gateway}/{ip.address.partition('/')[2]}"
        if ip.gateway and not carries(has, gateway):
            yield f'Gateway address {gateway} is not on "{conf.gateway_link}"'
    for family in {family_of(ip.address) for ip in result.ips}:
        if sysctls.read(FORWARDING[family]) != "1":
            yield f"The node does not forward: net/{FORWARDING[family]} is not 1"
        elif family == AF_INET6:
            for name in router_advertisements.ignored(host):
                yield f'The default route by "{name}" will expire: net/ipv6/conf/{name}/accept_ra is not 2'
    if conf.vlan and link and router_advertisements.accepts_from_pods(host, link):
        yield f"A pod can give the node routes: net/ipv6/conf/{link.name}/accept_ra is not 0"


def _masquerade(request: Request, result: Result) -> Iterator[str]:
    from rules import masquerade, reference

    addresses = [ip.address for ip in result.ips]
    wrong = masquerade.missing(request.attachment, addresses)
    if wrong and not reference.masquerades(request.attachment, addresses):
        yield from wrong


def _mac_filter(request: Request, port: Link, entry: Interface) -> Iterator[str]:
    from rules import antispoof, reference

    wrong = antispoof.missing(request.attachment, port.name, entry.mac.lower())
    if wrong and not reference.filters_mac(request.attachment):
        yield from wrong


def _source_filter(request: Request, port: Link, result: Result) -> Iterator[str]:
    from rules import source_validation

    own = [ip.address for ip in result.ips if ip.interface is None or _name(result, ip.interface) == request.ifname]
    yield from source_validation.missing(request.attachment, port.name, own)


def _name(result: Result, index: int) -> str:
    return result.interfaces[index].name if index < len(result.interfaces) else ""


def _on(value: bool) -> str:  # noqa: FBT001
    return "on" if value else "off"

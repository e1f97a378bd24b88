"""ADD: a pod on the bridge, or nothing at all."""

import os
from dataclasses import replace
from errno import EEXIST, EINVAL, ENODEV

from netaddr.ip import IPNetwork

from linux.errors import step
from linux.links import Link, attach_port, create_veth, delete_link, find_link, find_link_by_index, random_mac
from linux.netlink import Netlink, NetlinkError
from linux.netns import entered, open_netns
from linux.nft_owner import owner_tag
from linux.waiting import wait_until
from plugins.pod import container, network, vlans
from plugins.pod.conf import PodConf
from plugins.pod.undo import Undo
from spec.delegate import delegate
from spec.errors import CNIError, Code
from spec.request import Request
from spec.result import Interface, IPConfig, Result, check_expressible

_NAME_TRIES = 10
_BRIDGE_TRIES = 3
_PORT_UP_SECONDS = 2.5
_CONTAINER = 2  # the index of the container's interface in the result: after the bridge and the host's end


def add_pod(request: Request, conf: PodConf) -> Result:
    """Wire the container to the bridge; raises CNIError, and then nothing is left of what was made."""
    with step(f'open network namespace "{request.netns}"'):
        netns = open_netns(request.netns)
    try:
        with Netlink() as host, Undo() as undo:
            result = _add(host, netns, request, conf, undo)
            check_expressible(result, request.conf.cni_version)
            undo.keep()
            return result
    finally:
        os.close(netns)


def _add(host: Netlink, netns: int, request: Request, conf: PodConf, undo: Undo) -> Result:
    mac = conf.mac or random_mac()
    port = _create_veth(host, netns, request, conf, mac, undo)
    bridge = _join(host, port, request, conf, undo)
    if conf.check_mac:
        _check_mac(request, port, mac, undo)
    leases = _lease(request, conf, undo) if conf.ipam_type else Result()
    links = [bridge, port]
    if conf.container_up:
        container.configure(netns, request, conf, leases)
    if conf.is_gateway and leases.ips:
        gateways = [f"{ip.gateway}/{IPNetwork(ip.address).prefixlen}" for ip in leases.ips if ip.gateway]
        gateway_link = network.ensure_gateway_link(host, conf, bridge, undo)
        network.ensure_gateways(host, conf, gateway_link, bridge, gateways, undo)
        links += [gateway_link] if conf.vlan else []
    if conf.ip_masq and leases.ips:
        _masquerade(request, leases, undo)
    _confirm(host, conf, port, bridge)
    interfaces = [Interface(name=link.name, mac=link.mac) for link in links]
    interfaces.insert(_CONTAINER, Interface(name=request.ifname, mac=mac, sandbox=request.netns))
    return replace(leases, interfaces=tuple(interfaces), dns=conf.dns or leases.dns)


def _create_veth(host: Netlink, netns: int, request: Request, conf: PodConf, mac: str, undo: Undo) -> Link:
    """The pair, its far end in the container under its name; the host's end gets a random name nobody has."""
    with step(f'create "{request.ifname}" in the container'):
        for _ in range(_NAME_TRIES):
            name = "veth" + os.urandom(4).hex()
            try:
                create_veth(host, name, request.ifname, peer_netns=netns, peer_mac=mac, mtu=conf.mtu)
            except NetlinkError as error:
                if error.errno != EEXIST:
                    raise
                if _taken(netns, request.ifname):
                    raise NetlinkError(EEXIST, "the container has an interface of that name already") from error
                continue
            return _found(host, name, undo)
        raise NetlinkError(EEXIST, f"no free name for the host's end in {_NAME_TRIES} tries")


def _found(host: Netlink, name: str, undo: Undo) -> Link:
    link = find_link(host, name)
    if link is None:
        raise NetlinkError(ENODEV, "it is gone again")
    undo.push(lambda: delete_link(host, link.index))
    return link


def _taken(netns: int, ifname: str) -> bool:
    with entered(netns), Netlink() as pod:
        return find_link(pod, ifname) is not None


def _join(host: Netlink, port: Link, request: Request, conf: PodConf, undo: Undo) -> Link:
    """Make the host's end a port of the bridge. A bridge that another failing ADD takes away under us is made again."""
    alias = owner_tag(request.attachment)
    for tries_left in reversed(range(_BRIDGE_TRIES)):
        bridge = network.ensure_bridge(host, conf, undo)
        with step(f'attach "{port.name}" to bridge "{bridge.name}"'):
            try:
                attach_port(host, port.index, bridge.index, alias=alias, hairpin=conf.hairpin, isolated=conf.isolated)
            except NetlinkError as error:
                if error.errno not in (ENODEV, EINVAL) or not tries_left or find_link_by_index(host, bridge.index):
                    raise
                continue
            vlans.set_port(host, port.index, conf)
            return bridge
    raise AssertionError("the last try returns or raises")


def _lease(request: Request, conf: PodConf, undo: Undo) -> Result:
    """Addresses from IPAM, on the container's interface, with the gateways and default routes that `conf` wants."""
    result = delegate(request, "ADD", conf.ipam_type)
    undo.push(lambda: delegate(request, "DEL", conf.ipam_type))
    if result is None or not result.ips:
        raise CNIError(Code.INTERNAL, "IPAM plugin returned missing IP config", f'"ipam": "type": "{conf.ipam_type}"')
    ips = tuple(replace(ip, interface=_CONTAINER, gateway=ip.gateway or _gateway(ip, conf)) for ip in result.ips)
    result = replace(result, interfaces=(), ips=ips)
    if conf.is_default_gateway:
        result = replace(result, routes=(*result.routes, *container.default_routes(result)))
    return result


def _gateway(ip: IPConfig, conf: PodConf) -> str:
    """The first address of the subnet, if there is to be a gateway."""
    return str(IPNetwork(ip.address).cidr[1]) if conf.is_gateway else ""


def _masquerade(request: Request, leases: Result, undo: Undo) -> None:
    from linux import masquerade

    with step("masquerade the pod's addresses"):
        undo.push(lambda: masquerade.delete(request.attachment))
        masquerade.ensure(request.attachment, [ip.address for ip in leases.ips])


def _check_mac(request: Request, port: Link, mac: str, undo: Undo) -> None:
    from linux import antispoof

    with step("filter the pod's MAC address"):
        undo.push(lambda: antispoof.delete(request.attachment))
        antispoof.ensure(request.attachment, port.name, mac)


def _confirm(host: Netlink, conf: PodConf, port: Link, bridge: Link) -> None:
    """Wait until the port carries traffic; raises CNIError if it does not, or is no longer a port of the bridge."""
    last = port

    def is_up() -> bool:
        nonlocal last
        with step(f'look at "{port.name}"'):
            found = find_link_by_index(host, port.index)
        if found is None or found.master != bridge.index:
            raise CNIError(Code.TRY_AGAIN_LATER, f'"{port.name}" was taken from bridge "{bridge.name}" during the ADD')
        last = found
        return found.operstate == "UP"

    if not wait_until(is_up, seconds=_PORT_UP_SECONDS if conf.container_up else 0) and conf.container_up:
        raise CNIError(Code.TRY_AGAIN_LATER, f'bridge port "{port.name}" in error state: {last.operstate}')

"""ADD: connects a pod to a bridge, or leaves nothing behind."""

import os
from contextlib import suppress
from dataclasses import replace
from errno import EEXIST, ENODEV

from linux.bridge_lock import joining
from linux.errors import step
from linux.netlink.socket import Netlink, NetlinkError
from linux.netns import entered, opened
from linux.ownership import group_of, host_veth_name, owner_tag
from linux.rtnl.deletion import delete_links
from linux.rtnl.links import Link, attach_port, create_veth, find_link, find_link_by_index, random_mac
from linux.waiting import wait_until
from plugins.failures import Undo
from plugins.pod import host_bridge, interface, vlans
from plugins.pod.conf import PodConf
from spec.addresses import is_unspecified, network_of, parse_cidr
from spec.delegate import delegate
from spec.errors import CNIError, Code
from spec.links import require_suitable_mtu
from spec.request import Request
from spec.result import Interface, IPConfig, Result, check_expressible

_NAME_TRIES = 10
_TRIES = 3
_PORT_UP_SECONDS = 2.5
_POD_INTERFACE = 2  # index in the result, after the bridge and the host veth


def add_pod(request: Request, conf: PodConf) -> Result:
    """Connect the pod to the bridge; raises CNIError, and then nothing is left of what was created."""
    if conf.has_policies:
        from plugins.pod.policies import identity

        identity(request.args)  # before anything is made
    with opened(request.netns, request.netns_fd) as netns:
        for _ in range(_TRIES - 1):
            with suppress(host_bridge.BridgeGone):
                return _try_to_add(netns, request, conf)
        return _try_to_add(netns, request, conf)


def _try_to_add(netns: int, request: Request, conf: PodConf) -> Result:
    with Netlink() as host, Undo() as undo:
        mac = conf.mac or random_mac()
        with step("join a bridge"), joining():
            bridge = host_bridge.ensure_bridge(host, conf, undo)
            port = _create_veth(host, netns, request, conf, mac, undo)
            port = _join(host, port, bridge, request, conf)
        if conf.check_mac:
            _check_mac(request, port, mac, undo)
        leases = _lease(request, conf, undo) if conf.ipam_type else Result()
        gateway = _gateway_link(host, request, conf, bridge, port, undo) if conf.is_gateway and leases.ips else None
        if conf.has_policies and gateway:
            _hold(host, request, port, gateway, leases, undo)  # and bring the port up
        elif conf.check_sources and leases.ips:
            _check_sources(request, port, leases, undo)
        if conf.container_up:
            interface.configure(netns, port.peer, request, conf, leases)
        if gateway:
            gateways = [f"{ip.gateway}/{ip.address.partition('/')[2]}" for ip in leases.ips if ip.gateway]
            host_bridge.ensure_gateways(host, conf, gateway, port, gateways, undo)
        gateway_links = [gateway] if gateway and conf.vlan else []
        if conf.ip_masq and leases.ips:
            _masquerade(request, leases, undo)
        bridge = _confirm(host, conf, port, bridge)
        if conf.has_policies and gateway and not gateway_links and bridge.mac != gateway.mac:
            _keep_registered(host, request, gateway, bridge)
        links = [Interface(name=link.name, mac=link.mac) for link in (bridge, port, *gateway_links)]
        links.insert(_POD_INTERFACE, Interface(name=request.ifname, mac=mac, sandbox=request.netns))
        result = Result(interfaces=tuple(links), ips=leases.ips, routes=leases.routes, dns=conf.dns or leases.dns)
        check_expressible(result, request.conf.cni_version)
        undo.pop_all()
        return result


def _create_veth(host: Netlink, netns: int, request: Request, conf: PodConf, mac: str, undo: Undo) -> Link:
    """Create the veth pair: CNI_IFNAME in the container, and a host veth with the name that DEL looks for.

    If that name is taken, the host veth gets a random one.
    """
    name, group = host_veth_name(request.attachment), group_of(request.conf.name)
    with step(f'create "{request.ifname}" in the container'):
        for _ in range(_NAME_TRIES):
            try:
                link = create_veth(
                    host, name, request.ifname, peer_netns=netns, peer_mac=mac, mtu=conf.mtu, group=group
                )
            except NetlinkError as error:
                if error.errno != EEXIST:
                    raise
                if _taken(netns, request.ifname):
                    raise NetlinkError(EEXIST, "the container has an interface of that name already") from error
                name = "veth" + os.urandom(4).hex()
                continue
            if link is None:
                return _find_created(host, name, undo)
            undo.callback(delete_links, host, [link])
            return link
        raise NetlinkError(EEXIST, f"found no free name for the host veth in {_NAME_TRIES} tries")


def _find_created(host: Netlink, name: str, undo: Undo) -> Link:
    """The link just created, if the kernel did not return it."""
    undo.callback(_delete_by_name, host, name)  # first, since the look-up may fail too
    link = find_link(host, name)
    if link is None:
        raise NetlinkError(ENODEV, "it has just been deleted")
    return link


def _delete_by_name(host: Netlink, name: str) -> None:
    link = find_link(host, name)
    if link:
        delete_links(host, [link])


def _taken(netns: int, ifname: str) -> bool:
    with entered(netns), Netlink() as pod:
        return find_link(pod, ifname) is not None


def _join(host: Netlink, port: Link, bridge: Link, request: Request, conf: PodConf) -> Link:
    """Attach the host veth to the bridge; returns the port."""
    alias = owner_tag(request.attachment)
    with step(f'attach "{port.name}" to bridge "{bridge.name}"'):
        try:
            attach_port(
                host,
                port.index,
                bridge.index,
                alias=alias,
                hairpin=conf.hairpin,
                isolated=conf.isolated,
                up=not conf.has_policies,  # a process in the pod might send before the pod is held
            )
        except NetlinkError as error:
            if find_link_by_index(host, bridge.index) is None:
                raise host_bridge.BridgeGone(bridge.name) from error
            raise
        vlans.set_port(host, port.index, bridge, conf)
    return replace(port, master=bridge.index)


def _gateway_link(host: Netlink, request: Request, conf: PodConf, bridge: Link, port: Link, undo: Undo) -> Link:
    """The link that has the gateway addresses."""
    if not conf.vlan:
        return bridge
    from plugins.pod import vlan_gateway

    return vlan_gateway.ensure(host, request.conf.name, conf, port, undo)


def _lease(request: Request, conf: PodConf, undo: Undo) -> Result:
    """Addresses from IPAM for the pod's interface, with the gateways and default routes that `conf` requires."""
    result = delegate(request, "ADD", conf.ipam_type)
    undo.callback(delegate, request, "DEL", conf.ipam_type)
    if result is None or not result.ips:
        raise CNIError(Code.INTERNAL, "IPAM plugin returned missing IP config", f'"ipam": "type": "{conf.ipam_type}"')
    require_suitable_mtu(conf.mtu, [ip.address for ip in result.ips])
    ips = tuple(IPConfig(ip.address, _gateway(ip, conf), interface=_POD_INTERFACE) for ip in result.ips)
    routes = tuple(replace(route, dst=network_of(route.dst)) for route in result.routes)
    defaults = interface.default_routes(ips, routes) if conf.is_default_gateway else ()
    return Result(ips=ips, routes=(*routes, *defaults), dns=result.dns)


def _gateway(ip: IPConfig, conf: PodConf) -> str:
    """IPAM's, or the first address of the subnet if `conf` needs one. Raises CNIError 7 if it cannot be a gateway."""
    given = "" if is_unspecified(ip.gateway) else ip.gateway
    if not given and not conf.is_gateway:
        return ""
    address = parse_cidr(ip.address)
    gateway = given or str(address.first_host)
    if gateway == str(address) or (not given and address.prefix > address.bits - 2):
        why = "the pod's own address" if gateway == str(address) else f"not in the pod's subnet {ip.address}"
        details = '"isGateway" uses the first address of the subnet, unless "ipam" gives a gateway'
        raise CNIError(Code.INVALID_NETWORK_CONFIG, f"gateway {gateway} is {why}", details)
    return gateway


def _hold(host: Netlink, request: Request, port: Link, gateway: Link, leases: Result, undo: Undo) -> None:
    from plugins.pod import policies

    policies.hold(host, request, port, gateway, leases, undo)


def _keep_registered(host: Netlink, request: Request, gateway: Link, bridge: Link) -> None:
    from plugins.pod import policies

    with step(f'register the MAC of "{bridge.name}"'):
        policies.keep_registered(host, request.conf.name, gateway, bridge.mac)


def _masquerade(request: Request, leases: Result, undo: Undo) -> None:
    from rules import masquerade

    with step("masquerade the pod's addresses"):
        undo.callback(masquerade.delete, request.attachment)
        masquerade.ensure(request.attachment, [ip.address for ip in leases.ips])


def _check_mac(request: Request, port: Link, mac: str, undo: Undo) -> None:
    from rules import antispoof

    with step("filter the pod's MAC address"):
        undo.callback(antispoof.delete, request.attachment)
        antispoof.ensure(request.attachment, port.name, mac)


def _check_sources(request: Request, port: Link, leases: Result, undo: Undo) -> None:
    from rules import source_validation

    with step("validate the pod's source addresses"):
        undo.callback(source_validation.delete, request.attachment)
        source_validation.ensure(request.attachment, port.name, [ip.address for ip in leases.ips])


def _confirm(host: Netlink, conf: PodConf, port: Link, bridge: Link) -> Link:
    """Wait until the port is up; returns the bridge as it is then.

    Raises CNIError if it does not come up, or is no longer a port of the bridge.
    """
    last = port

    def is_up() -> bool:
        nonlocal last
        with step(f'look up "{port.name}"'):
            found = find_link_by_index(host, port.index)
        if found is None or found.master != bridge.index:
            raise host_bridge.BridgeGone(bridge.name)
        last = found
        return found.operstate == "UP"

    if not wait_until(is_up, seconds=_PORT_UP_SECONDS if conf.container_up else 0) and conf.container_up:
        raise CNIError(Code.TRY_AGAIN_LATER, f'bridge port "{port.name}" in error state: {last.operstate}')
    with step(f'look up "{bridge.name}"'):
        return host_bridge.reread(host, conf, bridge)

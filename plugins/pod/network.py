"""The bridge itself: making it, its VLAN interface, its gateway addresses."""

from errno import EEXIST, ENODEV
from socket import AF_INET, AF_INET6

from linux import sysctls
from linux.addresses import add_address, delete_address, family_of, list_addresses, overlap
from linux.errors import step
from linux.links import (
    Link,
    attach_port,
    create_bridge,
    create_veth,
    delete_link,
    find_link,
    list_ports,
    random_mac,
    set_mac,
    set_promiscuous,
    set_up,
    set_vlan_filtering,
)
from linux.netlink import Netlink, NetlinkError
from plugins.pod import vlans
from plugins.pod.conf import PodConf
from plugins.undo import Undo
from spec.errors import CNIError, Code
from spec.links import require_suitable_mtu

FORWARDING = {AF_INET: "ipv4/ip_forward", AF_INET6: "ipv6/conf/all/forwarding"}
"""The sysctl that makes the node forward, by family."""


class BridgeGone(CNIError):
    """The bridge went while we relied on it: another ADD that had made it failed, and took it back."""

    def __init__(self, name: str) -> None:
        super().__init__(Code.TRY_AGAIN_LATER, f'bridge "{name}" was deleted during the ADD')


def ensure_bridge(host: Netlink, conf: PodConf, undo: Undo) -> Link:
    """The bridge, made if need be, up and set as `conf` says; raises CNIError."""
    with step(f'create bridge "{conf.bridge}"'):
        bridge = find_link(host, conf.bridge) or _new_bridge(host, conf, undo)
        if bridge is None:
            raise BridgeGone(conf.bridge)
        if bridge.kind != "bridge":
            kind = f"it is a link of kind {bridge.kind!r}"
            raise CNIError(Code.INTERNAL, f'"{bridge.name}" already exists but is not a bridge', kind)
        try:
            _set_bridge(host, bridge, conf, undo)
        except NetlinkError as error:
            if error.errno == ENODEV:
                raise BridgeGone(conf.bridge) from error
            raise
    return bridge


def _new_bridge(host: Netlink, conf: PodConf, undo: Undo) -> Link | None:
    if create_bridge(host, conf.bridge, mtu=conf.mtu):
        undo.push(lambda: delete_unused_bridge(host, conf.bridge))
    return find_link(host, conf.bridge)


def _set_bridge(host: Netlink, bridge: Link, conf: PodConf, undo: Undo) -> None:
    if conf.promiscuous and not bridge.promiscuous:
        set_promiscuous(host, bridge.index, on=True)
        undo.push(lambda: set_promiscuous(host, bridge.index, on=False))
    _refuse_advertisements(host, bridge)
    if not bridge.up:
        set_up(host, bridge.index)
    if conf.filters_vlans and not bridge.vlan_filtering:
        with step(f'filter VLANs on bridge "{conf.bridge}" (which takes a kernel with CONFIG_BRIDGE_VLAN_FILTERING)'):
            set_vlan_filtering(host, bridge.index, on=True)
            undo.push(lambda: set_vlan_filtering(host, bridge.index, on=False))


def delete_unused_bridge(host: Netlink, name: str) -> None:
    """Delete a bridge that has no ports. Another ADD joins its port before it relies on anything else of the bridge."""
    bridge = find_link(host, name)
    if bridge and not list_ports(host, bridge.index):
        delete_link(host, bridge.index)


def ensure_gateway_link(host: Netlink, conf: PodConf, bridge: Link, undo: Undo) -> Link:
    """The link that carries the gateway: the bridge, or with a VLAN a veth pair from it, `<bridge>.<vlan>`."""
    if not conf.vlan:
        return bridge
    name = conf.gateway_link
    with step(f'create VLAN interface "{name}"'):
        inner = "veth" + random_mac().replace(":", "")[:8]
        try:
            create_veth(host, name, inner, peer_netns=None, peer_mac=random_mac(), mtu=bridge.mtu)
        except NetlinkError as error:
            if error.errno != EEXIST:
                raise
            link = _existing(host, name)
            _refuse_advertisements(host, link)
            return link
        link, port = _existing(host, name), _existing(host, inner)
        undo.push(lambda: delete_link(host, link.index))
        _refuse_advertisements(host, link)
        attach_port(host, port.index, bridge.index, alias="", hairpin=False, isolated=False)
        vlans.set_port(host, port.index, conf)
        set_up(host, link.index)
    return link


def ensure_gateways(host: Netlink, conf: PodConf, link: Link, bridge: Link, gateways: list[str], undo: Undo) -> None:
    """Give the gateway link its addresses (CIDR form) and make the node forward; raises CNIError on a conflict."""
    require_suitable_mtu(link.mtu, gateways, of=f'MTU of "{link.name}"')
    with step(f'set the gateway address of "{link.name}"'):
        present = {address.cidr for address in list_addresses(host, link.index) if address.is_global}
        for gateway in gateways:
            if gateway in present:
                continue
            for other in sorted(present - set(gateways)):
                if not conf.keep_addresses and _conflict(other, gateway):
                    _replace(host, conf, link, other, gateway, undo)
                    present.discard(other)
            if add_address(host, link.index, gateway, dad=False):
                undo.push(lambda gateway=gateway: _delete_unused_address(host, link, bridge, gateway))
                set_mac(host, link.index, link.mac)
    with step("enable forwarding"):
        for family in sorted({family_of(gateway) for gateway in gateways}):
            _forward(host, family)


def _forward(host: Netlink, family: int) -> None:
    """Have the node forward, and keep the IPv6 default route that it has from router advertisements."""
    if sysctls.read(FORWARDING[family]) == "1":
        return
    if family == AF_INET6:
        from linux.advertisements import keep_while_forwarding

        with step("accept router advertisements while forwarding"):
            keep_while_forwarding(host)
    sysctls.write(FORWARDING[family], "1")


def _refuse_advertisements(host: Netlink, link: Link) -> None:
    """Have a link that faces pods give the node no routes."""
    if sysctls.read_if_there(f"ipv6/conf/{link.name}/accept_ra") not in ("", "0"):
        from linux.advertisements import refuse

        refuse(host, link)


def _replace(host: Netlink, conf: PodConf, link: Link, other: str, gateway: str, undo: Undo) -> None:
    if not conf.force_address:
        raise CNIError(
            Code.INVALID_NETWORK_CONFIG,
            f'"{link.name}" already has an IP address different from {gateway}',
            f'it has {other}; set "forceAddress" to replace it, or give this network another "bridge"',
        )
    if delete_address(host, link.index, other):
        undo.push(lambda: add_address(host, link.index, other, dad=False))


def _conflict(other: str, wanted: str) -> bool:
    """Two IPv4 addresses always conflict on a bridge; IPv6 ones if their subnets overlap."""
    if family_of(other) != family_of(wanted):
        return False
    if family_of(wanted) == AF_INET:
        return True
    return overlap(other, wanted)


def _delete_unused_address(host: Netlink, link: Link, bridge: Link, gateway: str) -> None:
    """Take back a gateway address unless other pods have joined the bridge meanwhile and rely on it."""
    if not [port for port in list_ports(host, bridge.index) if port.alias]:
        delete_address(host, link.index, gateway)


def _existing(host: Netlink, name: str) -> Link:
    link = find_link(host, name)
    if link is None:
        raise NetlinkError(ENODEV, f'"{name}" is gone again')
    return link

"""The bridge itself: making it, its settings, its gateway addresses."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from errno import ENODEV
from socket import AF_INET, AF_INET6

from linux import sysctls
from linux.bridge_lock import taking_back
from linux.errors import step
from linux.netlink.socket import Netlink, NetlinkError
from linux.ownership import is_owner_tag
from linux.rtnl.addresses import add_address, carries, delete_address, family_of, list_addresses, overlap
from linux.rtnl.links import (
    Link,
    create_bridge,
    delete_link,
    find_link,
    find_link_by_index,
    list_links,
    list_ports,
    set_down,
    set_mac,
    set_promiscuous,
    set_up,
    set_vlan_filtering,
)
from plugins.failures import Undo
from plugins.pod.conf import PodConf
from spec.errors import CNIError, Code
from spec.links import require_suitable_mtu

GATEWAY_MARK = "slash24 gateway"
"""The alias of both ends of a link that carries the gateway of a VLAN."""

FORWARDING = {AF_INET: "ipv4/ip_forward", AF_INET6: "ipv6/conf/all/forwarding"}
"""The sysctl that makes the node forward, by family."""


class BridgeGone(CNIError):
    """The bridge went while we relied on it: another ADD that had made it failed, and took it back."""

    def __init__(self, name: str) -> None:
        super().__init__(Code.TRY_AGAIN_LATER, f'bridge "{name}" was deleted during the ADD')


def ensure_bridge(host: Netlink, conf: PodConf, undo: Undo) -> Link:
    """The bridge, made if need be, up and set as `conf` says; raises CNIError.

    For who holds `bridge_lock.joining` until a port has joined it.
    """
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
    with _filtering(conf) if conf.filters_vlans else nullcontext():
        is_new = create_bridge(host, conf.bridge, mtu=conf.mtu, filters_vlans=conf.filters_vlans)
    if is_new:
        undo.callback(delete_unused_bridge, host, conf.bridge)
        spare_detection(conf.bridge)
    return find_link(host, conf.bridge)


def spare_detection(link: str) -> None:
    """Have a link that we made use its link-local address at once: pods are there, and no other router.

    While it looks for duplicates, a second or two, the node can not ask for pods' MACs (RFC 4861 section 7.2.2).
    """
    sysctls.try_write(f"ipv6/conf/{link}/accept_dad", "0")


def _set_bridge(host: Netlink, bridge: Link, conf: PodConf, undo: Undo) -> None:
    if conf.promiscuous and not bridge.promiscuous:
        set_promiscuous(host, bridge.index, on=True)
        undo.callback(unless_used, host, bridge, lambda: set_promiscuous(host, bridge.index, on=False))
    refuse_advertisements(host, bridge)
    if not bridge.up:
        set_up(host, bridge.index)
        undo.callback(unless_used, host, bridge, lambda: set_down(host, bridge.index))
    if conf.filters_vlans and not bridge.vlan_filtering:
        _refuse_to_cut(host, bridge, conf)
        with _filtering(conf):
            set_vlan_filtering(host, bridge.index, on=True)
        undo.callback(unless_used, host, bridge, lambda: set_vlan_filtering(host, bridge.index, on=False))


def _filtering(conf: PodConf) -> step:
    return step(f'filter VLANs on bridge "{conf.bridge}" (which takes a kernel with CONFIG_BRIDGE_VLAN_FILTERING)')


def _refuse_to_cut(host: Netlink, bridge: Link, conf: PodConf) -> None:
    """Raises CNIError 7 if others use the bridge: a bridge that begins to filter drops their tagged frames."""
    for link in list_links(host):
        is_ours = is_owner_tag(link.alias) or link.alias == GATEWAY_MARK
        if (link.master == bridge.index and not is_ours) or (link.kind == "vlan" and link.peer == bridge.index):
            key = "vlan" if conf.vlan else "vlanTrunk"
            raise CNIError(
                Code.INVALID_NETWORK_CONFIG,
                f'"{key}" needs VLAN filtering, which is off on "{bridge.name}" and would cut off "{link.name}"',
                f'give the network a "bridge" of its own, or give the other ports of "{bridge.name}" their VLANs and '
                f"switch filtering on: ip link set {bridge.name} type bridge vlan_filtering 1",
            )


def delete_unused_bridge(host: Netlink, name: str) -> None:
    """Delete a bridge that has no ports."""
    with taking_back():
        bridge = find_link(host, name)
        if bridge and not list_ports(host, bridge.index):
            delete_link(host, bridge.index)


def ensure_gateways(host: Netlink, conf: PodConf, link: Link, port: Link, gateways: Sequence[str], undo: Undo) -> None:
    """Give the gateway link its addresses (CIDR form) and make the node forward; raises CNIError on a conflict.

    `port`: the pod's, which has joined the bridge, as whoever takes addresses back finds.
    """
    require_suitable_mtu(link.mtu, gateways, of=f'MTU of "{link.name}"')
    with step(f'set the gateway address of "{link.name}"'):
        present = {address.cidr for address in list_addresses(host, link.index) if address.is_global}
        for gateway in gateways:
            if gateway in present or (conf.keep_addresses and carries(present, gateway)):
                continue
            replaced = _conflicts(host, conf, link, gateway, present - set(gateways))
            undo.callback(_take_back, host, link, port, gateway, replaced)
            for index, other in replaced:
                delete_address(host, index, other)
            if add_address(host, link.index, gateway, dad=False):
                _keep_mac(host, link)
    with step("enable forwarding"):
        for family in sorted({family_of(gateway) for gateway in gateways}):
            _forward(host, family)


def settled(host: Netlink, conf: PodConf, bridge: Link) -> Link:
    """The bridge as it is with the pod's port. Raises BridgeGone, NetlinkError.

    `bridge`: as it was before. If it carries a gateway, it keeps the MAC that other pods remember.
    """
    now = find_link_by_index(host, bridge.index)
    if now is None:
        raise BridgeGone(bridge.name)
    if conf.is_gateway and not conf.vlan and now.mac != bridge.mac and _has_mac(bridge):
        _keep_mac(host, bridge)
        return replace(now, mac=bridge.mac)
    return now


def _has_mac(link: Link) -> bool:
    """Not so of a bridge that has lost its last port."""
    return bool(link.mac.strip("0:"))


def _keep_mac(host: Netlink, link: Link) -> None:
    """Give a link the MAC that it had as its own: a bridge that is given one keeps it whatever ports it has."""
    known = link if _has_mac(link) else find_link_by_index(host, link.index)
    if known:
        set_mac(host, link.index, known.mac)


def _forward(host: Netlink, family: int) -> None:
    """Have the node forward, and keep the IPv6 default route that it has from router advertisements."""
    if sysctls.read(FORWARDING[family]) == "1":
        return
    if family == AF_INET6:
        from linux.router_advertisements import keep_while_forwarding

        with step("accept router advertisements while forwarding"):
            keep_while_forwarding(host)
    sysctls.write(FORWARDING[family], "1")


def refuse_advertisements(host: Netlink, link: Link) -> None:
    """Have a link that faces pods give the node no routes."""
    if sysctls.read_if_there(f"ipv6/conf/{link.name}/accept_ra") not in ("", "0"):
        from linux.router_advertisements import refuse

        refuse(host, link)


def _conflicts(host: Netlink, conf: PodConf, link: Link, gateway: str, others: set[str]) -> list[tuple[int, str]]:
    """(index of the link, CIDR) of each address that must make way for the gateway.

    Raises CNIError 7 if there is one and `conf` does not say that it may be replaced.
    """
    beside = [] if conf.keep_addresses else [other for other in sorted(others) if _conflict(other, gateway)]
    found = [(link, other) for other in beside] + _of_other_vlans(host, conf, link, gateway)
    if found and not conf.force_address:
        where, other = found[0]
        if where is link:
            raise CNIError(
                Code.INVALID_NETWORK_CONFIG,
                f'"{link.name}" already has an IP address different from {gateway}',
                f'it has {other}; set "forceAddress" to replace it, or give this network another "bridge"',
            )
        raise CNIError(
            Code.INVALID_NETWORK_CONFIG,
            f'"vlan": {gateway} can not be on "{link.name}", because "{where.name}" has {other}',
            "a node reaches a subnet by one link alone, and pods on the other may use it: give this network another "
            f'subnet or "bridge", delete the address from "{where.name}" when its pods are gone, or set "forceAddress"',
        )
    return [(where.index, other) for where, other in found]


def _of_other_vlans(host: Netlink, conf: PodConf, link: Link, gateway: str) -> list[tuple[Link, str]]:
    """Addresses in the gateway's subnet on the bridge's links of other VLANs, or on the bridge where `link` is one.

    Not those in a larger subnet: the kernel prefers the smaller one.
    """
    found, length = [], int(gateway.partition("/")[2])
    for address in list_addresses(host):
        is_inside = overlap(address.cidr, gateway) and int(address.cidr.partition("/")[2]) >= length
        if address.link != link.index and address.is_global and is_inside:
            other = find_link_by_index(host, address.link)
            name, _, vlan = other.name.rpartition(".") if other else ("", "", "")
            is_beside = other and (other.name == conf.bridge or (name == conf.bridge and vlan.isdecimal()))
            if is_beside and other.master == link.master:  # not where each is in a VRF of its own
                found.append((other, address.cidr))
    return found


def _conflict(other: str, wanted: str) -> bool:
    """Two IPv4 addresses always conflict on a bridge; IPv6 ones if their subnets overlap."""
    if family_of(other) != family_of(wanted):
        return False
    if family_of(wanted) == AF_INET:
        return True
    return overlap(other, wanted)


def _take_back(host: Netlink, link: Link, port: Link, gateway: str, replaced: Sequence[tuple[int, str]]) -> None:
    """Take a gateway address back, and put back what had to make way, unless other pods rely on it."""
    bridge = find_link_by_index(host, port.master)

    def restore() -> None:
        delete_address(host, link.index, gateway)
        for index, other in replaced:
            add_address(host, index, other, dad=False)

    if bridge:
        unless_used(host, bridge, restore, but=port.index)


def unless_used(host: Netlink, bridge: Link, take_back: Callable[[], object], *, but: int = 0) -> None:
    """Take something back unless pods other than that of the port `but` have joined the bridge, and rely on it."""
    with taking_back():
        if not any(is_owner_tag(port.alias) and port.index != but for port in list_ports(host, bridge.index)):
            take_back()

"""The bridge on the host: creating it, its settings and its gateway addresses."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from errno import ENODEV
from socket import AF_INET, AF_INET6

from linux import sysctls
from linux.bridge_lock import undoing
from linux.errors import step
from linux.netlink.socket import Netlink, NetlinkError
from linux.ownership import is_owner_tag
from linux.rtnl.addresses import add_address, carries, delete_address, list_addresses
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
from spec.addresses import family_of, parse_cidr
from spec.errors import CNIError, Code
from spec.links import require_suitable_mtu

GATEWAY_ALIAS = "slash24 gateway"
"""The alias of both ends of a VLAN gateway's veth pair."""

FORWARDING = {AF_INET: "ipv4/ip_forward", AF_INET6: "ipv6/conf/all/forwarding"}
"""The sysctl that enables forwarding, by address family."""


class BridgeGone(CNIError):
    """The bridge was deleted while we used it: the ADD that had created it failed and undid that."""

    def __init__(self, name: str) -> None:
        super().__init__(Code.TRY_AGAIN_LATER, f'bridge "{name}" was deleted during the ADD')


def ensure_bridge(host: Netlink, conf: PodConf, undo: Undo) -> Link:
    """The bridge, created if necessary, up and configured as in `conf`; raises CNIError.

    The caller holds `bridge_lock.joining` until a port has joined the bridge.
    """
    with step(f'create bridge "{conf.bridge}"'):
        bridge = find_link(host, conf.bridge) or _new_bridge(host, conf, undo)
        if bridge is None:
            raise BridgeGone(conf.bridge)
        if bridge.kind != "bridge":
            details = f"it is a link of kind {bridge.kind!r}"
            raise CNIError(Code.INTERNAL, f'"{bridge.name}" already exists but is not a bridge', details)
        try:
            _set_bridge(host, bridge, conf, undo)
        except NetlinkError as error:
            if error.errno == ENODEV:
                raise BridgeGone(conf.bridge) from error
            raise
    return bridge


def _new_bridge(host: Netlink, conf: PodConf, undo: Undo) -> Link | None:
    with _vlan_filtering_step(conf) if conf.filters_vlans else nullcontext():
        is_new = create_bridge(host, conf.bridge, mtu=conf.mtu, filters_vlans=conf.filters_vlans)
    if is_new:
        undo.callback(delete_unused_bridge, host, conf.bridge)
        skip_dad(conf.bridge)
    return find_link(host, conf.bridge)


def skip_dad(link: str) -> None:
    """Have a new link use its link-local address at once: it leads to pods, and to no other router.

    During duplicate address detection, a second or two, the node cannot resolve pods' MACs (RFC 4861 section 7.2.2).
    """
    sysctls.try_write(f"ipv6/conf/{link}/accept_dad", "0")


def _set_bridge(host: Netlink, bridge: Link, conf: PodConf, undo: Undo) -> None:
    if conf.promiscuous and not bridge.promiscuous:
        set_promiscuous(host, bridge.index, on=True)
        undo.callback(unless_used, host, bridge, lambda: set_promiscuous(host, bridge.index, on=False))
    ignore_advertisements(host, bridge)
    if not bridge.up:
        set_up(host, bridge.index)
        undo.callback(unless_used, host, bridge, lambda: set_down(host, bridge.index))
    if conf.filters_vlans and not bridge.vlan_filtering:
        _require_no_others(host, bridge, conf)
        with _vlan_filtering_step(conf):
            set_vlan_filtering(host, bridge.index, on=True)
        undo.callback(unless_used, host, bridge, lambda: set_vlan_filtering(host, bridge.index, on=False))


def _vlan_filtering_step(conf: PodConf) -> step:
    return step(f'filter VLANs on bridge "{conf.bridge}" (which needs a kernel with CONFIG_BRIDGE_VLAN_FILTERING)')


def _require_no_others(host: Netlink, bridge: Link, conf: PodConf) -> None:
    """Raises CNIError 7 if the bridge has other ports than ours: filtering would drop their tagged frames."""
    for link in list_links(host):
        is_ours = is_owner_tag(link.alias) or link.alias == GATEWAY_ALIAS
        if (link.master == bridge.index and not is_ours) or (link.kind == "vlan" and link.peer == bridge.index):
            key = "vlan" if conf.vlan else "vlanTrunk"
            raise CNIError(
                Code.INVALID_NETWORK_CONFIG,
                f'"{key}" needs VLAN filtering, which is off on "{bridge.name}" and would disconnect "{link.name}"',
                f'give the network its own "bridge", or give the other ports of "{bridge.name}" their VLANs and '
                f"enable filtering: ip link set {bridge.name} type bridge vlan_filtering 1",
            )


def delete_unused_bridge(host: Netlink, name: str) -> None:
    """Delete a bridge if it has no ports."""
    with undoing():
        bridge = find_link(host, name)
        if bridge and not list_ports(host, bridge.index):
            delete_link(host, bridge.index)


def ensure_gateways(host: Netlink, conf: PodConf, link: Link, port: Link, gateways: Sequence[str], undo: Undo) -> None:
    """Add the addresses (CIDR) to the gateway link and enable forwarding; raises CNIError on a conflict.

    `port`: the pod's, already on the bridge, where the undo of other ADDs finds it.
    """
    require_suitable_mtu(link.mtu, gateways, of=f'MTU of "{link.name}"')
    with step(f'set the gateway address of "{link.name}"'):
        present = {address.cidr for address in list_addresses(host, link.index) if address.is_global}
        for gateway in gateways:
            if gateway in present or (conf.keep_addresses and carries(present, gateway)):
                continue
            replaced = _conflicts(host, conf, link, gateway, present - set(gateways))
            undo.callback(_remove_gateway, host, link, port, gateway, replaced)
            for index, other in replaced:
                delete_address(host, index, other)
            if add_address(host, link.index, gateway, dad=False):
                _keep_mac(host, link)
    with step("enable forwarding"):
        for family in sorted({family_of(gateway) for gateway in gateways}):
            enable_forwarding(host, family)


def reread(host: Netlink, conf: PodConf, bridge: Link) -> Link:
    """The bridge as it is now, with the pod's port. Raises BridgeGone, NetlinkError.

    `bridge`: as it was before. If it carries a gateway, it keeps the MAC that other pods have cached.
    """
    now = find_link_by_index(host, bridge.index)
    if now is None:
        raise BridgeGone(bridge.name)
    if conf.is_gateway and not conf.vlan and now.mac != bridge.mac and _has_mac(bridge):
        _keep_mac(host, bridge)
        return replace(now, mac=bridge.mac)
    return now


def _has_mac(link: Link) -> bool:
    """False for a bridge that has lost its last port."""
    return bool(link.mac.strip("0:"))


def _keep_mac(host: Netlink, link: Link) -> None:
    """Set the link's MAC to the one it had: a bridge with an explicit MAC keeps it whatever ports it has."""
    known = link if _has_mac(link) else find_link_by_index(host, link.index)
    if known:
        set_mac(host, link.index, known.mac)


def enable_forwarding(host: Netlink, family: int) -> None:
    """Enable forwarding, and keep the IPv6 default route that the node has from router advertisements.

    Raises CNIError, OSError.
    """
    if sysctls.read(FORWARDING[family]) == "1":
        return
    if family == AF_INET6:
        from linux.router_advertisements import keep_while_forwarding

        with step("accept router advertisements while forwarding"):
            keep_while_forwarding(host)
    sysctls.write(FORWARDING[family], "1")


def ignore_advertisements(host: Netlink, link: Link) -> None:
    """Have a link that leads to pods ignore router advertisements."""
    if sysctls.read_if_there(f"ipv6/conf/{link.name}/accept_ra") not in ("", "0"):
        from linux.router_advertisements import refuse

        refuse(host, link)


def _conflicts(host: Netlink, conf: PodConf, link: Link, gateway: str, others: set[str]) -> list[tuple[int, str]]:
    """(link index, CIDR) of each address that the gateway has to replace.

    Raises CNIError 7 if there is one and `conf` does not allow replacing it.
    """
    same_link = [] if conf.keep_addresses else [other for other in sorted(others) if _conflict(other, gateway)]
    found = [(link, other) for other in same_link] + _of_other_vlans(host, conf, link, gateway)
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
            f'"vlan": {gateway} cannot be on "{link.name}", because "{where.name}" has {other}',
            "a subnet can only be routed through one link, and pods may use the other one: give this network another "
            f'subnet or "bridge", delete the address from "{where.name}" when its pods are gone, or set "forceAddress"',
        )
    return [(where.index, other) for where, other in found]


def _of_other_vlans(host: Netlink, conf: PodConf, link: Link, gateway: str) -> list[tuple[Link, str]]:
    """Addresses in the gateway's subnet on the VLAN links of the same bridge, and on the bridge if `link` is a VLAN's.

    Not those with a shorter prefix: the kernel prefers the longer one.
    """
    found, subnet = [], parse_cidr(gateway)
    for address in list_addresses(host):
        is_inside = subnet.contains(parse_cidr(address.cidr))
        if address.link != link.index and address.is_global and is_inside:
            other = find_link_by_index(host, address.link)
            name, _, vlan = other.name.rpartition(".") if other else ("", "", "")
            is_beside = other and (other.name == conf.bridge or (name == conf.bridge and vlan.isdecimal()))
            if is_beside and other.master == link.master:  # not if each is in its own VRF
                found.append((other, address.cidr))
    return found


def _conflict(other: str, wanted: str) -> bool:
    """Two IPv4 addresses always conflict on a bridge; IPv6 ones if their subnets overlap."""
    if family_of(other) != family_of(wanted):
        return False
    if family_of(wanted) == AF_INET:
        return True
    return parse_cidr(other).overlaps(parse_cidr(wanted))


def _remove_gateway(host: Netlink, link: Link, port: Link, gateway: str, replaced: Sequence[tuple[int, str]]) -> None:
    """Remove a gateway address and restore those it replaced, unless other pods rely on it."""
    bridge = find_link_by_index(host, port.master)

    def restore() -> None:
        delete_address(host, link.index, gateway)
        for index, other in replaced:
            add_address(host, index, other, dad=False)

    if bridge:
        unless_used(host, bridge, restore, but=port.index)


def unless_used(host: Netlink, bridge: Link, undo: Callable[[], object], *, but: int = 0) -> None:
    """Run an undo step, unless the bridge has ports of pods other than `but` (an index): they may rely on it."""
    with undoing():
        if not any(is_owner_tag(port.alias) and port.index != but for port in list_ports(host, bridge.index)):
            undo()

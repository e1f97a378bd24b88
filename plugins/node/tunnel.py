"""The node's VTEP: its configuration, and how it is completed from the node's links, addresses and routes."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from socket import AF_INET, AF_INET6

from linux.errors import step
from linux.netlink.socket import Netlink
from linux.rtnl.addresses import InterfaceAddress, list_addresses
from linux.rtnl.links import Link, find_link, find_link_by_index
from linux.rtnl.routes import FAR, list_routes, look_up
from linux.rtnl.uapi import RT_TABLE_MAIN
from linux.rtnl.vxlan import OWNER, Vtep, overhead, sends_from, vtep_mac
from plugins.mac import mac_in
from plugins.node.conf import NodeConf
from plugins.node.gateways import gateways_on
from spec.addresses import canonical_ip, is_ipv6
from spec.config import Section
from spec.errors import CNIError, Code
from spec.links import link_name, require_suitable_mtu
from spec.request import Request

_DEFAULT_VNI, _DEFAULT_PORT = 1, 4789  # RFC 7348, section 8
_KEEP = "keep"
_MAX_VNI, _LONGEST_NAMED = (1 << 24) - 1, 9_999_999


@dataclass(frozen=True)
class TunnelConf:
    """The keys that only `vxlan` has. `parent`, `local` and `mac` are "" if they have to be determined.

    `keeps_mac`: a device that is there already keeps its MAC.
    `notrack` None: unless the node's firewall may match on connection states.
    """

    device: str
    vni: int
    port: int
    parent: str
    local: str
    mac: str
    keeps_mac: bool
    direct_routing: bool
    tx_checksum: bool
    notrack: bool | None


def parse(request: Request) -> TunnelConf:
    """As `parse_section`, of a call's configuration."""
    return parse_section(request.conf.section)


def parse_section(section: Section) -> TunnelConf:
    """Read the keys. Raises CNIError 7."""
    vni = section.integer("vni", _DEFAULT_VNI, low=0, high=_MAX_VNI)
    section.boolean("removeDevice")
    keeps_mac = section.string("vtepMAC") == _KEEP
    return TunnelConf(
        # With the largest VNIs the name would be longer than 15 bytes.
        device=link_name(section, "device", f"slash24.{vni}" if vni <= _LONGEST_NAMED else f"sl24.{vni}"),
        vni=vni,
        port=section.integer("port", _DEFAULT_PORT, low=1, high=65535),
        parent=link_name(section, "parent", "") if section.string("parent") else "",
        local=_address(section, "localAddress"),
        mac="" if keeps_mac else mac_in(section, "vtepMAC"),
        keeps_mac=keeps_mac,
        direct_routing=section.boolean("directRouting"),
        tx_checksum=section.boolean("txChecksum", default=True),
        notrack=section.boolean("notrack", None),
    )


def _address(section: Section, key: str) -> str:
    text = section.string(key)
    try:
        return canonical_ip(text) if text else ""
    except ValueError as error:
        raise section.error(key, "an address of this node") from error


def plan(host: Netlink, node: NodeConf, conf: TunnelConf) -> Vtep:
    """The VTEP for this node, with parent, local address and MTU determined. Raises CNIError 11 or 7."""
    with step("find the parent link of the tunnel"):
        parent, local = _find_parent(host, conf)
    largest = parent.mtu - overhead(local)
    require_suitable_mtu(largest, node.subnets, of=f'MTU that the tunnel leaves of the {parent.mtu} of "{parent.name}"')
    return Vtep(
        name=conf.device,
        vni=conf.vni,
        port=conf.port,
        parent=parent.index,
        local=local,
        mac=conf.mac or _kept_mac(host, conf) or vtep_mac(node.subnets),
        mtu=min(node.mtu or largest, largest),
        tx_checksum=conf.tx_checksum,
    )


def _kept_mac(host: Netlink, conf: TunnelConf) -> str:
    """The MAC of the device, "" if there is none."""
    link = find_link(host, conf.device) if conf.keeps_mac else None
    return link.mac if link and link.kind == "vxlan" else ""


def with_lasting_mac(host: Netlink, node: NodeConf, conf: TunnelConf, known: str = "") -> TunnelConf:
    """For the daemon: while the bridge has the gateways of earlier subnets, the VTEP keeps its MAC.

    The other nodes know it, and pods of those subnets are reached by it. `known`: that MAC, "" for the device's.
    Without the daemon the other nodes compute the MAC from this node's first subnet. Raises OSError.
    """
    bridge, device = find_link(host, node.bridge), find_link(host, conf.device)
    is_renumbered = any(gateway not in node.gateways for gateway in gateways_on(host, bridge))
    if conf.mac or not is_renumbered or not device or device.alias != OWNER:
        return conf
    return replace(conf, mac=known or device.mac)


def addresses_of(node: NodeConf) -> list[str]:
    """The addresses of the VTEP: the network address of each of the node's subnets, as in flannel."""
    networks = [subnet.partition("/")[0] for subnet in node.subnets]
    return [f"{network}/{128 if is_ipv6(network) else 32}" for network in networks]


def _find_parent(host: Netlink, conf: TunnelConf) -> tuple[Link, str]:
    """The parent link and the local address, as configured or of the default route. Raises CNIError 11."""
    addresses = [one for one in list_addresses(host) if one.is_global]
    if conf.local:
        index = next((one.link for one in addresses if one.ip == conf.local), 0)
        if not index:
            raise _undetermined("localAddress", f"no link of this node has the address {conf.local}")
        return _named(host, conf.parent) if conf.parent else _indexed(host, index), conf.local
    parent = _named(host, conf.parent) if conf.parent else _default_link(host)
    return parent, _local_address(host, conf, parent, [one for one in addresses if one.link == parent.index])


def _local_address(host: Netlink, conf: TunnelConf, parent: Link, addresses: Sequence[InterfaceAddress]) -> str:
    """The local address of the tunnel if none is configured, IPv4 before IPv6.

    The device's current one while its link has it, since peers use it. Else the kernel's choice, except addresses that
    are tentative or about to be removed.
    """
    if (in_use := sends_from(host, conf.device, parent.index)) in [one.ip for one in addresses]:
        return in_use
    for version, far in FAR.items():
        lasting = [one for one in addresses if _is_lasting(one) and is_ipv6(one.cidr) == (version == 6)]
        choice = [one.ip for one in lasting if not _is_virtual(one)] or [one.ip for one in lasting]
        if choice:
            with suppress(OSError):
                if (source := look_up(host, far, link=parent.index).source) in choice:
                    return source
            return choice[0 if version == 4 else -1]  # the kernel lists the newest IPv6 address first
    states = ", ".join(f"{one.ip} is {_state(one)}" for one in addresses)
    raise _undetermined(
        "localAddress", f'link "{parent.name}" has no address{f" that lasts: {states}" if states else ""}'
    )


def _is_lasting(address: InterfaceAddress) -> bool:
    return not (address.failed or address.tentative or address.deprecated or address.temporary)


def _is_virtual(address: InterfaceAddress) -> bool:
    """Whether it is a single address and not from DHCP: usually one that moves between nodes."""
    return address.cidr.endswith("/128" if is_ipv6(address.cidr) else "/32") and not address.dynamic


def _state(address: InterfaceAddress) -> str:
    if address.failed:
        return "a duplicate"
    return next(name for name in ("tentative", "deprecated", "temporary") if getattr(address, name))


def _default_link(host: Netlink) -> Link:
    """The link of the main table's default route; without one, the link that the routing rules select."""
    for family in (AF_INET, AF_INET6):
        found = [route for route in list_routes(host, family) if route.table == RT_TABLE_MAIN]
        defaults = [route for route in found if route.dst.endswith("/0") and route.link]
        if defaults:
            return _indexed(host, min(defaults, key=lambda route: route.priority).link)
    for far in FAR.values():
        with suppress(OSError):
            return _indexed(host, look_up(host, far).link)
    raise _undetermined("parent", "this node has no default route")


def _named(host: Netlink, name: str) -> Link:
    link = find_link(host, name)
    if link is None:
        raise _undetermined("parent", f'this node has no link "{name}"')
    return link


def _indexed(host: Netlink, index: int) -> Link:
    link = find_link_by_index(host, index)
    if link is None:
        raise _undetermined("parent", f"the link with index {index} has just been deleted")
    return link


def _undetermined(key: str, why: str) -> CNIError:
    return CNIError(Code.TRY_AGAIN_LATER, f"cannot determine the tunnel's link: {why}", f'set "{key}"')

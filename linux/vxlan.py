"""The VTEP of a node: its vxlan device, as flannel would make it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import EEXIST, ENODEV
from socket import AF_INET, AF_INET6, inet_pton

from linux.links import Link
from linux.netlink import Netlink, NetlinkError

OWNER = "slash24 vtep"  # the alias of a device of ours
_KIND = "vxlan"
_TRIES = 4
_ADDR_GEN_NONE = "1"


@dataclass(frozen=True)
class Vtep:
    """The vxlan device wanted: `parent` is the index of the link it sends on, `local` the address it sends from.

    `mtu` in bytes, of the packets inside. `tx_checksum` False: checksums are computed before a packet enters the
    tunnel, for links that get them wrong; True leaves the device as it is, so that one may switch it off by hand.
    """

    name: str
    vni: int
    port: int
    parent: int
    local: str
    mac: str
    mtu: int
    tx_checksum: bool


def ensure_vtep(
    netlink: Netlink, wanted: Vtep, addresses: Sequence[str], guard: Callable[[], object] | None = None
) -> tuple[Link, bool]:
    """Make the device so, with exactly these global addresses (CIDR); the link, and whether another one made way.

    MAC, MTU, addresses and the like are corrected in place; a vxlan device with other parameters is deleted (with it go
    the routes through it) and made anew. `guard` is called in between: no device with other parameters is there any
    more, and this one is not brought up before. The calling thread is in the network namespace of the socket. Raises
    OSError (EEXIST: a link of another kind has the name, or another device the VNI and port).
    """
    from linux.links import delete_link, find_link, set_up

    replaced = False
    for _ in range(_TRIES):
        link = find_link(netlink, wanted.name)
        if link is None:
            _create(netlink, wanted)
        elif _parameters_of(netlink, link) == _parameters(wanted):
            break
        else:
            replaced = delete_link(netlink, link.index) or replaced
    else:
        raise NetlinkError(EEXIST, f"{wanted.name} is being made by somebody else, otherwise")
    _correct(netlink, wanted, link)
    if guard:
        guard()
    if not link.up:
        set_up(netlink, link.index)
    _correct_addresses(netlink, link, addresses)
    return find_link(netlink, wanted.name) or link, replaced


def differences(netlink: Netlink, wanted: Vtep, addresses: Sequence[str]) -> list[str]:
    """What is not as wanted, a sentence each; raises OSError."""
    from linux.addresses import list_addresses
    from linux.ethtool import has_tx_checksum
    from linux.links import find_link

    link = find_link(netlink, wanted.name)
    if link and link.kind != _KIND:
        return [f"{wanted.name} is no vxlan device"]
    parameters = _parameters_of(netlink, link) if link else {}
    if not parameters:
        return [f"{wanted.name} is missing"]
    found = parameters | {"mtu": link.mtu, "MAC": link.mac, "state": "up" if link.up else "down"}
    right = _parameters(wanted) | {"mtu": wanted.mtu, "MAC": wanted.mac, "state": "up"}
    problems = [f"{wanted.name} has {key} {found[key]}, not {right[key]}" for key in right if found[key] != right[key]]
    if not wanted.tx_checksum and has_tx_checksum(wanted.name):
        problems.append(f"{wanted.name} leaves checksums to the device")
    have = {address.cidr for address in list_addresses(netlink, link.index) if address.is_global}
    problems += [f"{wanted.name} lacks the address {cidr}" for cidr in addresses if cidr not in have]
    problems += [f"{wanted.name} has the address {cidr}, which is not its own" for cidr in have - set(addresses)]
    return problems


def delete_vtep(netlink: Netlink, name: str) -> bool:
    """Delete the device of that name, and with it all its entries and routes; False if there is none of ours."""
    from linux.links import delete_link, find_link

    link = find_link(netlink, name)
    if link is None or link.kind != _KIND or link.alias != OWNER:
        return False
    return delete_link(netlink, link.index)


def sends_from(netlink: Netlink, name: str, parent: int) -> str:
    """The address from which the vxlan device of that name sends, "" if there is none on that link (index)."""
    from linux.links import find_link

    link = find_link(netlink, name)
    if link is None or link.kind != _KIND:
        return ""
    parameters = _parameters_of(netlink, link)
    return str(parameters["local"] or "") if parameters.get("parent") == parent else ""


def vtep_mac(subnets: Sequence[str]) -> str:
    """The MAC of the VTEP of the node with these pod subnets (canonical CIDRs): any peer can compute it.

    02:24 and the IPv4 network address; without an IPv4 subnet 02:26 and the first four bytes of the SHA-256 of the
    IPv6 network address.
    """
    first = next((subnet for subnet in subnets if ":" not in subnet), subnets[0])
    network = first.partition("/")[0]
    if ":" not in network:
        return (b"\x02\x24" + inet_pton(AF_INET, network)).hex(":")
    from hashlib import sha256

    return (b"\x02\x26" + sha256(inet_pton(AF_INET6, network)).digest()[:4]).hex(":")


def overhead(local: str) -> int:
    """The bytes that the tunnel adds to a packet when it sends from that address: 50 over IPv4, 70 over IPv6."""
    return 70 if ":" in local else 50


def _parameters(wanted: Vtep) -> dict[str, object]:
    """What a device is made with and can not be changed afterwards."""
    fixed = {"learning": 0, "group": None, "external": 0, "gbp": False, "gpe": False}
    return {"VNI": wanted.vni, "parent": wanted.parent, "local": wanted.local, "port": wanted.port, **fixed}


def _parameters_of(netlink: Netlink, link: Link) -> dict[str, object]:
    """The same of the device that is there; nothing if it is gone again. Raises NetlinkError (EEXIST: other kind)."""
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    from linux.links import RTM_GETLINK

    if link.kind != _KIND:
        raise NetlinkError(EEXIST, f"{link.name} is there already, and no vxlan device but {link.kind or 'a real one'}")
    request = ifinfmsg()
    request.update(family=0, index=link.index, attrs=[])
    try:
        data = netlink.get(request, RTM_GETLINK, ifinfmsg).get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    except NetlinkError as error:
        if error.errno != ENODEV:
            raise
        return {}
    return {
        "VNI": data.get_attr("IFLA_VXLAN_ID"),
        "parent": data.get_attr("IFLA_VXLAN_LINK"),
        "local": data.get_attr("IFLA_VXLAN_LOCAL") or data.get_attr("IFLA_VXLAN_LOCAL6"),
        "port": data.get_attr("IFLA_VXLAN_PORT"),
        "learning": data.get_attr("IFLA_VXLAN_LEARNING"),
        "group": data.get_attr("IFLA_VXLAN_GROUP") or data.get_attr("IFLA_VXLAN_GROUP6"),
        "external": data.get_attr("IFLA_VXLAN_COLLECT_METADATA") or 0,
        "gbp": data.get_attr("IFLA_VXLAN_GBP") is not None,
        "gpe": data.get_attr("IFLA_VXLAN_GPE") is not None,
    }


def _create(netlink: Netlink, wanted: Vtep) -> None:
    """Make the device with a MAC of its own, so that udev's MACAddressPolicy leaves it alone; down.

    It is no error if a link of that name has come into being meanwhile.
    """
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    from linux.links import RTM_NEWLINK, find_link
    from linux.netlink import NLM_F_CREATE, NLM_F_EXCL

    data = [
        ("IFLA_VXLAN_ID", wanted.vni),
        ("IFLA_VXLAN_LINK", wanted.parent),
        ("IFLA_VXLAN_LOCAL6" if ":" in wanted.local else "IFLA_VXLAN_LOCAL", wanted.local),
        ("IFLA_VXLAN_PORT", wanted.port),
        ("IFLA_VXLAN_LEARNING", 0),
    ]
    info = [("IFLA_INFO_KIND", _KIND), ("IFLA_INFO_DATA", {"attrs": data})]
    names = [("IFLA_IFNAME", wanted.name), ("IFLA_ADDRESS", wanted.mac)]
    message = ifinfmsg()
    message.update(family=0, index=0, flags=0, change=0, attrs=[*names, ("IFLA_LINKINFO", {"attrs": info})])
    try:
        netlink.change(message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
    except NetlinkError as error:
        if error.errno != EEXIST or not find_link(netlink, wanted.name):
            raise


def _correct(netlink: Netlink, wanted: Vtep, link: Link) -> None:
    """What can be changed in place, before the device is up and a router's announcement can change it."""
    from linux import sysctls
    from linux.ethtool import has_tx_checksum, set_tx_checksum
    from linux.links import set_mac, set_mtu

    # A kernel without IPv6 has neither, and a read-only /proc/sys keeps what it has. Nothing needs a link-local
    # address: the peers are permanent neighbours.
    for key, value in (("accept_ra", "0"), ("addr_gen_mode", _ADDR_GEN_NONE)):
        sysctls.try_write(f"ipv6/conf/{wanted.name}/{key}", value)
    if link.alias != OWNER:
        _set_alias(netlink, link)
    if link.mac != wanted.mac:
        set_mac(netlink, link.index, wanted.mac)
    if link.mtu != wanted.mtu:
        set_mtu(netlink, link.index, wanted.mtu)
    if not wanted.tx_checksum and has_tx_checksum(wanted.name):
        set_tx_checksum(wanted.name, on=False)


def _set_alias(netlink: Netlink, link: Link) -> None:
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    from linux.links import RTM_SETLINK

    message = ifinfmsg()
    message.update(family=0, index=link.index, flags=0, change=0, attrs=[("IFLA_IFALIAS", OWNER)])
    netlink.change(message, RTM_SETLINK)


def _correct_addresses(netlink: Netlink, link: Link, addresses: Sequence[str]) -> None:
    from linux.addresses import add_address, delete_address, list_addresses

    have = {address.cidr for address in list_addresses(netlink, link.index) if address.is_global}
    for cidr in addresses:
        if cidr not in have:
            add_address(netlink, link.index, cidr, dad=False)
    for cidr in have.difference(addresses):
        delete_address(netlink, link.index, cidr)

"""The VTEP of a node: its vxlan device, configured as flannel configures it.

Pyroute2 encodes and decodes the device: it has many parameters, and is handled once a call.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import EADDRINUSE, EEXIST

from linux.netlink.attributes import MESSAGE_HEADER
from linux.netlink.socket import Netlink, NetlinkError
from linux.rtnl.links import Link, get_message
from linux.rtnl.uapi import RTM_NEWLINK
from spec.addresses import pack

OWNER = "slash24 vtep"  # the alias of our devices
_KIND = "vxlan"
_TRIES = 4
_ADDR_GEN_NONE = "1"
_RECEIVE_FLAGS = ("IFLA_VXLAN_COLLECT_METADATA", "IFLA_VXLAN_UDP_ZERO_CSUM6_RX", "IFLA_VXLAN_REMCSUM_RX")  # absent: 0
_PRESENCE_FLAGS = ("IFLA_VXLAN_GBP", "IFLA_VXLAN_GPE", "IFLA_VXLAN_REMCSUM_NOPARTIAL")  # on if present


@dataclass(frozen=True)
class Vtep:
    """The wanted vxlan device: `parent` is the index of the underlay link, `local` its source address.

    `mtu`: bytes of an inner packet. `tx_checksum` False: checksums are computed before a packet enters the tunnel, for
    links whose offload is broken; True leaves the device as it is, so that it can be disabled by hand.
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
    """Make the device as wanted, with exactly these global addresses (CIDR).

    Returns the link, and whether a device was deleted for it. MAC, MTU, addresses and the like are corrected in place.
    A vxlan device with other parameters is deleted, with the routes through it, and created again. A device of ours
    that has these addresses under another name is deleted too: it is of an earlier configuration, and no filter
    protects it any more. `guard` is called after the deletions and before the device is brought up. The calling thread
    must be in the network namespace of the socket. Raises OSError (EEXIST: a link of another kind has the name, or
    another device the VNI and port; EADDRINUSE: the port is taken); a device created here is deleted again then.
    """
    from linux.rtnl.links import delete_link, find_link

    replaced, made = _delete_earlier(netlink, wanted, addresses), False
    for _ in range(_TRIES):
        link = find_link(netlink, wanted.name)
        if link is None:
            made = _create(netlink, wanted) or made
        elif _parameters_of(netlink, link) == _parameters(wanted):
            break
        elif rival := find_rival(netlink, wanted):
            raise rival
        else:
            replaced = delete_link(netlink, link.index) or replaced
    else:
        raise NetlinkError(EEXIST, f"another program keeps creating {wanted.name} with other parameters")
    try:
        _correct(netlink, wanted, link)
        if guard:
            guard()
        if not link.up:
            _bring_up(netlink, wanted, link)
        _correct_addresses(netlink, link, addresses)
    except BaseException:
        if made:
            delete_link(netlink, link.index)
        raise
    return find_link(netlink, wanted.name) or link, replaced


def _delete_earlier(netlink: Netlink, wanted: Vtep, addresses: Sequence[str]) -> bool:
    from linux.rtnl.addresses import list_addresses
    from linux.rtnl.links import delete_link, find_link_by_index

    held = {address.link for address in list_addresses(netlink) if address.cidr in addresses}
    links = [link for index in held if (link := find_link_by_index(netlink, index))]
    earlier = [link for link in links if link.name != wanted.name and (link.kind, link.alias) == (_KIND, OWNER)]
    for link in earlier:
        delete_link(netlink, link.index)
    return bool(earlier)


def find_rival(netlink: Netlink, wanted: Vtep) -> NetlinkError | None:
    """The error if another vxlan device keeps this one from being created (EEXIST) or brought up (EADDRINUSE).

    The kernel allows one device for each VNI, port and IP version. Devices with the same port share one socket, with
    the flags of the first.
    """
    from linux.rtnl.links import list_links

    for link in list_links(netlink, containing=_KIND.encode()):
        if link.kind != _KIND or link.name == wanted.name:
            continue
        data = _data_of(netlink, link)
        if data is None or data.get_attr("IFLA_VXLAN_PORT") != wanted.port:
            continue
        is_plain = not any(map(data.get_attr, _RECEIVE_FLAGS))
        is_plain = is_plain and all(data.get_attr(flag) is None for flag in _PRESENCE_FLAGS)
        is_of_version = bool(data.get_attr("IFLA_VXLAN_LOCAL6")) == (":" in wanted.local)
        if is_plain and is_of_version and data.get_attr("IFLA_VXLAN_ID") == wanted.vni:
            return NetlinkError(EEXIST, f'VNI {wanted.vni} on UDP port {wanted.port} is taken by "{link.name}"')
        if link.up and not is_plain:
            return NetlinkError(
                EADDRINUSE, f'UDP port {wanted.port} is taken by "{link.name}", which has other receive flags'
            )
    return None


def differences(netlink: Netlink, wanted: Vtep, addresses: Sequence[str]) -> list[str]:
    """A sentence for each difference from what is wanted; raises OSError."""
    from linux.ethtool import has_tx_checksum
    from linux.rtnl.addresses import list_addresses
    from linux.rtnl.links import find_link

    link = find_link(netlink, wanted.name)
    if link and link.kind != _KIND:
        return [f"{wanted.name} is not a vxlan device"]
    parameters = _parameters_of(netlink, link) if link else {}
    if not parameters:
        return [f"{wanted.name} is missing"]
    actual = parameters | {"mtu": link.mtu, "MAC": link.mac, "state": "up" if link.up else "down"}
    expected = _parameters(wanted) | {"mtu": wanted.mtu, "MAC": wanted.mac, "state": "up"}
    problems = [
        f"{wanted.name} has {key} {actual[key]}, not {expected[key]}"
        for key in expected
        if actual[key] != expected[key]
    ]
    if not wanted.tx_checksum and has_tx_checksum(wanted.name):
        problems.append(f"{wanted.name} has tx-checksumming enabled")
    have = {address.cidr for address in list_addresses(netlink, link.index) if address.is_global}
    problems += [f"{wanted.name} lacks the address {cidr}" for cidr in addresses if cidr not in have]
    problems += [f"{wanted.name} has the address {cidr}, which is not its own" for cidr in have - set(addresses)]
    return problems


def delete_vtep(netlink: Netlink, name: str) -> bool:
    """Delete our device of that name, with all its entries and routes; False if there is none."""
    from linux.rtnl.links import delete_link, find_link

    link = find_link(netlink, name)
    if link is None or link.kind != _KIND or link.alias != OWNER:
        return False
    return delete_link(netlink, link.index)


def sends_from(netlink: Netlink, name: str, parent: int) -> str:
    """The source address of the vxlan device of that name, "" if it does not exist on the link `parent` (index)."""
    from linux.rtnl.links import find_link

    link = find_link(netlink, name)
    if link is None or link.kind != _KIND:
        return ""
    parameters = _parameters_of(netlink, link)
    return str(parameters["local"] or "") if parameters.get("parent") == parent else ""


def vtep_mac(subnets: Sequence[str]) -> str:
    """The MAC of the VTEP of a node with these pod subnets (canonical CIDRs), which every peer can compute.

    02:24 and the IPv4 network address; without an IPv4 subnet 02:26 and the first four bytes of the SHA-256 of the
    IPv6 network address.
    """
    first = next((subnet for subnet in subnets if ":" not in subnet), subnets[0])
    network = first.partition("/")[0]
    if ":" not in network:
        return (b"\x02\x24" + pack(network)).hex(":")
    from hashlib import sha256

    return (b"\x02\x26" + sha256(pack(network)).digest()[:4]).hex(":")


def overhead(local: str) -> int:
    """The bytes that the tunnel adds to a packet if it sends from that address: 50 over IPv4, 70 over IPv6."""
    return 70 if ":" in local else 50


def _parameters(wanted: Vtep) -> dict[str, object]:
    """The parameters that can only be set when a device is created."""
    fixed = {"learning": 0, "group": None, "external": 0, "gbp": False, "gpe": False}
    return {"VNI": wanted.vni, "parent": wanted.parent, "local": wanted.local, "port": wanted.port, **fixed}


def _parameters_of(netlink: Netlink, link: Link) -> dict[str, object]:
    """The same of an existing device; empty if it no longer exists. Raises NetlinkError (EEXIST: another kind)."""
    if link.kind != _KIND:
        kind = link.kind or "hardware"
        raise NetlinkError(EEXIST, f'link "{link.name}" is of kind {kind}, not vxlan; set another "device"')
    data = _data_of(netlink, link)
    if data is None:
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


def _data_of(netlink: Netlink, link: Link) -> "nlmsg_base | None":  # noqa: F821
    """The parameters of a vxlan device as pyroute2 decodes them; None if it no longer exists."""
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    found = get_message(netlink, link.index)
    if found is None:
        return None
    message = ifinfmsg(found)
    message.decode()
    return message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")


def _create(netlink: Netlink, wanted: Vtep) -> bool:
    """Create the device, down, with an explicit MAC, which udev's MACAddressPolicy does not change.

    False if another program has created a link of that name meanwhile.
    """
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    from linux.netlink.socket import NLM_F_CREATE, NLM_F_EXCL
    from linux.rtnl.links import find_link

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
    message.encode()
    try:
        netlink.change(bytes(message.data[MESSAGE_HEADER.size :]), RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
    except NetlinkError as error:
        if error.errno == EEXIST and find_link(netlink, wanted.name):
            return False
        raise (find_rival(netlink, wanted) or error) from error
    return True


def _bring_up(netlink: Netlink, wanted: Vtep, link: Link) -> None:
    """Bring the device up; only now does the kernel open the UDP port."""
    from linux.rtnl.links import set_up

    try:
        set_up(netlink, link.index)
    except NetlinkError as error:
        if error.errno != EADDRINUSE:
            raise
        by = f"UDP port {wanted.port} is taken by another program on this node; find it with ss -lunp"
        raise (find_rival(netlink, wanted) or NetlinkError(EADDRINUSE, by)) from error


def _correct(netlink: Netlink, wanted: Vtep, link: Link) -> None:
    """Correct what can be changed in place, before the device is up and accepts router advertisements."""
    from linux import sysctls
    from linux.ethtool import has_tx_checksum, set_tx_checksum
    from linux.rtnl.links import set_alias, set_mac, set_mtu

    # A kernel without IPv6 has neither sysctl, and /proc/sys may be read-only. No link-local address is needed, because
    # the peers are permanent neighbours.
    for key, value in (("accept_ra", "0"), ("addr_gen_mode", _ADDR_GEN_NONE)):
        if sysctls.read_if_there(f"ipv6/conf/{wanted.name}/{key}") not in ("", value):
            sysctls.try_write(f"ipv6/conf/{wanted.name}/{key}", value)
    if link.alias != OWNER:
        set_alias(netlink, link.index, OWNER)
    if link.mac != wanted.mac:
        set_mac(netlink, link.index, wanted.mac)
    if link.mtu != wanted.mtu:
        set_mtu(netlink, link.index, wanted.mtu)
    if not wanted.tx_checksum and has_tx_checksum(wanted.name):
        set_tx_checksum(wanted.name, on=False)


def _correct_addresses(netlink: Netlink, link: Link, addresses: Sequence[str]) -> None:
    from linux.rtnl.addresses import add_address, delete_address, list_addresses

    have = {address.cidr for address in list_addresses(netlink, link.index) if address.is_global}
    for cidr in addresses:
        if cidr not in have:
            add_address(netlink, link.index, cidr, dad=False)
    for cidr in have.difference(addresses):
        delete_address(netlink, link.index, cidr)

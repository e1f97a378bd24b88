"""Links by rtnetlink: bridges, veth pairs, bridge ports and their VLANs."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from errno import EEXIST, ENODEV
from socket import AF_BRIDGE
from struct import Struct

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from linux.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, Netlink, NetlinkError

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
IFF_UP, IFF_PROMISC, IFF_ALLMULTI = 0x1, 0x100, 0x200
OPERSTATE_UP = "UP"
_NLA_F_NESTED = 0x8000  # without it the kernel takes IFLA_PROTINFO for the old form, one byte
_RTEXT_FILTER_BRVLAN = 2
_IFLA_GROUP, _GROUP_ATTRIBUTE = 27, Struct("=HHI")
_VLAN_MASTER, _VLAN_PVID, _VLAN_UNTAGGED, _VLAN_RANGE_BEGIN, _VLAN_RANGE_END = 0x1, 0x2, 0x4, 0x8, 0x10


@dataclass(frozen=True)
class Link:
    """A link as the kernel shows it.

    `peer`: for a veth, the index of its other end, which lives in another namespace if `peer_is_elsewhere`.
    `master`: the index of the bridge it is a port of, or 0. `operstate`: "UP", "DOWN", "LOWERLAYERDOWN", ...
    """

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    flags: int
    operstate: str
    alias: str
    master: int
    peer: int
    peer_is_elsewhere: bool
    vlan_filtering: bool
    hairpin: bool
    isolated: bool
    queue_length: int

    @property
    def up(self) -> bool:
        """Whether the link is administratively up."""
        return bool(self.flags & IFF_UP)

    @property
    def promiscuous(self) -> bool:
        """Whether promiscuous mode was asked for (IFF_PROMISC)."""
        return bool(self.flags & IFF_PROMISC)

    @property
    def all_multicast(self) -> bool:
        """Whether all multicast was asked for (IFF_ALLMULTI)."""
        return bool(self.flags & IFF_ALLMULTI)


def find_link(netlink: Netlink, name: str) -> Link | None:
    """The link of that name, or None."""
    return _find(netlink, _message(attrs=[("IFLA_IFNAME", name)])) if len(name.encode()) < 16 else None


def find_link_by_index(netlink: Netlink, index: int) -> Link | None:
    """The link of that index, or None."""
    return _find(netlink, _message(index=index))


def list_links(netlink: Netlink, *, containing: bytes = b"") -> list[Link]:
    """All links; with `containing`, only those in whose message these bytes stand (an alias, say), which is quicker."""
    return [_link(found) for found in netlink.dump(_message(), RTM_GETLINK, ifinfmsg, containing=containing)]


def list_group(netlink: Netlink, group: int) -> list[Link]:
    """The links of a link group."""
    return list_links(netlink, containing=_GROUP_ATTRIBUTE.pack(8, _IFLA_GROUP, group))


def list_ports(netlink: Netlink, bridge: int) -> list[Link]:
    """The ports of the bridge with that index."""
    return [_link(found) for found in netlink.dump(_message(attrs=[("IFLA_MASTER", bridge)]), RTM_GETLINK, ifinfmsg)]


def create_bridge(netlink: Netlink, name: str, *, mtu: int) -> bool:
    """Make a bridge with a MAC of its own; False if a link of that name is there already.

    A bridge that is given a MAC keeps it; one that is not takes the lowest of its ports', which changes as pods come
    and go. `mtu` 0 leaves it to the kernel.
    """
    info = {"attrs": [("IFLA_INFO_KIND", "bridge")]}
    attrs = [("IFLA_IFNAME", name), ("IFLA_ADDRESS", random_mac()), ("IFLA_LINKINFO", info)]
    if mtu:
        attrs.append(("IFLA_MTU", mtu))
    try:
        netlink.change(_message(attrs=attrs), RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
    except NetlinkError as error:
        if error.errno != EEXIST:
            raise
        return False
    return True


def create_veth(  # noqa: PLR0913  (each end has its part)
    netlink: Netlink, name: str, peer_name: str, *, peer_netns: int | None, peer_mac: str, mtu: int, group: int = 0
) -> None:
    """Make a veth pair: `name` here, in that link group; `peer_name` in the namespace `peer_netns` (None: here too).

    Both ends get MACs of their own, so that udev's MACAddressPolicy leaves them alone. Raises NetlinkError (EEXIST if
    either name is taken).
    """
    peer = [("IFLA_IFNAME", peer_name), ("IFLA_ADDRESS", peer_mac)]
    here = [("IFLA_IFNAME", name), ("IFLA_ADDRESS", random_mac()), ("IFLA_GROUP", group)]
    if peer_netns is not None:
        peer.append(("IFLA_NET_NS_FD", peer_netns))
    if mtu:
        peer.append(("IFLA_MTU", mtu))
        here.append(("IFLA_MTU", mtu))
    info = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", {"attrs": peer})]})]
    message = _message(attrs=[*here, ("IFLA_LINKINFO", {"attrs": info})])
    netlink.change(message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)


def delete_link(netlink: Netlink, index: int) -> bool:
    """Delete a link; False if it was gone."""
    try:
        netlink.change(_message(index=index), RTM_DELLINK)
    except NetlinkError as error:
        if error.errno != ENODEV:
            raise
        return False
    return True


def set_up(netlink: Netlink, index: int) -> None:
    """Bring a link up."""
    netlink.change(_message(index=index, flags=IFF_UP, change=IFF_UP), RTM_SETLINK)


def set_down(netlink: Netlink, index: int) -> None:
    """Take a link down."""
    netlink.change(_message(index=index, change=IFF_UP), RTM_SETLINK)


def set_promiscuous(netlink: Netlink, index: int, *, on: bool) -> None:
    """Switch promiscuous mode (IFF_PROMISC)."""
    netlink.change(_message(index=index, flags=IFF_PROMISC if on else 0, change=IFF_PROMISC), RTM_SETLINK)


def set_all_multicast(netlink: Netlink, index: int, *, on: bool) -> None:
    """Switch the reception of all multicast (IFF_ALLMULTI)."""
    netlink.change(_message(index=index, flags=IFF_ALLMULTI if on else 0, change=IFF_ALLMULTI), RTM_SETLINK)


def set_mtu(netlink: Netlink, index: int, mtu: int) -> None:
    """Set the MTU of a link, in bytes."""
    netlink.change(_message(index=index, attrs=[("IFLA_MTU", mtu)]), RTM_SETLINK)


def set_queue_length(netlink: Netlink, index: int, packets: int) -> None:
    """Set the length of a link's transmit queue, in packets."""
    netlink.change(_message(index=index, attrs=[("IFLA_TXQLEN", packets)]), RTM_SETLINK)


def set_mac(netlink: Netlink, index: int, mac: str) -> None:
    """Give a link a MAC; a bridge that is given its own keeps it from then on."""
    netlink.change(_message(index=index, attrs=[("IFLA_ADDRESS", mac)]), RTM_SETLINK)


def set_vlan_filtering(netlink: Netlink, bridge: int, *, on: bool) -> None:
    """Switch VLAN filtering of a bridge; raises NetlinkError (EOPNOTSUPP: a kernel without it)."""
    data = {"attrs": [("IFLA_BR_VLAN_FILTERING", int(on))]}
    info = {"attrs": [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", data)]}
    netlink.change(_message(index=bridge, attrs=[("IFLA_LINKINFO", info)]), RTM_NEWLINK)


def attach_port(netlink: Netlink, index: int, bridge: int, *, alias: str, hairpin: bool, isolated: bool) -> None:
    """Make a link a port of a bridge, name its owner in its alias and bring it up, in one exchange with the kernel."""
    join = _message(index=index, attrs=[("IFLA_MASTER", bridge), ("IFLA_IFALIAS", alias)])
    settings = {"attrs": [("IFLA_BRPORT_MODE", int(hairpin)), ("IFLA_BRPORT_ISOLATED", int(isolated))]}
    port = _message(family=AF_BRIDGE, index=index, attrs=[("IFLA_PROTINFO", settings, _NLA_F_NESTED)])
    up = _message(index=index, flags=IFF_UP, change=IFF_UP)
    flags = NLM_F_REQUEST | NLM_F_ACK
    netlink.send([netlink.encode(message, RTM_SETLINK, flags) for message in (join, port, up)], acks=3)


def list_vlans(netlink: Netlink) -> dict[int, dict[int, int]]:
    """For each bridge port by index: its VLANs, id to flags (BRIDGE_VLAN_INFO_*)."""
    request = _message(family=AF_BRIDGE, attrs=[("IFLA_EXT_MASK", _RTEXT_FILTER_BRVLAN)])
    ports: dict[int, dict[int, int]] = {}
    for found in netlink.dump(request, RTM_GETLINK, ifinfmsg):
        spec = found.get_attr("IFLA_AF_SPEC")
        entries = spec.get_attrs("IFLA_BRIDGE_VLAN_INFO") if spec else []
        ports[found["index"]] = {entry["vid"]: entry["flags"] for entry in entries}
    return ports


def add_vlan(netlink: Netlink, port: int, vlan: int, *, native: bool) -> None:
    """Let a VLAN through a bridge port: tagged, or `native` (the port's PVID, untagged on egress)."""
    _change_vlan(netlink, port, vlan, RTM_SETLINK, _VLAN_PVID | _VLAN_UNTAGGED if native else 0)


def delete_vlan(netlink: Netlink, port: int, vlan: int) -> None:
    """Take a VLAN from a bridge port."""
    _change_vlan(netlink, port, vlan, RTM_DELLINK, 0)


def random_mac() -> str:
    """A random unicast MAC of the locally administered kind (IEEE 802, section 8.2)."""
    raw = bytearray(os.urandom(6))
    raw[0] = raw[0] & 0xFC | 0x02
    return raw.hex(":")


def _change_vlan(netlink: Netlink, port: int, vlan: int, kind: int, flags: int) -> None:
    entry = ("IFLA_BRIDGE_VLAN_INFO", {"flags": flags, "vid": vlan})
    spec = {"attrs": [("IFLA_BRIDGE_VLAN_FLAGS", _VLAN_MASTER), entry]}
    netlink.change(_message(family=AF_BRIDGE, index=port, attrs=[("IFLA_AF_SPEC", spec)]), kind)


def _message(*, family: int = 0, index: int = 0, flags: int = 0, change: int = 0, attrs: Iterable = ()) -> ifinfmsg:
    message = ifinfmsg()
    message.update(family=family, index=index, flags=flags, change=change, attrs=list(attrs))
    return message


def _find(netlink: Netlink, request: ifinfmsg) -> Link | None:
    try:
        return _link(netlink.get(request, RTM_GETLINK, ifinfmsg))
    except NetlinkError as error:
        if error.errno != ENODEV:
            raise
        return None


def _link(found: ifinfmsg) -> Link:
    info = found.get_attr("IFLA_LINKINFO")
    data = info and info.get_attr("IFLA_INFO_DATA")
    port = info.get_attr("IFLA_INFO_SLAVE_DATA") if info and info.get_attr("IFLA_INFO_SLAVE_KIND") == "bridge" else None
    kind = (info and info.get_attr("IFLA_INFO_KIND")) or ""
    return Link(
        index=found["index"],
        name=found.get_attr("IFLA_IFNAME"),
        kind=kind,
        mac=found.get_attr("IFLA_ADDRESS") or "",
        mtu=found.get_attr("IFLA_MTU") or 0,
        flags=found["flags"],
        operstate=found.get_attr("IFLA_OPERSTATE") or "",
        alias=found.get_attr("IFLA_IFALIAS") or "",
        master=found.get_attr("IFLA_MASTER") or 0,
        peer=found.get_attr("IFLA_LINK") or 0,
        peer_is_elsewhere=found.get_attr("IFLA_LINK_NETNSID") is not None,
        vlan_filtering=kind == "bridge" and bool(data and data.get_attr("IFLA_BR_VLAN_FILTERING")),
        hairpin=bool(port and port.get_attr("IFLA_BRPORT_MODE")),
        isolated=bool(port and port.get_attr("IFLA_BRPORT_ISOLATED")),
        queue_length=found.get_attr("IFLA_TXQLEN") or 0,
    )

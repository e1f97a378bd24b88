"""Links by rtnetlink: bridges, veth pairs, bridge ports and their VLANs.

Every call sends and reads these messages, so they are encoded and decoded here and not by a library.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from errno import EEXIST, ENODEV, ENOENT
from socket import AF_BRIDGE, AF_INET
from struct import Struct
from sys import byteorder

from linux.netlink.attributes import NLA_F_NESTED, attribute, attributes_of, nested, number, runs_of, text
from linux.netlink.socket import NLM_F_ACK, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REQUEST, Netlink, NetlinkError
from linux.rtnl import uapi

OPERSTATE_UP = "UP"
_OPERSTATES = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", OPERSTATE_UP)  # RFC 2863

_BODY = Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, which of them to change
_ATTRIBUTES = 32  # where they begin in a whole message: after its header and the body

_SHORT, _PAIR, _NUMBER, _INDEX = Struct("=H"), Struct("=HH"), Struct("=I"), Struct("=i")
# What veths use unless somebody asks for more. Else the kernel sets up as many as there are CPUs, and takes all but one
# down again.
_ONE_QUEUE = number(uapi.IFLA_NUM_TX_QUEUES, 1) + number(uapi.IFLA_NUM_RX_QUEUES, 1)
_NO_STATISTICS = number(uapi.IFLA_EXT_MASK, uapi.RTEXT_FILTER_SKIP_STATS)
_NATIVE = uapi.BRIDGE_VLAN_INFO_PVID | uapi.BRIDGE_VLAN_INFO_UNTAGGED
_NOTHING: dict[int, bytes] = {}


@dataclass(frozen=True)
class Link:
    """A link as the kernel shows it.

    `peer`: for a veth, the index of its other end, which lives in another namespace if `peer_is_elsewhere`.
    `master`: the index of the bridge it is a port of, or 0. `group`: its link group, 0 for most.
    `operstate`: "UP", "DOWN", "LOWERLAYERDOWN", ... `own_settings` of its kind, and `port_settings` of a bridge's port,
    are attributes that are read when they are asked for: there are many.
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
    group: int
    queue_length: int
    own_settings: bytes = field(compare=False, repr=False)
    port_settings: bytes = field(compare=False, repr=False)

    @property
    def up(self) -> bool:
        """Whether the link is administratively up."""
        return bool(self.flags & uapi.IFF_UP)

    @property
    def carrier(self) -> bool:
        """Whether the link is connected to something (uapi.IFF_LOWER_UP)."""
        return bool(self.flags & uapi.IFF_LOWER_UP)

    @property
    def promiscuous(self) -> bool:
        """Whether promiscuous mode was asked for (uapi.IFF_PROMISC)."""
        return bool(self.flags & uapi.IFF_PROMISC)

    @property
    def all_multicast(self) -> bool:
        """Whether all multicast was asked for (uapi.IFF_ALLMULTI)."""
        return bool(self.flags & uapi.IFF_ALLMULTI)

    @property
    def vlan_filtering(self) -> bool:
        """Whether it is a bridge that filters VLANs."""
        return self.kind == "bridge" and _is_on(self.own_settings, uapi.IFLA_BR_VLAN_FILTERING)

    @property
    def default_vlan(self) -> int:
        """Of a bridge: the VLAN that a new port has as its native one (`vlan_default_pvid`); 0 for none."""
        settings = attributes_of(self.own_settings) if self.kind == "bridge" else _NOTHING
        return int.from_bytes(settings.get(uapi.IFLA_BR_VLAN_DEFAULT_PVID, b""), byteorder)

    @property
    def vlan(self) -> int:
        """Of an 802.1Q device on another link (`peer`): its VLAN."""
        settings = attributes_of(self.own_settings) if self.kind == "vlan" else _NOTHING
        return int.from_bytes(settings.get(uapi.IFLA_VLAN_ID, b""), byteorder)

    @property
    def hairpin(self) -> bool:
        """Whether it is a port of a bridge that may send frames back to where they came from."""
        return _is_on(self.port_settings, uapi.IFLA_BRPORT_MODE)

    @property
    def isolated(self) -> bool:
        """Whether it is a port of a bridge that talks to no other isolated one."""
        return _is_on(self.port_settings, uapi.IFLA_BRPORT_ISOLATED)


def find_link(netlink: Netlink, name: str) -> Link | None:
    """The link of that name, or None."""
    return _find(netlink, 0, text(uapi.IFLA_IFNAME, name)) if len(name.encode()) < 16 else None


def find_link_by_index(netlink: Netlink, index: int) -> Link | None:
    """The link of that index, or None; 0 is the index of none."""
    return _find(netlink, index, b"") if index else None


def list_links(netlink: Netlink, *, containing: bytes = b"") -> list[Link]:
    """All links; with `containing`, only those in whose message these bytes stand (an alias, say), which is quicker."""
    return [_link(found) for found in netlink.dump(_body() + _NO_STATISTICS, uapi.RTM_GETLINK) if containing in found]


def list_links_beside(netlink: Netlink, bridge: int) -> list[Link]:
    """All links but the bridge with that index and its ports, however many those are."""
    port = number(uapi.IFLA_MASTER, bridge)
    messages = netlink.dump(_body() + _NO_STATISTICS, uapi.RTM_GETLINK)
    return [link for link in map(_link, (one for one in messages if port not in one)) if link.index != bridge]


def list_group(netlink: Netlink, group: int) -> list[Link]:
    """The links of a link group."""
    return list_links(netlink, containing=number(uapi.IFLA_GROUP, group))


def list_ports(netlink: Netlink, bridge: int) -> list[Link]:
    """The ports of the bridge with that index."""
    message = _body() + number(uapi.IFLA_MASTER, bridge) + _NO_STATISTICS
    return [_link(found) for found in netlink.dump(message, uapi.RTM_GETLINK)]


def create_bridge(netlink: Netlink, name: str, *, mtu: int, filters_vlans: bool = False) -> bool:
    """Make a bridge with a MAC of its own; False if a link of that name is there already.

    A bridge that is given a MAC keeps it; one that is not takes the lowest of its ports', which changes as pods come
    and go. `mtu` 0 leaves it to the kernel. Raises NetlinkError (EOPNOTSUPP: a kernel without VLAN filtering).
    """
    data = nested(uapi.IFLA_INFO_DATA, _switch(uapi.IFLA_BR_VLAN_FILTERING, on=True)) if filters_vlans else b""
    message = _body() + text(uapi.IFLA_IFNAME, name) + _mac(random_mac()) + _info("bridge", data) + _mtu_if(mtu)
    try:
        netlink.change(message, uapi.RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
    except NetlinkError as error:
        if error.errno != EEXIST:
            raise
        return False
    return True


def create_veth(  # noqa: PLR0913  (each end has its part)
    netlink: Netlink,
    name: str,
    peer_name: str,
    *,
    peer_netns: int | None,
    peer_mac: str,
    mtu: int,
    group: int = 0,
) -> Link | None:
    """Make a veth pair: `name` here, in that link group; `peer_name` in the namespace `peer_netns` (None: here too).

    Both ends get MACs of their own, so that udev's MACAddressPolicy leaves them alone. Returns the end that is here, or
    None: a kernel before 6.2 does not show what it made. Raises NetlinkError (EEXIST if either name is taken).
    """
    peer = _body() + text(uapi.IFLA_IFNAME, peer_name) + _mac(peer_mac) + _mtu_if(mtu) + _ONE_QUEUE
    if peer_netns is not None:
        peer += number(uapi.IFLA_NET_NS_FD, peer_netns)
    here = (
        text(uapi.IFLA_IFNAME, name) + _mac(random_mac()) + number(uapi.IFLA_GROUP, group) + _mtu_if(mtu) + _ONE_QUEUE
    )
    message = _body() + here + _info("veth", nested(uapi.IFLA_INFO_DATA, attribute(uapi.VETH_INFO_PEER, peer)))
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO | NLM_F_CREATE | NLM_F_EXCL
    shown = netlink.send([netlink.encode(message, uapi.RTM_NEWLINK, flags)])
    return _link(shown[0]) if shown else None


def delete_link(netlink: Netlink, index: int) -> bool:
    """Delete a link; False if it was gone."""
    try:
        netlink.change(_body(index=index), uapi.RTM_DELLINK)
    except NetlinkError as error:
        if error.errno != ENODEV:
            raise
        return False
    return True


def set_up(netlink: Netlink, index: int) -> None:
    """Bring a link up."""
    netlink.change(_body(index=index, flags=uapi.IFF_UP, change=uapi.IFF_UP), uapi.RTM_SETLINK)


def set_down(netlink: Netlink, index: int) -> None:
    """Take a link down."""
    netlink.change(_body(index=index, change=uapi.IFF_UP), uapi.RTM_SETLINK)


def set_promiscuous(netlink: Netlink, index: int, *, on: bool) -> None:
    """Switch promiscuous mode (uapi.IFF_PROMISC)."""
    netlink.change(_body(index=index, flags=uapi.IFF_PROMISC if on else 0, change=uapi.IFF_PROMISC), uapi.RTM_SETLINK)


def set_all_multicast(netlink: Netlink, index: int, *, on: bool) -> None:
    """Switch the reception of all multicast (uapi.IFF_ALLMULTI)."""
    netlink.change(_body(index=index, flags=uapi.IFF_ALLMULTI if on else 0, change=uapi.IFF_ALLMULTI), uapi.RTM_SETLINK)


def set_mtu(netlink: Netlink, index: int, mtu: int) -> None:
    """Set the MTU of a link, in bytes."""
    netlink.change(_body(index=index) + number(uapi.IFLA_MTU, mtu), uapi.RTM_SETLINK)


def set_queue_length(netlink: Netlink, index: int, packets: int) -> None:
    """Set the length of a link's transmit queue, in packets."""
    netlink.change(_body(index=index) + number(uapi.IFLA_TXQLEN, packets), uapi.RTM_SETLINK)


def set_alias(netlink: Netlink, index: int, alias: str) -> None:
    """Give a link an alias: a text that it shows."""
    netlink.change(_body(index=index) + text(uapi.IFLA_IFALIAS, alias), uapi.RTM_SETLINK)


def set_mac(netlink: Netlink, index: int, mac: str) -> None:
    """Give a link a MAC; a bridge that is given its own keeps it from then on."""
    netlink.change(_body(index=index) + _mac(mac), uapi.RTM_SETLINK)


def set_vlan_filtering(netlink: Netlink, bridge: int, *, on: bool) -> None:
    """Switch VLAN filtering of a bridge; raises NetlinkError (EOPNOTSUPP: a kernel without it)."""
    data = nested(uapi.IFLA_INFO_DATA, _switch(uapi.IFLA_BR_VLAN_FILTERING, on=on))
    netlink.change(_body(index=bridge) + _info("bridge", data), uapi.RTM_NEWLINK)


def attach_port(netlink: Netlink, index: int, bridge: int, *, alias: str, hairpin: bool, isolated: bool) -> None:
    """Make a link a port of a bridge, name its owner in its alias and bring it up, in one exchange with the kernel.

    A port that is neither hairpin nor isolated is left as a new port is.
    """
    messages = [_body(index=index) + number(uapi.IFLA_MASTER, bridge) + text(uapi.IFLA_IFALIAS, alias)]
    if hairpin or isolated:
        settings = _switch(uapi.IFLA_BRPORT_MODE, on=hairpin) + _switch(uapi.IFLA_BRPORT_ISOLATED, on=isolated)
        messages.append(_body(family=AF_BRIDGE, index=index) + nested(uapi.IFLA_PROTINFO | NLA_F_NESTED, settings))
    messages.append(_body(index=index, flags=uapi.IFF_UP, change=uapi.IFF_UP))
    netlink.send([_set(netlink, message) for message in messages])


def group_request(index: int, group: int) -> bytes:
    """The body of a request about a link and a group: to move the one to the other, or with index 0 about the group."""
    return _body(index=index) + number(uapi.IFLA_GROUP, group)


def up_request(netlink: Netlink, index: int) -> bytes:
    """What `set_up` sends, to be sent with other requests."""
    return _set(netlink, _body(index=index, flags=uapi.IFF_UP, change=uapi.IFF_UP))


def announce_request(netlink: Netlink, index: int) -> bytes:
    """To be sent with others: have a link announce its IPv4 addresses when it comes up (the sysctl arp_notify)."""
    conf = nested(AF_INET, nested(uapi.IFLA_INET_CONF, number(uapi.IPV4_DEVCONF_ARP_NOTIFY, 1)))
    return _set(netlink, _body(index=index) + nested(uapi.IFLA_AF_SPEC, conf))


def list_vlans(netlink: Netlink) -> dict[int, dict[int, int]]:
    """For each bridge port, and bridge, by index: its VLANs, id to flags (BRIDGE_VLAN_INFO_*).

    The kernel is asked for ranges: a port can have more VLANs than it could list in one message.
    """
    request = _body(family=AF_BRIDGE) + number(uapi.IFLA_EXT_MASK, uapi.RTEXT_FILTER_BRVLAN_COMPRESSED)
    ports: dict[int, dict[int, int]] = {}
    for found in netlink.dump(request, uapi.RTM_GETLINK):
        entries = runs_of(attributes_of(found, _ATTRIBUTES).get(uapi.IFLA_AF_SPEC, b""))
        vlans = (_PAIR.unpack(entry) for kind, entry in entries if kind == uapi.IFLA_BRIDGE_VLAN_INFO)
        ports[_BODY.unpack_from(found, 16)[2]] = _spread(vlans)
    return ports


def _spread(entries: Iterable[tuple[int, int]]) -> dict[int, int]:
    """The VLANs of single ones and ranges, (flags, VLAN) each; a range is its first and its last."""
    vlans, first = {}, 0
    for flags, vlan in entries:
        if flags & uapi.BRIDGE_VLAN_INFO_RANGE_BEGIN:
            first = vlan
            continue
        begin = first if flags & uapi.BRIDGE_VLAN_INFO_RANGE_END else vlan
        vlans |= dict.fromkeys(
            range(begin, vlan + 1), flags & (uapi.BRIDGE_VLAN_INFO_PVID | uapi.BRIDGE_VLAN_INFO_UNTAGGED)
        )
    return vlans


def add_vlan(netlink: Netlink, port: int, vlan: int, *, native: bool) -> None:
    """Let a VLAN through a bridge port: tagged, or `native` (the port's PVID, untagged on egress)."""
    _change_vlan(
        netlink,
        port,
        vlan,
        uapi.RTM_SETLINK,
        _NATIVE if native else 0,
    )


def delete_vlan(netlink: Netlink, port: int, vlan: int) -> None:
    """Take a VLAN from a bridge port; that it does not have it is no error."""
    try:
        _change_vlan(netlink, port, vlan, uapi.RTM_DELLINK, 0)
    except NetlinkError as error:
        if error.errno != ENOENT:
            raise


def random_mac() -> str:
    """A random unicast MAC of the locally administered kind (IEEE 802, section 8.2)."""
    raw = bytearray(os.urandom(6))
    raw[0] = raw[0] & 0xFC | 0x02
    return raw.hex(":")


def _change_vlan(netlink: Netlink, port: int, vlan: int, kind: int, flags: int) -> None:
    on_port = attribute(uapi.IFLA_BRIDGE_FLAGS, _SHORT.pack(uapi.BRIDGE_FLAGS_MASTER))
    entry = attribute(uapi.IFLA_BRIDGE_VLAN_INFO, _PAIR.pack(flags, vlan))
    netlink.change(_body(family=AF_BRIDGE, index=port) + nested(uapi.IFLA_AF_SPEC, on_port, entry), kind)


def _body(*, family: int = 0, index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _BODY.pack(family, 0, index, flags, change)


def _set(netlink: Netlink, message: bytes) -> bytes:
    return netlink.encode(message, uapi.RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK)


def _info(kind: str, data: bytes = b"") -> bytes:
    return nested(uapi.IFLA_LINKINFO, text(uapi.IFLA_INFO_KIND, kind), data)


def pack_mac(mac: str) -> bytes:
    """The bytes of a MAC: six groups of two digits."""
    return bytes.fromhex(mac.replace(":", ""))


def _mac(mac: str) -> bytes:
    return attribute(uapi.IFLA_ADDRESS, pack_mac(mac))


def _mtu_if(mtu: int) -> bytes:
    return number(uapi.IFLA_MTU, mtu) if mtu else b""


def _switch(kind: int, *, on: bool) -> bytes:
    return attribute(kind, b"\1" if on else b"\0")


def _find(netlink: Netlink, index: int, name: bytes) -> Link | None:
    message = get_message(netlink, index, name)
    return _link(message) if message else None


def get_message(netlink: Netlink, index: int, name: bytes = b"") -> bytes | None:
    """The RTM_NEWLINK message of the link with that index, None if there is none. `name`: an attribute instead."""
    try:
        return netlink.get(_body(index=index) + name + _NO_STATISTICS, uapi.RTM_GETLINK)
    except NetlinkError as error:
        if error.errno != ENODEV:
            raise
        return None


def _link(message: bytes) -> Link:
    """What a whole uapi.RTM_NEWLINK message shows."""
    _, _, index, flags, _ = _BODY.unpack_from(message, 16)
    shown = attributes_of(message, _ATTRIBUTES)
    info = attributes_of(shown[uapi.IFLA_LINKINFO]) if uapi.IFLA_LINKINFO in shown else _NOTHING
    is_port = _text(info.get(uapi.IFLA_INFO_SLAVE_KIND)) == "bridge"
    operstate = shown.get(uapi.IFLA_OPERSTATE, b"\0")[0]
    return Link(
        index=index,
        name=_text(shown.get(uapi.IFLA_IFNAME)),
        kind=_text(info.get(uapi.IFLA_INFO_KIND)),
        mac=shown.get(uapi.IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(shown.get(uapi.IFLA_MTU)),
        flags=flags,
        operstate=_OPERSTATES[operstate] if operstate < len(_OPERSTATES) else "",
        alias=_text(shown.get(uapi.IFLA_IFALIAS)),
        master=_number(shown.get(uapi.IFLA_MASTER)),
        peer=_number(shown.get(uapi.IFLA_LINK)),
        peer_is_elsewhere=uapi.IFLA_LINK_NETNSID in shown,
        group=_number(shown.get(uapi.IFLA_GROUP)),
        queue_length=_number(shown.get(uapi.IFLA_TXQLEN)),
        own_settings=info.get(uapi.IFLA_INFO_DATA, b""),
        port_settings=info.get(uapi.IFLA_INFO_SLAVE_DATA, b"") if is_port else b"",
    )


def _text(payload: bytes | None) -> str:
    return payload.rstrip(b"\0").decode("utf-8", "surrogateescape") if payload else ""


def _number(payload: bytes | None) -> int:
    return _NUMBER.unpack(payload)[0] if payload else 0


def _is_on(settings: bytes, kind: int) -> bool:
    return attributes_of(settings).get(kind, b"\0") != b"\0"

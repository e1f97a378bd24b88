"""Links by rtnetlink: bridges, veth pairs, bridge ports and their VLANs.

Every call sends and reads these messages, so they are encoded and decoded here and not by a library.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from errno import EEXIST, EINVAL, ENODEV, ENOENT
from socket import AF_BRIDGE, AF_INET
from struct import Struct
from sys import byteorder

from linux.netlink.attributes import NLA_F_NESTED, attribute, attributes_of, nested, number, runs_of, text
from linux.netlink.socket import NLM_F_ACK, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REQUEST, Netlink, NetlinkError
from linux.rtnl import uapi

OPERSTATE_UP = "UP"
_OPERSTATES = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", OPERSTATE_UP)  # RFC 2863

_BODY = Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, mask of the flags to change
_ATTRIBUTES = 32  # offset of the attributes in a message: after its header and the body

_SHORT, _PAIR, _NUMBER, _INDEX = Struct("=H"), Struct("=HH"), Struct("=I"), Struct("=i")
# The queues that a veth uses by default. Otherwise the kernel creates one for each CPU, and removes all but one again.
_ONE_QUEUE = number(uapi.IFLA_NUM_TX_QUEUES, 1) + number(uapi.IFLA_NUM_RX_QUEUES, 1)
_NO_STATISTICS = number(uapi.IFLA_EXT_MASK, uapi.RTEXT_FILTER_SKIP_STATS)
_NATIVE = uapi.BRIDGE_VLAN_INFO_PVID | uapi.BRIDGE_VLAN_INFO_UNTAGGED
_NOTHING: dict[int, bytes] = {}


@dataclass(frozen=True)
class Link:
    """A link of the kernel's.

    `peer`: index of a veth's peer. `peer_netns`: the ID (see linux/netns_ids.py) of the namespace that the peer is in,
    None if it is in the same. `master`: index of the bridge of which it is a port, or 0. `group`: its link group, 0 by
    default. `operstate`: "UP", "DOWN", "LOWERLAYERDOWN", ...
    `own_settings` (of its kind) and `port_settings` (of a bridge port): attributes, decoded only when they are used.
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
    peer_netns: int | None
    group: int
    queue_length: int
    own_settings: bytes = field(compare=False, repr=False)
    port_settings: bytes = field(compare=False, repr=False)

    @property
    def peer_is_elsewhere(self) -> bool:
        """Whether the peer is in another network namespace."""
        return self.peer_netns is not None

    @property
    def up(self) -> bool:
        """Whether the link is administratively up."""
        return bool(self.flags & uapi.IFF_UP)

    @property
    def carrier(self) -> bool:
        """Whether the link has carrier (IFF_LOWER_UP)."""
        return bool(self.flags & uapi.IFF_LOWER_UP)

    @property
    def promiscuous(self) -> bool:
        """Whether promiscuous mode is set (IFF_PROMISC)."""
        return bool(self.flags & uapi.IFF_PROMISC)

    @property
    def all_multicast(self) -> bool:
        """Whether it receives all multicast (IFF_ALLMULTI)."""
        return bool(self.flags & uapi.IFF_ALLMULTI)

    @property
    def vlan_filtering(self) -> bool:
        """Whether it is a bridge with VLAN filtering."""
        return self.kind == "bridge" and _is_on(self.own_settings, uapi.IFLA_BR_VLAN_FILTERING)

    @property
    def default_vlan(self) -> int:
        """The PVID of new ports of a bridge (`vlan_default_pvid`); 0: none."""
        settings = attributes_of(self.own_settings) if self.kind == "bridge" else _NOTHING
        return int.from_bytes(settings.get(uapi.IFLA_BR_VLAN_DEFAULT_PVID, b""), byteorder)

    @property
    def vlan(self) -> int:
        """The VLAN ID of an 802.1Q device; 0 for other kinds."""
        settings = attributes_of(self.own_settings) if self.kind == "vlan" else _NOTHING
        return int.from_bytes(settings.get(uapi.IFLA_VLAN_ID, b""), byteorder)

    @property
    def hairpin(self) -> bool:
        """Whether it is a bridge port in hairpin mode."""
        return _is_on(self.port_settings, uapi.IFLA_BRPORT_MODE)

    @property
    def isolated(self) -> bool:
        """Whether it is an isolated bridge port, which cannot reach other isolated ones."""
        return _is_on(self.port_settings, uapi.IFLA_BRPORT_ISOLATED)


def find_link(netlink: Netlink, name: str) -> Link | None:
    """The link with that name, or None."""
    return _find(netlink, 0, text(uapi.IFLA_IFNAME, name)) if len(name.encode()) < 16 else None


def find_link_by_index(netlink: Netlink, index: int) -> Link | None:
    """The link with that index, or None; 0 is not an index."""
    return _find(netlink, index, b"") if index else None


def find_peer(netlink: Netlink, veth: Link) -> Link | None:
    """The other end of a veth pair, in whatever namespace it is; None if there is none any more."""
    if veth.peer_netns is None:
        return find_link_by_index(netlink, veth.peer)
    try:
        return _find(netlink, veth.peer, attribute(uapi.IFLA_TARGET_NETNSID, _INDEX.pack(veth.peer_netns)))
    except NetlinkError as error:
        if error.errno != EINVAL:  # the namespace has gone
            raise
        return None


def list_links(netlink: Netlink, *, containing: bytes = b"") -> list[Link]:
    """All links, or (faster) only those whose message contains these bytes, such as an alias."""
    messages = netlink.dump(_body() + _NO_STATISTICS, uapi.RTM_GETLINK)
    return [_link(message) for message in messages if containing in message]


def list_links_beside(netlink: Netlink, bridge: int) -> list[Link]:
    """All links except the bridge with that index and its ports."""
    port = number(uapi.IFLA_MASTER, bridge)
    messages = netlink.dump(_body() + _NO_STATISTICS, uapi.RTM_GETLINK)
    return [link for link in map(_link, (one for one in messages if port not in one)) if link.index != bridge]


def list_group(netlink: Netlink, group: int) -> list[Link]:
    """The links of a link group."""
    return list_links(netlink, containing=number(uapi.IFLA_GROUP, group))


def list_ports(netlink: Netlink, bridge: int) -> list[Link]:
    """The ports of the bridge with that index."""
    message = _body() + number(uapi.IFLA_MASTER, bridge) + _NO_STATISTICS
    return [_link(message) for message in netlink.dump(message, uapi.RTM_GETLINK)]


def create_bridge(netlink: Netlink, name: str, *, mtu: int, filters_vlans: bool = False) -> bool:
    """Create a bridge with an explicit MAC; False if a link of that name exists.

    A bridge without an explicit MAC takes the lowest of its ports, which changes as pods come and go. `mtu` 0: the
    kernel's default. Raises NetlinkError (EOPNOTSUPP: a kernel without VLAN filtering).
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


def create_veth(  # noqa: PLR0913  (both veths have parameters)
    netlink: Netlink,
    name: str,
    peer_name: str,
    *,
    peer_netns: int | None,
    peer_mac: str,
    mtu: int,
    group: int = 0,
) -> Link | None:
    """Create a veth pair: `name` here, in that link group; `peer_name` in the namespace `peer_netns` (None: here).

    Both get explicit MACs, which udev's MACAddressPolicy does not change. Returns the veth that is here, or None before
    Linux 6.2, which does not echo it. Raises NetlinkError (EEXIST if either name is taken).
    """
    peer = _body() + text(uapi.IFLA_IFNAME, peer_name) + _mac(peer_mac) + _mtu_if(mtu) + _ONE_QUEUE
    if peer_netns is not None:
        peer += number(uapi.IFLA_NET_NS_FD, peer_netns)
    here = (
        text(uapi.IFLA_IFNAME, name) + _mac(random_mac()) + number(uapi.IFLA_GROUP, group) + _mtu_if(mtu) + _ONE_QUEUE
    )
    message = _body() + here + _info("veth", nested(uapi.IFLA_INFO_DATA, attribute(uapi.VETH_INFO_PEER, peer)))
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO | NLM_F_CREATE | NLM_F_EXCL
    echoed = netlink.send([netlink.encode(message, uapi.RTM_NEWLINK, flags)])
    return _link(echoed[0]) if echoed else None


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
    """Set or clear promiscuous mode (IFF_PROMISC)."""
    netlink.change(_body(index=index, flags=uapi.IFF_PROMISC if on else 0, change=uapi.IFF_PROMISC), uapi.RTM_SETLINK)


def set_all_multicast(netlink: Netlink, index: int, *, on: bool) -> None:
    """Set or clear the reception of all multicast (IFF_ALLMULTI)."""
    netlink.change(_body(index=index, flags=uapi.IFF_ALLMULTI if on else 0, change=uapi.IFF_ALLMULTI), uapi.RTM_SETLINK)


def set_mtu(netlink: Netlink, index: int, mtu: int) -> None:
    """Set the MTU of a link, in bytes."""
    netlink.change(_body(index=index) + number(uapi.IFLA_MTU, mtu), uapi.RTM_SETLINK)


def set_queue_length(netlink: Netlink, index: int, packets: int) -> None:
    """Set the length of a link's transmit queue, in packets."""
    netlink.change(_body(index=index) + number(uapi.IFLA_TXQLEN, packets), uapi.RTM_SETLINK)


def set_alias(netlink: Netlink, index: int, alias: str) -> None:
    """Set the alias of a link."""
    netlink.change(_body(index=index) + text(uapi.IFLA_IFALIAS, alias), uapi.RTM_SETLINK)


def set_mac(netlink: Netlink, index: int, mac: str) -> None:
    """Set the MAC of a link; a bridge then keeps it, whatever ports it gets."""
    netlink.change(_body(index=index) + _mac(mac), uapi.RTM_SETLINK)


def set_hairpin(netlink: Netlink, port: int) -> None:
    """Have a bridge send a port's own frames back to it (hairpin mode)."""
    settings = _switch(uapi.IFLA_BRPORT_MODE, on=True)
    netlink.change(
        _body(family=AF_BRIDGE, index=port) + nested(uapi.IFLA_PROTINFO | NLA_F_NESTED, settings), uapi.RTM_SETLINK
    )


def set_vlan_filtering(netlink: Netlink, bridge: int, *, on: bool) -> None:
    """Enable or disable VLAN filtering of a bridge; raises NetlinkError (EOPNOTSUPP: not in this kernel)."""
    data = nested(uapi.IFLA_INFO_DATA, _switch(uapi.IFLA_BR_VLAN_FILTERING, on=on))
    netlink.change(_body(index=bridge) + _info("bridge", data), uapi.RTM_NEWLINK)


def attach_port(  # noqa: PLR0913
    netlink: Netlink, index: int, bridge: int, *, alias: str, hairpin: bool, isolated: bool, up: bool = True
) -> None:
    """Make a link a port of a bridge, set its alias to its owner and bring it up unless `up` is False, in one datagram.

    The port's flags are set only if it is to be hairpin or isolated.
    """
    messages = [_body(index=index) + number(uapi.IFLA_MASTER, bridge) + text(uapi.IFLA_IFALIAS, alias)]
    if hairpin or isolated:
        settings = _switch(uapi.IFLA_BRPORT_MODE, on=hairpin) + _switch(uapi.IFLA_BRPORT_ISOLATED, on=isolated)
        messages.append(_body(family=AF_BRIDGE, index=index) + nested(uapi.IFLA_PROTINFO | NLA_F_NESTED, settings))
    if up:
        messages.append(_body(index=index, flags=uapi.IFF_UP, change=uapi.IFF_UP))
    netlink.send([_set(netlink, message) for message in messages])


def set_group(netlink: Netlink, index: int, group: int) -> None:
    """Move a link to a group."""
    netlink.change(group_request(index, group), uapi.RTM_SETLINK)


def group_request(index: int, group: int) -> bytes:
    """The body of a request to move a link to a group, or (`index` 0) about all links of the group."""
    return _body(index=index) + number(uapi.IFLA_GROUP, group)


def up_request(netlink: Netlink, index: int) -> bytes:
    """The request of `set_up`, to be sent with others."""
    return _set(netlink, _body(index=index, flags=uapi.IFF_UP, change=uapi.IFF_UP))


def announce_request(netlink: Netlink, index: int) -> bytes:
    """A request, to be sent with others, to announce IPv4 addresses when the link comes up (sysctl arp_notify)."""
    conf = nested(AF_INET, nested(uapi.IFLA_INET_CONF, number(uapi.IPV4_DEVCONF_ARP_NOTIFY, 1)))
    return _set(netlink, _body(index=index) + nested(uapi.IFLA_AF_SPEC, conf))


def list_vlans(netlink: Netlink) -> dict[int, dict[int, int]]:
    """The VLANs of each bridge port and bridge, by its index: VLAN ID to flags (BRIDGE_VLAN_INFO_*).

    Requests ranges, because a port can have more VLANs than fit into one message.
    """
    request = _body(family=AF_BRIDGE) + number(uapi.IFLA_EXT_MASK, uapi.RTEXT_FILTER_BRVLAN_COMPRESSED)
    ports: dict[int, dict[int, int]] = {}
    for message in netlink.dump(request, uapi.RTM_GETLINK):
        entries = runs_of(attributes_of(message, _ATTRIBUTES).get(uapi.IFLA_AF_SPEC, b""))
        vlans = (_PAIR.unpack(entry) for kind, entry in entries if kind == uapi.IFLA_BRIDGE_VLAN_INFO)
        ports[_BODY.unpack_from(message, 16)[2]] = _spread(vlans)
    return ports


def _spread(entries: Iterable[tuple[int, int]]) -> dict[int, int]:
    """The VLANs of (flags, VLAN) entries; a range is the entry of its first and that of its last VLAN."""
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
    """Add a VLAN to a bridge port: tagged, or `native` (the PVID, untagged on egress)."""
    _change_vlan(
        netlink,
        port,
        vlan,
        uapi.RTM_SETLINK,
        _NATIVE if native else 0,
    )


def delete_vlan(netlink: Netlink, port: int, vlan: int) -> None:
    """Delete a VLAN from a bridge port, if it has it."""
    try:
        _change_vlan(netlink, port, vlan, uapi.RTM_DELLINK, 0)
    except NetlinkError as error:
        if error.errno != ENOENT:
            raise


def random_mac() -> str:
    """A random locally administered unicast MAC (IEEE 802, section 8.2)."""
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
    """The RTM_NEWLINK message of the link with that index, or (`index` 0) with that IFLA_IFNAME; or None."""
    try:
        return netlink.get(_body(index=index) + name + _NO_STATISTICS, uapi.RTM_GETLINK)
    except NetlinkError as error:
        if error.errno != ENODEV:
            raise
        return None


def _link(message: bytes) -> Link:
    """The link of an RTM_NEWLINK message."""
    _, _, index, flags, _ = _BODY.unpack_from(message, 16)
    attributes = attributes_of(message, _ATTRIBUTES)
    info = attributes_of(attributes[uapi.IFLA_LINKINFO]) if uapi.IFLA_LINKINFO in attributes else _NOTHING
    is_port = _text(info.get(uapi.IFLA_INFO_SLAVE_KIND)) == "bridge"
    operstate = attributes.get(uapi.IFLA_OPERSTATE, b"\0")[0]
    return Link(
        index=index,
        name=_text(attributes.get(uapi.IFLA_IFNAME)),
        kind=_text(info.get(uapi.IFLA_INFO_KIND)),
        mac=attributes.get(uapi.IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(attributes.get(uapi.IFLA_MTU)),
        flags=flags,
        operstate=_OPERSTATES[operstate] if operstate < len(_OPERSTATES) else "",
        alias=_text(attributes.get(uapi.IFLA_IFALIAS)),
        master=_number(attributes.get(uapi.IFLA_MASTER)),
        peer=_number(attributes.get(uapi.IFLA_LINK)),
        peer_netns=_netns_id(attributes.get(uapi.IFLA_LINK_NETNSID)),
        group=_number(attributes.get(uapi.IFLA_GROUP)),
        queue_length=_number(attributes.get(uapi.IFLA_TXQLEN)),
        own_settings=info.get(uapi.IFLA_INFO_DATA, b""),
        port_settings=info.get(uapi.IFLA_INFO_SLAVE_DATA, b"") if is_port else b"",
    )


def _text(payload: bytes | None) -> str:
    return payload.rstrip(b"\0").decode("utf-8", "surrogateescape") if payload else ""


def _number(payload: bytes | None) -> int:
    return _NUMBER.unpack(payload)[0] if payload else 0


def _netns_id(payload: bytes | None) -> int | None:
    return _INDEX.unpack(payload)[0] if payload else None


def _is_on(settings: bytes, kind: int) -> bool:
    return attributes_of(settings).get(kind, b"\0") != b"\0"

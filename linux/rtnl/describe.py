"""Routes, neighbours and forwarding entries in words, as `ip` and `bridge` would print them."""

import struct
from collections.abc import Mapping
from socket import AF_BRIDGE, AF_INET, AF_INET6

from linux.netlink.attributes import RTNL_BODY, attributes_of
from linux.netlink.socket import Netlink
from linux.rtnl.links import find_link_by_index
from linux.rtnl.routes import dump_main
from spec.addresses import Address, parse_address, unpack

_RTM_ROUTES = (24, 25)
_TYPES = {6: "blackhole ", 7: "unreachable ", 8: "prohibit ", 9: "throw "}
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH = 1, 4, 5, 6, 9
_NDA_DST, _NDA_LLADDR = 1, 2
_DEFAULT_METRIC = {AF_INET: 0, AF_INET6: 1024}


def describe(netlink: Netlink, message: bytes) -> str:
    """The object that a message or request of rtnetlink is about, such as "neighbour 10.244.2.0 lladdr ... dev ..."."""
    (kind,) = struct.unpack_from("=H", message, 4)
    if kind in _RTM_ROUTES:
        return f"route {describe_route(netlink, message)}"
    shown, family = attributes_of(message, RTNL_BODY), message[16]
    (index,) = struct.unpack_from("=i", message, 20)
    device, mac = _name(netlink, index), shown.get(_NDA_LLADDR, b"").hex(":")
    if family == AF_BRIDGE:
        return f"FDB entry {mac} dev {device} dst {_address(shown.get(_NDA_DST, b''))}"
    return f"neighbour {_address(shown.get(_NDA_DST, b''))} lladdr {mac} dev {device}"


def describe_route(netlink: Netlink, message: bytes) -> str:
    """A route, such as "10.244.2.0/24 via 192.0.2.9 dev eth0 proto 4"."""
    shown = attributes_of(message, RTNL_BODY)
    family, protocol, kind = message[16], message[21], message[23]
    words = [f"{_TYPES.get(kind, '')}{_destination(message, shown).cidr}"]
    if _RTA_GATEWAY in shown:
        words.append(f"via {_address(shown[_RTA_GATEWAY])}")
    if _RTA_OIF in shown:
        words.append(f"dev {_name(netlink, _number(shown[_RTA_OIF]))}")
    if _RTA_MULTIPATH in shown:
        words.append("by several next hops")
    words.append(f"proto {protocol}")
    if _RTA_PRIORITY in shown and _number(shown[_RTA_PRIORITY]) != _DEFAULT_METRIC[family]:
        words.append(f"metric {_number(shown[_RTA_PRIORITY])}")
    return " ".join(words)


def overriding(netlink: Netlink, address: str, link: int) -> tuple[str, str]:
    """The route of the main table that takes an address from the link with that index (0: from nobody).

    As text, and its destination (CIDR); "" twice if there is none, so that it is no route of this table. Raises
    NetlinkError. Takes long where there are very many routes, so only to name what `look_up` has found wrong.
    """
    wanted = parse_address(address)
    best, found = (-1, 0), b""
    for message in dump_main(netlink):
        shown = attributes_of(message, RTNL_BODY)
        network = _destination(message, shown)
        if not network.contains(wanted):
            continue
        is_its_own = link and _number(shown.get(_RTA_OIF, bytes(4))) == link
        rank = (network.prefix, -_number(shown.get(_RTA_PRIORITY, bytes(4))))
        if rank > best or (rank == best and not is_its_own):
            best, found = rank, b"" if is_its_own else message
    if not found:
        return "", ""
    return describe_route(netlink, found), _destination(found, attributes_of(found, RTNL_BODY)).cidr


def _destination(message: bytes, shown: Mapping[int, bytes]) -> Address:
    packed = shown.get(_RTA_DST, b"")
    return Address(6 if message[16] == AF_INET6 else 4, int.from_bytes(packed, "big"), message[17])


def _address(packed: bytes) -> str:
    return unpack(packed) if len(packed) in (4, 16) else "none"


def _number(packed: bytes) -> int:
    return struct.unpack("=I", packed)[0]


def _name(netlink: Netlink, index: int) -> str:
    link = find_link_by_index(netlink, index)
    return link.name if link else f"with index {index}"

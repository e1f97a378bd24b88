"""nftables expressions: what rules are made of, each in the bytes that a rule has of it.

A rule loads things into register 1 and compares them or looks them up; the first that does not fit ends the rule.
Numbers are those of <linux/netfilter/nf_tables.h>; on the wire they are big-endian.
"""

from collections.abc import Mapping
from socket import AF_INET, AF_INET6, IPPROTO_ICMPV6, IPPROTO_UDP
from sys import byteorder

from linux.netlink.attributes import attribute, nested, text

NETWORK_HEADER = 1
SOURCE_AT, DESTINATION_AT = {4: 12, 6: 8}, {4: 16, 6: 24}  # offsets of the addresses in the IP header, bytes
_ADDRESS_BYTES = {4: 4, 6: 16}
_ETHERTYPE = {4: bytes([0x08, 0x00]), 6: bytes([0x86, 0xDD])}
_ETH_P_ARP = bytes([0x08, 0x06])
_ARP_SENDER_AT = 14  # offset of the sender's IPv4 address in an ARP packet for Ethernet, bytes (RFC 826)
_LINK_HEADER, _TRANSPORT_HEADER, _UDP_HEADER_BYTES = 0, 2, 8
DROP, ACCEPT, JUMP, GOTO, RETURN = 0, 1, -3, -4, -5
_VERDICT_REGISTER, _REGISTER = 0, 1
_FIRST_SMALL = 8  # the number of the first register of 4 bytes; it is the first quarter of register 1
_ELEMENT, _NAME, _DATA = 1, 1, 2  # NFTA_LIST_ELEM, NFTA_EXPR_NAME, NFTA_EXPR_DATA
_DATA_VALUE, _DATA_VERDICT = 1, 2
_ADDRESS_TYPE, _ROUTE_LINK = 3, 1  # NFT_FIB_RESULT_ADDRTYPE, NFT_FIB_RESULT_OIF
_OF_SOURCE, _OF_DESTINATION, _BY_INCOMING_LINK, _PRESENT = 1 << 0, 1 << 1, 1 << 3, 1 << 5  # NFTA_FIB_F_*
_LINK_NAME_BYTES = 16
_MAP_IPS, _MAP_PROTO = 1, 2  # NF_NAT_RANGE_*
_RTN_LOCAL, _IPS_DST_NAT = 2, 1 << 5


def big_endian(kind: int, value: int) -> bytes:
    """An attribute that is a number of 32 bits, as nfnetlink has them."""
    return attribute(kind, (value & 0xFFFFFFFF).to_bytes(4, "big"))


def expression(name: str, /, *attributes: bytes) -> bytes:
    """An expression, as an element of a rule's list of them."""
    return nested(_ELEMENT, text(_NAME, name), nested(_DATA, *attributes))


def _value(kind: int, data: bytes) -> bytes:
    return nested(kind, attribute(_DATA_VALUE, data))


def _compare(operator: int, data: bytes) -> bytes:
    return expression("cmp", big_endian(1, _REGISTER), big_endian(2, operator), _value(3, data))


def meta(key: int, register: int = _REGISTER) -> bytes:
    """Load what is known beside the packet's bytes (NFT_META_*) into a register."""
    return expression("meta", big_endian(1, register), big_endian(2, key))


def connection(key: int) -> bytes:
    """Load something of the packet's connection (NFT_CT_*) into register 1."""
    return expression("ct", big_endian(1, _REGISTER), big_endian(2, key))


def fib(flags: int, result: int = _ADDRESS_TYPE) -> bytes:
    """Load the type of an address (RTN_*), or another `result`, into register 1; `flags`: of which (NFTA_FIB_F_*)."""
    wanted = (_REGISTER, result, flags)
    return expression("fib", *(big_endian(kind, value) for kind, value in enumerate(wanted, 1)))


def swap_bytes(size: int) -> bytes:
    """Bring the number of so many bytes in register 1 from the machine's order into network order."""
    content = (_REGISTER, _REGISTER, 1, size, size)  # NFT_BYTEORDER_HTON
    return expression("byteorder", *(big_endian(kind, value) for kind, value in enumerate(content, 1)))


def in_range(first: bytes, last: bytes, *, inverted: bool = False) -> bytes:
    """Go on if register 1 holds (`inverted`: does not) something from `first` to `last`, compared as bytes."""
    return expression("range", big_endian(1, _REGISTER), big_endian(2, inverted), _value(3, first), _value(4, last))


def load(base: int, offset: int, length: int, register: int = _REGISTER) -> bytes:
    """Load `length` bytes, `offset` bytes behind the begin of a header (NETWORK_HEADER), into a register."""
    places = (register, base, offset, length)
    return expression("payload", *(big_endian(kind, value) for kind, value in enumerate(places, 1)))


def equals(data: bytes) -> bytes:
    """Go on if register 1 holds `data`."""
    return _compare(0, data)


def differs(data: bytes) -> bytes:
    """Go on if register 1 holds anything but `data`."""
    return _compare(1, data)


def incoming_link() -> bytes:
    """Load the name of the link a packet came in on, 16 bytes, into register 1."""
    return meta(6)


def incoming_link_is(name: str) -> list[bytes]:
    """Packets alone that came in by this link."""
    return [incoming_link(), equals(_link_name(name))]


def incoming_link_differs(name: str) -> list[bytes]:
    """Packets alone that came in by another link."""
    return [incoming_link(), differs(_link_name(name))]


def incoming_link_is_bridge() -> list[bytes]:
    """Packets alone that came in by a bridge."""
    return [meta(26), equals(_link_name("bridge"))]


def outgoing_link_is(name: str) -> list[bytes]:
    """Packets alone that leave by this link."""
    return [meta(7), equals(_link_name(name))]


def _link_name(name: str) -> bytes:
    return name.encode().ljust(_LINK_NAME_BYTES, b"\0")


def outgoing_link_begins(begin: str) -> list[bytes]:
    """Packets alone that leave by a link whose name begins so."""
    return [meta(7), equals(begin.encode())]


def links_in_and_out() -> list[bytes]:
    """Load the names of the links a packet came in on and leaves by, 16 bytes each, in a row."""
    return [incoming_link(), meta(7, 2)]


def destination_behind_link(version: int) -> list[bytes]:
    """Packets of this IP version alone; load the name of the link they leave by and their destination, in a row."""
    address = load(NETWORK_HEADER, DESTINATION_AT[version], _ADDRESS_BYTES[version], 2)
    return [*_only_version(version), meta(7), address]


def frame_from(mac: bytes) -> list[bytes]:
    """Frames alone with this Ethernet source address."""
    return [load(_LINK_HEADER, 6, 6), equals(mac)]


def frame_of_version(version: int) -> list[bytes]:
    """Frames alone that hold a packet of IP version 4 or 6, where other kinds of frames pass too."""
    return [meta(1), equals(_ETHERTYPE[version])]


def udp_to(port: int) -> list[bytes]:
    """UDP datagrams to a port alone, of either IP version."""
    return [*of_protocol(IPPROTO_UDP), load(_TRANSPORT_HEADER, 2, 2), equals(port.to_bytes(2, "big"))]


def udp_payload_differs(offset: int, data: bytes) -> list[bytes]:
    """UDP datagrams alone whose payload, `offset` bytes behind its begin, is there and is not `data`."""
    at = _UDP_HEADER_BYTES + offset
    return [load(_TRANSPORT_HEADER, at, len(data)), differs(data)]


def udp_payload_is(offset: int, data: bytes) -> list[bytes]:
    """UDP datagrams alone whose payload is `data`, `offset` bytes behind its begin."""
    return [load(_TRANSPORT_HEADER, _UDP_HEADER_BYTES + offset, len(data)), equals(data)]


def icmpv6_of_type(kind: int) -> list[bytes]:
    """Frames alone that hold an ICMPv6 message of a type (RFC 4861: 134 is a router advertisement)."""
    of_type = [load(_TRANSPORT_HEADER, 0, 1), equals(bytes([kind]))]
    return [*frame_of_version(6), *of_protocol(IPPROTO_ICMPV6), *of_type]


def arp() -> list[bytes]:
    """Frames alone that hold ARP."""
    return [meta(1), equals(_ETH_P_ARP)]


def link_and_arp_sender() -> list[bytes]:
    """Load the name of the link a frame came in on, 16 bytes, and the IPv4 address of the ARP sender, in a row."""
    return [incoming_link(), load(NETWORK_HEADER, _ARP_SENDER_AT, _ADDRESS_BYTES[4], 2)]


def link_and_source(version: int) -> list[bytes]:
    """Load the name of the link a frame came in on, 16 bytes, and its IP source address, in a row."""
    return [incoming_link(), load(NETWORK_HEADER, SOURCE_AT[version], _ADDRESS_BYTES[version], 2)]


def source_mac() -> bytes:
    """Load the Ethernet source address, 6 bytes, into what follows a 16-byte register 1."""
    return load(_LINK_HEADER, 6, 6, 2)


def source_address(version: int) -> list[bytes]:
    """Packets of IP version 4 or 6 alone; load their source address into register 1."""
    return [*_only_version(version), _load_address(version, SOURCE_AT)]


def destination_address(version: int) -> bytes:
    """Load the destination address of what is known to be a packet of this IP version into register 1."""
    return _load_address(version, DESTINATION_AT)


def of_version(version: int) -> list[bytes]:
    """Packets of IP version 4 or 6 alone."""
    return _only_version(version)


def of_protocol(number: int) -> list[bytes]:
    """Packets of a transport protocol alone."""
    return [meta(16), equals(bytes([number]))]


def to_this_host() -> list[bytes]:
    """Packets alone whose destination is an address of this host (the fib says: local)."""
    return [fib(_OF_DESTINATION), equals(_RTN_LOCAL.to_bytes(4, byteorder))]


def from_this_host() -> list[bytes]:
    """Packets alone whose source is an address of this host."""
    return [fib(_OF_SOURCE), equals(_RTN_LOCAL.to_bytes(4, byteorder))]


def source_is_elsewhere() -> list[bytes]:
    """Packets alone whose source is not reached by the link that they came in on."""
    return [fib(_OF_SOURCE | _BY_INCOMING_LINK | _PRESENT, _ROUTE_LINK), equals(_is_there(0))]


def destination_is_where_it_came_from() -> list[bytes]:
    """Packets alone whose destination is reached by the link that they came in on."""
    return [fib(_OF_DESTINATION | _BY_INCOMING_LINK | _PRESENT, _ROUTE_LINK), equals(_is_there(1))]


def _is_there(value: int) -> bytes:
    return value.to_bytes(4, byteorder)


def marked(bit: int, *, inverted: bool = False) -> list[bytes]:
    """Packets alone whose mark has this bit (`inverted`: has it not)."""
    compare = equals if inverted else differs
    return [meta(3), masked(bit.to_bytes(4, byteorder)), compare(bytes(4))]


def unmark(bit: int) -> list[bytes]:
    """Take this bit from the packet's mark."""
    return [
        meta(3),
        masked((~bit & 0xFFFFFFFF).to_bytes(4, byteorder)),
        expression("meta", big_endian(2, 3), big_endian(3, _REGISTER)),
    ]


def destination_translated() -> list[bytes]:
    """Packets of connections alone whose destination was changed on the way."""
    flag = _IPS_DST_NAT.to_bytes(4, byteorder)
    return [connection(2), masked(flag), differs(bytes(4))]


def destination_and_port(version: int) -> list[bytes]:
    """Packets of this IP version alone; load destination address, transport protocol and destination port in a row."""
    behind = _FIRST_SMALL + _ADDRESS_BYTES[version] // 4
    return [*_only_version(version), _load_address(version, DESTINATION_AT), *_protocol_and_port(behind)]


def port() -> list[bytes]:
    """Load transport protocol and destination port in a row."""
    return _protocol_and_port(_FIRST_SMALL)


def original_port(version: int) -> bytes:
    """Load, behind `destination_and_port`, the destination port as it was before it was changed."""
    behind = _FIRST_SMALL + _ADDRESS_BYTES[version] // 4 + 2
    return expression("ct", big_endian(1, behind), big_endian(2, 12), attribute(3, bytes(1)))


def _protocol_and_port(register: int) -> list[bytes]:
    return [meta(16, register), load(_TRANSPORT_HEADER, 2, 2, register + 1)]


def translate_destination(version: int) -> bytes:
    """To the address and port in register 1 and behind; ends the chain."""
    behind = _FIRST_SMALL + _ADDRESS_BYTES[version] // 4
    family = {4: AF_INET, 6: AF_INET6}[version]
    content = {1: 1, 2: family, 3: _REGISTER, 5: behind, 7: _MAP_IPS | _MAP_PROTO}
    return expression("nat", *(big_endian(kind, value) for kind, value in content.items()))


def destination_in(version: int, network: bytes, prefix_length: int) -> list[bytes]:
    """Packets of IP version 4 or 6 alone whose destination is in `network`/`prefix_length`."""
    return [*_only_version(version), *_is_in(_load_address(version, DESTINATION_AT), network, prefix_length)]


def source_in(version: int, network: bytes, prefix_length: int) -> list[bytes]:
    """Go on if the source of what is known to be a packet of this IP version is in `network`/`prefix_length`."""
    return _is_in(_load_address(version, SOURCE_AT), network, prefix_length)


def source_outside(version: int, network: bytes, prefix_length: int) -> list[bytes]:
    """Go on if the source of what is known to be a packet of this IP version is not in `network`/`prefix_length`."""
    return [*_is_in(_load_address(version, SOURCE_AT), network, prefix_length)[:-1], differs(network)]


def _is_in(loaded: bytes, network: bytes, prefix_length: int) -> list[bytes]:
    bits = len(network) * 8
    mask = ((1 << bits) - (1 << bits - prefix_length)).to_bytes(len(network), "big")
    return [loaded, *([masked(mask)] if prefix_length < bits else []), equals(network)]


def masked(mask: bytes) -> bytes:
    """Keep these bits of register 1 and clear the others."""
    places = (big_endian(1, _REGISTER), big_endian(2, _REGISTER), big_endian(3, len(mask)))
    return expression("bitwise", *places, _value(4, mask), _value(5, bytes(len(mask))))


def _only_version(version: int) -> list[bytes]:
    family = {4: AF_INET, 6: AF_INET6}[version]  # NFPROTO_IPV4 and NFPROTO_IPV6 are the same numbers
    return [meta(15), equals(bytes([family]))]


def _load_address(version: int, offsets: Mapping[int, int]) -> bytes:
    return load(NETWORK_HEADER, offsets[version], _ADDRESS_BYTES[version])


def in_set(set_name: str, *, inverted: bool = False) -> bytes:
    """Go on if what starts in register 1 is (inverted: is not) in the set."""
    flags = [big_endian(5, 1)] if inverted else []
    return expression("lookup", text(1, set_name), big_endian(2, _REGISTER), *flags)


def value_of(map_name: str) -> bytes:
    """Load into register 1 what the map has for what starts in register 1; go on only if it has something."""
    return expression("lookup", text(1, map_name), big_endian(2, _REGISTER), big_endian(3, _REGISTER))


def verdict_of(map_name: str) -> bytes:
    """Do what the map says for what starts in register 1; go on if it says nothing."""
    return expression("lookup", text(1, map_name), big_endian(2, _REGISTER), big_endian(3, _VERDICT_REGISTER))


def verdict(code: int, chain: str | None = None) -> bytes:
    """ACCEPT, DROP or RETURN; or JUMP or GOTO, and the chain."""
    return expression("immediate", big_endian(1, _VERDICT_REGISTER), nested(2, verdict_data(code, chain)))


def verdict_data(code: int, chain: str | None = None) -> bytes:
    """A verdict as data, of an expression or an element: ACCEPT, DROP, RETURN; or JUMP or GOTO, and the chain."""
    return nested(_DATA_VERDICT, big_endian(1, code), *([text(2, chain)] if chain else []))


def masquerade() -> bytes:
    """Source address of the link the packet leaves by."""
    return expression("masq")


def notrack() -> bytes:
    """Connection tracking lets the packet pass by."""
    return expression("notrack")

"""nftables expressions: what rules are made of, in pyroute2's terms.

A rule loads things into register 1 and compares them or looks them up; the first that does not fit ends the rule.
"""

from collections.abc import Mapping
from socket import AF_INET, AF_INET6, IPPROTO_UDP
from sys import byteorder

NETWORK_HEADER = 1
SOURCE_AT, DESTINATION_AT = {4: 12, 6: 8}, {4: 16, 6: 24}  # offsets of the addresses in the IP header, bytes
_ADDRESS_BYTES = {4: 4, 6: 16}
_ETHERTYPE = {4: bytes([0x08, 0x00]), 6: bytes([0x86, 0xDD])}
_TRANSPORT_HEADER, _UDP_HEADER_BYTES = 2, 8
DROP, ACCEPT, JUMP, GOTO, RETURN = 0, 1, -3, -4, -5
_FIRST_SMALL = 8  # the number of the first register of 4 bytes; it is the first quarter of register 1
_RTN_LOCAL, _IPS_DST_NAT = 2, 1 << 5


def expression(name: str, /, **attributes: object) -> dict:
    """An expression with its attributes by their short names (`sreg=1` for NFTA_CMP_SREG); None is left out."""
    prefix = f"NFTA_{name.upper()}_"
    inner = [(prefix + key.upper(), value) for key, value in attributes.items() if value is not None]
    return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", {"attrs": inner})]}


def _value(data: bytes) -> dict:
    return {"attrs": [("NFTA_DATA_VALUE", data)]}


def equals(data: bytes) -> dict:
    """Go on if register 1 holds `data`."""
    return expression("cmp", sreg=1, op=0, data=_value(data))


def differs(data: bytes) -> dict:
    """Go on if register 1 holds anything but `data`."""
    return expression("cmp", sreg=1, op=1, data=_value(data))


def incoming_link() -> dict:
    """Load the name of the link a packet came in on, 16 bytes, into register 1."""
    return expression("meta", key=6, dreg=1)


def outgoing_link_begins(text: str) -> list[dict]:
    """Packets alone that leave by a link whose name begins so."""
    return [expression("meta", key=7, dreg=1), equals(text.encode())]


def links_in_and_out() -> list[dict]:
    """Load the names of the links a packet came in on and leaves by, 16 bytes each, in a row."""
    return [incoming_link(), expression("meta", key=7, dreg=2)]


def destination_behind_link(version: int) -> list[dict]:
    """Packets of this IP version alone; load the name of the link they leave by and their destination, in a row."""
    address = expression(
        "payload", dreg=2, base=NETWORK_HEADER, offset=DESTINATION_AT[version], len=_ADDRESS_BYTES[version]
    )
    return [*_only_version(version), expression("meta", key=7, dreg=1), address]


def frame_from(mac: bytes) -> list[dict]:
    """Frames alone with this Ethernet source address."""
    return [expression("payload", dreg=1, base=0, offset=6, len=6), equals(mac)]


def frame_of_version(version: int) -> list[dict]:
    """Frames alone that hold a packet of IP version 4 or 6, where other kinds of frames pass too."""
    return [expression("meta", key=1, dreg=1), equals(_ETHERTYPE[version])]


def udp_to(port: int) -> list[dict]:
    """UDP datagrams to a port alone, of either IP version."""
    load = expression("payload", dreg=1, base=_TRANSPORT_HEADER, offset=2, len=2)
    return [expression("meta", key=16, dreg=1), equals(bytes([IPPROTO_UDP])), load, equals(port.to_bytes(2, "big"))]


def udp_payload_differs(offset: int, data: bytes) -> list[dict]:
    """UDP datagrams alone whose payload, `offset` bytes behind its begin, is there and is not `data`."""
    at = _UDP_HEADER_BYTES + offset
    return [expression("payload", dreg=1, base=_TRANSPORT_HEADER, offset=at, len=len(data)), differs(data)]


def source_mac() -> dict:
    """Load the Ethernet source address, 6 bytes, into what follows a 16-byte register 1."""
    return expression("payload", dreg=2, base=0, offset=6, len=6)


def source_address(version: int) -> list[dict]:
    """Packets of IP version 4 or 6 alone; load their source address into register 1."""
    return [*_only_version(version), _load_address(version, SOURCE_AT)]


def destination_address(version: int) -> dict:
    """Load the destination address of what is known to be a packet of this IP version into register 1."""
    return _load_address(version, DESTINATION_AT)


def of_version(version: int) -> list[dict]:
    """Packets of IP version 4 or 6 alone."""
    return _only_version(version)


def of_protocol(number: int) -> list[dict]:
    """Packets of a transport protocol alone."""
    return [expression("meta", key=16, dreg=1), equals(bytes([number]))]


def to_this_host() -> list[dict]:
    """Packets alone whose destination is an address of this host (the fib says: local)."""
    # The number 3, "address type", of what pyroute2 takes for a set of bits.
    address_type = ("NFT_FIB_RESULT_UNSPEC", "NFT_FIB_RESULT_OIF")
    return [
        expression("fib", dreg=1, result=address_type, flags=1 << 1),
        equals(_RTN_LOCAL.to_bytes(4, byteorder)),
    ]


def destination_translated() -> list[dict]:
    """Packets of connections alone whose destination was changed on the way."""
    flag = _IPS_DST_NAT.to_bytes(4, byteorder)
    return [
        expression("ct", dreg=1, key=2),
        expression("bitwise", sreg=1, dreg=1, len=4, mask=_value(flag), xor=_value(bytes(4))),
        differs(bytes(4)),
    ]


def destination_and_port(version: int) -> list[dict]:
    """Packets of this IP version alone; load destination address, transport protocol and destination port in a row."""
    behind = _FIRST_SMALL + _ADDRESS_BYTES[version] // 4
    return [*_only_version(version), _load_address(version, DESTINATION_AT), *_protocol_and_port(behind)]


def port() -> list[dict]:
    """Load transport protocol and destination port in a row."""
    return _protocol_and_port(_FIRST_SMALL)


def original_port(version: int) -> dict:
    """Load, behind `destination_and_port`, the destination port as it was before it was changed."""
    return expression("ct", dreg=_FIRST_SMALL + _ADDRESS_BYTES[version] // 4 + 2, key=12, direction=0)


def _protocol_and_port(register: int) -> list[dict]:
    load = expression("payload", dreg=register + 1, base=_TRANSPORT_HEADER, offset=2, len=2)
    return [expression("meta", key=16, dreg=register), load]


def translate_destination(version: int) -> dict:
    """To the address and port in register 1 and behind; ends the chain."""
    behind = _FIRST_SMALL + _ADDRESS_BYTES[version] // 4
    flags = ("NF_NAT_RANGE_MAP_IPS", "NF_NAT_RANGE_PROTO_SPECIFIED")
    family = {4: AF_INET, 6: AF_INET6}[version]
    return expression("nat", type=1, family=family, reg_addr_min=1, reg_proto_min=behind, flags=flags)


def destination_in(version: int, network: bytes, prefix_length: int) -> list[dict]:
    """Packets of IP version 4 or 6 alone whose destination is in `network`/`prefix_length`."""
    return [*_only_version(version), *_is_in(_load_address(version, DESTINATION_AT), network, prefix_length)]


def source_in(version: int, network: bytes, prefix_length: int) -> list[dict]:
    """Go on if the source of what is known to be a packet of this IP version is in `network`/`prefix_length`."""
    return _is_in(_load_address(version, SOURCE_AT), network, prefix_length)


def _is_in(load: dict, network: bytes, prefix_length: int) -> list[dict]:
    bits = len(network) * 8
    mask = ((1 << bits) - (1 << bits - prefix_length)).to_bytes(len(network), "big")
    masked = expression("bitwise", sreg=1, dreg=1, len=len(network), mask=_value(mask), xor=_value(bytes(len(network))))
    return [load, *([masked] if prefix_length < bits else []), equals(network)]


def _only_version(version: int) -> list[dict]:
    family = {4: AF_INET, 6: AF_INET6}[version]  # NFPROTO_IPV4 and NFPROTO_IPV6 are the same numbers
    return [expression("meta", key=15, dreg=1), equals(bytes([family]))]


def _load_address(version: int, offsets: Mapping[int, int]) -> dict:
    return expression("payload", dreg=1, base=NETWORK_HEADER, offset=offsets[version], len=_ADDRESS_BYTES[version])


def in_set(set_name: str, *, inverted: bool = False) -> dict:
    """Go on if what starts in register 1 is (inverted: is not) in the set."""
    flags = ("NFT_LOOKUP_F_INV",) if inverted else None
    return expression("lookup", set=set_name, sreg=1, flags=flags)


def value_of(map_name: str) -> dict:
    """Load into register 1 what the map has for what starts in register 1; go on only if it has something."""
    return expression("lookup", set=map_name, sreg=1, dreg=1)


def verdict_of(map_name: str) -> dict:
    """Do what the map says for what starts in register 1; go on if it says nothing."""
    return expression("lookup", set=map_name, sreg=1, dreg=0)


def verdict(code: int, chain: str | None = None) -> dict:
    """ACCEPT, DROP or RETURN; or JUMP or GOTO, and the chain."""
    target = [("NFTA_VERDICT_CHAIN", chain)] if chain else []
    data = {"attrs": [("NFTA_DATA_VERDICT", {"attrs": [("NFTA_VERDICT_CODE", code), *target]})]}
    return expression("immediate", dreg=0, data=data)


def masquerade() -> dict:
    """Source address of the link the packet leaves by."""
    return expression("masq")

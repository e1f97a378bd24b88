"""nftables expressions: what rules are made of, under the names of nft's language, encoded as netlink has them.

A rule loads a field into a register, then compares it or looks it up in a set. The first expression that does not match
ends the rule. Expressions are in the order in which `nft --debug=netlink` shows them:

    # iifname "eth0" ip saddr != @peers4 drop
    (iifname(), cmp_eq(ifname("eth0")), *nfproto(4), ip_saddr(4), lookup("peers4", inverted=True), DROP)

Several fields that are one key (`iifname . ip saddr`) are loaded into registers that follow each other.
"""

from socket import IPPROTO_TCP, IPPROTO_UDP
from sys import byteorder

from linux.netlink.attributes import attribute, nested, text
from linux.nftables import uapi

IFNAMSIZ = 16
CONCATENATION = range(uapi.NFT_REG32_00, uapi.NFT_REG32_00 + 16)
"""The registers of 4 bytes each; a key of several fields begins in the first, which is register 1."""
ADDRESS_BYTES = {4: 4, 6: 16}
ETH_P_ARP = 0x0806
_ETH_P = {4: 0x0800, 6: 0x86DD}
_NFPROTO = {4: uapi.NFPROTO_IPV4, 6: uapi.NFPROTO_IPV6}
SADDR_OFFSET, DADDR_OFFSET = {4: 12, 6: 8}, {4: 16, 6: 24}  # in the IP header
_ARP_SENDER_OFFSET = 14  # of the IPv4 address in an ARP packet for Ethernet (RFC 826)
_RTN_LOCAL = 2
_MAC_BYTES, _PORT_BYTES, _UDP_HEADER_BYTES, _TCP_FLAGS_OFFSET = 6, 2, 8, 13
TCP_FIN, TCP_SYN, TCP_RST, TCP_ACK = 1, 2, 4, 16


def be32(kind: int, value: int) -> bytes:
    """An attribute that is a big-endian number of 32 bits; negative numbers as two's complement."""
    return attribute(kind, (value & 0xFFFFFFFF).to_bytes(4, "big"))


def expression(name: str, /, *attributes: bytes) -> bytes:
    """An expression as an element of a rule's list of them."""
    return nested(uapi.NFTA_LIST_ELEM, text(uapi.NFTA_EXPR_NAME, name), nested(uapi.NFTA_EXPR_DATA, *attributes))


def _value(kind: int, data: bytes) -> bytes:
    return nested(kind, attribute(uapi.NFTA_DATA_VALUE, data))


# -- loads ------------------------------------------------------------------------------------------------------------


def meta(key: int, register: int = uapi.NFT_REG_1) -> bytes:
    """Load metadata of the packet (NFT_META_*)."""
    return expression("meta", be32(uapi.NFTA_META_DREG, register), be32(uapi.NFTA_META_KEY, key))


def ct(key: int, register: int = uapi.NFT_REG_1, *, direction: int | None = None) -> bytes:
    """Load something of the packet's connection (NFT_CT_*), in one direction (IP_CT_DIR_*) if it has two."""
    of_direction = [] if direction is None else [attribute(uapi.NFTA_CT_DIRECTION, bytes([direction]))]
    return expression("ct", be32(uapi.NFTA_CT_DREG, register), be32(uapi.NFTA_CT_KEY, key), *of_direction)


def fib(flags: int, result: int = uapi.NFT_FIB_RESULT_ADDRTYPE) -> bytes:
    """Load a result (NFT_FIB_RESULT_*) of a route lookup for what `flags` (NFTA_FIB_F_*) name."""
    return expression(
        "fib",
        be32(uapi.NFTA_FIB_DREG, uapi.NFT_REG_1),
        be32(uapi.NFTA_FIB_RESULT, result),
        be32(uapi.NFTA_FIB_FLAGS, flags),
    )


def payload(base: int, offset: int, length: int, register: int = uapi.NFT_REG_1) -> bytes:
    """Load `length` bytes of a header (NFT_PAYLOAD_*), `offset` bytes after its start."""
    return expression(
        "payload",
        be32(uapi.NFTA_PAYLOAD_DREG, register),
        be32(uapi.NFTA_PAYLOAD_BASE, base),
        be32(uapi.NFTA_PAYLOAD_OFFSET, offset),
        be32(uapi.NFTA_PAYLOAD_LEN, length),
    )


def iifname(register: int = uapi.NFT_REG_1) -> bytes:
    """Load the name of the input interface, IFNAMSIZ bytes."""
    return meta(uapi.NFT_META_IIFNAME, register)


def oifname(register: int = uapi.NFT_REG_1) -> bytes:
    """Load the name of the output interface, IFNAMSIZ bytes."""
    return meta(uapi.NFT_META_OIFNAME, register)


def l4proto(register: int = uapi.NFT_REG_1) -> bytes:
    """Load the transport protocol, 1 byte."""
    return meta(uapi.NFT_META_L4PROTO, register)


def ip_saddr(version: int, register: int = uapi.NFT_REG_1) -> bytes:
    """Load the source address of what is known to be a packet of IP version 4 or 6."""
    return payload(uapi.NFT_PAYLOAD_NETWORK_HEADER, SADDR_OFFSET[version], ADDRESS_BYTES[version], register)


def ip_daddr(version: int, register: int = uapi.NFT_REG_1) -> bytes:
    """Load the destination address of what is known to be a packet of IP version 4 or 6."""
    return payload(uapi.NFT_PAYLOAD_NETWORK_HEADER, DADDR_OFFSET[version], ADDRESS_BYTES[version], register)


def arp_saddr_ip(register: int = uapi.NFT_REG_1) -> bytes:
    """Load the IPv4 address of the sender of what is known to be ARP."""
    return payload(uapi.NFT_PAYLOAD_NETWORK_HEADER, _ARP_SENDER_OFFSET, ADDRESS_BYTES[4], register)


def iifgroup(register: int = uapi.NFT_REG_1) -> bytes:
    """Load the group of the input interface, 4 bytes in host byte order."""
    return meta(uapi.NFT_META_IIFGROUP, register)


def oifgroup(register: int = uapi.NFT_REG_1) -> bytes:
    """Load the group of the output interface, 4 bytes in host byte order."""
    return meta(uapi.NFT_META_OIFGROUP, register)


def ether_saddr(register: int = uapi.NFT_REG_1) -> bytes:
    """Load the Ethernet source address, 6 bytes."""
    return payload(uapi.NFT_PAYLOAD_LL_HEADER, 6, _MAC_BYTES, register)


def th_sport(register: int = uapi.NFT_REG_1) -> bytes:
    """Load the source port."""
    return payload(uapi.NFT_PAYLOAD_TRANSPORT_HEADER, 0, _PORT_BYTES, register)


def th_dport(register: int = uapi.NFT_REG_1) -> bytes:
    """Load the destination port."""
    return payload(uapi.NFT_PAYLOAD_TRANSPORT_HEADER, 2, _PORT_BYTES, register)


def icmpv6_type() -> bytes:
    """Load the type of what is known to be ICMPv6, 1 byte."""
    return payload(uapi.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1)


def udp_payload(offset: int, length: int) -> bytes:
    """Load `length` bytes of what is known to be a UDP datagram, `offset` bytes after its header."""
    return payload(uapi.NFT_PAYLOAD_TRANSPORT_HEADER, _UDP_HEADER_BYTES + offset, length)


# -- comparisons with what was loaded ---------------------------------------------------------------------------------


def cmp_eq(data: bytes) -> bytes:
    """Match if register 1 holds `data`."""
    return _cmp(uapi.NFT_CMP_EQ, data)


def cmp_neq(data: bytes) -> bytes:
    """Match if register 1 holds anything but `data`."""
    return _cmp(uapi.NFT_CMP_NEQ, data)


def _cmp(operator: int, data: bytes) -> bytes:
    return expression(
        "cmp",
        be32(uapi.NFTA_CMP_SREG, uapi.NFT_REG_1),
        be32(uapi.NFTA_CMP_OP, operator),
        _value(uapi.NFTA_CMP_DATA, data),
    )


def cmp_range(first: bytes, last: bytes, *, inverted: bool = False) -> bytes:
    """Match if register 1 holds (`inverted`: does not hold) something from `first` to `last`, compared as bytes."""
    return expression(
        "range",
        be32(uapi.NFTA_RANGE_SREG, uapi.NFT_REG_1),
        be32(uapi.NFTA_RANGE_OP, uapi.NFT_RANGE_NEQ if inverted else uapi.NFT_RANGE_EQ),
        _value(uapi.NFTA_RANGE_FROM_DATA, first),
        _value(uapi.NFTA_RANGE_TO_DATA, last),
    )


def bitwise_and(mask: bytes) -> bytes:
    """Clear the bits of register 1 that are not in `mask`."""
    return expression(
        "bitwise",
        be32(uapi.NFTA_BITWISE_SREG, uapi.NFT_REG_1),
        be32(uapi.NFTA_BITWISE_DREG, uapi.NFT_REG_1),
        be32(uapi.NFTA_BITWISE_LEN, len(mask)),
        _value(uapi.NFTA_BITWISE_MASK, mask),
        _value(uapi.NFTA_BITWISE_XOR, bytes(len(mask))),
    )


def byteorder_hton(size: int) -> bytes:
    """Convert a number of `size` bytes in register 1 from host to network byte order."""
    return expression(
        "byteorder",
        be32(uapi.NFTA_BYTEORDER_SREG, uapi.NFT_REG_1),
        be32(uapi.NFTA_BYTEORDER_DREG, uapi.NFT_REG_1),
        be32(uapi.NFTA_BYTEORDER_OP, uapi.NFT_BYTEORDER_HTON),
        be32(uapi.NFTA_BYTEORDER_LEN, size),
        be32(uapi.NFTA_BYTEORDER_SIZE, size),
    )


def lookup(set_name: str, *, inverted: bool = False) -> bytes:
    """`@set`: match if what starts in register 1 is (`inverted`: is not) in the set."""
    flags = [be32(uapi.NFTA_LOOKUP_FLAGS, uapi.NFT_LOOKUP_F_INV)] if inverted else []
    return expression("lookup", *_of_register_1(set_name), *flags)


def map_lookup(map_name: str) -> bytes:
    """`map @map`: load into register 1 what the map has for what starts in register 1; match if it has something."""
    return expression("lookup", *_of_register_1(map_name), be32(uapi.NFTA_LOOKUP_DREG, uapi.NFT_REG_1))


def vmap(map_name: str) -> bytes:
    """`vmap @map`: the verdict that the map has for what starts in register 1; match if it has one."""
    return expression("lookup", *_of_register_1(map_name), be32(uapi.NFTA_LOOKUP_DREG, uapi.NFT_REG_VERDICT))


def _of_register_1(name: str) -> tuple[bytes, bytes]:
    return text(uapi.NFTA_LOOKUP_SET, name), be32(uapi.NFTA_LOOKUP_SREG, uapi.NFT_REG_1)


def ifname(name: str) -> bytes:
    """The name of an interface as registers and keys hold it, padded to IFNAMSIZ."""
    return name.encode().ljust(IFNAMSIZ, b"\0")


# -- matches: a load with its comparison ------------------------------------------------------------------------------


def nfproto(version: int) -> list[bytes]:
    """`meta nfproto ipv4`, which nft also puts, and does not print, before fields of an IP header."""
    return [meta(uapi.NFT_META_NFPROTO), cmp_eq(bytes([_NFPROTO[version]]))]


def protocol(ethertype: int) -> list[bytes]:
    """`meta protocol`: frames of this EtherType (ETH_P_*), in chains that also see others."""
    return [meta(uapi.NFT_META_PROTOCOL), cmp_eq(ethertype.to_bytes(2, "big"))]


def protocol_ip(version: int) -> list[bytes]:
    """`meta protocol ip` or `ip6`, which nft also puts, and does not print, before fields of an IP header."""
    return protocol(_ETH_P[version])


def l4proto_is(number: int) -> list[bytes]:
    """`meta l4proto`: packets of this transport protocol (IPPROTO_*)."""
    return [l4proto(), cmp_eq(bytes([number]))]


def udp_dport(port: int) -> list[bytes]:
    """`udp dport`: UDP datagrams to this port, over either IP version."""
    return [*l4proto_is(IPPROTO_UDP), th_dport(), cmp_eq(port.to_bytes(_PORT_BYTES, "big"))]


def in_network(network: bytes, prefix_length: int, *, inverted: bool = False) -> list[bytes]:
    """`10.1.2.0/24` after a field: match if the address in register 1 is (`inverted`: is not) in this network."""
    bits = len(network) * 8
    mask = ((1 << bits) - (1 << bits - prefix_length)).to_bytes(len(network), "big")
    compare = cmp_neq if inverted else cmp_eq
    return [*([bitwise_and(mask)] if prefix_length < bits else []), compare(network)]


def fib_type_local(flags: int) -> list[bytes]:
    """`fib saddr type local`, `fib daddr type local`: the address that `flags` (NFTA_FIB_F_*) name is this node's."""
    return [fib(flags), cmp_eq(host32(_RTN_LOCAL))]


def fib_oif_exists(flags: int, *, inverted: bool = False) -> list[bytes]:
    """`fib saddr . iif oif exists` (`inverted`: `missing`): the address is routed by the link the packet came in on."""
    found = fib(flags | uapi.NFTA_FIB_F_IIF | uapi.NFTA_FIB_F_PRESENT, uapi.NFT_FIB_RESULT_OIF)
    return [found, cmp_eq(host32(not inverted))]


def mark_has(bit: int, *, inverted: bool = False) -> list[bytes]:
    """`meta mark & BIT != 0` (`inverted`: `== 0`)."""
    compare = cmp_eq if inverted else cmp_neq
    return [meta(uapi.NFT_META_MARK), bitwise_and(host32(bit)), compare(bytes(4))]


def ct_status_dnat() -> list[bytes]:
    """`ct status dnat`: packets of connections whose destination was translated."""
    return [ct(uapi.NFT_CT_STATUS), bitwise_and(host32(uapi.IPS_DST_NAT)), cmp_neq(bytes(4))]


def ct_state(states: int) -> list[bytes]:
    """`ct state established,related`: packets in one of these states (CT_STATE_*, or'ed)."""
    return [ct(uapi.NFT_CT_STATE), bitwise_and(host32(states)), cmp_neq(bytes(4))]


def tcp_flags_are(flags: int, mask: int, *, inverted: bool = False) -> list[bytes]:
    """`tcp flags & MASK == FLAGS` (`inverted`: `!=`), which nft prints as `tcp flags syn / fin,syn,rst,ack`."""
    loaded = payload(uapi.NFT_PAYLOAD_TRANSPORT_HEADER, _TCP_FLAGS_OFFSET, 1)
    compare = cmp_neq if inverted else cmp_eq
    return [*l4proto_is(IPPROTO_TCP), loaded, bitwise_and(bytes([mask])), compare(bytes([flags]))]


def host32(value: int) -> bytes:
    """A number of 32 bits in host byte order, as registers hold marks, flags and results."""
    return value.to_bytes(4, byteorder)


# -- statements -------------------------------------------------------------------------------------------------------


def immediate(code: int, chain: str = "") -> bytes:
    """A verdict: NF_* or NFT_RETURN; NFT_JUMP or NFT_GOTO and the chain."""
    return expression(
        "immediate",
        be32(uapi.NFTA_IMMEDIATE_DREG, uapi.NFT_REG_VERDICT),
        nested(uapi.NFTA_IMMEDIATE_DATA, verdict_data(code, chain)),
    )


def verdict_data(code: int, chain: str = "") -> bytes:
    """A verdict as the data of an expression or of an element of a map."""
    target = [text(uapi.NFTA_VERDICT_CHAIN, chain)] if chain else []
    return nested(uapi.NFTA_DATA_VERDICT, be32(uapi.NFTA_VERDICT_CODE, code), *target)


ACCEPT, DROP, RETURN = immediate(uapi.NF_ACCEPT), immediate(uapi.NF_DROP), immediate(uapi.NFT_RETURN)


def jump(chain: str) -> bytes:
    """Continue in this chain, and come back at its end."""
    return immediate(uapi.NFT_JUMP, chain)


def goto(chain: str) -> bytes:
    """Continue in this chain, and do not come back."""
    return immediate(uapi.NFT_GOTO, chain)


def masquerade() -> bytes:
    """Translate the source to an address of the output interface."""
    return expression("masq")


def dnat(version: int, port_register: int) -> bytes:
    """`dnat ip to`: translate the destination to the address in register 1 and the port in another; ends the chain."""
    return expression(
        "nat",
        be32(uapi.NFTA_NAT_TYPE, uapi.NFT_NAT_DNAT),
        be32(uapi.NFTA_NAT_FAMILY, _NFPROTO[version]),
        be32(uapi.NFTA_NAT_REG_ADDR_MIN, uapi.NFT_REG_1),
        be32(uapi.NFTA_NAT_REG_PROTO_MIN, port_register),
        be32(uapi.NFTA_NAT_FLAGS, uapi.NF_NAT_RANGE_MAP_IPS | uapi.NF_NAT_RANGE_PROTO_SPECIFIED),
    )


def notrack() -> bytes:
    """Exempt the packet from connection tracking."""
    return expression("notrack")


def mark_clear(bit: int) -> list[bytes]:
    """`meta mark set meta mark & ~BIT`."""
    set_mark = expression(
        "meta", be32(uapi.NFTA_META_KEY, uapi.NFT_META_MARK), be32(uapi.NFTA_META_SREG, uapi.NFT_REG_1)
    )
    return [meta(uapi.NFT_META_MARK), bitwise_and(host32(~bit & 0xFFFFFFFF)), set_mark]

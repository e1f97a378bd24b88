"""nftables statements besides verdicts: what a rule does with a packet that matched, encoded as netlink has it.

Expressions that load and compare are in linux/nftables/expressions.py. A statement that takes a value takes it from a
register, into which a load or a lookup in a map has put it:

    # ether daddr set meta iifgroup map @gateways meta pkttype set host
    (meta(NFT_META_IIFGROUP), map_lookup("gateways"), ether_daddr_set(), *pkttype_set(PACKET_HOST))
"""

from linux.netlink.attributes import attribute, nested, text
from linux.nftables import uapi
from linux.nftables.expressions import be32, expression

PACKET_HOST = 0
_SECOND = 1  # seconds in the unit of a limit
_MAC_BYTES = 6


def counter() -> bytes:
    """`counter`: count packets and bytes."""
    return expression("counter")


def set_update(set_name: str, *, counted: bool = False) -> bytes:
    """`update @set { ... }`: add what starts in register 1, or let it live as long again; `counted`: `... counter`."""
    counting = [nested(uapi.NFTA_DYNSET_EXPR, text(uapi.NFTA_EXPR_NAME, "counter"))] if counted else []
    return expression(
        "dynset",
        text(uapi.NFTA_DYNSET_SET_NAME, set_name),
        be32(uapi.NFTA_DYNSET_OP, uapi.NFT_DYNSET_OP_UPDATE),
        be32(uapi.NFTA_DYNSET_SREG_KEY, uapi.NFT_REG_1),
        *counting,
    )


def ether_daddr_set() -> bytes:
    """`ether daddr set`: replace the Ethernet destination address by the one in register 1."""
    return expression(
        "payload",
        be32(uapi.NFTA_PAYLOAD_SREG, uapi.NFT_REG_1),
        be32(uapi.NFTA_PAYLOAD_BASE, uapi.NFT_PAYLOAD_LL_HEADER),
        be32(uapi.NFTA_PAYLOAD_OFFSET, 0),
        be32(uapi.NFTA_PAYLOAD_LEN, _MAC_BYTES),
    )


def pkttype_set(kind: int) -> list[bytes]:
    """`meta pkttype set`: have the packet be for this host (PACKET_HOST), for example."""
    return [immediate_value(bytes([kind])), meta_set(uapi.NFT_META_PKTTYPE)]


def meta_set(key: int) -> bytes:
    """Set metadata of the packet (NFT_META_*) to what is in register 1."""
    return expression("meta", be32(uapi.NFTA_META_KEY, key), be32(uapi.NFTA_META_SREG, uapi.NFT_REG_1))


def immediate_value(data: bytes) -> bytes:
    """Put a value into register 1."""
    value = nested(uapi.NFTA_IMMEDIATE_DATA, attribute(uapi.NFTA_DATA_VALUE, data))
    return expression("immediate", be32(uapi.NFTA_IMMEDIATE_DREG, uapi.NFT_REG_1), value)


def reject_tcp_reset() -> bytes:
    """`reject with tcp reset`: drop what is known to be TCP, and end the connection at its sender."""
    kind = be32(uapi.NFTA_REJECT_TYPE, uapi.NFT_REJECT_TCP_RST)
    return expression("reject", kind, attribute(uapi.NFTA_REJECT_ICMP_CODE, b"\0"))


def limit(a_second: int, *, burst: int = 5) -> bytes:
    """`limit rate N/second burst N packets`: match that many packets (nft does not print a burst of 5)."""
    return expression(
        "limit",
        attribute(uapi.NFTA_LIMIT_RATE, a_second.to_bytes(8, "big")),
        attribute(uapi.NFTA_LIMIT_UNIT, _SECOND.to_bytes(8, "big")),
        be32(uapi.NFTA_LIMIT_BURST, burst),
    )


def log(group: int, prefix: str, *, snaplen: int = 0) -> bytes:
    """`log prefix "..." group N snaplen N`: send the first `snaplen` bytes (0: all) to the group's listener (nflog)."""
    length = [be32(uapi.NFTA_LOG_SNAPLEN, snaplen)] if snaplen else []
    number = attribute(uapi.NFTA_LOG_GROUP, group.to_bytes(2, "big"))
    return expression("log", number, text(uapi.NFTA_LOG_PREFIX, prefix), *length)

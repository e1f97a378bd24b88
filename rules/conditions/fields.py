"""The fields of a packet that conditions compare: how each is loaded, and how its values are read.

The names are nft's. Numbers of values are those of <linux/netfilter/nf_conntrack_common.h>, if_packet.h, if_arp.h
and rtnetlink.h.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from sys import byteorder

from linux.nftables import uapi
from linux.nftables.expressions import (
    IFNAMSIZ,
    byteorder_hton,
    cmp_eq,
    ct,
    ether_saddr,
    fib,
    ifname,
    ip_daddr,
    ip_saddr,
    l4proto_is,
    meta,
    payload,
    th_dport,
    th_sport,
)
from spec.addresses import BITS, Address, pack

_TCP_FLAGS_OFFSET = 13
_ETHERNET = (1).to_bytes(2, byteorder)  # ARPHRD_ETHER
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "dccp": 33, "esp": 50, "ah": 51, "icmpv6": 58, "ipv6-icmp": 58,
             "sctp": 132, "udplite": 136}  # fmt: skip
ADDRESS_TYPES = {"unspec": 0, "unicast": 1, "local": 2, "broadcast": 3, "anycast": 4, "multicast": 5, "blackhole": 6,
                 "unreachable": 7, "prohibit": 8}  # fmt: skip
STATES = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
STATUSES = {"expected": 1, "seen-reply": 2, "assured": 4, "confirmed": 8, "snat": 16, "dnat": 32, "dying": 512}
TCP_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32}
_PACKET_TYPES = {"host": 0, "unicast": 0, "broadcast": 1, "multicast": 2, "other": 3}
_LINK_TYPES = {"ether": 1, "ppp": 512, "loopback": 772, "none": 65534}


@dataclass(frozen=True)
class Value:
    """A value to compare with: `data`, or the bits of it in `mask`, or the range from `data` to `upper`."""

    text: str
    data: bytes
    mask: bytes = b""
    upper: bytes = b""


@dataclass(frozen=True)
class Field:
    """A field of a packet.

    `load`: expressions that load it into register 1, and match only packets that have it. `read`: the value of a word;
    raises ValueError. `size`, in bytes; `order`, of its bytes. `flags`: the names of its bits, if values are sets of
    bits.
    """

    name: str
    load: tuple[bytes, ...]
    read: Callable[[str], Value]
    size: int
    order: str = "big"
    flags: Mapping[str, int] | None = None

    def ordered(self) -> tuple[bytes, ...]:
        """The expressions that make register 1 comparable as a number, for ranges."""
        return () if self.order == "big" or self.size == 1 else (byteorder_hton(self.size),)


def field_of(words: tuple[str, ...], version: int) -> Field | None:
    """The field of that name, of one to three words, in packets of this IP version; None if there is none."""
    name = words[1:] if words[0] == "meta" else words
    if name in _META:
        return _meta_field(" ".join(words), *_META[name])
    if words[0] == "ct" and words[1:] in _CT:
        return _ct_field(words)
    if words[0] in ("ip", "ip6") and words[0] == {4: "ip", 6: "ip6"}[version]:
        return _network_field(words, version)
    if words[0] in ("tcp", "udp", "sctp", "th"):
        return _transport_field(words)
    if words == ("ether", "saddr"):
        loaded = (meta(uapi.NFT_META_IIFTYPE), cmp_eq(_ETHERNET), ether_saddr())
        return Field("ether saddr", loaded, _mac, 6)
    return _fib_field(words) if words[0] == "fib" else None


def _network_field(words: tuple[str, ...], version: int) -> Field | None:
    addresses = {"saddr": ip_saddr, "daddr": ip_daddr}
    name = " ".join(words)
    if len(words) == 2 and words[1] in addresses:
        size = BITS[version] // 8
        return Field(name, (addresses[words[1]](version),), partial(_address, version), size)
    plain = {"ip protocol": (9, PROTOCOLS), "ip ttl": (8, {}), "ip6 nexthdr": (6, PROTOCOLS), "ip6 hoplimit": (7, {})}
    if name not in plain:
        return None
    offset, names = plain[name]
    return Field(name, (payload(uapi.NFT_PAYLOAD_NETWORK_HEADER, offset, 1),), partial(_numbers, names, 1, "big"), 1)


def _transport_field(words: tuple[str, ...]) -> Field | None:
    name = " ".join(words)
    protocol = l4proto_is(PROTOCOLS[words[0]]) if words[0] != "th" else []
    if words[1:] in (("sport",), ("dport",)):
        port = th_sport() if words[1] == "sport" else th_dport()
        return Field(name, (*protocol, port), _port, 2)
    if words == ("tcp", "flags"):
        loaded = (*protocol, payload(uapi.NFT_PAYLOAD_TRANSPORT_HEADER, _TCP_FLAGS_OFFSET, 1))
        return Field(name, loaded, partial(_numbers, TCP_FLAGS, 1, "big"), 1, flags=TCP_FLAGS)
    return None


_META = {
    ("iifname",): (uapi.NFT_META_IIFNAME, IFNAMSIZ),
    ("iif",): (uapi.NFT_META_IIFNAME, IFNAMSIZ),
    ("oifname",): (uapi.NFT_META_OIFNAME, IFNAMSIZ),
    ("oif",): (uapi.NFT_META_OIFNAME, IFNAMSIZ),
    ("mark",): (uapi.NFT_META_MARK, 4),
    ("l4proto",): (uapi.NFT_META_L4PROTO, 1),
    ("nfproto",): (uapi.NFT_META_NFPROTO, 1),
    ("pkttype",): (uapi.NFT_META_PKTTYPE, 1),
    ("iiftype",): (uapi.NFT_META_IIFTYPE, 2),
    ("oiftype",): (uapi.NFT_META_OIFTYPE, 2),
    ("iifgroup",): (uapi.NFT_META_IIFGROUP, 4),
    ("oifgroup",): (uapi.NFT_META_OIFGROUP, 4),
    ("skuid",): (uapi.NFT_META_SKUID, 4),
    ("skgid",): (uapi.NFT_META_SKGID, 4),
    ("length",): (uapi.NFT_META_LEN, 4),
}
_META_NAMES = {
    uapi.NFT_META_L4PROTO: PROTOCOLS,
    uapi.NFT_META_NFPROTO: {"ipv4": uapi.NFPROTO_IPV4, "ipv6": uapi.NFPROTO_IPV6},
    uapi.NFT_META_PKTTYPE: _PACKET_TYPES,
    uapi.NFT_META_IIFTYPE: _LINK_TYPES,
    uapi.NFT_META_OIFTYPE: _LINK_TYPES,
    uapi.NFT_META_IIFGROUP: {"default": 0},
    uapi.NFT_META_OIFGROUP: {"default": 0},
}


def _meta_field(name: str, key: int, size: int) -> Field:
    if size == IFNAMSIZ:
        return Field(name, (meta(key),), _link_name, size)
    if key in (uapi.NFT_META_SKUID, uapi.NFT_META_SKGID):
        return Field(name, (meta(key),), partial(_account, group=key == uapi.NFT_META_SKGID), size, byteorder)
    return Field(name, (meta(key),), partial(_numbers, _META_NAMES.get(key, {}), size, byteorder), size, byteorder)


_CT = {
    ("state",): (uapi.NFT_CT_STATE, STATES),
    ("status",): (uapi.NFT_CT_STATUS, STATUSES),
    ("mark",): (uapi.NFT_CT_MARK, None),
    ("direction",): (uapi.NFT_CT_DIRECTION, None),
}
_DIRECTIONS = {"original": uapi.IP_CT_DIR_ORIGINAL, "reply": uapi.IP_CT_DIR_REPLY}


def _ct_field(words: tuple[str, ...]) -> Field:
    key, flags = _CT[words[1:]]
    size = 1 if words[1] == "direction" else 4
    names = _DIRECTIONS if words[1] == "direction" else flags or {}
    read = partial(_numbers, names, size, byteorder)
    return Field(" ".join(words), (ct(key),), read, size, byteorder, flags)


_FIB_FLAGS = {("saddr", "type"): uapi.NFTA_FIB_F_SADDR, ("daddr", "type"): uapi.NFTA_FIB_F_DADDR}


def _fib_field(words: tuple[str, ...]) -> Field | None:
    """The type of an address; not in relation to a link, as the node's own packets have no input interface."""
    flags = _FIB_FLAGS.get(words[1:])
    if flags is None:
        return None
    return Field(" ".join(words), (fib(flags),), partial(_numbers, ADDRESS_TYPES, 4, byteorder), 4, byteorder)


def _address(version: int, text: str) -> Value:
    first, dash, last = text.partition("-")
    if dash:
        low, high = _packed(version, first), _packed(version, last)
        if low > high:
            raise ValueError(text)
        return Value(text, low, upper=high)
    address, slash, length = text.partition("/")
    size = _prefix_length(version, length) if slash else BITS[version]
    network = Address(version, int.from_bytes(_packed(version, address), "big"), size).network
    if size == network.bits:
        return Value(str(network), network.packed)
    mask = network.last ^ network.first ^ (1 << network.bits) - 1
    return Value(network.cidr, network.packed, mask.to_bytes(network.bits // 8, "big"))


def _packed(version: int, text: str) -> bytes:
    packed = pack(text.strip())
    if 8 * len(packed) != BITS[version]:
        raise ValueError(f"not an IPv{version} address: {text}")
    return packed


def _prefix_length(version: int, text: str) -> int:
    """A number, or a mask as in iptables: 255.255.0.0."""
    bits = BITS[version]
    if text.isascii() and text.isdigit() and int(text) <= bits:
        return int(text)
    mask = int.from_bytes(_packed(version, text), "big")
    size = mask.bit_count()
    if mask != (1 << bits) - (1 << bits - size):
        raise ValueError(text)
    return size


def _port(text: str) -> Value:
    return _numbers(_Services(), 2, "big", text)


class _Services(dict):
    """Ports by their names in /etc/services."""

    def get(self, name: str, default: object = None) -> object:
        """The port of a service."""
        from socket import getservbyname

        try:
            return getservbyname(name)
        except OSError:
            return default


def _numbers(names: Mapping[str, int], size: int, order: str, text: str) -> Value:
    """A number, the name of one, or a range of them."""
    first, dash, last = text.partition("-")
    if dash and text.lower() not in names:
        low, high = _number(names, size, "big", first), _number(names, size, "big", last)
        if low > high:
            raise ValueError(text)
        return Value(f"{int.from_bytes(low, 'big')}-{int.from_bytes(high, 'big')}", low, upper=high)
    data = _number(names, size, order, text)
    return Value(str(int.from_bytes(data, order)), data)


def _number(names: Mapping[str, int], size: int, order: str, text: str) -> bytes:
    word = text.strip().lower()
    found = names.get(word)
    try:
        return (int(word, 0) if found is None else int(found)).to_bytes(size, order)
    except (ValueError, OverflowError):
        raise ValueError(text) from None


def _account(text: str, *, group: bool) -> Value:
    """A user or a group, by number or name."""
    if not text[:1].isdigit():
        import grp
        import pwd

        try:
            text = str(grp.getgrnam(text).gr_gid if group else pwd.getpwnam(text).pw_uid)
        except KeyError:
            raise ValueError(text) from None
    return _numbers({}, 4, byteorder, text)


def _link_name(text: str) -> Value:
    name = text.removesuffix("*")
    if not name or len(name.encode()) > IFNAMSIZ - 1 or not name.isprintable() or "/" in name or " " in name:
        raise ValueError(text)
    return Value(text, name.encode() if text.endswith("*") else ifname(name))


def _mac(text: str) -> Value:
    parts = text.split(":")
    if len(parts) != 6 or any(len(part) != 2 for part in parts):
        raise ValueError(text)
    return Value(text.lower(), bytes.fromhex(text.replace(":", "")))

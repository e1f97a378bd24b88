"""IP addresses and networks: one immutable value for both, and their text (RFC 5952, as Go's net package prints it)."""

# Not `socket`: its Python half takes milliseconds to import, and nothing else here needs it.
from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from collections import namedtuple
from functools import lru_cache

FAMILIES = {4: AF_INET, 6: AF_INET6}
BITS = {4: 32, 6: 128}
_MAPPED = b"\0" * 10 + b"\xff\xff"


class Address(namedtuple("Address", ("version", "number", "prefix", "first", "last"))):
    """An address of IP `version` 4 or 6 as a `number`, with the prefix length in bits of the network it is in.

    `first` and `last` are the numbers of that network's first address and last one, in IPv4 the broadcast address. They
    are computed once, because thousands of networks are compared at a time. A network is an `Address` without host
    bits. Sorted, a network comes before all that is in it.
    """

    __slots__ = ()

    def __new__(cls, version: int, number: int, prefix: int) -> "Address":
        host_bits = BITS[version] - prefix
        first = number >> host_bits << host_bits
        return tuple.__new__(cls, (version, number, prefix, first, first + (1 << host_bits) - 1))

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6."""
        return FAMILIES[self.version]

    @property
    def bits(self) -> int:
        """The length of an address of this version: 32 or 128."""
        return BITS[self.version]

    @property
    def packed(self) -> bytes:
        """The address in 4 or 16 bytes."""
        return self.number.to_bytes(BITS[self.version] >> 3, "big")

    @property
    def network(self) -> "Address":
        """The network that it is in: 10.1.2.0/24 of 10.1.2.3/24."""
        return Address(self.version, self.first, self.prefix)

    @property
    def first_host(self) -> "Address":
        """The address after the first of the network, mostly the gateway: 10.1.2.1/24 of 10.1.2.3/24."""
        return Address(self.version, (self.first + 1) % (1 << self.bits), self.prefix)

    @property
    def unmapped(self) -> "Address":
        """The same, or the IPv4 address that is mapped into IPv6 (::ffff:10.0.0.1). Raises ValueError (/0 to /95)."""
        if self.version == 4 or self.number >> 32 != 0xFFFF:
            return self
        if self.prefix < 96:
            raise ValueError(f"invalid CIDR address: {self.cidr}")
        return Address(4, self.number & 0xFFFFFFFF, self.prefix - 96)

    @property
    def cidr(self) -> str:
        """The address with its prefix length: 10.1.2.3/24."""
        return f"{self}/{self.prefix}"

    def contains(self, other: "Address") -> bool:
        """Whether all of the other's network is in this one's."""
        return self.version == other.version and self.first <= other.first and other.last <= self.last

    def overlaps(self, other: "Address") -> bool:
        """Whether the two networks have addresses in common: one of them is then in the other."""
        return self.version == other.version and self.first <= other.last and other.first <= self.last

    def __str__(self) -> str:
        """The address alone."""
        return text_of(self.version, self.number)


@lru_cache(256)  # one call, or one record of a peer, parses the same few addresses several times
def parse_address(text: str) -> Address:
    """Read "10.1.2.3/24", or "10.1.2.3" for a single address (/32); ::ffff:10.0.0.1 stays IPv6. Raises ValueError."""
    if "/" in text:
        return parse_cidr(text)
    version = 6 if ":" in text else 4
    try:
        return Address(version, int.from_bytes(inet_pton(FAMILIES[version], text), "big"), BITS[version])
    except (OSError, ValueError) as error:
        raise ValueError(f"invalid IP address: {text}") from error


def parse_cidr(text: str) -> Address:
    """Read "10.1.2.3/24": no netmask, no bare address. ::ffff:10.0.0.1/120 stays IPv6. Raises ValueError."""
    address, _, length = text.partition("/")
    version = 6 if ":" in address else 4
    if length.isdigit() and length.isascii() and len(length) <= 3 and int(length) <= BITS[version]:
        try:
            return Address(version, int.from_bytes(inet_pton(FAMILIES[version], address), "big"), int(length))
        except (OSError, ValueError):
            pass
    raise ValueError(f"invalid CIDR address: {text}")


def parse_ip(text: str) -> Address:
    """Read a single address; one that is IPv4 mapped into IPv6 (::ffff:10.0.0.1) becomes IPv4. Raises ValueError."""
    return parse_address(canonical_ip(text))


def pack(text: str) -> bytes:
    """The 4 or 16 bytes of an address. Raises ValueError (zones, leading zeros, other text)."""
    try:
        return inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError) as error:
        raise ValueError(f"invalid IP address: {text}") from error


def unpack(packed: bytes) -> str:
    """The text of an address in 4 or 16 bytes."""
    if len(packed) == 4:
        return inet_ntop(AF_INET, packed)
    text = inet_ntop(AF_INET6, packed)
    if "." in text and not packed.startswith(_MAPPED):
        # The C library prints ::1.2.3.4 for the long deprecated ::/96; other libraries do not.
        return f"::{packed[12] << 8 | packed[13]:x}:{packed[14] << 8 | packed[15]:x}"
    return text


def text_of(version: int, number: int) -> str:
    """The text of an address given as a number."""
    return unpack(number.to_bytes(BITS[version] >> 3, "big"))


def canonical_ip(text: str) -> str:
    """An address, e.g. "fd00::1"; IPv4 mapped into IPv6 becomes IPv4. Raises ValueError."""
    packed = pack(text)
    return unpack(packed[12:] if packed.startswith(_MAPPED) and len(packed) == 16 else packed)


def canonical_cidr(text: str) -> str:
    """An address with its prefix length, e.g. "10.1.2.3/24"; host bits are kept. Raises ValueError."""
    return parse_cidr(text).unmapped.cidr


def network_of(cidr: str) -> str:
    """The network that a canonical CIDR is in: "10.1.2.0/24" of "10.1.2.3/24"."""
    return parse_cidr(cidr).network.cidr


def family_of(address: str) -> int:
    """AF_INET or AF_INET6 of an address in text, with or without a prefix length."""
    return AF_INET6 if ":" in address else AF_INET


def is_ipv6(text: str) -> bool:
    """Whether a canonical address or CIDR is of IPv6."""
    return ":" in text


def is_unspecified(address: str) -> bool:
    """Whether a canonical address is 0.0.0.0 or ::, which stand for none."""
    return address in ("0.0.0.0", "::")


def why_no_gateway(address: str, cidr: str = "") -> str:
    """Why no router can have that canonical address, "" if one can; `cidr`: the pod's address, or its subnet."""
    gateway = parse_address(address)
    top = gateway.packed[0]
    if is_unspecified(address):
        return "the unspecified address"
    if top == 0xFF if gateway.version == 6 else top >> 4 == 0xE:
        return "a multicast address"
    if gateway.number == 1 if gateway.version == 6 else top == 127:
        return "a loopback address"
    if gateway.version == 4 and gateway.number == 0xFFFFFFFF:
        return "the broadcast address"
    subnet = parse_address(cidr) if cidr else gateway
    if gateway.version == 6 or subnet.version == 6 or subnet.prefix > 30:
        return ""
    ends = {subnet.first: "the address of the subnet itself", subnet.last: "the broadcast address of the subnet"}
    return ends.get(gateway.number, "")

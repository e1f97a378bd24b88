"""IP addresses and CIDRs of results in their canonical text, as Go's net package reads and prints them."""

_BITS = {4: 32, 6: 128}
_MAPPED = b"\0" * 10 + b"\xff\xff"


def canonical_ip(text: str) -> str:
    """An address, e.g. "fd00::1"; IPv4 in IPv6 becomes IPv4. Raises ValueError (zones, leading zeros, other text)."""
    return _split(text)[0]


def canonical_cidr(text: str) -> str:
    """An address with its prefix length, e.g. "10.1.2.3/24"; host bits are kept. Raises ValueError."""
    address, slash, length = text.partition("/")
    if not slash or not (length.isascii() and length.isdigit() and len(length) <= 3):
        raise ValueError("no CIDR")
    canonical, bits, mapped = _split(address)
    prefix = int(length) - (96 if mapped else 0)
    if not 0 <= prefix <= bits:
        raise ValueError("no such prefix length")
    return f"{canonical}/{prefix}"


def network_of(cidr: str) -> str:
    """The network that a canonical CIDR is in: "10.1.2.0/24" of "10.1.2.3/24"."""
    from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

    address, _, length = cidr.partition("/")
    family = AF_INET6 if ":" in address else AF_INET
    packed = inet_pton(family, address)
    host_bits = 8 * len(packed) - int(length)
    number = int.from_bytes(packed, "big") >> host_bits << host_bits
    return f"{canonical_ip(inet_ntop(family, number.to_bytes(len(packed), 'big')))}/{length}"


def is_unspecified(address: str) -> bool:
    """Whether a canonical address is 0.0.0.0 or ::, which stand for none."""
    return address in ("0.0.0.0", "::")


def why_no_gateway(address: str, cidr: str = "") -> str:
    """Why no router can have that canonical address, "" if one can; `cidr`: the pod's address, or its subnet."""
    from socket import AF_INET, AF_INET6, inet_pton

    version6 = is_ipv6(address)
    packed = inet_pton(AF_INET6 if version6 else AF_INET, address)
    if is_unspecified(address):
        return "the unspecified address"
    if packed[0] == 0xFF if version6 else packed[0] >> 4 == 0xE:
        return "a multicast address"
    if address == "::1" if version6 else packed[0] == 127:
        return "a loopback address"
    if packed == b"\xff" * 4:
        return "the broadcast address"
    own, _, length = cidr.partition("/")
    if not cidr or version6 or is_ipv6(own) or int(length) > 30:
        return ""
    ends = (1 << 32 - int(length)) - 1
    number, subnet = int.from_bytes(packed, "big"), int.from_bytes(inet_pton(AF_INET, own), "big") & ~ends
    ends_of = {subnet: "the address of the subnet itself", subnet | ends: "the broadcast address of the subnet"}
    return ends_of.get(number, "")


def is_ipv6(text: str) -> bool:
    """Whether a canonical address or CIDR is of IPv6."""
    return ":" in text


def _split(text: str) -> tuple[str, int, bool]:
    """Canonical text, bits of the family, and whether it was IPv4 in IPv6."""
    # Imported here: only who reads results pays for it, a plain ADD does not.
    from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

    family = AF_INET6 if ":" in text else AF_INET
    try:
        packed = inet_pton(family, text)
    except (OSError, UnicodeError, ValueError):
        raise ValueError("no IP address") from None
    mapped = packed.startswith(_MAPPED) and len(packed) == 16
    if mapped:
        family, packed = AF_INET, packed[12:]
    canonical = inet_ntop(family, packed)
    if family == AF_INET6 and "." in canonical:
        # The C library prints ::a.b.c.d for the long deprecated ::/96; nobody else does.
        canonical = f"::{packed[12] << 8 | packed[13]:x}:{packed[14] << 8 | packed[15]:x}"
    return canonical, _BITS[4] if family == AF_INET else _BITS[6], mapped

"""Addresses as text and as numbers, on the C library's own reading and printing."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from struct import Struct

_BITS = {4: 32, 6: 128}
_FAMILIES = {4: AF_INET, 6: AF_INET6}


@dataclass(frozen=True)
class Address:
    """An IP address; `version` is 4 or 6. `str()` gives the text that Go prints, which is also its name on disk."""

    version: int
    number: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read an address; an IPv4 address in IPv6 clothes (::ffff:10.0.0.1) is an IPv4 address. Raises ValueError."""
        address = cls.parse_as_written(text)
        if address.version == 6 and address.number >> 32 == 0xFFFF:
            return cls(4, address.number & 0xFFFFFFFF)
        return address

    @classmethod
    def parse_as_written(cls, text: str) -> "Address":
        """Read an address, and let ::ffff:10.0.0.1 be IPv6. Raises ValueError."""
        version = 6 if ":" in text else 4
        try:
            packed = inet_pton(_FAMILIES[version], text)
        except (OSError, ValueError) as error:
            raise ValueError(f"invalid IP address: {text}") from error
        return cls(version, int.from_bytes(packed, "big"))

    def __str__(self) -> str:
        return text_of(self.version, self.number)


@dataclass(frozen=True)
class Network:
    """An address with the length of its network's prefix."""

    address: Address
    prefix: int

    @classmethod
    def parse(cls, text: str) -> "Network":
        """Read "10.1.2.3/24", keeping the host part; no netmask, no bare address. Raises ValueError."""
        host, _, length = text.partition("/")
        if not (length.isascii() and length.isdigit() and len(length) <= 3):
            raise ValueError(f"invalid CIDR address: {text}")
        try:
            address = Address.parse_as_written(host)
        except ValueError as error:
            raise ValueError(f"invalid CIDR address: {text}") from error
        if int(length) > _BITS[address.version]:
            raise ValueError(f"invalid CIDR address: {text}")
        return cls(address, int(length))

    @property
    def bits(self) -> int:
        """The length of an address of this family: 32 or 128."""
        return _BITS[self.address.version]

    @property
    def first(self) -> int:
        """The network's own address, as a number."""
        return self.address.number >> (self.bits - self.prefix) << (self.bits - self.prefix)

    @property
    def last(self) -> int:
        """The last address, for IPv4 the broadcast address, as a number."""
        return self.first + (1 << (self.bits - self.prefix)) - 1

    def __str__(self) -> str:
        return f"{self.address}/{self.prefix}"


def text_of(version: int, number: int) -> str:
    """The canonical text (RFC 5952) of an address given as a number."""
    if version == 4:
        return inet_ntop(AF_INET, number.to_bytes(4, "big"))
    if 0xFFFF < number <= 0xFFFFFFFF:
        # The C library prints ::1.2.3.4 where Go prints ::102:304; the name on disk must be Go's.
        return f"::{number >> 16:x}:{number & 0xFFFF:x}"
    return inet_ntop(AF_INET6, number.to_bytes(16, "big"))


def texts_of(version: int, first: int, last: int) -> Iterator[str]:
    """The texts of `first` to `last` (inclusive), one after the other."""
    numbers = range(first, last + 1)
    if version == 6:
        return (text_of(6, number) for number in numbers)
    # Nothing of this is Python code at work: in a full /16 there are sixty thousand to look at.
    return map(inet_ntop, repeat(AF_INET), map(Struct(">I").pack, numbers))

"""A pod's address with the subnet it is in: what the tables of pods are made of."""

from dataclasses import dataclass
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

_FAMILY = {4: AF_INET, 6: AF_INET6}


@dataclass(frozen=True)
class PodAddress:
    """An address of IP `version` 4 or 6, packed, in the subnet that its first `prefix_length` bits say."""

    version: int
    packed: bytes
    prefix_length: int

    def __str__(self) -> str:
        """The address alone."""
        return inet_ntop(_FAMILY[self.version], self.packed)

    @property
    def subnet(self) -> "PodAddress":
        """The first address of the subnet."""
        host_bits = 8 * len(self.packed) - self.prefix_length
        first = int.from_bytes(self.packed, "big") >> host_bits << host_bits
        return PodAddress(self.version, first.to_bytes(len(self.packed), "big"), self.prefix_length)

    @property
    def cidr(self) -> str:
        """The address with its prefix length."""
        return f"{self}/{self.prefix_length}"


def pod_address(text: str) -> PodAddress:
    """The address that is written "10.1.2.5/24", or "10.1.2.5" for one that is alone; raises OSError or ValueError."""
    address, _, length = text.partition("/")
    version = 6 if ":" in address else 4
    packed = inet_pton(_FAMILY[version], address)
    bits = int(length) if length else 8 * len(packed)
    if not 0 <= bits <= 8 * len(packed):
        raise ValueError(f"invalid address: {text}")
    return PodAddress(version, packed, bits)

"""The VTEP of a node: its vxlan device, as flannel would make it."""

from collections.abc import Sequence
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, inet_pton

from linux.links import Link
from linux.netlink import Netlink


@dataclass(frozen=True)
class Vtep:
    """The vxlan device wanted: `parent` is the index of the link it sends on, `local` the address it sends from."""

    name: str
    vni: int
    port: int
    parent: int
    local: str
    mac: str
    mtu: int
    tx_checksum: bool


def ensure_vtep(netlink: Netlink, wanted: Vtep, addresses: Sequence[str]) -> tuple[Link, bool]:
    """Make the device so, with exactly these global addresses (CIDR); the link, and whether it was replaced."""
    raise NotImplementedError


def differences(netlink: Netlink, wanted: Vtep, addresses: Sequence[str]) -> list[str]:
    """What is not as wanted, a sentence each."""
    raise NotImplementedError


def delete_vtep(netlink: Netlink, name: str) -> bool:
    """Delete the device of that name if it is ours; whether there was one."""
    raise NotImplementedError


def vtep_mac(subnets: Sequence[str]) -> str:
    """The MAC of the VTEP of the node with these pod subnets (canonical CIDRs): any peer can compute it.

    02:24 and the IPv4 network address; without an IPv4 subnet 02:26 and the first four bytes of the SHA-256 of the
    IPv6 network address.
    """
    first = next((subnet for subnet in subnets if ":" not in subnet), subnets[0])
    network = first.partition("/")[0]
    if ":" not in network:
        return (b"\x02\x24" + inet_pton(AF_INET, network)).hex(":")
    from hashlib import sha256

    return (b"\x02\x26" + sha256(inet_pton(AF_INET6, network)).digest()[:4]).hex(":")


def overhead(local: str) -> int:
    """The bytes that the tunnel adds to a packet when it sends from that address: 50 over IPv4, 70 over IPv6."""
    return 70 if ":" in local else 50

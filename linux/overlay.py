"""The ways to the peers of a node: routes, and for a tunnel the neighbours and forwarding entries of its device."""

from collections.abc import Sequence
from dataclasses import dataclass

from linux.netlink import Netlink

ROUTE_PROTOCOL = 24


@dataclass(frozen=True)
class Way:
    """The way to a subnet of a peer: a direct route, or (`mac` and `underlay` given) one through the tunnel.

    `subnet`: CIDR. `via`: next hop; of a tunnel the network address of `subnet`. `link`: index of the link that leads
    there. `mac`: the peer's VTEP's. `underlay`: the address of the peer's VTEP. All canonical strings.
    """

    subnet: str
    via: str
    link: int
    mac: str = ""
    underlay: str = ""


@dataclass(frozen=True)
class Changes:
    """How many kernel objects (routes, neighbours, forwarding entries) a `sync` wrote and removed."""

    added: int
    removed: int


class ForeignRoute(OSError):
    """EEXIST: somebody else's route leads to a peer's subnet another way; `strerror` names it."""


def sync(netlink: Netlink, ways: Sequence[Way], *, device: int = 0, within: Sequence[str] = ()) -> Changes:
    """Make the kernel's state equal to `ways`. Idempotent. Raises ForeignRoute, NetlinkError."""
    raise NotImplementedError


def missing(netlink: Netlink, ways: Sequence[Way], *, device: int = 0) -> list[str]:
    """What of `ways` is not there, a sentence each."""
    raise NotImplementedError

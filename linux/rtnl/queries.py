"""What the kernel would do with one packet: its route, the neighbour that it goes to, the state of a bridge port."""

from dataclasses import dataclass
from errno import ENOENT
from socket import AF_INET, AF_INET6
from struct import Struct
from sys import byteorder

from linux.netlink.attributes import RTNL_BODY, attribute, attributes_of, number
from linux.netlink.socket import Netlink, NetlinkError
from linux.rtnl import uapi
from linux.rtnl.describe import describe_route
from linux.rtnl.links import Link
from linux.rtnl.routes import RTMSG
from spec.addresses import family_of, pack, unpack

_NDMSG = Struct("=B3xiHBB")  # struct ndmsg: family, index of the link, state, flags, type
_STATES = {
    0x01: "incomplete",
    0x02: "reachable",
    0x04: "stale",
    0x08: "delay",
    0x10: "probe",
    0x20: "failed",
    0x40: "noarp",
    0x80: "permanent",
}
_PORT_STATES = ("disabled", "listening", "learning", "forwarding", "blocking")
FORWARDING = "forwarding"


@dataclass(frozen=True)
class Decision:
    """Where a packet goes: to this node itself (`is_local`), or over a link (index), to a next hop ("": on the link).

    `source`: the address that a packet of this node gets, or "". `route`: the route that was chosen, as text.
    """

    is_local: bool
    link: int
    via: str
    source: str
    route: str


@dataclass(frozen=True)
class Neighbour:
    """What is known of a neighbour: its MAC ("": unknown), and the state ("reachable", "stale", "failed", ...)."""

    mac: str
    state: str


def decide(netlink: Netlink, destination: str, *, source: str = "", iif: int = 0, mark: int = 0) -> Decision:
    """How a packet is routed that came in by the link `iif` (index) from `source`, or (0) that this node sends.

    Raises NetlinkError: ENETUNREACH (there is no route), EHOSTUNREACH (unreachable, or the link forwards nothing),
    EXDEV (the source is routed by another link, and rp_filter forbids that), EINVAL (blackhole), EACCES (prohibit).
    """
    answer = netlink.get(_request(destination, source, iif, mark), uapi.RTM_GETROUTE)
    found = attributes_of(answer, RTNL_BODY)
    kind = RTMSG.unpack_from(answer, 16)[7]
    via, preferred = (_address(found.get(one)) for one in (uapi.RTA_GATEWAY, uapi.RTA_PREFSRC))
    try:
        chosen = netlink.get(_request(destination, source, iif, mark, uapi.RTM_F_FIB_MATCH), uapi.RTM_GETROUTE)
    except NetlinkError:
        chosen = answer
    link = int.from_bytes(found.get(uapi.RTA_OIF, b""), byteorder)
    return Decision(kind == uapi.RTN_LOCAL, link, via, preferred, describe_route(netlink, chosen))


def neighbour(netlink: Netlink, link: int, address: str) -> Neighbour | None:
    """The neighbour with an address on a link (index), None if none is known. Raises NetlinkError."""
    packed = pack(address)
    body = _NDMSG.pack(AF_INET if len(packed) == 4 else AF_INET6, link, 0, 0, 0) + attribute(uapi.NDA_DST, packed)
    try:
        answer = netlink.get(body, uapi.RTM_GETNEIGH)
    except NetlinkError as error:
        if error.errno != ENOENT:
            raise
        return None
    state = _NDMSG.unpack_from(answer, 16)[2]
    mac = attributes_of(answer, RTNL_BODY).get(uapi.NDA_LLADDR, b"")
    return Neighbour(mac.hex(":"), _STATES.get(state, "none"))


def port_state(port: Link) -> str:
    """The state of a bridge port: "forwarding", "disabled", ...; "unknown" if the kernel does not say."""
    state = attributes_of(port.port_settings).get(uapi.IFLA_BRPORT_STATE, b"")
    return _PORT_STATES[state[0]] if state and state[0] < len(_PORT_STATES) else "unknown"


def _request(destination: str, source: str, iif: int, mark: int, flags: int = 0) -> bytes:
    packed = pack(destination)
    bits = 8 * len(packed)
    request = RTMSG.pack(family_of(destination), bits, bits if source else 0, 0, 0, 0, 0, 0, flags)
    request += attribute(uapi.RTA_DST, packed)
    if source:
        request += attribute(uapi.RTA_SRC, pack(source))
    for kind, value in ((uapi.RTA_IIF, iif), (uapi.RTA_MARK, mark)):
        request += number(kind, value) if value else b""
    return request


def _address(packed: bytes | None) -> str:
    return unpack(packed) if packed else ""

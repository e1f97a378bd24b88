"""What changes in the kernel, as it announces it: links, addresses, routes, neighbours and FDB entries, settings.

Most announcements on a node are about something else: links of pods that come and go, a routing daemon's thousands of
routes, neighbours that are resolved. A filter has the kernel drop those, so that they cost no memory and no time here.
"""

import socket
from collections.abc import Collection, Iterator, Sequence
from ctypes import addressof, create_string_buffer
from dataclasses import dataclass
from errno import ENOBUFS
from struct import Struct, pack
from sys import byteorder

from linux.netlink.attributes import RTNL_BODY, attributes_of
from linux.rtnl import uapi
from linux.rtnl.announcement_filter import program
from linux.rtnl.links import Link

LINK, ADDRESS, ROUTE, NEIGHBOUR, FORWARDING, SETTING = (
    "link",
    "address",
    "route",
    "neighbour",
    "forwarding entry",
    "setting",
)
_GROUPS = (1, 3, 5, 7, 9, 11, 24, 25)  # RTNLGRP_LINK, NEIGH, IPV4_IFADDR, _ROUTE, IPV6_IFADDR, _ROUTE, IPV4_NETCONF, 6
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_RECEIVE_BUFFER_BYTES = 32 << 20  # what is announced while this process writes thousands of routes
_LARGEST = 1 << 14
_INDEX = Struct("=i")
_KINDS = {
    uapi.RTM_NEWLINK: LINK,
    uapi.RTM_DELLINK: LINK,
    uapi.RTM_NEWADDR: ADDRESS,
    uapi.RTM_DELADDR: ADDRESS,
    uapi.RTM_NEWROUTE: ROUTE,
    uapi.RTM_DELROUTE: ROUTE,
    uapi.RTM_NEWNEIGH: NEIGHBOUR,
    uapi.RTM_DELNEIGH: NEIGHBOUR,
    uapi.RTM_NEWNETCONF: SETTING,
}
_STATES_OF_ADDRESSES = (
    uapi.IFA_F_SECONDARY | uapi.IFA_F_DADFAILED | uapi.IFA_F_DEPRECATED | uapi.IFA_F_TENTATIVE | uapi.IFA_F_PERMANENT
)
_MOST_ADDRESSES = 4096
_GONE = (uapi.RTM_DELLINK, uapi.RTM_DELADDR, uapi.RTM_DELROUTE, uapi.RTM_DELNEIGH)


DOWN = b"down"


@dataclass(frozen=True, slots=True)
class Change:
    """An object that has changed: its `kind`, and the index of the `link` that it is on or is.

    `key`: what it is about, packed: the destination of a route or neighbour, a MAC, an address; of a link its name.
    `prefix` of a route's destination or an address, in bits. `value`: a route's gateway, a neighbour's MAC, an FDB
    entry's destination, packed; b"" if there is none; of a link DOWN if it is. `protocol` of a route. `is_gone`: it was
    deleted.
    """

    kind: str
    link: int
    key: bytes = b""
    prefix: int = 0
    value: bytes = b""
    protocol: int = 0
    is_gone: bool = False


class Lost(Exception):
    """Announcements were lost, because too many came at once: anything may have changed."""


class Monitor:
    """A socket that receives announcements, in the network namespace of the calling thread."""

    def __init__(self, networks: Collection[str] = (), *, buffer_bytes: int = _RECEIVE_BUFFER_BYTES) -> None:
        """`networks`: of other programs' routes, only those inside these (CIDRs), and default routes, are announced."""
        self._networks = tuple(networks)
        self._watched: tuple[tuple[int, ...], int] = ((), 0)
        self._names: frozenset[bytes] = frozenset()
        self._states: dict[int, bytes] = {}
        self._addresses: dict[tuple[int, bytes, int], int] = {}
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer_bytes)
        self._attach()
        self._socket.bind((0, sum(1 << (group - 1) for group in _GROUPS)))

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def fileno(self) -> int:
        """What to poll."""
        return self._socket.fileno()

    def watch(self, links: Sequence[Link], names: Collection[str], device: int = 0) -> None:
        """Announce these links, those of these names (in case they are made again), and the settings of `links`.

        A link is announced if its state, carrier, name, MAC, MTU or bridge has changed; the kernel announces a bridge
        with every port. Of many links only the first are. `device`: the index of the link whose neighbours and FDB
        entries are announced, 0 for none.
        """
        self._names = frozenset(name.encode() for name in names)
        states = {link.index: _state(link.flags, link.name.encode(), link.mac, link.mtu, link.master) for link in links}
        self._states = {index: self._states.get(index, state) for index, state in states.items()}
        watched = (tuple(states), device)
        if watched != self._watched:
            self._watched = watched
            self._attach()

    def changes(self) -> Iterator[Change]:
        """What has been announced since the last call. Raises Lost, after which the next call goes on."""
        while True:
            try:
                data = self._socket.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == ENOBUFS:
                    raise Lost from error
                raise
            change = change_of(data)
            if change and self._is_news(change, data):
                yield change

    def _is_news(self, change: Change, message: bytes) -> bool:
        """Whether a link is watched, and not as it was; whether an address is not as it was."""
        if change.kind == ADDRESS:
            return self._is_new_address(change, message)
        return change.kind != LINK or self._is_new_link(change, message)

    def _is_new_address(self, change: Change, message: bytes) -> bool:
        """An address is announced whenever its lifetime is prolonged, by every router advertisement."""
        place, state = (change.link, change.key, change.prefix), message[18] & _STATES_OF_ADDRESSES
        if change.is_gone:
            self._addresses.pop(place, None)
            return True
        if self._addresses.get(place) == state:
            return False
        if len(self._addresses) >= _MOST_ADDRESSES:
            self._addresses.clear()
        self._addresses[place] = state
        return True

    def _is_new_link(self, change: Change, message: bytes) -> bool:
        if change.link not in self._watched[0] and change.key not in self._names:
            return False
        state = b"" if change.is_gone else _state_in(message, change.key)
        if self._states.get(change.link) == state:
            return False
        self._states[change.link] = state
        return True

    def _attach(self) -> None:
        links, device = self._watched
        code, count = program(self._networks, links, device)
        buffer = create_string_buffer(code, len(code))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pack("@HP", count, addressof(buffer)))


def change_of(message: bytes) -> Change | None:
    """The change that an announcement describes; None if it is about something else."""
    if len(message) < 20:
        return None
    number = int.from_bytes(message[4:6], byteorder)
    kind, is_gone = _KINDS.get(number), number in _GONE
    if kind == ROUTE and len(message) >= RTNL_BODY:
        attributes = attributes_of(message, RTNL_BODY)
        link = int.from_bytes(attributes.get(uapi.RTA_OIF, b""), byteorder)
        size = 16 if message[16] == socket.AF_INET6 else 4
        dst = attributes.get(uapi.RTA_DST, bytes(size))
        return Change(ROUTE, link, dst, message[17], attributes.get(uapi.RTA_GATEWAY, b""), message[21], is_gone)
    if kind == NEIGHBOUR and len(message) >= RTNL_BODY:
        attributes = attributes_of(message, RTNL_BODY)
        link, dst, mac = _index(message), attributes.get(uapi.NDA_DST, b""), attributes.get(uapi.NDA_LLADDR, b"")
        if message[16] == socket.AF_BRIDGE:
            return Change(FORWARDING, link, mac, value=dst, is_gone=is_gone)
        return Change(NEIGHBOUR, link, dst, value=mac, is_gone=is_gone)
    if kind == ADDRESS:
        attributes = attributes_of(message, 24)
        address = attributes.get(uapi.IFA_LOCAL) or attributes.get(uapi.IFA_ADDRESS, b"")
        return Change(ADDRESS, _index(message), address, message[17], is_gone=is_gone)
    if kind == LINK and len(message) >= 32:
        name = attributes_of(message, 32).get(uapi.IFLA_IFNAME, b"").rstrip(b"\0")
        is_up = int.from_bytes(message[24:28], byteorder) & uapi.IFF_UP
        return Change(LINK, _index(message), name, value=b"" if is_up or is_gone else DOWN, is_gone=is_gone)
    if kind == SETTING:
        attributes = attributes_of(message, 20)
        return Change(SETTING, int.from_bytes(attributes.get(uapi.NETCONFA_IFINDEX, b""), byteorder, signed=True))
    return None


def _state_in(message: bytes, name: bytes) -> bytes:
    """What matters of a link that is announced; see `Monitor.watch`."""
    attributes = attributes_of(message, 32)
    flags = int.from_bytes(message[24:28], byteorder)
    mtu, master = (int.from_bytes(attributes.get(kind, b""), byteorder) for kind in (uapi.IFLA_MTU, uapi.IFLA_MASTER))
    return _state(flags, name, attributes.get(uapi.IFLA_ADDRESS, b"").hex(":"), mtu, master)


def _state(flags: int, name: bytes, mac: str, mtu: int, master: int) -> bytes:
    return b"%s %d %s %d %d" % (name, flags & (uapi.IFF_UP | uapi.IFF_LOWER_UP), mac.encode(), mtu, master)


def _index(message: bytes) -> int:
    return _INDEX.unpack_from(message, 20)[0]

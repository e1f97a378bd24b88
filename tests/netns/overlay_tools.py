"""For tests of paths to peers: a tunnel on a node, its entries as `ip` and `bridge` list them, and notifications."""

import json
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from linux.netlink.attributes import attributes_of
from linux.netlink.socket import Netlink
from linux.netns import entered, open_netns
from linux.rtnl.forwarding import PeerPath
from linux.rtnl.vxlan import Vtep, ensure_vtep, overhead, vtep_mac
from tests.netns.node import Host, Node

DEVICE = "slash24.1"
UNDERLAY_V4, UNDERLAY_V6 = "192.0.2.{}", "2001:db8:1::{}"
_GROUPS = 0x4 | 0x40 | 0x400  # RTMGRP_NEIGH (forwarding entries too), RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE
_NEWS = {24: "+route", 25: "-route", 28: "+neighbour", 29: "-neighbour"}
_AF_BRIDGE, _PERMANENT = 7, 0x80
_NDA_LLADDR, _NDMSG_SIZE = 2, 12


@pytest.fixture(name="other")
def second_node() -> Iterator[Node]:
    """A second node."""
    made = Node()
    try:
        yield made
    finally:
        made.close()


@contextmanager
def inside(node: Node) -> Iterator[Netlink]:
    """Put the calling thread into the node's network namespace, with a netlink socket there."""
    fd = open_netns(f"/proc/{node.pid}/ns/net")
    try:
        with entered(fd), Netlink() as netlink:
            yield netlink
    finally:
        os.close(fd)


def join(first: Node, second: Node) -> None:
    """Connect two nodes by a dual-stack underlay: a veth pair, wan0 on either node, host numbers 1 and 2."""
    first.run(["ip", "link", "add", "wan0", "type", "veth", "peer", "name", "wan0", "netns", str(second.pid)])
    for number, node in ((1, first), (2, second)):
        give_underlay(node, number)


def give_underlay(node: Node, number: int) -> None:
    """Bring wan0 up and assign its addresses."""
    shell(node, "ip link set wan0 up")
    shell(node, f"ip addr add {UNDERLAY_V4.format(number)}/24 dev wan0")
    shell(node, f"ip addr add {UNDERLAY_V6.format(number)}/64 dev wan0 nodad")


def shell(node: Host, line: str) -> None:
    """Run a shell command on the node."""
    node.run(["sh", "-ec", line])


def vtep(node: Host, number: int, underlay: str = UNDERLAY_V4, **changes: object) -> Vtep:
    """The desired VTEP of node NUMBER, whose subnet is 10.244.NUMBER.0/24."""
    parent = node.links()["wan0"]["ifindex"]
    local, mac = underlay.format(number), vtep_mac([f"10.244.{number}.0/24"])
    usual = Vtep(DEVICE, 1, 4789, parent, local, mac, mtu=1500 - overhead(local), tx_checksum=True)
    return replace(usual, **changes)


def own_addresses(number: int) -> list[str]:
    """The addresses of the VTEP on node NUMBER."""
    return [f"10.244.{number}.0/32", f"fd00:244:0:{number}::/128"]


@dataclass(frozen=True)
class Tunnel:
    """A node with a tunnel; `device` is the interface index of the VTEP."""

    node: Node
    netlink: Netlink
    device: int
    underlay: str

    def paths(self, numbers: Sequence[int]) -> list[PeerPath]:
        """The paths to both subnets of these peers."""
        return [path for number in numbers for path in peer(number, self.device, self.underlay)]


@contextmanager
def tunnel_on(node: Node, number: int, underlay: str) -> Iterator[Tunnel]:
    """A tunnel on node NUMBER, with the calling thread in the node's network namespace."""
    with inside(node) as netlink:
        link, _ = ensure_vtep(netlink, vtep(node, number, underlay), own_addresses(number))
        yield Tunnel(node, netlink, link.index, underlay)


def peer(number: int, device: int, underlay: str = UNDERLAY_V4, **changes: str) -> list[PeerPath]:
    """The paths through the tunnel to both subnets of peer NUMBER."""
    v4, v6 = f"10.244.{number}.0", f"fd00:244:0:{number}::"
    usual = {"mac": vtep_mac([f"{v4}/24"]), "underlay": underlay.format(number)} | changes
    return [PeerPath(f"{v4}/24", v4, device, **usual), PeerPath(f"{v6}/64", v6, device, **usual)]


@dataclass(frozen=True)
class Entries:
    """All entries of the tunnel and all routes of ours, as `ip` and `bridge` list them."""

    neighbours: set[tuple[str, str]]
    forwarding: set[tuple[str, str]]
    routes: set[tuple[str, str, str]]


def entries(node: Host) -> Entries:
    """The node's current entries."""
    neighbours = json.loads(node.run(["ip", "-j", "neigh", "show", "dev", DEVICE, "nud", "permanent"]).stdout or "[]")
    forwarding = json.loads(node.run(["bridge", "-j", "fdb", "show", "dev", DEVICE]).stdout or "[]")
    routes = [
        route
        for family in ("-4", "-6")
        for route in json.loads(node.run(["ip", family, "-j", "route", "show", "proto", "24"]).stdout or "[]")
    ]
    return Entries(
        {(entry["dst"], entry.get("lladdr", "")) for entry in neighbours},
        {(entry["mac"], entry["dst"]) for entry in forwarding if entry["state"] == "permanent"},
        {(route["dst"], route.get("gateway", ""), route.get("dev", "")) for route in routes},
    )


def expected(paths: Sequence[PeerPath], names: dict[int, str]) -> Entries:
    """The entries that these paths require; `names` of the links by index."""
    through = [path for path in paths if path.mac]
    return Entries(
        {(path.via, path.mac) for path in through},
        {(path.mac, path.underlay) for path in through},
        {(path.subnet, path.via, names[path.link]) for path in paths},
    )


class News:
    """The kernel's notifications of routes, neighbours and FDB entries from now on: "+route", "-forwarding", ..."""

    def __init__(self, protocol: int = 24) -> None:
        self._protocol = protocol
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
        self._socket.bind((0, _GROUPS))
        self._socket.setblocking(False)

    def read(self) -> list[str]:
        """All since the last read, in order, without those that are neither of our protocol nor permanent.

        Before 6.13 the kernel notifies of a change of an FDB entry twice in a row: that counts as one.
        """
        told, before = [], None
        while True:
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                return told
            while data:
                length, kind = struct.unpack_from("=IH", data)
                forwarding = _forwarding(kind, data[16:length])
                if forwarding is None or forwarding != before:
                    told += self._name(kind, data[16:length])
                before = forwarding
                data = data[(length + 3) & ~3 :]

    def _name(self, kind: int, body: bytes) -> list[str]:
        if kind not in _NEWS:
            return []
        name = _NEWS[kind]
        if "route" in name:
            return [name] if body[5] == self._protocol else []
        if body[0] == _AF_BRIDGE:
            return [name[0] + "forwarding"]
        (state,) = struct.unpack_from("=H", body, 8)
        return [name] if state & _PERMANENT or name[0] == "-" else []

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _forwarding(kind: int, body: bytes) -> tuple[int, bytes] | None:
    """The kind of a notification and its MAC, if it concerns an FDB entry."""
    if "neighbour" not in _NEWS.get(kind, "") or body[0] != _AF_BRIDGE:
        return None
    return kind, attributes_of(body, _NDMSG_SIZE)[_NDA_LLADDR]

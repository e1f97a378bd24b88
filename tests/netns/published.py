"""Shared by the tests of `portmap`: pods on a bridge, and their published ports."""

import socket
import struct
from collections.abc import Mapping
from contextlib import ExitStack

from tests.netns.cni import CNI, with_prev
from tests.netns.node import Host

TABLE = "inet slash24_portmap"
RANGES = [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1::/64"}]]
BRIDGE = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br0", "isDefaultGateway": True}
BRIDGE |= {"hairpinMode": True, "ipam": {"type": "host-local", "ranges": RANGES}}
POD_V4, POD_V6, OTHER_V4, OTHER_V6 = "10.1.2.2", "fd00:1::2", "10.1.2.3", "fd00:1::3"
GATEWAY_V4 = "10.1.2.1"


def port(host_port: int, container_port: int, protocol: str = "tcp", host_ip: str | None = None) -> dict:
    """A port mapping as a runtime gives it."""
    mapping = {"hostPort": host_port, "containerPort": container_port, "protocol": protocol}
    return mapping if host_ip is None else {**mapping, "hostIP": host_ip}


HTTP = port(8080, 80)


def portmap(*ports: Mapping, **keys: object) -> dict:
    """A configuration of the plugin, with these port mappings in runtimeConfig."""
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "portmap", "capabilities": {"portMappings": True}}
    return {**conf, **keys, "runtimeConfig": {"portMappings": list(ports)}}


class Member:
    """A pod on the bridge, and the result of the bridge plugin."""

    def __init__(self, cni: CNI, name: str, **bridge: object) -> None:
        self.cni, self.node, self.pod = cni, cni.node, cni.node.pod(name)
        self.result = cni.add({**BRIDGE, **bridge}, self.pod)

    def add(self, *ports: Mapping, cni: CNI | None = None, **keys: object) -> dict:
        """ADD of portmap."""
        return (cni or self.cni).add(with_prev(portmap(*ports, **keys), self.result), self.pod)

    def check(self, *ports: Mapping, cni: CNI | None = None, **keys: object) -> None:
        """CHECK of portmap."""
        (cni or self.cni).check(portmap(*ports, **keys), self.pod, self.result)

    def delete(self, *ports: Mapping, cni: CNI | None = None, prev: bool = True, **keys: object) -> None:
        """DEL of portmap."""
        (cni or self.cni).delete(portmap(*ports, **keys), self.pod, self.result if prev else None)


def refused(client: Host, address: str, number: int) -> bool:
    """Whether a TCP connection to this address and port fails."""
    with client.socket(address, "tcp") as caller:
        caller.settimeout(0.5)
        return caller.connect_ex((address, number)) != 0


def sctp_arrives(client: Host, source: str, to: tuple[str, int], server: Host) -> int:
    """Send the first packet of an SCTP association; return the port at which it arrives, or 0.

    The checksum of the packet that arrives is verified: NAT that changes the port has to correct it.
    """
    with ExitStack() as stack:
        sockets = []
        for host in (server, client):
            with host.inside():
                sockets.append(stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP)))
        listener, caller = sockets
        listener.settimeout(2)
        caller.bind((source, 0))
        caller.sendto(_sctp_init(to[1]), (to[0], 0))
        try:
            packet = listener.recv(200)[20:]
        except TimeoutError:
            return 0
    assert struct.unpack_from("<I", packet, 8)[0] == _crc32c(packet[:8] + bytes(4) + packet[12:])
    return struct.unpack_from(">HH", packet)[1]


def _sctp_init(number: int) -> bytes:
    """An SCTP INIT chunk (RFC 9260) to a port."""
    chunk = struct.pack(">BBHIIHHI", 1, 0, 20, 1, 65535, 1, 1, 1)
    packet = struct.pack(">HHII", 4000, number, 0, 0) + chunk
    return packet[:8] + struct.pack("<I", _crc32c(packet)) + packet[12:]


def _crc32c(data: bytes) -> int:
    """CRC-32C, computed bit by bit."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF

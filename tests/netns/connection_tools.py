"""Connections of routed pods for tests: entries made by netlink, and echoes that go on."""

import socket
from dataclasses import dataclass

from linux.connection import CTA_TUPLE_MASTER, CTA_ZONE
from linux.netlink.attributes import NLA_F_NESTED, attribute, nested
from linux.netlink.socket import NETLINK_NETFILTER, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, Netlink
from spec.addresses import FAMILIES, pack
from tests.netns.node import Host

_NEW, _TIMEOUT, _PROTOINFO = 1 << 8, 7, 4
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP


@dataclass(frozen=True)
class Ends:
    """One direction of a connection: source, its port, destination, its port."""

    source: str
    source_port: int
    to: str
    port: int

    def attribute(self, kind: int, protocol: int) -> bytes:
        """As a tuple of ctnetlink."""
        version = 6 if ":" in self.source else 4
        kinds = {4: (1, 2), 6: (3, 4)}[version]
        ip = nested(
            1 | NLA_F_NESTED,
            *(attribute(kind, pack(ip)) for kind, ip in zip(kinds, (self.source, self.to), strict=True)),
        )
        ports = (attribute(kind, port.to_bytes(2, "big")) for kind, port in ((2, self.source_port), (3, self.port)))
        return nested(kind | NLA_F_NESTED, ip, nested(2 | NLA_F_NESTED, attribute(1, bytes([protocol])), *ports))


def track(host: Host, protocol: int, there: Ends, back: Ends | None = None, **kwargs: object) -> None:
    """Have the kernel of a namespace track a connection, established for ten minutes; `back`: if it is translated."""
    track_all(host, protocol, [(there, back or reverse(there))], **kwargs)


def track_all(
    host: Host,
    protocol: int,
    connections: list[tuple[Ends, Ends]],
    *,
    zone: int = 0,
    tcp_state: int = 3,
    master: Ends | None = None,
) -> None:
    """The same for many. `master`: the connection of TCP that has announced them."""
    more = attribute(_TIMEOUT, (600).to_bytes(4, "big"))
    if zone:
        more += attribute(CTA_ZONE, zone.to_bytes(2, "big"))
    if master:
        more += master.attribute(CTA_TUPLE_MASTER, TCP)
    if protocol == TCP:
        more += nested(_PROTOINFO | NLA_F_NESTED, nested(1 | NLA_F_NESTED, attribute(1, bytes([tcp_state]))))
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    with host.inside(), Netlink(NETLINK_NETFILTER) as netlink:
        for start in range(0, len(connections), 100):
            requests = [
                bytes([FAMILIES[6 if ":" in there.source else 4], 0, 0, 0])
                + there.attribute(1, protocol)
                + back.attribute(2, protocol)
                + more
                for there, back in connections[start : start + 100]
            ]
            netlink.send([netlink.encode(request, _NEW, flags) for request in requests])


def reverse(ends: Ends) -> Ends:
    """The other direction."""
    return Ends(ends.to, ends.port, ends.source, ends.source_port)


def tracked(node: Host) -> set[str]:
    """The connections of a namespace: "tcp 10.1.2.5 10.1.2.6 40000 80", as they were opened."""
    lines = node.run(["sh", "-c", "conntrack -L 2>/dev/null; conntrack -L -f ipv6 2>/dev/null"]).stdout.splitlines()
    found = set()
    for line in lines:
        first: dict[str, str] = {}
        for word in line.split():
            key, equals, value = word.partition("=")
            if equals:
                first.setdefault(key, value)
        ends = (first["src"], first["dst"], first.get("sport", "-"), first.get("dport", "-"))
        found.add(" ".join([line.split()[0], *ends]))
    return found

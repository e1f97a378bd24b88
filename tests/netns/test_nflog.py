"""What rules of nftables log to a group is received."""

import socket
from contextlib import suppress
from errno import EPERM

import pytest

from linux.nflog import LoggedPacket, Nflog
from spec.addresses import pack
from tests.netns.node import Node, wait_until

GROUP = 24
RULES = """
table inet t {
  chain output {
    type filter hook output priority filter;
    udp dport 7000 log prefix "egress " group 24 drop
    tcp dport 7001 log prefix "ingress " group 24 drop
    icmp type echo-request log prefix "egress " group 24 drop
    udp dport 7002 log prefix "other " group 25 drop
  }
}
"""


@pytest.fixture
def logging(node: Node) -> Nflog:
    """A reader of the group on a node whose rules log and drop some packets."""
    node.run(["nft", "-f", "-"], stdin=RULES)
    with node.inside():
        reader = Nflog(GROUP)
    with reader:
        yield reader


def send(node: Node, address: str, port: int, kind: str) -> None:
    """Send a packet to a port; that it is dropped is no error."""
    with node.socket(address, kind) as sender, suppress(OSError):
        sender.settimeout(0.1)
        sender.connect((address, port))
        sender.send(b"x" * 1000)


def receive(reader: Nflog, count: int) -> list[LoggedPacket]:
    """So many packets, if they come in time."""
    found: list[LoggedPacket] = []
    wait_until(lambda: len(found.__iadd__(reader.receive(seconds=0.2))) >= count, timeout=5)
    return found


def test_logged_packets_are_received(node: Node, logging: Nflog) -> None:
    """Of both families and any protocol, with the prefix of their rule; those of other groups are not."""
    for address, port, kind in (("127.0.0.1", 7002, "udp"), ("127.0.0.1", 7000, "udp"), ("::1", 7001, "tcp")):
        send(node, address, port, kind)
    node.run(["ping", "-c1", "-W1", "127.0.0.1"], check=False)
    found = receive(logging, 3)
    local = {4: pack("127.0.0.1"), 6: pack("::1")}
    assert [(one.prefix, one.source, one.destination, one.protocol, one.port) for one in found] == [
        ("egress ", local[4], local[4], socket.IPPROTO_UDP, 7000),
        ("ingress ", local[6], local[6], socket.IPPROTO_TCP, 7001),
        ("egress ", local[4], local[4], socket.IPPROTO_ICMP, 0),
    ]
    assert [bool(one.source_port) for one in found] == [True, True, False]
    assert logging.lost == 0
    assert logging.receive(seconds=0) == []


def test_a_flood_is_counted_and_survived(node: Node, logging: Nflog) -> None:
    """What does not fit into the socket's buffer is lost, which is noted, and what comes later is received."""
    with node.socket("127.0.0.1", "udp") as sender:
        for _ in range(20000):
            with suppress(PermissionError):
                sender.sendto(b"x" * 200, ("127.0.0.1", 7000))
    assert (logging.receive(seconds=1), logging.lost) == ([], 1)
    while logging.receive(seconds=0.3):
        pass
    send(node, "::1", 7001, "tcp")
    assert {one.prefix for one in receive(logging, 1)} == {"ingress "}


def test_a_group_has_one_reader(node: Node, logging: Nflog) -> None:
    """A second one is refused, until the first has ended."""
    with node.inside():
        with pytest.raises(OSError, match="not permitted") as caught:
            Nflog(GROUP)
        assert caught.value.errno == EPERM
        logging.close()
        Nflog(GROUP).close()

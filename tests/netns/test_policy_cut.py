"""Running connections when policies change: those that are no longer allowed end, whoever speaks; others go on."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import pytest

from linux.conntrack import flush_addresses
from policy.settings import Settings
from tests.netns.connection_tools import tracked
from tests.netns.nft_tools import on
from tests.netns.node import Host, Node
from tests.netns.policy_cluster import ADDRESSES, GATEWAYS, NO_NODES, Cluster, web_allows

SERVICE = "10.96.0.1"
NAT = """
table ip nat {
  chain prerouting {
    type nat hook prerouting priority dstnat;
    ip daddr 10.96.0.1 tcp dport 443 dnat to 10.1.2.5:81
    ip daddr 10.96.0.1 udp dport 53 dnat to 10.1.2.5:54
  }
}
"""


@dataclass
class Echo:
    """A connection, whose both ends the test holds."""

    client: socket.socket
    server: socket.socket
    peer: tuple | None = None

    def works(self, *, speaks: str = "client") -> bool:
        """Whether a word of the one that speaks arrives at the other, and its answer comes back."""
        try:
            if speaks == "client":
                self.client.send(b"word")
                return self._hear() == b"word" and self._answer(b"WORD") and self.client.recv(16) == b"WORD"
            self._answer(b"word")
            return self.client.recv(16) == b"word" and bool(self.client.send(b"WORD")) and self._hear() == b"WORD"
        except OSError:  # refused, reset, or no answer in time
            return False

    def _hear(self) -> bytes:
        return self.server.recv(16)

    def _answer(self, word: bytes) -> bool:
        return bool(self.server.sendto(word, self.peer) if self.peer else self.server.send(word))


def connect(
    stack: ExitStack, client: Host, server: Host, kind: str, at: tuple[str, int], to: tuple[str, int] | None = None
) -> Echo:
    """A connection to a server, by the address `to` if that is another."""
    listener, caller = stack.enter_context(server.socket(at[0], kind)), stack.enter_context(client.socket(at[0], kind))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(at)
    if kind == "udp":
        caller.connect(to or at)
        caller.settimeout(0.5)
        listener.settimeout(0.5)
        for _ in range(10):  # until IPv6 neighbours are resolved
            caller.send(b"hello")
            with suppress(TimeoutError):
                return Echo(caller, listener, listener.recvfrom(16)[1])
        raise TimeoutError("no datagram arrives")
    listener.listen()
    caller.connect(to or at)
    served = stack.enter_context(listener.accept()[0])
    for one in (caller, served):
        one.settimeout(0.5)
    return Echo(caller, served)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes sockets."""
    with ExitStack() as made:
        yield made


@pytest.fixture
def cluster(node: Node) -> Cluster:
    """Without policies at first."""
    return Cluster(node, Settings())


@pytest.mark.parametrize("speaks", ["client", "server"])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("version", [0, 1])
def test_a_running_connection_ends(cluster: Cluster, stack: ExitStack, version: int, kind: str, speaks: str) -> None:
    """The next word of either end is refused, and so are all after it; what is allowed goes on without a loss."""
    web, client, address = cluster.pods["web"], cluster.pods["client"], ADDRESSES["web"][version]
    doomed, kept = (connect(stack, client, web, kind, (address, port)) for port in (81, 80))
    outside = cluster.node
    of_node = connect(stack, outside, web, kind, (address, 82))
    back = connect(stack, web, client, kind, (ADDRESSES["client"][version], 90))
    assert all(one.works() for one in (doomed, kept, of_node, back))
    cluster.enforce(web_allows(80))
    assert doomed.works(), "without cut, an open connection goes on"
    assert cluster.change(web_allows(80)) == 1
    assert not doomed.works(speaks=speaks)
    assert all(one.works() for one in (kept, of_node, back))
    assert not doomed.works(speaks="client")
    assert not doomed.works(speaks="server")
    assert not [one for one in tracked(cluster.node) if one.endswith(" 81") or " 81 " in one]
    assert cluster.change(web_allows(80)) == 0
    assert all(one.works() for one in (kept, of_node, back))


@pytest.mark.parametrize(("kind", "service", "port"), [("tcp", 443, 81), ("udp", 53, 54)])
@pytest.mark.parametrize("speaks", ["client", "server"])
def test_a_connection_to_a_service_ends(
    cluster: Cluster, stack: ExitStack, kind: str, service: int, port: int, speaks: str
) -> None:
    """By who answers it: the port of the pod counts, not the one of the service."""
    cluster.node.run(["nft", "-f", "-"], stdin=NAT)
    web, client = cluster.pods["web"], cluster.pods["client"]
    echo = connect(stack, client, web, kind, (ADDRESSES["web"][0], port), (SERVICE, service))
    assert echo.works()
    assert cluster.change(web_allows(port)) == 0
    assert echo.works(speaks=speaks)
    assert cluster.change(web_allows(service)) == 1
    assert not echo.works(speaks=speaks)
    assert not echo.works()


def test_pings_end(cluster: Cluster) -> None:
    """An echo that goes on has one entry, like a connection."""
    web, client = ADDRESSES["web"][0], cluster.pods["client"]
    assert client.reaches(web)
    argv = ["ping", "-n", "-i", "0.2", "-w", "20", web]
    running = client.start(argv, stdout=-1, text=True)
    try:
        while "icmp_seq=3" not in running.stdout.readline():
            pass
        assert cluster.change(web_allows(80)) >= 1
        running.send_signal(2)
        assert "100% packet loss" in client.run(["ping", "-n", "-c2", "-W1", web], check=False).stdout
    finally:
        running.kill()
        running.communicate()
    assert cluster.change() == 0
    assert client.reaches(web)


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("speaks", ["client", "server"])
def test_a_connection_to_the_node_ends(cluster: Cluster, stack: ExitStack, kind: str, speaks: str) -> None:
    """If a cluster-wide policy denies it; what the node has opened goes on."""
    client, node = cluster.pods["client"], cluster.node
    echo = connect(stack, client, node, kind, (GATEWAYS[0], 6443))
    of_node = connect(stack, node, client, kind, (ADDRESSES["client"][0], 90))
    assert cluster.change(web_allows()) == 0
    assert echo.works()
    assert cluster.change(NO_NODES) == 1
    assert not echo.works(speaks=speaks)
    assert not echo.works()
    assert of_node.works()


def test_the_next_connection_is_allowed_again(cluster: Cluster, stack: ExitStack) -> None:
    """With other ports than the one that was cut, as soon as the policies allow it."""
    web, client = cluster.pods["web"], cluster.pods["client"]
    at = (ADDRESSES["web"][0], 81)
    doomed = connect(stack, client, web, "tcp", at)
    assert cluster.change(web_allows(), addresses=frozenset(ADDRESSES["web"])) == 1
    with pytest.raises(OSError, match="timed out"):
        connect(stack, client, web, "tcp", (at[0], 80))
    assert not doomed.works()
    cluster.enforce(web_allows(81, 82))
    assert connect(stack, client, web, "tcp", (at[0], 82)).works()


def test_a_new_pod_does_not_inherit_connections(cluster: Cluster, stack: ExitStack) -> None:
    """What is flushed when an address gets another owner."""
    web, client = cluster.pods["web"], cluster.pods["client"]
    echo = connect(stack, client, web, "udp", (ADDRESSES["web"][0], 53))
    other = connect(stack, client, cluster.node, "udp", (GATEWAYS[0], 53))
    assert echo.works()
    cluster.enforce(web_allows())
    assert echo.works()
    assert on(cluster.node, flush_addresses, ADDRESSES["web"]) >= 1
    assert not echo.works()
    assert other.works()

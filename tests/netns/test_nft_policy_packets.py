"""Network policies with packets: what pods of one bridge, their node and hosts outside can say to each other."""

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from rules import policy
from tests.netns.nft_tools import nft, on
from tests.netns.node import NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, Host, Node, ask
from tests.netns.policy_world import GATEWAYS, GROUP, INET, MAC, Member, World, add_bridge, add_pod, build

SECONDS = 0.3  # for what must not arrive
PATIENCE = 5  # for what must
PORT = 8080


@pytest.fixture(params=[False, True], ids=["switched", "br_netfilter"])
def world(node: Node, request: pytest.FixtureRequest) -> Iterator[World]:
    """The world, without and with br_netfilter."""
    with build(node, br_netfilter=request.param) as made:
        yield made


def speaks(client: Host, server: Host, address: str, kind: str, *, patience: float = SECONDS) -> bool:
    """Whether a word gets from client to server and back."""
    with server.socket(address, kind) as listener, client.socket(address, kind) as caller:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, PORT))
        caller.settimeout(patience)
        listener.settimeout(patience)
        try:
            if kind == "tcp":
                listener.listen()
                caller.connect((address, PORT))
                return True
            caller.connect((address, PORT))
            for _ in range(2):  # the first may wait for the neighbour's address
                caller.send(b"word")
                word, seen = listener.recvfrom(16)
                listener.sendto(word, seen)
                return caller.recv(16) == b"word"
        except OSError:
            return False
    return False


def reach(client: Host, server: Host, addresses: tuple[str, ...], *, patience: float = SECONDS) -> set[tuple[str, str]]:
    """By which protocols and addresses a client reaches a server; `patience` in seconds, where it should."""
    return {
        (address, kind)
        for address in addresses
        for kind in ("tcp", "udp")
        if speaks(client, server, address, kind, patience=patience)
    }


def every(addresses: tuple[str, ...]) -> set[tuple[str, str]]:
    """All that `reach` may find."""
    return {(address, kind) for address in addresses for kind in ("tcp", "udp")}


def ttl(client: Host, address: str) -> int:
    """The TTL (hop limit) of the answer to an ICMP echo."""
    assert client.reaches(address)
    out = client.run(["ping", "-n", "-c1", "-W2", address]).stdout
    return int(re.search(r"ttl=(\d+)", out)[1])


def test_the_node_routes_between_pods(world: World) -> None:
    """Between pods that nothing isolates all passes; routed, though they are on one bridge, and tracked once."""
    a, b, _ = world.pods
    for address in b.ips:
        assert ttl(a.pod, address) == 64
    world.free(a, b)
    nft(world.node, "-f", "-", stdin=COUNTING)
    for address in b.ips:
        assert ttl(a.pod, address) == 63
    assert reach(a.pod, b.pod, b.ips, patience=PATIENCE) == every(b.ips)
    assert reach(b.pod, a.pod, a.ips, patience=PATIENCE) == every(a.ips)
    counted = nft(world.node, "list", "table", "inet", "counting")
    assert set(re.findall(r"counter packets (\d+)", counted)) == {"4"}


COUNTING = """
table inet counting {
	chain forward {
		type filter hook forward priority 50;
		meta l4proto tcp tcp dport 8080 tcp flags & (syn | ack) == syn ct state new counter
		meta l4proto udp udp dport 8080 ct state new counter
	}
}
"""


def test_a_held_pod_speaks_with_its_node_only(world: World) -> None:
    """Both ways; neither other pods nor hosts outside reach it, nor it them, by either IP version."""
    a, b, _ = world.pods
    world.free(b)
    world.hold(a)
    node, outside = world.node, world.outside
    own, beyond = (*GATEWAYS, NODE_V4, NODE_V6), (OUTSIDE_V4, OUTSIDE_V6)
    assert all(a.pod.reaches(address) for address in own)
    assert all(node.reaches(address) for address in a.ips)
    assert reach(a.pod, node, own, patience=PATIENCE) == every(own)
    assert reach(node, a.pod, a.ips, patience=PATIENCE) == every(a.ips)
    assert reach(a.pod, b.pod, b.ips) == set()
    assert reach(b.pod, a.pod, a.ips) == set()
    assert reach(a.pod, outside, beyond) == set()
    assert reach(outside, a.pod, a.ips) == set()
    assert reach(a.pod, a.pod, a.ips, patience=PATIENCE) == every(a.ips)
    assert reach(b.pod, outside, beyond, patience=PATIENCE) == every(beyond)


def test_isolation_in_one_direction(world: World) -> None:
    """A pod isolated in ingress opens connections and gets the answers, and vice versa; what is denied is counted."""
    a, b, c = world.pods
    world.free(a, c)
    world.isolate(b, "ingress", "ip saddr 10.244.1.4", "ip6 saddr fd00:1::4")
    assert reach(a.pod, b.pod, b.ips) == set()
    assert reach(c.pod, b.pod, b.ips, patience=PATIENCE) == every(b.ips)
    assert reach(b.pod, a.pod, a.ips, patience=PATIENCE) == every(a.ips)
    assert reach(world.node, b.pod, b.ips, patience=PATIENCE) == every(b.ips)
    assert all(f"{ip} counter packets" in world.denied("ingress") for ip in b.ips)
    world.isolate(c, "egress", "ip daddr 10.244.1.2 tcp dport 8080")
    assert reach(c.pod, a.pod, a.ips) == {(a.ips[0], "tcp")}
    assert reach(c.pod, b.pod, b.ips) == set()
    assert reach(a.pod, c.pod, c.ips, patience=PATIENCE) == every(c.ips)
    assert all(f"{ip} counter packets" in world.denied("egress") for ip in c.ips)


def test_both_pods_must_agree(world: World) -> None:
    """What the client's policies accept must also be accepted by the server's."""
    a, b, _ = world.pods
    world.isolate(a, "egress", "meta l4proto udp")
    world.isolate(b, "ingress", "ip saddr 10.244.1.2")
    assert reach(a.pod, b.pod, b.ips) == {(b.ips[0], "udp")}


# -- connections that are open already ------------------------------------------------------------------------------


class Connection:
    """An open TCP connection between pods, and what becomes of it."""

    def __init__(self, client: Member, server: Member, version: int) -> None:
        address = server.ips[0 if version == 4 else 1]
        with server.pod.socket(address, "tcp") as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, 9000))
            listener.listen()
            self.client = client.pod.socket(address, "tcp")
            self.client.connect((address, 9000))
            self.server = listener.accept()[0]
        self.server.settimeout(2)

    def close(self) -> None:
        """Close both ends."""
        self.client.close()
        self.server.close()

    def says(self) -> str:
        """What comes of a word from the client: it "passes", is "reset" or "lost"."""
        try:
            self.client.send(b"word")
            return "passes" if self.server.recv(16) == b"word" and self._answers() else "lost"
        except ConnectionResetError:
            return "reset"
        except TimeoutError:
            return self._end()

    def _answers(self) -> bool:
        self.server.send(b"word")
        return self.client.recv(16) == b"word"

    def _end(self) -> str:
        try:
            self.client.settimeout(SECONDS)
            self.client.recv(16)
        except ConnectionResetError:
            return "reset"
        except TimeoutError:
            pass
        return "lost"


@pytest.mark.parametrize("version", [4, 6])
def test_a_connection_that_is_not_tracked(world: World, version: int) -> None:
    """One that was opened before goes on if nobody is isolated, and is reset if the client or the server is."""
    a, b, c = world.pods
    with ExitStack() as stack:
        opened = [stack.enter_context(closing(Connection(*ends, version))) for ends in ((a, b), (b, a), (c, b))]
        assert [one.says() for one in opened] == ["passes"] * 3
        world.free(a, b, c)
        nft(world.node, "-f", "-", stdin=TRACKING)
        assert [one.says() for one in opened] == ["passes"] * 3
        world.forget_connections()
        world.isolate(a, "ingress")
        assert [one.says() for one in opened] == ["reset", "reset", "passes"]


TRACKING = "table inet x { chain y { type filter hook forward priority 0; ct state new; }; }"


def test_a_connection_that_is_cut(world: World) -> None:
    """A connection in the set of those that are no longer allowed is reset as soon as it is not tracked any more."""
    a, b, _ = world.pods
    world.free(a, b)
    with closing(Connection(a, b, 4)) as opened:
        port = opened.client.getsockname()[1]
        flows = f"{a.ips[0]} . {b.ips[0]} . tcp . {port} . 9000, {b.ips[0]} . {a.ips[0]} . tcp . 9000 . {port}"
        nft(world.node, "add", "element", *INET.split(), "cut4", f"{{ {flows} }}")
        assert opened.says() == "passes"
        world.forget_connections()
        assert opened.says() == "reset"
    assert speaks(a.pod, b.pod, b.ips[0], "tcp", patience=PATIENCE)


# -- services -------------------------------------------------------------------------------------------------------

SERVICES = """
table inet services {
	chain prerouting {
		type nat hook prerouting priority dstnat;
		ip daddr 10.96.0.10 dnat ip to 10.244.1.3
		ip6 daddr fd96::10 dnat ip6 to fd00:1::3
		ip daddr 10.244.1.1 tcp dport 8088 dnat ip to 10.244.1.3:8080
		ip6 daddr fd00:1::1 tcp dport 8088 dnat ip6 to [fd00:1::3]:8080
	}
	chain postrouting {
		type nat hook postrouting priority srcnat;
		ip saddr 10.244.1.3 ip daddr 10.244.1.3 masquerade
		ip6 saddr fd00:1::3 ip6 daddr fd00:1::3 masquerade
	}
}
"""
VIA = [("10.96.0.10", 8080), ("fd96::10", 8080), ("10.244.1.1", 8088), ("fd00:1::1", 8088)]


def asks(client: Host, server: Member, via: tuple[str, int]) -> bool:
    """Whether a client reaches a server by a translated address."""
    try:
        ask(client, server.pod, server.ips[":" in via[0]], 8080, "tcp", to=via)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("via", VIA, ids=str)
def test_services(world: World, via: tuple[str, int]) -> None:
    """Policies hold for the pod that a service leads to, on the same bridge, too."""
    a, b, c = world.pods
    nft(world.node, "-f", "-", stdin=SERVICES)
    world.free(a, b, c)
    assert asks(a.pod, b, via)
    world.isolate(b, "ingress", "ip saddr 10.244.1.4", "ip6 saddr fd00:1::4")
    assert [asks(one.pod, b, via) for one in (a, c)] == [False, True]
    world.isolate(c, "egress")
    assert not asks(c.pod, b, via)
    world.isolate(c, "egress", "ip daddr 10.244.1.3", "ip6 daddr fd00:1::3")
    assert asks(c.pod, b, via)


@pytest.mark.parametrize("via", VIA, ids=str)
def test_a_pod_reaches_itself_by_a_service(world: World, via: tuple[str, int]) -> None:
    """Even if nothing may reach it, and it may reach nothing."""
    _, b, _ = world.pods
    world.node.run(["bridge", "link", "set", "dev", b.link, "hairpin", "on"])
    nft(world.node, "-f", "-", stdin=SERVICES)
    assert asks(b.pod, b, via)
    world.hold(b)
    assert asks(b.pod, b, via)


# -- what else is on the node ---------------------------------------------------------------------------------------


def test_pods_of_another_bridge(world: World) -> None:
    """Pods on a bridge without policies are switched as before, and reach pods with policies as hosts outside do."""
    a, b, _ = world.pods
    node = world.node
    add_bridge(node, "br9", "0a:58:0a:f4:09:01", ("10.244.9.1", "fd00:9::1"))
    d, e = (add_pod(node, number, "br9", "9", GROUP + 1) for number in (8, 9))
    world.free(a)
    world.hold(b)
    others = ("10.244.9.9", "fd00:9::9")
    assert [ttl(d.pod, address) for address in others] == [64, 64]
    assert reach(d.pod, e.pod, others, patience=PATIENCE) == every(others)
    assert reach(d.pod, a.pod, a.ips, patience=PATIENCE) == every(a.ips)
    assert reach(d.pod, b.pod, b.ips) == set()
    assert reach(b.pod, e.pod, others) == set()
    on(node, policy.set_gateway, GROUP + 1, "0a:58:0a:f4:09:01")
    assert [ttl(d.pod, address) for address in others] == [63, 63]


def test_without_policies_everything_is_as_before(world: World) -> None:
    """When the tables are gone, frames between pods are switched again."""
    a, b, _ = world.pods
    world.hold(a, b)
    assert reach(a.pod, b.pod, b.ips) == set()
    on(world.node, policy.delete_all)
    assert [ttl(a.pod, address) for address in b.ips] == [64, 64]


def test_an_address_that_nobody_had(world: World) -> None:
    """What was sent to an address before a pod has it could be answered by that pod: an ADD is told to flush it."""
    a, b, c = world.pods
    world.free(a)
    a.pod.run(["ip", "neigh", "add", "10.244.1.99", "lladdr", "02:00:00:00:00:99", "dev", "eth0"])
    for ip in (*b.ips, "10.244.1.99", OUTSIDE_V4):
        with a.pod.socket(ip, "udp") as sender:
            sender.sendto(b"word", (ip, 8080))
    flushed = on(world.node, policy.hold, b.owner, b.ips, b.link, GROUP, MAC, "cbr0")
    assert flushed == {*b.ips}
    assert on(world.node, policy.hold, b.owner, b.ips, b.link, GROUP, MAC, "cbr0") == frozenset()
    noted = nft(world.node, "list", "set", *INET.split(), "vacant4")
    assert "10.244.1.99" in noted
    assert OUTSIDE_V4 not in noted
    assert on(world.node, policy.hold, c.owner, c.ips, c.link, GROUP, MAC, "cbr0") == frozenset()


def test_link_local_addresses_of_the_node(world: World) -> None:
    """By a link-local address a pod could evade what is said of its own: it reaches the node there by ICMPv6 only."""
    a, _, _ = world.pods
    (entry,) = world.node.ip("addr", "show", "dev", "cbr0")
    local = next(one["local"] for one in entry["addr_info"] if one["scope"] == "link" and ":" in one["local"])
    a.pod.run(["ping", "-n", "-c2", "-W5", f"{local}%eth0"])
    assert _connects(a, world.node, local)
    world.free(a)
    a.pod.run(["ping", "-n", "-c2", "-W5", f"{local}%eth0"])
    assert not _connects(a, world.node, local)


def _connects(member: Member, node: Node, local: str) -> bool:
    with node.socket("::", "tcp") as listener, member.pod.socket("::", "tcp") as caller:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::", 8080))
        listener.listen()
        caller.settimeout(SECONDS)
        try:
            with member.pod.inside():
                index = socket.if_nametoindex("eth0")
            caller.connect((local, 8080, 0, index))
        except OSError:
            return False
    return True

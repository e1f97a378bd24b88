"""What the rules of policy/programming.py do to packets, also while they are replaced."""

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass

import pytest

from policy.compiled import (
    ALLOW,
    DROP,
    EGRESS,
    INGRESS,
    JUMP,
    NETWORKS4,
    NETWORKS6,
    RETURN,
    SERVICES,
    TO_NODE,
    AddressSet,
    Chain,
    ChainRule,
    Compiled,
)
from policy.programming import Programmer
from policy.settings import NodePorts, Settings
from rules import policy
from spec.addresses import pack
from tests.netns.nft_tools import on
from tests.netns.node import NODE_V4, NODE_V6, Host, Node, Pod, wait_until
from tests.netns.policy_tools import (
    GROUP,
    MAC,
    Clock,
    addresses,
    delta_between,
    enforced,
    local_of,
    networks,
    programmer,
    service,
)
from tests.netns.test_nft_masquerade_packets import connect

POD = {4: "10.1.2.5", 6: "fd00:1::5"}
PEER, OTHER = {4: "192.0.2.2", 6: "2001:db8:1::2"}, {4: "10.1.2.200", 6: "fd00:1::200"}
THE_NODE = {4: NODE_V4, 6: NODE_V6}
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
PORTS = (8080, 8081)


@dataclass(frozen=True)
class World:
    """A pod and a host outside, with the node's programmer between them."""

    node: Node
    pod: Pod
    outside: Pod
    made: Programmer

    def enforce(self, compiled: Compiled) -> None:
        """Make this be in force."""
        on(self.node, self.made.resync, compiled, local_of(compiled))

    def denied(self) -> int:
        """How many packets have been denied."""
        return sum(on(self.node, self.made.denied).values())

    def passes(self, client: Host, server: Host, source: str, target: str, kind: str, port: int) -> bool:
        """Whether the first packet of a new connection arrives; if not, it must have been counted as denied."""
        before = self.denied()
        with closing(server.socket(target, kind)) as listener, closing(client.socket(source, kind)) as sender:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((target, port))
            if kind == "tcp":
                listener.listen()
            for one in (listener, sender):
                one.setblocking(False)
            sender.bind((source, 0))
            with suppress(BlockingIOError):
                sender.connect((target, port))
            if kind == "udp":
                sender.send(b"x")
            arrived = False

            def is_decided() -> bool:
                nonlocal arrived
                with suppress(BlockingIOError):
                    if kind == "tcp":
                        listener.accept()[0].close()
                    else:
                        listener.recv(9)
                    arrived = True
                return arrived or self.denied() > before

            assert wait_until(is_decided, timeout=5), "neither arrived nor counted as denied"
            return arrived


def routed(node: Node) -> tuple[Pod, Pod]:
    """A pod, by a link that is registered as one to pods, and a host outside."""
    pod, outside = connect(node)
    on(node, policy.ensure_base)
    on(node, policy.set_gateway, GROUP, MAC, "pod0")
    return pod, outside


@pytest.fixture
def world(node: Node) -> World:
    """A pod behind a router, the node, and nothing in force yet."""
    pod, outside = routed(node)
    return World(node, pod, outside, programmer())


Expected = Callable[[bool, str, int], bool]


@dataclass(frozen=True)
class Form:
    """Rules of a chain for an IP version, with their sets, and what they let pass (from the peer, kind, port)."""

    name: str
    rules: Callable[[int], tuple[ChainRule, ...]]
    passes: Expected

    def __str__(self) -> str:
        return self.name


FORMS = [
    Form("peers", lambda v: (ChainRule(ALLOW, v, "peers"),), lambda peer, *_: peer),
    Form(
        "number", lambda _: (ChainRule(ALLOW, protocol=TCP, first=8080, last=8080),), lambda _, *to: to == ("tcp", 8080)
    ),
    Form(
        "range",
        lambda v: (ChainRule(ALLOW, v, "peers", protocol=UDP, first=8081, last=9000),),
        lambda peer, *to: peer and to == ("udp", 8081),
    ),
    Form("protocol alone", lambda _: (ChainRule(ALLOW, protocol=UDP),), lambda _, kind, __: kind == "udp"),
    Form(
        "ports of several protocols",
        lambda v: (ChainRule(ALLOW, v, "peers", "web"),),
        lambda peer, *to: peer and to in (("tcp", 8080), ("udp", 8081)),
    ),
    Form(
        "ports for anybody",
        lambda _: (ChainRule(ALLOW, ports="web"),),
        lambda _, *to: to in (("tcp", 8080), ("udp", 8081)),
    ),
    Form("named", lambda v: (ChainRule(ALLOW, v, "", "named"),), lambda _, *to: to == ("tcp", 8081)),
    Form(
        "peers and named",
        lambda v: (ChainRule(ALLOW, v, "peers", "named"),),
        lambda peer, *to: peer and to == ("tcp", 8081),
    ),
    Form("networks with exceptions", lambda v: (ChainRule(ALLOW, v, "networks"),), lambda peer, *_: not peer),
    Form("anybody", lambda _: (ChainRule(ALLOW),), lambda *_: True),
    Form("nobody", lambda _: (), lambda *_: False),
    Form("the other version", lambda v: (ChainRule(ALLOW, 10 - v),), lambda *_: False),
    Form("denied before allowed", lambda v: (ChainRule(DROP, v, "peers"), ChainRule(ALLOW)), lambda peer, *_: not peer),
    Form(
        "jump that returns",
        lambda _: (ChainRule(JUMP, target="pass"), ChainRule(ALLOW, protocol=TCP)),
        lambda peer, kind, port: (kind, port) != ("udp", 8080) and not (peer and kind == "udp"),
    ),
]


def sets_for(version: int, server: tuple[str, ...]) -> dict[str, AddressSet]:
    """The sets of the forms above. `server`: the addresses that have a port of that name."""
    first, last = ("0.0.0.0", "255.255.255.255") if version == 4 else ("::", "ffff:" * 7 + "ffff")
    before, after = ("192.0.2.1", "192.0.2.3") if version == 4 else ("2001:db8:1::1", "2001:db8:1::3")
    kinds = {kind: f"{kind}{version}" for kind in ("addresses", "named")}
    return {
        "peers": AddressSet(kinds["addresses"], addresses(PEER[version], "::9" if version == 6 else "10.9.9.9")),
        "web": AddressSet(SERVICES, frozenset({service(TCP, 8080), service(UDP, 8081)})),
        "named": AddressSet(kinds["named"], frozenset(pack(one) + service(TCP, 8081) for one in server)),
        "networks": AddressSet({4: NETWORKS4, 6: NETWORKS6}[version], networks(f"{first}-{before}", f"{after}-{last}")),
    }


@pytest.mark.parametrize("direction", [INGRESS, EGRESS])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_forms_of_rules(world: World, form: Form, version: int, direction: str) -> None:
    """Each form lets pass what it says, of both protocols and families, and nothing else; what is denied is counted."""
    served = (POD[version],) if direction == INGRESS else (PEER[version], OTHER[version])
    passing = Chain(
        direction, (ChainRule(RETURN, version, "peers"), ChainRule(ALLOW, protocol=UDP, first=8081, last=8081))
    )
    chain = Chain(direction, (*form.rules(version), ChainRule(DROP)))
    world.enforce(
        Compiled(
            {POD[version]: enforced(1, **{direction: "chosen"})},
            {"chosen": chain, "pass": passing},
            sets_for(version, served),
        )
    )
    for is_peer, address in ((True, PEER[version]), (False, OTHER[version])):
        for kind in ("tcp", "udp"):
            for port in PORTS:
                if direction == INGRESS:
                    done = world.passes(world.outside, world.pod, address, POD[version], kind, port)
                else:
                    done = world.passes(world.pod, world.outside, POD[version], address, kind, port)
                assert done == form.passes(is_peer, kind, port), (is_peer, kind, port)


@pytest.mark.parametrize("version", [4, 6])
def test_what_a_pod_sends_to_its_node(node: Node, version: int) -> None:
    """Policies that deny come first, then the ports of the node, for pods without such policies too; ICMP passes."""
    pod, outside = routed(node)
    world = World(node, pod, outside, programmer(Settings(node_access=(NodePorts(UDP, 8081, 8081),))))
    target = THE_NODE[version]
    chains = {"deny": Chain(TO_NODE, (ChainRule(DROP, protocol=UDP, first=8081, last=8081), ChainRule(ALLOW)))}
    for value, passing in ((enforced(1), {("udp", 8081)}), (enforced(1, to_node="deny"), set())):
        world.enforce(Compiled({POD[version]: value}, chains))
        for kind in ("tcp", "udp"):
            for port in PORTS:
                done = world.passes(pod, node, POD[version], target, kind, port)
                assert done == ((kind, port) in passing), (value.to_node, kind, port)
        assert pod.reaches(target)


@pytest.mark.parametrize("version", [4, 6])
def test_the_metadata_service(node: Node, version: int) -> None:
    """Only pods that are exempt reach it."""
    pod, outside = routed(node)
    world = World(node, pod, outside, programmer(Settings(metadata_deny=True)))
    target = {4: "169.254.169.254", 6: "fd00:ec2::254"}[version]
    outside.run(["ip", "addr", "add", target, "dev", "eth0", *(["nodad"] if version == 6 else [])])
    node.run(["ip", "route", "add", target, "via", PEER[version]])
    for exempt in ((), (POD[version],)):
        world.enforce(Compiled({POD[version]: enforced(1)}, metadata_exempt=frozenset(exempt)))
        assert world.passes(pod, outside, POD[version], target, "tcp", 8080) == bool(exempt)
        assert world.passes(pod, outside, POD[version], PEER[version], "tcp", 8080)


# -- while rules are replaced -----------------------------------------------------------------------------------------


class Flood:
    """New connections from outside to the pod's ports 8080 and 8081, one a datagram, and what arrives of them."""

    def __init__(self, world: World, version: int) -> None:
        self._world, self._version = world, version
        self._is_over = threading.Event()
        self.sent, self.arrived = 0, dict.fromkeys(PORTS, 0)
        self._threads = [
            threading.Thread(target=self._send),
            *(threading.Thread(target=self._read, args=(p,)) for p in PORTS),
        ]
        self._stack = ExitStack()
        self._listeners = {port: self._stack.enter_context(closing(self._listener(port))) for port in PORTS}

    def __enter__(self) -> "Flood":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        self._stack.close()

    def _listener(self, port: int) -> socket.socket:
        made = self._world.pod.socket(POD[self._version], "udp")
        made.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        made.bind((POD[self._version], port))
        made.settimeout(0.3)
        return made

    def _send(self) -> None:
        with self._world.outside.inside():
            while not self._is_over.is_set():
                family = socket.AF_INET if self._version == 4 else socket.AF_INET6
                with socket.socket(family, socket.SOCK_DGRAM) as sender:
                    sender.bind((PEER[self._version], 0))
                    for port in PORTS:
                        sender.sendto(b"x", (POD[self._version], port))
                self.sent += 1

    def _read(self, port: int) -> None:
        while True:
            try:
                self._listeners[port].recv(9)
                self.arrived[port] += 1
            except TimeoutError:
                if self._is_over.is_set():
                    return


def variants(version: int) -> Iterator[Compiled]:
    """Values without end of which each lets the peer open connections to port 8080, and nobody to port 8081."""
    chance = random.Random(version)
    kind = f"addresses{version}"
    number = 0
    while True:
        number += 1
        some = frozenset(chance.randbytes(4 if version == 4 else 16) for _ in range(chance.randrange(1, 50)))
        peers = some | addresses(PEER[version])
        ranges = networks(f"{PEER[version]}-{PEER[version]}") | {one + one for one in some}
        sets = {
            "steady": AddressSet(kind, peers),
            f"new_{number}": AddressSet(kind, peers),
            f"range_{number}": AddressSet({4: NETWORKS4, 6: NETWORKS6}[version], ranges),
        }
        used = chance.choice(list(sets))
        allowed = ChainRule(ALLOW, version, used, protocol=UDP, first=8080, last=8080)
        chains = {f"chain_{number}": Chain(INGRESS, (allowed, ChainRule(DROP)))}
        in_force = {POD[version]: enforced(1, ingress=f"chain_{number}")}
        yield Compiled(in_force, chains, {name: sets[name] for name in {used, "steady"}})


@pytest.mark.parametrize("version", [4, 6])
def test_no_packet_meets_anything_between_old_and_new(world: World, version: int) -> None:
    """During 500 changes each new connection that is always allowed passes, and none of those never allowed."""
    clock = Clock()
    made = programmer(clock=clock)
    values = variants(version)
    now = next(values)
    on(world.node, made.resync, now, local_of(now))
    with Flood(world, version) as flood:
        for _ in range(500):
            then = next(values)
            on(world.node, made.apply, delta_between(now, then))
            now = then
            clock.now += 0.1  # what is unused goes after 30 changes
            on(world.node, made.sweep)
            time.sleep(0.001)
    assert flood.sent > 500
    assert flood.arrived == {8080: flood.sent, 8081: 0}
    assert on(world.node, made.denied) == {(INGRESS, POD[version]): flood.sent}

"""Connections that changed policies no longer allow are ended, and no others."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from policy import connections
from policy.anew import compile_all
from policy.compiled import Compiled
from policy.connections import Flow, cut
from policy.objects import (
    ADMIN,
    DENY,
    EVERYTHING,
    IN,
    NETWORK,
    ClusterNode,
    LocalPod,
    NodePeer,
    Pod,
    PodPeer,
    Policy,
    Ports,
    Requirement,
    Rule,
    Selector,
)
from policy.settings import NodePorts, Settings
from spec.addresses import unpack
from tests.netns.connection_tools import TCP, UDP, Ends, reverse, track, track_all, tracked
from tests.netns.nft_tools import on
from tests.netns.node import Node

SCTP = 132
WEB, CLIENT, GONE = "10.1.2.5", "10.1.2.6", "10.1.2.77"
WEB6, CLIENT6 = "fd00:1::5", "fd00:1::6"
SERVICE, NODE, OUTSIDE, GATEWAY = "10.96.0.1", "192.0.2.1", "192.0.2.2", "10.1.2.1"
METADATA, METADATA6 = "169.254.169.254", "fd00:ec2::254"

PODS = (
    Pod("shop", "web", {"app": "web"}, (WEB, WEB6)),
    Pod("shop", "client", {"app": "client"}, (CLIENT, CLIENT6)),
)
LOCAL = [LocalPod(pod.name, pod.ips, "veth", pod.namespace, pod.name) for pod in PODS]


def app(name: str) -> PodPeer:
    """The pods of an app."""
    return PodPeer(Selector((Requirement("app", IN, (name,)),)), namespace="shop")


WEB_ALLOWS_CLIENTS = Policy(
    NETWORK, "shop", "web", app("web"), ingress=(Rule((app("client"),), (Ports("TCP", 80, 80), Ports("UDP", 53, 53))),)
)
NOTHING_OUT = Policy(NETWORK, "shop", "client", app("client"), egress=())
NO_NODES = Policy(
    ADMIN, "", "no-nodes", PodPeer(EVERYTHING, EVERYTHING), egress=(Rule((NodePeer(),), (Ports("TCP", 1, 99),), DENY),)
)


def compiled(*policies: Policy, metadata_exceptions: Sequence[PodPeer] = ()) -> Compiled:
    """What policies come to for the two pods on this node."""
    objects = [*PODS, ClusterNode("n1", ips=(NODE,)), *policies]
    return compile_all(objects, LOCAL, needs_pods=False, metadata_exceptions=metadata_exceptions)


@dataclass
class Recorder:
    """In place of the programmer: records what it is given, and what was still tracked then."""

    node: Node
    settings: Settings = field(default_factory=Settings)
    flows: list[Flow] = field(default_factory=list)
    tracked: set[str] = field(default_factory=set)

    def cut(self, flows: Sequence[Flow]) -> None:
        """Record."""
        self.flows += flows
        self.tracked = tracked(self.node)

    @property
    def texts(self) -> set[str]:
        """The flows as `tracked` names connections."""
        names = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}
        return {f"{names[one[2]]} {unpack(one[0])} {unpack(one[1])} {one[3]} {one[4]}" for one in self.flows}


def text(protocol: int, ends: Ends) -> str:
    """A connection as `tracked` names it."""
    name = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}[protocol]
    return f"{name} {ends.source} {ends.to} {ends.source_port} {ends.port}"


@pytest.fixture
def host(node: Node) -> Node:
    """A node with addresses."""
    for cidr in (f"{NODE}/24", f"{GATEWAY}/24", "2001:db8:1::1/64"):
        node.run(["ip", "addr", "add", cidr, "dev", "lo"])
    return node


@dataclass(frozen=True)
class Case:
    """A connection, and whether it is cut. `back`: if it is translated; `state`: of TCP."""

    what: str
    protocol: int
    there: Ends
    is_cut: bool
    back: Ends | None = None
    zone: int = 0
    state: int = 3

    @property
    def flows(self) -> set[str]:
        """Both directions, as they are between the filters."""
        if not self.is_cut or self.state == 7:
            return set()
        to, port = (self.back.source, self.back.source_port) if self.back else (self.there.to, self.there.port)
        there = Ends(self.there.source, self.there.source_port, to, port)
        return {text(self.protocol, there), text(self.protocol, Ends(to, port, there.source, there.source_port))}


CASES = [
    Case("an allowed port", TCP, Ends(CLIENT, 40000, WEB, 80), False),
    Case("an allowed port of UDP", UDP, Ends(CLIENT, 40000, WEB, 53), False),
    Case("another port", TCP, Ends(CLIENT, 40001, WEB, 81), True),
    Case("another protocol", UDP, Ends(CLIENT, 40002, WEB, 80), True),
    Case("SCTP", SCTP, Ends(CLIENT, 40003, WEB, 80), True),
    Case("an allowed port, IPv6", TCP, Ends(CLIENT6, 40000, WEB6, 80), False),
    Case("another port, IPv6", TCP, Ends(CLIENT6, 40001, WEB6, 81), True),
    Case("a service", TCP, Ends(CLIENT, 40004, SERVICE, 443), False, Ends(WEB, 80, CLIENT, 40004)),
    Case(
        "a service with a port that is not", TCP, Ends(CLIENT, 40005, SERVICE, 80), True, Ends(WEB, 81, CLIENT, 40005)
    ),
    Case("a masqueraded service", UDP, Ends(CLIENT, 40006, SERVICE, 53), True, Ends(WEB, 54, GATEWAY, 1025)),
    Case("a node port", TCP, Ends(OUTSIDE, 40007, NODE, 30080), True, Ends(WEB, 80, GATEWAY, 1026)),
    Case("the pod's own node", TCP, Ends(GATEWAY, 40008, WEB, 81), False),
    Case("another address of the node", UDP, Ends(NODE, 40008, WEB, 81), False),
    Case("the node, IPv6", TCP, Ends("2001:db8:1::1", 40008, WEB6, 81), False),
    Case("a loopback address", TCP, Ends("127.0.0.1", 40009, NODE, 8080), False, Ends(WEB, 81, GATEWAY, 1027)),
    Case("the other direction", TCP, Ends(WEB, 40010, CLIENT, 9000), False),
    Case("outside", UDP, Ends(WEB, 40011, OUTSIDE, 53), False, Ends(OUTSIDE, 53, NODE, 1028)),
    Case("itself by a service", TCP, Ends(WEB, 40012, SERVICE, 443), False, Ends(WEB, 81, GATEWAY, 1029)),
    Case("a pod that is gone", TCP, Ends(GONE, 40013, WEB, 80), True),
    Case("to a pod that is gone", TCP, Ends(WEB, 40014, GONE, 80), False),
    Case("a closed one", TCP, Ends(CLIENT, 40015, WEB, 81), True, state=7),
    Case("another zone", UDP, Ends(CLIENT, 40016, WEB, 81), True, zone=5),
    Case("others", TCP, Ends(OUTSIDE, 40017, NODE, 22), False),
]


def test_what_is_no_longer_allowed_is_cut_and_nothing_else(host: Node) -> None:
    """Judged as the filters would judge the first packet; its flows are refused before its entry goes."""
    for case in CASES:
        track(host, case.protocol, case.there, case.back, zone=case.zone, tcp_state=case.state)
    names = {text(case.protocol, case.there): case for case in CASES}
    assert tracked(host) == set(names)
    recorder = Recorder(host)
    ended = on(host, cut, compiled(WEB_ALLOWS_CLIENTS), None, recorder)
    kept = tracked(host)
    assert {case.what for name, case in names.items() if name not in kept} == {one.what for one in CASES if one.is_cut}
    assert ended == sum(case.is_cut for case in CASES)
    assert recorder.tracked == set(names)
    assert recorder.texts == set().union(*(case.flows for case in CASES))
    assert on(host, cut, compiled(WEB_ALLOWS_CLIENTS), None, recorder) == 0


def test_only_connections_of_the_pods_that_are_named_are_judged(host: Node) -> None:
    """By one of their addresses; whichever end of a connection the pod is."""
    of_web, of_client = Ends(OUTSIDE, 40000, WEB, 81), Ends(CLIENT, 40001, OUTSIDE, 53)
    of_both, of_web6 = Ends(CLIENT, 40002, WEB, 81), Ends("2001:db8:9::9", 40003, WEB6, 81)
    for one in (of_web, of_client, of_both, of_web6):
        track(host, UDP, one)
    policies = compiled(WEB_ALLOWS_CLIENTS, NOTHING_OUT)
    assert on(host, cut, policies, frozenset(), Recorder(host)) == 0
    assert on(host, cut, policies, frozenset([GONE, OUTSIDE]), Recorder(host)) == 0
    assert on(host, cut, policies, frozenset([CLIENT]), Recorder(host)) == 2
    assert tracked(host) == {text(UDP, of_web), text(UDP, of_web6)}
    assert on(host, cut, policies, frozenset([WEB6]), Recorder(host)) == 1
    assert on(host, cut, policies, None, Recorder(host)) == 1


def test_without_policies_nothing_is_cut(host: Node) -> None:
    """Whatever is open."""
    for case in CASES:
        track(host, case.protocol, case.there, case.back, zone=case.zone, tcp_state=case.state)
    before = tracked(host)
    assert on(host, cut, compiled(), None, Recorder(host)) == 0
    assert on(host, cut, Compiled(), None, Recorder(host)) == 0
    assert tracked(host) == before


def test_the_metadata_service_is_cut_off(host: Node) -> None:
    """From all pods but the exceptions, if the settings say so; it is no concern of policies."""
    of_web, of_client, of_web6 = (
        Ends(WEB, 40000, METADATA, 80),
        Ends(CLIENT, 40001, METADATA, 80),
        Ends(WEB6, 40002, METADATA6, 80),
    )
    for one in (of_web, of_client, of_web6):
        track(host, TCP, one)
    exceptions = compiled(metadata_exceptions=[app("client")])
    assert on(host, cut, exceptions, None, Recorder(host)) == 0
    assert on(host, cut, exceptions, None, Recorder(host, Settings(metadata_deny=True))) == 2
    assert tracked(host) == {text(TCP, of_client)}


def test_ports_of_the_node_are_cut_off(host: Node) -> None:
    """Those that `nodeAccess` does not list, and those that a cluster-wide policy denies; not those of other nodes."""
    dns, ssh, kubelet = (Ends(WEB, port, GATEWAY, port) for port in (53, 22, 10250))
    service = Ends(WEB, 40000, SERVICE, 443)
    elsewhere, isolated = Ends(WEB, 40001, "192.0.2.9", 10250), Ends(CLIENT, 40002, NODE, 53)
    for one in (dns, ssh, kubelet, elsewhere, isolated):
        track(host, TCP, one)
    track(host, TCP, service, Ends(NODE, 6443, WEB, 40000))
    before = tracked(host)
    assert on(host, cut, compiled(NOTHING_OUT), None, Recorder(host)) == 0
    restricted = Settings(node_access=(NodePorts(TCP, 1, 99),))
    assert on(host, cut, compiled(), None, Recorder(host, restricted)) == 2
    assert before - tracked(host) == {text(TCP, kubelet), text(TCP, service)}
    assert on(host, cut, compiled(NO_NODES), None, Recorder(host)) == 1
    assert tracked(host) == {text(TCP, one) for one in (dns, ssh, elsewhere)}


def test_what_an_allowed_connection_has_announced_goes_on(host: Node) -> None:
    """As the data of FTP, on a port that no policy names; until the announcing connection is not allowed any more."""
    control, data = Ends(CLIENT, 40000, WEB, 80), Ends(CLIENT, 40001, WEB, 50000)
    track(host, TCP, control)
    track(host, TCP, data, master=control)
    assert on(host, cut, compiled(WEB_ALLOWS_CLIENTS), None, Recorder(host)) == 0
    assert on(host, cut, compiled(WEB_ALLOWS_CLIENTS, NOTHING_OUT), None, Recorder(host)) == 2


def test_many_are_cut_in_parts(host: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is refused and deleted once, while the rest is still listed."""
    monkeypatch.setattr(connections, "_AT_ONCE", 100)
    many = [Ends(CLIENT, 20000 + number, WEB, 81) for number in range(1050)]
    kept = [Ends(CLIENT, 20000 + number, WEB, 53) for number in range(1050)]
    track_all(host, UDP, [(one, reverse(one)) for one in (*many, *kept)])
    recorder = Recorder(host)
    assert on(host, cut, compiled(WEB_ALLOWS_CLIENTS), None, recorder) == len(many)
    assert len(recorder.flows) == len(set(recorder.flows)) == 2 * len(many)
    assert tracked(host) == {text(UDP, one) for one in kept}


def test_entries_go_even_if_their_flows_cannot_be_refused(host: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something may be opened again by an answer then, but without that everything would go on."""
    monkeypatch.setattr(connections, "_AT_ONCE", 1)

    class Failing(Recorder):
        def cut(self, flows: Sequence[Flow]) -> None:
            raise OSError("no room")

    for port in (81, 82):
        track(host, TCP, Ends(CLIENT, 40000, WEB, port))
    with pytest.raises(OSError, match="no room"):
        on(host, cut, compiled(WEB_ALLOWS_CLIENTS), None, Failing(host))
    assert tracked(host) == set()

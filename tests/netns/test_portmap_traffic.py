"""`portmap` on a node: where packets go."""

import socket
from contextlib import ExitStack

import pytest

from tests.netns.cni import CNI, CNIFailure
from tests.netns.nft_tools import nft, table
from tests.netns.node import NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, Node, Pod, ask
from tests.netns.published import (
    GATEWAY_V4,
    HTTP,
    OTHER_V4,
    POD_V4,
    POD_V6,
    RANGES,
    TABLE,
    Member,
    port,
    portmap,
    refused,
    sctp_arrives,
)


@pytest.fixture
def outside(node: Node) -> Pod:
    """The external host; created first, which gives the node its addresses."""
    return node.outside()


@pytest.fixture
def pod(cni: CNI, outside: Pod) -> Member:
    """A pod with 10.1.2.2 and fd00:1::2, whose gateway answers."""
    made = Member(cni, "poda")
    assert made.pod.reaches("fd00:1::1", timeout=15)
    return made


@pytest.fixture
def other(cni: CNI, pod: Member) -> Member:
    """A second pod, 10.1.2.3 and fd00:1::3."""
    made = Member(cni, "podb")
    assert made.pod.reaches("fd00:1::1", timeout=15)
    return made


# -- packets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_from_outside(pod: Member, outside: Pod, kind: str) -> None:
    """In both families a port of the node leads to the pod, and the pod sees the client's address."""
    pod.add(port(8080, 80, kind))
    assert ask(outside, pod.pod, POD_V4, 80, kind, to=(NODE_V4, 8080)) == OUTSIDE_V4
    assert ask(outside, pod.pod, POD_V6, 80, kind, to=(NODE_V6, 8080)) == OUTSIDE_V6


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_from_pods_on_the_bridge(pod: Member, other: Member, kind: str) -> None:
    """Another pod, and the pod itself, reach the port through the node; the pod sees the gateway's address."""
    pod.add(port(8080, 80, kind))
    for client in (other.pod, pod.pod):
        assert ask(client, pod.pod, POD_V4, 80, kind, to=(NODE_V4, 8080)) == GATEWAY_V4
        assert ask(client, pod.pod, POD_V6, 80, kind, to=(NODE_V6, 8080)) == "fd00:1::1"


def test_direct_traffic_keeps_its_source(pod: Member, other: Member) -> None:
    """A connection to the pod's own address, not to the node's port, is not masqueraded."""
    pod.add(HTTP)
    assert ask(other.pod, pod.pod, POD_V4, 80, "tcp") == OTHER_V4


def test_another_translation_to_the_same_port_keeps_its_source(pod: Member, other: Member) -> None:
    """A Service address that another program translates to the pod's port is not masqueraded by us."""
    pod.add(HTTP)
    rule = f"ip daddr 10.96.0.1 tcp dport 443 dnat to {POD_V4}:80"
    nft(pod.node, "add table ip svc; add chain ip svc pre { type nat hook prerouting priority -90; }")
    nft(pod.node, f"add rule ip svc pre {rule}")
    # A reply to the other pod would be bridged without translation, so the TCP client is the node.
    assert ask(pod.node, pod.pod, POD_V4, 80, "tcp", to=(POD_V4, 80)) == GATEWAY_V4
    with pod.pod.socket(POD_V4, "udp") as listener, other.pod.socket(POD_V4, "udp") as caller:
        nft(pod.node, f"add rule ip svc pre ip daddr 10.96.0.1 udp dport 443 dnat to {POD_V4}:80")
        listener.bind((POD_V4, 80))
        caller.sendto(b"word", ("10.96.0.1", 443))
        assert listener.recvfrom(16)[1][0] == OTHER_V4


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_from_the_node(pod: Member, node: Node, kind: str) -> None:
    """The node reaches the port at its own addresses and at 127.0.0.1."""
    pod.add(port(8080, 80, kind))
    assert ask(node, pod.pod, POD_V4, 80, kind, to=("127.0.0.1", 8080)) == GATEWAY_V4
    assert ask(node, pod.pod, POD_V4, 80, kind, to=(NODE_V4, 8080)) == NODE_V4
    assert ask(node, pod.pod, POD_V6, 80, kind, to=(NODE_V6, 8080)) == NODE_V6
    assert node.sysctl("ipv4/conf/br0/route_localnet") == "1"


def test_pods_cannot_reach_the_nodes_loopback_addresses(pod: Member, node: Node) -> None:
    """`route_localnet`, which the port needs, does not expose listeners on 127.0.0.0/8 to pods."""
    pod.add(HTTP)
    pod.pod.run(["ip", "route", "add", "127.0.0.0/8", "via", GATEWAY_V4, "table", "77"])
    pod.pod.run(["ip", "rule", "add", "pref", "0", "to", "127.0.0.9", "lookup", "77"])
    pod.pod.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet"])
    with node.socket("127.0.0.9", "udp") as listener, pod.pod.socket(POD_V4, "udp") as caller:
        listener.bind(("127.0.0.9", 99))
        listener.settimeout(0.5)
        caller.sendto(b"word", ("127.0.0.9", 99))
        with pytest.raises(TimeoutError):
            listener.recvfrom(16)
        nft(node, "flush", "chain", *TABLE.split(), "loopback")
        caller.sendto(b"word", ("127.0.0.9", 99))
        assert listener.recvfrom(16)[0] == b"word"  # that rule is what dropped it


def reaches_loopback(pod: Member, node: Node) -> bool:
    """Whether a datagram from the pod to 127.0.0.9 arrives at the node."""
    with node.socket("127.0.0.9", "udp") as listener, pod.pod.socket(POD_V4, "udp") as caller:
        listener.bind(("127.0.0.9", 99))
        listener.settimeout(0.5)
        caller.sendto(b"word", ("127.0.0.9", 99))
        try:
            return listener.recvfrom(16)[0] == b"word"
        except TimeoutError:
            return False


@pytest.fixture
def attacker(cni: CNI, pod: Member) -> Member:
    """A pod that sends packets for 127.0.0.9 out of its link."""
    made = Member(cni, "podb")
    made.pod.run(["ip", "route", "add", "127.0.0.0/8", "via", GATEWAY_V4, "table", "77"])
    made.pod.run(["ip", "rule", "add", "pref", "0", "to", "127.0.0.9", "lookup", "77"])
    made.pod.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet"])
    return made


@pytest.mark.parametrize("call", ["ADD without ports", "ADD", "DEL", "GC", "STATUS"])
def test_any_call_restores_the_loopback_rules(pod: Member, attacker: Member, node: Node, call: str) -> None:
    """After `nft flush ruleset` the link still routes 127.0.0.1: whichever call comes next restores the rules."""
    pod.add(HTTP)
    assert not reaches_loopback(attacker, node)
    nft(node, "flush", "ruleset")
    assert reaches_loopback(attacker, node)
    match call:
        case "ADD without ports":
            attacker.add()
        case "ADD":
            attacker.add(port(8081, 81))
        case "DEL":
            attacker.delete()
        case "GC":
            pod.cni.gc(portmap(), pod.pod)
        case "STATUS":
            pod.cni.status(portmap())
    assert not reaches_loopback(attacker, node)
    with pytest.raises(CNIFailure, match="map ports4|chain exact of table inet slash24_portmap"):
        pod.check(HTTP)
    pod.add(HTTP)
    pod.check(HTTP)
    assert "iptables has v4" in table(node, TABLE), "the next ADD makes the whole table"


def test_without_snat(pod: Member, other: Member, node: Node) -> None:
    """`snat: false`: nothing is masqueraded, other pods on the bridge get no reply, and `route_localnet` stays off."""
    pod.add(HTTP, snat=False)
    assert ask(node, pod.pod, POD_V4, 80, "tcp", to=(NODE_V4, 8080)) == NODE_V4
    assert node.sysctl("ipv4/conf/br0/route_localnet") == "0"
    assert refused(other.pod, NODE_V4, 8080)
    pod.check(HTTP, snat=False)


def test_masquerade_all(pod: Member, outside: Pod) -> None:
    """`masqAll`: the pod sees the gateway's address for every client."""
    pod.add(HTTP, masqAll=True)
    assert ask(outside, pod.pod, POD_V4, 80, "tcp", to=(NODE_V4, 8080)) == GATEWAY_V4
    assert ask(outside, pod.pod, POD_V6, 80, "tcp", to=(NODE_V6, 8080)) == "fd00:1::1"


def test_a_pod_without_a_default_route_in_one_family(cni: CNI, outside: Pod) -> None:
    """In that family the pod sees the gateway's address, so it can reply there too."""
    ipam = {"type": "host-local", "ranges": RANGES, "routes": [{"dst": "0.0.0.0/0"}]}
    made = Member(cni, "poda", isDefaultGateway=False, isGateway=True, ipam=ipam)
    assert made.pod.reaches("fd00:1::1", timeout=15)
    assert "default6" not in made.pod.routes()
    made.add(HTTP)
    assert ask(outside, made.pod, POD_V6, 80, "tcp", to=(NODE_V6, 8080)) == "fd00:1::1"
    assert ask(outside, made.pod, POD_V4, 80, "tcp", to=(NODE_V4, 8080)) == OUTSIDE_V4
    made.check(HTTP)


def test_host_ip(pod: Member, other: Member, outside: Pod, node: Node) -> None:
    """A port of one address of the node leads to another pod than the same port of all other addresses."""
    node.run(["ip", "addr", "add", "192.0.2.9/24", "dev", "wan0"])
    pod.add(port(8080, 80, host_ip="192.0.2.9"))
    assert refused(outside, NODE_V4, 8080)
    other.add(port(8080, 80, host_ip="0.0.0.0"))
    assert ask(outside, pod.pod, POD_V4, 80, "tcp", to=("192.0.2.9", 8080)) == OUTSIDE_V4
    assert ask(outside, other.pod, OTHER_V4, 80, "tcp", to=(NODE_V4, 8080)) == OUTSIDE_V4
    assert refused(outside, NODE_V6, 8080)
    pod.delete()
    assert ask(outside, other.pod, OTHER_V4, 80, "tcp", to=("192.0.2.9", 8080)) == OUTSIDE_V4


def test_only_the_nodes_own_addresses_have_host_ports(pod: Member, outside: Pod, node: Node) -> None:
    """Packets routed through the node to other hosts are not translated, even if a `hostIP` names the destination."""
    pod.add(HTTP, port(8081, 80, host_ip="198.51.100.7"))
    outside.run(["ip", "addr", "add", "198.51.100.7/32", "dev", "lo"])
    outside.run(["ip", "link", "set", "lo", "up"])
    node.run(["ip", "route", "add", "198.51.100.7", "via", OUTSIDE_V4])
    for number in (8080, 8081):
        assert ask(pod.pod, outside, "198.51.100.7", number, "tcp") == POD_V4


def test_sctp(pod: Member, outside: Pod) -> None:
    """The first packet of an SCTP association reaches the pod with its port translated and a correct checksum."""
    pod.add(port(8132, 132, "sctp"))
    assert sctp_arrives(outside, OUTSIDE_V4, (NODE_V4, 8132), pod.pod) == 132


CONDITIONS = {
    "iptables": {"conditionsV4": ["!", "-s", "192.0.2.0/24"], "conditionsV6": ["!", "-s", "2001:db8:1::/64"]},
    "nft": {"conditionsV4": ["ip", "saddr", "!=", "192.0.2.0/24"], "conditionsV6": ["ip6 saddr != 2001:db8:1::/64"]},
    "link": {"conditionsV4": ["!", "-i", "wan0"], "conditionsV6": ['iifname != "wan*"']},
}


@pytest.mark.parametrize("conditions", CONDITIONS)
@pytest.mark.parametrize("host_ip", ["", NODE_V4])
def test_conditions_are_an_attachments_own(
    pod: Member, other: Member, outside: Pod, conditions: str, host_ip: str
) -> None:
    """They apply to the ports of the attachment that has them, and to no other's."""
    pod.add(port(8080, 80, host_ip=host_ip), **CONDITIONS[conditions])
    other.add(port(8081, 80))
    assert ask(outside, other.pod, OTHER_V4, 80, "tcp", to=(NODE_V4, 8081)) == OUTSIDE_V4
    assert refused(outside, NODE_V4, 8080)
    assert refused(outside, NODE_V6, 8080)
    assert ask(other.pod, pod.pod, POD_V4, 80, "tcp", to=(NODE_V4, 8080)) == GATEWAY_V4
    pod.check(port(8080, 80, host_ip=host_ip), **CONDITIONS[conditions])
    pod.delete()
    assert "-if-" not in table(pod.node, TABLE)


def test_the_wildcard_port_applies_if_conditions_do_not_hold(pod: Member, other: Member, outside: Pod) -> None:
    """If the conditions for an exact address do not hold, the same port of any address applies."""
    pod.add(port(8080, 80, host_ip=NODE_V4), conditionsV4=["-s", "203.0.113.0/24"])
    other.add(HTTP)
    assert ask(outside, other.pod, OTHER_V4, 80, "tcp", to=(NODE_V4, 8080)) == OUTSIDE_V4


# -- UDP flows ------------------------------------------------------------------------------------------------------


def exchange(caller: socket.socket, listener: socket.socket) -> bool:
    """Whether a datagram from a connected socket arrives and is answered."""
    caller.send(b"word")
    try:
        _, sender = listener.recvfrom(16)
        listener.sendto(b"WORD", sender)
        return caller.recv(16) == b"WORD"
    except TimeoutError:
        return False


def test_a_long_lived_udp_flow_follows_the_port(pod: Member, other: Member, outside: Pod) -> None:
    """A client that never pauses or changes its port first has no listener, then reaches one pod, then the next."""
    dns = port(8053, 53, "udp")
    with ExitStack() as stack:
        caller = stack.enter_context(outside.socket(NODE_V4, "udp"))
        first, second = (stack.enter_context(one.pod.socket(POD_V4, "udp")) for one in (pod, other))
        first.bind((POD_V4, 53))
        second.bind((OTHER_V4, 53))
        for one in (first, second, caller):
            one.settimeout(1)
        caller.bind(("", 5555))
        other.add(HTTP)  # connection tracking starts with the first NAT chain
        caller.sendto(b"word", (NODE_V4, 8053))  # no listener yet: the flow is tracked without translation
        assert "dport=8053" in pod.node.run(["conntrack", "-L", "-p", "udp"]).stdout
        pod.node.run(["nft", "add table ip hush; add chain ip hush o { type filter hook output priority 0; }"])
        pod.node.run(["nft", "add rule ip hush o icmp type destination-unreachable drop"])
        caller.connect((NODE_V4, 8053))
        pod.add(dns)
        assert exchange(caller, first)
        pod.add(dns)
        assert "10.1.2.2" in pod.node.run(["conntrack", "-L", "-p", "udp"]).stdout, "a good flow was cut off"
        pod.delete()
        assert "dport=8053" not in pod.node.run(["conntrack", "-L", "-p", "udp"]).stdout
        other.add(dns)
        assert exchange(caller, second)


def test_udp_flows_to_other_hosts_are_left_alone(pod: Member, node: Node, outside: Pod) -> None:
    """A flow to the same port of another host's address is kept."""
    pod.add(HTTP)  # connection tracking starts with the first NAT chain
    with pod.pod.socket(POD_V4, "udp") as caller:
        caller.sendto(b"word", (OUTSIDE_V4, 8053))
        assert f"dst={OUTSIDE_V4}" in node.run(["conntrack", "-L", "-p", "udp"]).stdout
        pod.add(port(8053, 53, "udp"), port(8054, 53, "udp", NODE_V4))
        assert f"dst={OUTSIDE_V4}" in node.run(["conntrack", "-L", "-p", "udp"]).stdout

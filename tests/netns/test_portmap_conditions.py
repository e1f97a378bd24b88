"""Conditions of `portmap` on a node: the rules they become, as nft prints them, and the packets they accept."""

import pytest

from tests.netns.cni import CNI
from tests.netns.nft_tools import chain, table
from tests.netns.node import NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, Node, Pod, ask
from tests.netns.published import GATEWAY_V4, HTTP, POD_V4, POD_V6, TABLE, Member, refused


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


FLAGS, AS_BITS = "tcp flags syn / fin,syn,rst,ack", "tcp flags & (fin | syn | rst | ack) == syn"
HOLDS = 'goto any comment "conditions hold"'
AS_NFT_PRINTS_THEM = [
    (["ip", "daddr", "!=", "{ 127.0.0.0/8, 198.19.254.254 }"],
     ["ip daddr != 127.0.0.0/8 ip daddr != 198.19.254.254"]),
    (["ip saddr { 192.0.2.0/24, 10.0.0.1-10.0.0.9 } tcp sport != 1000-2000"],
     ["ip saddr 192.0.2.0/24 tcp sport != 1000-2000", "ip saddr 10.0.0.1-10.0.0.9 tcp sport != 1000-2000"]),
    (["-m", "addrtype", "--src-type", "LOCAL"], ["fib saddr type local"]),
    (["-m", "addrtype", "!", "--dst-type", "BROADCAST,UNICAST"],
     ["fib daddr type != broadcast fib daddr type != unicast"]),
    (["-m", "mark", "!", "--mark", "0x4000/0x4000"], ["meta mark & 0x00004000 != 0x00004000"]),
    (["-m", "conntrack", "--ctstate", "NEW,RELATED", "-i", "wan+"], ['ct state related,new iifname "wan*"']),
    (["ct status != dnat", "meta skuid 1000-2000"], ["ct status != dnat meta skuid 1000-2000"]),
    (["tcp flags & (fin|syn|rst|ack) == syn iifname { wan0, wan1 }"],
     ['tcp flags & (fin | syn | rst | ack) == syn iifname "wan0"',
      'tcp flags & (fin | syn | rst | ack) == syn iifname "wan1"']),
    (["ether", "saddr", "0a:00:00:00:00:01", "meta l4proto { tcp, udp }"],
     ["ether saddr 0a:00:00:00:00:01 meta l4proto tcp", "ether saddr 0a:00:00:00:00:01 meta l4proto udp"]),
    (["meta pkttype unicast iiftype ether iifgroup default"], ['meta pkttype host iiftype ether iifgroup "default"']),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), AS_NFT_PRINTS_THEM)
def test_conditions_as_nft_prints_them(pod: Member, words: list[str], expected: list[str]) -> None:
    """Each of several values becomes a rule; the negation of several is a single rule."""
    pod.add(HTTP, conditionsV4=words)
    text = table(pod.node, TABLE)
    (name,) = {line.split()[1] for line in text.splitlines() if line.startswith("\tchain port-if-")}
    wanted = [f"{line} {HOLDS}" for line in expected]
    found = [line.removeprefix("meta nfproto ipv4 ") for line in chain(text, name)]
    # Releases of nft print these differently.
    found = [line.replace("meta iiftype", "iiftype").replace(FLAGS, AS_BITS) for line in found]
    assert found == wanted
    pod.check(HTTP, conditionsV4=words)


SHUT_TO_OUTSIDE = {
    "set of nft": ["ip", "saddr", "!=", "{ 198.51.100.0/24, 192.0.2.0/24 }"],
    "range of nft": ["ip saddr != 192.0.2.1-192.0.2.9"],
    "one of several": ["ip saddr { 198.51.100.0/24, 10.1.0.0/16 }"],
    "link": ["iifname != { wan0, wan1 }"],
    "addrtype": ["-m", "addrtype", "--src-type", "LOCAL"],
    "address list of iptables": ["-s", "198.51.100.1,10.1.2.2"],
    "range of iptables": ["-m", "iprange", "!", "--src-range", "192.0.2.1-192.0.2.9"],
    "mark": ["-m", "mark", "--mark", "0x7"],
    "ports": ["tcp", "dport", "!=", "{ 1-1023, 8080 }"],
    "account": ["meta skuid 0"],
}
OPEN_TO_OUTSIDE = {
    "set of nft": ["ip daddr { 198.51.100.7, 192.0.2.0/24 } tcp dport { 8080, 8443 }"],
    "not one of several": ["ip", "daddr", "!=", "{ 127.0.0.0/8, 198.19.254.254 }"],
    "link": ["iifname", "{ wan0, eth0 }"],
    "addrtype": ["-m", "addrtype", "!", "--src-type", "LOCAL", "-m", "addrtype", "--dst-type", "LOCAL"],
    "state": ["-m", "conntrack", "--ctstate", "NEW", "-m", "comment", "--comment", "from anywhere -s x"],
    "syn": ["-p", "tcp", "-m", "tcp", "--syn", "-m", "multiport", "--dports", "80,8000:9000"],
    "range of accounts, not": ["ct state new ct direction original"],
}


@pytest.mark.parametrize("words", SHUT_TO_OUTSIDE.values(), ids=SHUT_TO_OUTSIDE)
def test_a_client_that_does_not_match_is_refused(pod: Member, outside: Pod, words: list[str]) -> None:
    """A connection that does not meet the conditions is not forwarded."""
    pod.add(HTTP, conditionsV4=words)
    assert refused(outside, NODE_V4, 8080)


@pytest.mark.parametrize("words", OPEN_TO_OUTSIDE.values(), ids=OPEN_TO_OUTSIDE)
def test_a_client_that_matches_reaches_the_pod(pod: Member, outside: Pod, words: list[str]) -> None:
    """A connection that meets the conditions is forwarded."""
    pod.add(HTTP, conditionsV4=words)
    assert ask(outside, pod.pod, POD_V4, 80, "tcp", to=(NODE_V4, 8080)) == OUTSIDE_V4


def test_a_field_that_a_packet_lacks_never_matches(pod: Member, outside: Pod, node: Node) -> None:
    """A received packet has no user, so not even `skuid != 1000` matches; a packet sent by the node has one."""
    pod.add(HTTP, conditionsV4=["meta skuid != 1000"])
    assert refused(outside, NODE_V4, 8080)
    assert ask(node, pod.pod, POD_V4, 80, "tcp", to=(NODE_V4, 8080)) == NODE_V4


def test_each_family_has_its_own_conditions(pod: Member, outside: Pod) -> None:
    """Conditions of one family do not apply to the other."""
    pod.add(HTTP, conditionsV6=["ip6 saddr { 2001:db8:9::/64, fd00::/8 }"])
    assert ask(outside, pod.pod, POD_V4, 80, "tcp", to=(NODE_V4, 8080)) == OUTSIDE_V4
    assert refused(outside, NODE_V6, 8080)
    pod.add(HTTP, conditionsV6=["-m", "iprange", "--src-range", "2001:db8:1::-2001:db8:1::ffff"])
    assert ask(outside, pod.pod, POD_V6, 80, "tcp", to=(NODE_V6, 8080)) == OUTSIDE_V6


def test_without_ports_conditions_are_ignored(pod: Member) -> None:
    """Even those that cannot be expressed are not an error then."""
    before = pod.node.ruleset()
    assert pod.add(conditionsV4=["-m", "set", "--match-set", "x", "src"], backend="iptables") == pod.result
    pod.cni.status({"cniVersion": "1.1.0", "name": "net", "type": "portmap", "conditionsV4": ["ip saddr @x"]})
    assert pod.node.ruleset() == before
    assert ask(pod.node, pod.pod, POD_V4, 80, "tcp") == GATEWAY_V4

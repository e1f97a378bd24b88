"""The filter of duplicate frames: its rules, and what pods receive from a promiscuous bridge with and without it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from rules import hairpin_duplicates
from tests.netns.nft_tools import nft, on, table
from tests.netns.node import OUTSIDE_V4, OUTSIDE_V6, Host, Node, Pod

TABLE = "bridge slash24_dedup_kubenet"
MAC = "0a:58:0a:f4:01:01"
GATEWAYS = ["10.244.1.1/24", "fd00:1::1/64"]

HEAD = f"""\
table {TABLE} {{
	comment "slash24: pods of kubenet get no frame twice from their promiscuous bridge"
	chain output {{
		type filter hook output priority filter; policy accept;
"""
PASSING4 = f"""\
		oifname "veth*" ether saddr {MAC} ip saddr 10.244.1.1 return comment "gateway 10.244.1.1 from {MAC}"
"""
DROPPING4 = f"""\
		oifname "veth*" ether saddr {MAC} ip saddr 10.244.1.0/24 drop comment "duplicates in 10.244.1.1/24 from {MAC}"
"""
PASSING6 = f"""\
		oifname "veth*" ether saddr {MAC} ip6 saddr fd00:1::1 return comment "gateway fd00:1::1 from {MAC}"
"""
DROPPING6 = f"""\
		oifname "veth*" ether saddr {MAC} ip6 saddr fd00:1::/64 drop comment "duplicates in fd00:1::1/64 from {MAC}"
"""
TAIL = "\t}\n}\n"


def hand_over(node: Node, *, v4: bool = True, v6: bool = True) -> None:
    """Switch br_netfilter, which passes bridged packets to the IP rules, on or off for each family."""
    settings = (f"net.bridge.bridge-nf-call-iptables={v4:d}", f"net.bridge.bridge-nf-call-ip6tables={v6:d}")
    node.run(["sysctl", "-w", *settings])


# -- rules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gateways", "rules"),
    [
        (GATEWAYS, PASSING4 + PASSING6 + DROPPING4 + DROPPING6),
        ([*reversed(GATEWAYS), GATEWAYS[0]], PASSING4 + PASSING6 + DROPPING4 + DROPPING6),
        (GATEWAYS[:1], PASSING4 + DROPPING4),
        (GATEWAYS[1:], PASSING6 + DROPPING6),
        ([], ""),
    ],
)
def test_text(node: Node, gateways: list[str], rules: str) -> None:
    """Gateways return before their subnets are dropped; order and repetition of the gateways do not matter."""
    hand_over(node)
    on(node, hairpin_duplicates.ensure, "kubenet", MAC.upper(), gateways)
    assert table(node, TABLE) == HEAD + rules + TAIL
    assert on(node, hairpin_duplicates.problems, "kubenet", MAC, gateways) == []


def test_old_and_new_subnet(node: Node) -> None:
    """While a bridge has gateways of two subnets, each passes, even if the other's subnet contains it."""
    on(node, hairpin_duplicates.ensure, "kubenet", MAC, ["10.244.1.1/24", "10.244.0.1/16"])
    verdicts = [line.split(" ether ")[1].split(" comment")[0].partition(" ip ")[2] for line in rules(node)]
    assert verdicts == [
        "saddr 10.244.0.1 return",
        "saddr 10.244.1.1 return",
        "saddr 10.244.0.0/16 drop",
        "saddr 10.244.1.0/24 drop",
    ]


def rules(node: Node) -> list[str]:
    """The rules in the table."""
    return [line for line in table(node, TABLE).splitlines() if "oifname" in line]


def test_only_where_there_are_duplicates(node: Node) -> None:
    """A family for which br_netfilter is off has no rules; CHECK reports when that changes."""
    for v4, v6, wanted in (
        (True, True, PASSING4 + PASSING6 + DROPPING4 + DROPPING6),
        (True, False, PASSING4 + DROPPING4),
        (False, True, PASSING6 + DROPPING6),
        (False, False, ""),
    ):
        hand_over(node, v4=v4, v6=v6)
        assert on(node, hairpin_duplicates.problems, "kubenet", MAC, GATEWAYS) != []
        on(node, hairpin_duplicates.ensure, "kubenet", MAC, GATEWAYS)
        assert table(node, TABLE) == HEAD + wanted + TAIL
        assert on(node, hairpin_duplicates.problems, "kubenet", MAC, GATEWAYS) == []


def test_another_mac(node: Node) -> None:
    """CHECK fails if the filter is for another MAC than the bridge's."""
    on(node, hairpin_duplicates.ensure, "kubenet", "0a:58:0a:f4:01:02", GATEWAYS)
    assert on(node, hairpin_duplicates.problems, "kubenet", MAC, GATEWAYS) == [
        f"chain output of table {TABLE} does not hold its rules"
    ]
    on(node, hairpin_duplicates.ensure, "kubenet", MAC, GATEWAYS)
    assert "0a:58:0a:f4:01:02" not in table(node, TABLE)


# -- packets --------------------------------------------------------------------------------------------------------

SERVICES = """
table inet services {
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr 10.96.0.10 udp dport 53 dnat ip to 10.244.1.3:5353
		ip6 daddr fd96::10 udp dport 53 dnat ip6 to [fd00:1::3]:5353
	}
}
"""
SERVICE, DIRECT = [("10.96.0.10", 53), ("fd96::10", 53)], [("10.244.1.3", 5353), ("fd00:1::3", 5353)]
WORDS = [b"one", b"two", b"three"]
TWICE = [word for word in WORDS for _ in range(2)]


@dataclass(frozen=True)
class World:
    """A node whose promiscuous bridge cbr0 has pods 2 and 3, a service with pod 3 as backend, and the outside host."""

    node: Node
    client: Pod
    server: Pod
    outside: Host

    def received(self, client: Host, to: Sequence[tuple[str, int]]) -> list[list[bytes]]:
        """What the server receives of the client's datagrams to each of the addresses."""
        return [self._received(client, *place) for place in to]

    def _received(self, client: Host, address: str, port: int) -> list[bytes]:
        own = "fd00:1::3" if ":" in address else "10.244.1.3"
        words = []
        with self.server.socket(own, "udp") as listener, client.socket(own, "udp") as caller:
            listener.bind((own, 5353))
            listener.settimeout(0.3)
            for word in WORDS:
                caller.sendto(word, (address, port))
                time.sleep(0.02)
            while True:
                try:
                    words.append(listener.recv(16))
                except TimeoutError:
                    return words


@pytest.fixture
def world(node: Node) -> Iterator[World]:
    """A node set up as kubenet did with hairpin mode promiscuous-bridge."""
    outside = node.outside()
    for words in (
        ["link", "add", "cbr0", "address", MAC, "type", "bridge"],
        ["link", "set", "cbr0", "promisc", "on", "up"],
        ["addr", "add", "10.244.1.1/24", "dev", "cbr0"],
        ["addr", "add", "fd00:1::1/64", "dev", "cbr0", "nodad"],
    ):
        node.run(["ip", *words])
    node.run(["sysctl", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
    hand_over(node)
    nft(node, "-f", "-", stdin=SERVICES)
    made = World(node, _pod(node, 2), _pod(node, 3), outside)
    for address in ("10.244.1.3", "fd00:1::3"):
        assert made.client.reaches(address)
        assert made.node.reaches(address)
    return made


def _pod(node: Node, last: int) -> Pod:
    pod = node.pod(f"pod{last}")
    node.run(["ip", "link", "add", f"veth{last}", "type", "veth", "peer", "name", "eth0", "netns", pod.name])
    node.run(["ip", "link", "set", f"veth{last}", "master", "cbr0", "up"])
    for words in (
        ["link", "set", "eth0", "up"],
        ["addr", "add", f"10.244.1.{last}/24", "dev", "eth0"],
        ["addr", "add", f"fd00:1::{last}/64", "dev", "eth0", "nodad"],
        ["route", "add", "default", "via", "10.244.1.1"],
        ["-6", "route", "add", "default", "via", "fd00:1::1"],
    ):
        pod.run(["ip", *words])
    return pod


def test_duplicates(world: World) -> None:
    """A pod's datagrams to a service on its own bridge arrive twice without the filter and once with it.

    The duplicates come from the kernel: if the first assertion fails, the kernel no longer sends them, and the filter
    is obsolete.
    """
    assert world.received(world.client, SERVICE) == [TWICE, TWICE]
    on(world.node, hairpin_duplicates.ensure, "kubenet", MAC, GATEWAYS)
    assert world.received(world.client, SERVICE) == [WORDS, WORDS]
    on(world.node, hairpin_duplicates.delete, "kubenet")
    assert world.received(world.client, SERVICE) == [TWICE, TWICE]


def test_each_family_by_its_own_gateway(world: World) -> None:
    """A filter for the subnet of one family does not affect the other family."""
    on(world.node, hairpin_duplicates.ensure, "kubenet", MAC, GATEWAYS[:1])
    assert world.received(world.client, SERVICE) == [WORDS, TWICE]
    on(world.node, hairpin_duplicates.ensure, "kubenet", MAC, GATEWAYS[1:])
    assert world.received(world.client, SERVICE) == [TWICE, WORDS]


def test_what_passes(world: World) -> None:
    """With the filter, traffic from pods, the gateway, the node's other addresses and the outside arrives, once."""
    on(world.node, hairpin_duplicates.ensure, "kubenet", MAC, GATEWAYS)
    assert world.received(world.client, DIRECT) == [WORDS, WORDS]
    assert world.received(world.node, DIRECT) == [WORDS, WORDS]
    assert world.received(world.outside, DIRECT) == [WORDS, WORDS]
    for address in ("10.244.1.1", "fd00:1::1", OUTSIDE_V4, OUTSIDE_V6):
        assert world.server.reaches(address)


def test_other_ports_of_the_bridge(world: World) -> None:
    """A bridge port whose name does not begin with veth is not a pod's and is not filtered, as in kubenet."""
    on(world.node, hairpin_duplicates.ensure, "kubenet", MAC, GATEWAYS)
    world.node.run(["ip", "link", "set", "veth3", "down"])
    world.node.run(["ip", "link", "set", "veth3", "name", "tap3", "up"])
    assert world.client.reaches("10.244.1.3")
    assert world.received(world.client, SERVICE[:1]) == [TWICE]


def test_without_br_netfilter(world: World) -> None:
    """With br_netfilter off only the routed copy reaches the service, and the filter lets it pass."""
    hand_over(world.node, v4=False, v6=False)
    assert world.received(world.client, SERVICE) == [WORDS, WORDS]
    on(world.node, hairpin_duplicates.ensure, "kubenet", MAC, GATEWAYS)
    assert world.received(world.client, SERVICE) == [WORDS, WORDS]

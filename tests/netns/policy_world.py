"""For tests of network policies with packets: a node with pods on a bridge, and what a daemon would decide for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from linux.conntrack import flush_addresses
from linux.ownership import group_of
from rules import policy
from spec.attachment import Attachment
from tests.netns.nft_tools import nft, on
from tests.netns.node import Host, Node, Pod

GATEWAYS, MAC = ("10.244.1.1", "fd00:1::1"), "0a:58:0a:f4:01:01"
GROUP = group_of("net1")
INET, BRIDGE = "inet slash24_policy", "bridge slash24_policy"


@dataclass(frozen=True)
class Member:
    """A pod of the world: its host, the last number of its addresses and its attachment."""

    pod: Pod
    number: int
    owner: Attachment

    @property
    def ips(self) -> tuple[str, str]:
        """Its IPv4 and IPv6 address."""
        return f"10.244.1.{self.number}", f"fd00:1::{self.number}"

    @property
    def link(self) -> str:
        """The name of its host veth."""
        return f"veth{self.number}"

    @property
    def mac(self) -> str:
        """Its MAC."""
        return f"02:00:00:00:00:{self.number:02x}"


@dataclass(frozen=True)
class World:
    """A node whose bridge cbr0 has pods 2, 3 and 4, and a host outside; `gateway`: link of the gateways, with `mac`."""

    node: Node
    pods: tuple[Member, ...]
    outside: Host
    mac: str = MAC
    gateway: str = "cbr0"

    def hold(self, *members: Member) -> None:
        """Have these pods held."""
        for one in members:
            on(self.node, policy.hold, one.owner, one.ips, one.link, GROUP, self.mac, self.gateway)

    def free(self, *members: Member) -> None:
        """Have these pods, held before, isolated in no direction."""
        lines = [f"delete element {BRIDGE} {name} {{ {one.link} }}" for one in members for name in _SIDE.values()]
        for one in members:
            for version, ip in zip((4, 6), one.ips, strict=True):
                for name in ("egress", "ingress", "isolated"):
                    lines.append(f"delete element {INET} {name}{version} {{ {ip} }}")
        self.hold(*members)
        nft(self.node, "-f", "-", stdin="\n".join(lines))

    def isolate(self, member: Member, direction: str, *accepted: str) -> None:
        """Have a pod isolated in one direction ("ingress", "egress"); rules say what is `accepted`."""
        self.free(member)
        name = f"{direction}-{member.number}"
        last = "accept" if direction == "ingress" else "goto to_ingress"
        rules = [f"add rule {INET} {name} {rule} {last}" for rule in accepted]
        rules.append(f"add rule {INET} {name} goto denied_{direction}")
        nft(self.node, "-f", "-", stdin="\n".join([f"add chain {INET} {name}", f"flush chain {INET} {name}", *rules]))
        lines = [f"add element bridge slash24_policy {_SIDE[direction]} {{ {member.link} }}"]
        for version, ip in zip((4, 6), member.ips, strict=True):
            lines.append(f"add element {INET} {direction}{version} {{ {ip} : goto {name} }}")
            lines.append(f"add element {INET} isolated{version} {{ {ip} }}")
        nft(self.node, "-f", "-", stdin="\n".join(lines))

    def forget_connections(self) -> None:
        """Have no connection of a pod tracked."""
        on(self.node, flush_addresses, [ip for one in self.pods for ip in one.ips])

    def denied(self, direction: str) -> str:
        """What was denied in a direction, as nft lists it."""
        sets = [f"denied_{direction}{version}" for version in (4, 6)]
        return "".join(nft(self.node, "list", "set", *INET.split(), name) for name in sets)


_SIDE = {"ingress": "receivers", "egress": "senders"}


@contextmanager
def build(node: Node, *, br_netfilter: bool) -> Iterator[World]:
    """The world; all pods reach each other, switched, and there are no tables yet."""
    outside = node.outside()
    add_bridge(node, "cbr0", MAC, GATEWAYS)
    forward(node, br_netfilter=br_netfilter)
    yield World(node, tuple(add_pod(node, number) for number in (2, 3, 4)), outside)


def forward(node: Node, *, br_netfilter: bool) -> None:
    """Have the node forward packets, and pass bridged ones to the rules for routed ones or not."""
    node.run(["sh", "-c", "test -e /proc/sys/net/bridge || modprobe br_netfilter"])
    settings = [f"net.bridge.bridge-nf-call-{name}={br_netfilter:d}" for name in ("iptables", "ip6tables")]
    node.run(["sysctl", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", *settings])


def add_bridge(node: Node, name: str, mac: str, gateways: tuple[str, str]) -> None:
    """A bridge with gateway addresses; no detection of duplicates delays the node's first packets."""
    node.run(["ip", "link", "add", name, "address", mac, "type", "bridge", "mcast_snooping", "0"])
    node.run(["sysctl", "-w", f"net.ipv6.conf.{name}.accept_dad=0"])
    node.run(["ip", "link", "set", name, "up"])
    node.run(["ip", "addr", "add", f"{gateways[0]}/24", "dev", name])
    node.run(["ip", "addr", "add", f"{gateways[1]}/64", "dev", name, "nodad"])


def add_pod(node: Node, number: int, bridge: str = "cbr0", prefix: str = "1", group: int = GROUP) -> Member:
    """A pod on a bridge, with addresses of its subnet and routes by its gateway."""
    member = Member(node.pod(f"pod{number}"), number, Attachment("net1", f"pod{number}", "eth0"))
    create = ["ip", "link", "add", member.link, "group", str(group), "type", "veth"]
    node.run([*create, "peer", "name", "eth0", "netns", member.pod.name])
    node.run(["ip", "link", "set", member.link, "master", bridge, "up"])
    member.pod.run(["sysctl", "-w", "net.ipv6.conf.eth0.accept_dad=0"])
    for words in (
        ["link", "set", "lo", "up"],
        ["link", "set", "eth0", "address", member.mac, "up"],
        ["addr", "add", f"10.244.{prefix}.{number}/24", "dev", "eth0"],
        ["addr", "add", f"fd00:{prefix}::{number}/64", "dev", "eth0", "nodad"],
        ["route", "add", "default", "via", f"10.244.{prefix}.1"],
        ["-6", "route", "add", "default", "via", f"fd00:{prefix}::1"],
    ):
        member.pod.run(["ip", *words])
    return member

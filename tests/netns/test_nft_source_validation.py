"""Source address validation: the rules in the kernel, and their effect on packets."""

import socket
import struct

import pytest

from rules import source_validation
from spec.attachment import Attachment
from tests.netns.nft_tools import nft as nft_program
from tests.netns.nft_tools import on, table
from tests.netns.node import Node, Pod
from tests.netns.test_nft_antispoof import packet_socket

TABLE = "bridge slash24_source_validation"
ALICE = Attachment("net1", "alice", "eth0")
BOB = Attachment("net1", "bob", "eth0")
OWN = ("10.1.2.5/24", "fd00:1::5/64")
MAC_A, MAC_B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"

EMPTY = """\
table bridge slash24_source_validation {
	comment "slash24: what comes from a pod has an address of the pod"
	set bound {
		type ifname
	}

	set sources4 {
		type ifname . ipv4_addr
	}

	set sources6 {
		type ifname . ipv6_addr
	}

	chain prerouting {
		type filter hook prerouting priority dstnat; policy accept;
		iifname . ip saddr @sources4 return comment "own IPv4"
		meta l4proto tcp iifname . ip6 saddr @sources6 return comment "own TCP over IPv6"
		iifname != @bound return comment "not bound"
		meta protocol 8021q drop comment "tagged twice"
		meta protocol 8021ad drop comment "tagged twice"
		meta protocol ip drop comment "IPv4"
		iifname . arp saddr ip != @sources4 drop comment "ARP"
		ip6 saddr != fe80::/10 iifname . ip6 saddr != @sources6 drop comment "IPv6"
		icmpv6 type nd-router-advert drop comment "routers"
	}

	chain delivery {
		oifname . ip daddr @sources4 return comment "own IPv4"
		oifname . ip6 daddr @sources6 return comment "own IPv6"
		oifname != @bound return comment "not bound"
		ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 return comment "to many"
		ip daddr != 224.0.0.0/3 drop comment "IPv4"
		ip6 daddr ff00::/8 return comment "groups"
		ip6 daddr != fe80::/10 drop comment "IPv6"
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		iifgroup 620756992 goto delivery comment "from the node"
	}

	chain output {
		type filter hook output priority filter; policy accept;
		goto delivery comment "from the node"
	}
}
"""


def holding(**elements: list[str]) -> str:
    """The table as `nft list table` prints it, with these elements, all of alice."""
    text = EMPTY
    for name, keys in elements.items():
        line = ", ".join(f'{key} comment "v1:net1:alice:eth0"' for key in keys)
        head, kind = f"set {name} {{\n\t\ttype ", EMPTY.partition(f"set {name} {{\n\t\ttype ")[2].partition("\n")[0]
        text = text.replace(f"{head}{kind}\n", f"{head}{kind}\n\t\telements = {{ {line} }}\n")
    return text


ALICE_ONLY = holding(
    bound=['"vetha"'],
    sources4=['"vetha" . 0.0.0.0', '"vetha" . 10.1.2.5'],
    sources6=['"vetha" . ::', '"vetha" . fd00:1::5'],
)


def test_text(node: Node) -> None:
    """A pod has an element per link and address; the rules survive the last DEL and a saved and restored ruleset."""
    on(node, source_validation.ensure, ALICE, "vetha", OWN)
    assert table(node, TABLE) == ALICE_ONLY
    on(node, source_validation.ensure, BOB, "vethb", ["10.1.2.6"])
    assert on(node, source_validation.problems, BOB, "vethb", ["10.1.2.6/24"]) == []
    on(node, source_validation.delete, BOB)
    saved = node.ruleset()
    nft_program(node, "-f", "-", stdin=f"flush ruleset\n{saved}")
    assert table(node, TABLE) == ALICE_ONLY
    assert on(node, source_validation.problems, ALICE, "vetha", OWN) == []
    on(node, source_validation.delete, ALICE)
    assert table(node, TABLE) == EMPTY


def test_an_address_or_a_link_changes_owner(node: Node) -> None:
    """ADD removes the previous elements of its attachment and its link; a late DEL of the old owner changes nothing."""
    on(node, source_validation.ensure, ALICE, "vethold", ["10.9.9.9/24"])
    on(node, source_validation.ensure, BOB, "vetha", ["10.1.2.9/24"])
    on(node, source_validation.ensure, ALICE, "vetha", OWN)
    on(node, source_validation.delete, BOB)
    assert table(node, TABLE) == ALICE_ONLY


def test_sweep(node: Node) -> None:
    """A sweep of a network unbinds its invalid attachments and none of other networks; the table may be missing."""
    assert on(node, source_validation.sweep, "net1", []) == 0
    on(node, source_validation.delete, ALICE)
    assert node.ruleset() == ""
    on(node, source_validation.ensure, BOB, "vethb", ["10.1.2.6/24"])
    on(node, source_validation.ensure, Attachment("net2", "alice", "eth0"), "vethc", ["10.1.3.6/24"])
    on(node, source_validation.ensure, ALICE, "vetha", OWN)
    assert on(node, source_validation.sweep, "net1", [ALICE]) == 1
    assert on(node, source_validation.sweep, "net2", []) == 1
    assert table(node, TABLE) == ALICE_ONLY


DRIFTS = {
    "chain flushed": f"flush chain {TABLE} prerouting",
    "table deleted": f"delete table {TABLE}",
    "foreign rule in front": f"insert rule {TABLE} prerouting accept",
    "link not bound": f"delete element {TABLE} bound {{ vetha }}",
    "an address gone": f"flush set {TABLE} sources6",
    "an address more": f"add element {TABLE} sources4 {{ vetha . 10.1.2.1 }}",
    "owner lost": f"flush set {TABLE} bound; add element {TABLE} bound {{ vetha }}",
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift_is_found_and_repaired(node: Node, drift: str) -> None:
    """CHECK reports any change to the table, and the next ADD repairs it."""
    on(node, source_validation.ensure, ALICE, "vetha", OWN)
    nft_program(node, "-f", "-", stdin=DRIFTS[drift])
    assert on(node, source_validation.problems, ALICE, "vetha", OWN) != []
    on(node, source_validation.ensure, ALICE, "vetha", OWN)
    assert table(node, TABLE) == ALICE_ONLY


# -- packets --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pods(node: Node) -> tuple[Pod, Pod]:
    """Two pods on a bridge: alice, bound to her addresses; bob, not bound."""
    node.run(["ip", "link", "add", "br0", "type", "bridge"])
    node.run(["ip", "link", "set", "br0", "up"])
    made = []
    for number, (name, link, mac) in enumerate((("alice", "vetha", MAC_A), ("bob", "vethb", MAC_B)), 5):
        pod = node.pod(name)
        node.run(["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name])
        node.run(["ip", "link", "set", link, "up", "master", "br0"])
        pod.run(["ip", "link", "set", "eth0", "up", "address", mac])
        pod.run(["ip", "addr", "add", f"10.1.2.{number}/24", "dev", "eth0"])
        pod.run(["ip", "addr", "add", f"fd00:1::{number}/64", "dev", "eth0", "nodad"])
        made.append(pod)
    on(node, source_validation.ensure, ALICE, "vetha", OWN)
    return made[0], made[1]


def arp(sender: str) -> bytes:
    """An ARP reply with `sender` as sender address."""
    own = bytes.fromhex(MAC_A.replace(":", "")) + socket.inet_aton(sender)
    return bytes.fromhex("0806 0001 0800 06 04 0002") + own + bytes.fromhex(MAC_B.replace(":", "")) + bytes(4)


def ipv4(source: str) -> bytes:
    """An IPv4 packet of an experimental protocol (RFC 3692)."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 253, 0) + socket.inet_aton(source) + bytes([10, 1, 2, 6])
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return bytes.fromhex("0800") + head[:10] + struct.pack(">H", ~total & 0xFFFF) + head[12:]


def ipv6(source: str, next_header: int = 253, payload: bytes = b"") -> bytes:
    """Likewise for IPv6."""
    head = struct.pack(">IHBB", 6 << 28, 20 + len(payload), next_header, 255)
    target = socket.inet_pton(socket.AF_INET6, "fd00:1::6")
    return bytes.fromhex("86dd") + head + socket.inet_pton(socket.AF_INET6, source) + target + payload


ROUTER_ADVERTISEMENT = bytes([134, 0, 0, 0, 64, 0, 7, 8, *[0] * 8])
FRAMES = {
    "ARP for her own address": (arp("10.1.2.5"), True),
    "an ARP probe": (arp("0.0.0.0"), True),
    "ARP for another's address": (arp("10.1.2.1"), False),
    "IPv4 from her own address": (ipv4("10.1.2.5"), True),
    "IPv4 from her neighbour's": (ipv4("10.1.2.6"), False),
    "IPv4 from anywhere": (ipv4("192.0.2.9"), False),
    "IPv6 from her own address": (ipv6("fd00:1::5"), True),
    "IPv6 from a link-local address": (ipv6("fe80::a"), True),
    "IPv6 from nowhere, for duplicates": (ipv6("::"), True),
    "IPv6 from her neighbour's": (ipv6("fd00:1::6"), False),
    "IPv6 that maps IPv4": (ipv6("::ffff:10.1.2.5"), False),
    "a router advertisement": (ipv6("fe80::a", 58, ROUTER_ADVERTISEMENT), False),
    "neither ARP nor IP": (bytes.fromhex("88b5"), True),
}


@pytest.mark.parametrize("tag", ["", "81000000"], ids=["plain", "tagged"])
@pytest.mark.parametrize("kind", FRAMES)
def test_frames(pods: tuple[Pod, Pod], kind: str, tag: str) -> None:
    """Frames with the pod's own address pass, those with another are dropped, with and without a VLAN tag."""
    alice, bob = pods
    frame, passes = FRAMES[kind]
    head = bytes.fromhex((MAC_B + MAC_A).replace(":", "") + tag)
    with on(alice, packet_socket, 0) as sender, on(bob, packet_socket, 3) as receiver:  # ETH_P_ALL
        sender.send(head + frame + b"word".ljust(50))
        sender.send(head[:12] + bytes.fromhex("88b6") + b"over".ljust(50))  # frames arrive in order
        seen = []
        while not any(b"over" in one for one in seen):
            seen.append(receiver.recv(2048))
    assert any(b"word" in one for one in seen) == passes


def test_a_bound_pod_reaches_others_from_its_own_addresses_only(node: Node, pods: tuple[Pod, Pod]) -> None:
    """Bound pods reach others in both families; with an address that they add themselves they do not, until unbound."""
    alice, _ = pods
    for target in ("10.1.2.6", "fd00:1::6"):
        assert alice.reaches(target)
    alice.run(["ip", "addr", "add", "10.1.2.77/24", "dev", "eth0"])
    forged = ["ping", "-n", "-c1", "-W1", "-I", "10.1.2.77", "10.1.2.6"]
    assert alice.run(forged, check=False).returncode != 0
    on(node, source_validation.delete, ALICE)
    assert alice.run(forged).returncode == 0

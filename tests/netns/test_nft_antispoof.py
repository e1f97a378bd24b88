"""Anti-spoofing: the rules in the kernel, and their effect on frames."""

import socket
from functools import partial

import pytest

from rules import antispoof
from spec.attachment import Attachment
from tests.netns.nft_tools import at_once, on, table
from tests.netns.nft_tools import nft as nft_program
from tests.netns.node import Node, Pod

TABLE = "bridge slash24_antispoof"
ALICE = Attachment("net1", "alice", "eth0")
BOB = Attachment("net1", "bob", "eth0")
MAC_A, MAC_B, FORGED = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:66"

EMPTY = """\
table bridge slash24_antispoof {
	comment "slash24: frames from a pod carry the MAC of the pod"
	set links {
		type ifname
	}

	set allowed {
		type ifname . ether_addr
	}

	chain prerouting {
		type filter hook prerouting priority dstnat; policy accept;
		iifname @links iifname . ether saddr != @allowed drop comment "spoofed"
	}
}
"""


def holding(links: str, allowed: str) -> str:
    """The table as `nft list table` prints it, with these elements."""
    return EMPTY.replace("type ifname\n", f"type ifname\n\t\telements = {{ {links} }}\n").replace(
        "ether_addr\n", f"ether_addr\n\t\telements = {{ {allowed} }}\n"
    )


ALICE_ONLY = holding('"vetha" comment "v1:net1:alice:eth0"', '"vetha" . 02:00:00:00:00:0a comment "v1:net1:alice:eth0"')
BOTH = holding(
    '"vetha" comment "v1:net1:alice:eth0", "vethb" comment "v1:net1:bob:eth0"',
    '"vetha" . 02:00:00:00:00:0a comment "v1:net1:alice:eth0", "vethb" . 02:00:00:00:00:0b comment "v1:net1:bob:eth0"',
)


# -- rules ----------------------------------------------------------------------------------------------------------


def test_text(node: Node) -> None:
    """Each pod has an element in each of two sets; they share one rule, which stays when the last pod is deleted."""
    on(node, antispoof.ensure, ALICE, "vetha", MAC_A)
    assert table(node, TABLE) == ALICE_ONLY
    on(node, antispoof.ensure, BOB, "vethb", MAC_B)
    assert table(node, TABLE) == BOTH
    on(node, antispoof.delete, BOB)
    assert table(node, TABLE) == ALICE_ONLY
    on(node, antispoof.delete, ALICE)
    assert table(node, TABLE) == EMPTY


def test_round_trip(node: Node) -> None:
    """`nft -f` restores the output of `nft list ruleset` exactly, and CHECK passes afterwards."""
    on(node, antispoof.ensure, ALICE, "vetha", MAC_A)
    saved = node.ruleset()
    nft_program(node, "-f", "-", stdin=f"flush ruleset\n{saved}")
    assert node.ruleset() == saved
    assert on(node, antispoof.problems, ALICE, "vetha", MAC_A) == []


# -- changes --------------------------------------------------------------------------------------------------------


def test_delete_without_anything(node: Node) -> None:
    """Deleting or sweeping when no table exists succeeds repeatedly and creates nothing."""
    for _ in range(2):
        on(node, antispoof.delete, ALICE)
        assert on(node, antispoof.sweep, "net1", []) == 0
    assert node.ruleset() == ""


def test_new_link_replaces_the_old(node: Node) -> None:
    """ADD removes the previous link and MAC of its attachment."""
    on(node, antispoof.ensure, ALICE, "vethold", FORGED)
    on(node, antispoof.ensure, ALICE, "vetha", MAC_A)
    assert table(node, TABLE) == ALICE_ONLY


def test_reused_link_name(node: Node) -> None:
    """A link that reuses a deleted pod's name passes only the new owner's MAC; a late DEL has no effect."""
    on(node, antispoof.ensure, BOB, "vetha", FORGED)
    on(node, antispoof.ensure, ALICE, "vetha", MAC_A)
    on(node, antispoof.delete, BOB)
    assert table(node, TABLE) == ALICE_ONLY


def test_names_that_begin_alike(node: Node) -> None:
    """Links whose names share a prefix are distinguished, up to the maximum length of a name."""
    on(node, antispoof.ensure, BOB, "vetha23456789ab", MAC_B)
    on(node, antispoof.ensure, ALICE, "vetha", MAC_A)
    on(node, antispoof.ensure, Attachment("net1", "carol", "eth0"), "vetha2", MAC_A)
    assert on(node, antispoof.problems, BOB, "vetha23456789ab", MAC_B) == []
    assert '"vetha23456789ab" . 02:00:00:00:00:0b' in table(node, TABLE)


def test_sweep(node: Node) -> None:
    """A sweep of a network removes the attachments that are not valid, and none of other networks."""
    other = Attachment("net2", "alice", "eth0")
    on(node, antispoof.ensure, BOB, "vethb", MAC_B)
    on(node, antispoof.ensure, other, "vethc", MAC_B)
    on(node, antispoof.ensure, ALICE, "vetha", MAC_A)
    assert on(node, antispoof.sweep, "net1", [ALICE]) == 1
    assert on(node, antispoof.problems, other, "vethc", MAC_B) == []
    assert on(node, antispoof.sweep, "net2", []) == 1
    assert table(node, TABLE) == ALICE_ONLY


DRIFTS = {
    "chain flushed": f"flush chain {TABLE} prerouting",
    "table deleted": f"delete table {TABLE}",
    "foreign rule in front": f"insert rule {TABLE} prerouting accept",
    "link unwatched": f"delete element {TABLE} links {{ vetha }}",
    "MAC not allowed": f"flush set {TABLE} allowed",
    "another MAC allowed": f"add element {TABLE} allowed {{ vetha . {FORGED} }}",
    "another MAC instead": f"flush set {TABLE} allowed; add element {TABLE} allowed {{ vetha . {FORGED} }}",
    "owner lost": f"flush set {TABLE} links; add element {TABLE} links {{ vetha }}",
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift_is_found_and_repaired(node: Node, drift: str) -> None:
    """CHECK reports any change to the table, and the next ADD repairs it."""
    on(node, antispoof.ensure, ALICE, "vetha", MAC_A)
    assert on(node, antispoof.problems, ALICE, "vetha", MAC_A) == []
    nft_program(node, "-f", "-", stdin=DRIFTS[drift])
    assert on(node, antispoof.problems, ALICE, "vetha", MAC_A) != []
    on(node, antispoof.ensure, ALICE, "vetha", MAC_A)
    assert table(node, TABLE) == ALICE_ONLY
    assert on(node, antispoof.problems, ALICE, "vetha", MAC_A) == []


def test_sixteen_at_once(node: Node) -> None:
    """Eight concurrent ADDs and eight DELs on a new node leave one rule and the eight pods added."""
    old = [Attachment("net1", f"old{i}", "eth0") for i in range(8)]
    new = [Attachment("net1", f"new{i}", "eth0") for i in range(8)]
    adds = [partial(antispoof.ensure, owner, f"veth{i}", f"02:00:00:00:00:{i:02x}") for i, owner in enumerate(new)]
    assert at_once(node, [call for i in range(8) for call in (adds[i], partial(antispoof.delete, old[i]))]) == 0
    assert [on(node, antispoof.problems, *add.args) for add in adds] == [[]] * 8
    assert table(node, TABLE).count("drop") == 1


# -- frames ---------------------------------------------------------------------------------------------------------


def bridged(node: Node) -> tuple[Pod, Pod]:
    """Two pods on a bridge: alice 10.1.2.5 behind vetha, filtered by MAC_A; bob 10.1.2.6 behind vethb, not filtered."""
    node.run(["ip", "link", "add", "br0", "type", "bridge"])
    node.run(["ip", "addr", "add", "10.1.2.1/24", "dev", "br0"])
    node.run(["ip", "link", "set", "br0", "up"])
    pods = []
    for name, link, mac, address in (("alice", "vetha", MAC_A, "10.1.2.5/24"), ("bob", "vethb", MAC_B, "10.1.2.6/24")):
        pod = node.pod(name)
        node.run(["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name])
        node.run(["ip", "link", "set", link, "up", "master", "br0"])
        pod.run(["ip", "link", "set", "eth0", "up", "address", mac])
        pod.run(["ip", "addr", "add", address, "dev", "eth0"])
        pods.append(pod)
    on(node, antispoof.ensure, ALICE, "vetha", MAC_A)
    return pods[0], pods[1]


def test_pod_with_a_forged_mac_is_cut_off(node: Node) -> None:
    """A filtered pod that changes its MAC reaches no host, not even by ARP; with its own MAC it does again."""
    alice, bob = bridged(node)
    assert alice.reaches("10.1.2.1")
    assert alice.reaches("10.1.2.6")
    node.run(["ip", "neigh", "flush", "all"])
    alice.run(["ip", "link", "set", "eth0", "address", FORGED])
    assert not alice.reaches("10.1.2.1", timeout=1)
    assert not alice.reaches("10.1.2.6", timeout=1)
    assert FORGED not in node.run(["ip", "neigh"]).stdout + node.run(["bridge", "fdb"]).stdout
    assert FORGED not in bob.run(["ip", "neigh"]).stdout
    assert bob.reaches("10.1.2.1")
    alice.run(["ip", "link", "set", "eth0", "address", MAC_A])
    assert alice.reaches("10.1.2.1")
    assert alice.reaches("10.1.2.6")


def test_only_filtered_pods_are_cut_off(node: Node) -> None:
    """A pod without filter may change its MAC; so may a filtered pod once its attachment is deleted."""
    alice, bob = bridged(node)
    bob.run(["ip", "link", "set", "eth0", "address", "02:00:00:00:00:67"])
    assert bob.reaches("10.1.2.1")
    alice.run(["ip", "link", "set", "eth0", "address", FORGED])
    assert not alice.reaches("10.1.2.1", timeout=1)
    on(node, antispoof.delete, ALICE)
    assert alice.reaches("10.1.2.1")


FRAMES = {
    # Complete packets where headers are validated: a bridge may pass frames through the IP layer's netfilter hooks.
    "IPv4": "0800" + "450000180000000040fd60e40a0102050a0102ff",
    "IPv6": "86dd" + "6000000000043b40" + "fd000001000000000000000000000005" + "ff020000000000000000000000000001",
    "ARP": "0806",
    "experimental": "88b5",
    "VLAN-tagged": "8100002a88b5",
}


@pytest.mark.parametrize("kind", FRAMES)
def test_every_kind_of_frame(node: Node, kind: str) -> None:
    """IPv4, ARP, IPv6, unknown and VLAN-tagged frames pass with the pod's MAC and are dropped with a forged one."""
    alice, bob = bridged(node)
    everything = 3  # ETH_P_ALL
    with on(alice, packet_socket, 0) as sender, on(bob, packet_socket, everything) as receiver:
        for mac in (FORGED, MAC_A):
            head = bytes.fromhex(f"ffffffffffff{mac.replace(':', '')}{FRAMES[kind]}")
            sender.send(head + b"word".ljust(50))
        seen = []
        while f"{MAC_A} word" not in seen:
            frame = receiver.recv(2048)
            if b"word" in frame:
                seen.append(f"{frame[6:12].hex(':')} word")
    assert seen == [f"{MAC_A} word"]


def packet_socket(protocol: int) -> socket.socket:
    """A raw socket on eth0 of the current namespace, with a timeout of 3 s."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    made.bind(("eth0", protocol))
    made.settimeout(3)
    return made

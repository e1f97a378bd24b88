"""Masquerade in the kernel: its rules, changes and repairs."""

from collections.abc import Callable
from functools import partial

import pytest

from linux.netlink.socket import NETLINK_NETFILTER, Netlink, NetlinkError
from linux.nftables import messages, pod_table
from rules import masquerade
from spec.attachment import Attachment
from tests.netns.nft_tools import at_once, chain, on, table
from tests.netns.nft_tools import nft as nft_program
from tests.netns.node import Node

TABLE = "inet slash24_masquerade"
ALICE = Attachment("net1", "alice", "eth0")
BOB = Attachment("net1", "bob", "eth0")

HEAD = """\
table inet slash24_masquerade {
	comment "slash24: what pods send beyond their subnet leaves with the node's address"
"""
NO_PODS4 = """\
	map pods4 {
		type ipv4_addr : verdict
	}

"""
NO_PODS6 = """\
	map pods6 {
		type ipv6_addr : verdict
	}

"""
POSTROUTING = """\
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip daddr 224.0.0.0/4 return comment "multicast v4"
		ip6 daddr ff00::/8 return comment "multicast v6"
		ip saddr vmap @pods4 comment "pods v4"
		ip6 saddr vmap @pods6 comment "pods v6"
	}
"""
SUBNET4 = """
	chain subnet-10.1.2.0/24 {
		ip daddr 10.1.2.0/24 return comment "own subnet"
		masquerade comment "beyond"
	}
"""
SUBNET6 = """
	chain subnet-fd00_1__/64 {
		ip6 daddr fd00:1::/64 return comment "own subnet"
		masquerade comment "beyond"
	}
"""
EMPTY = HEAD + NO_PODS4 + NO_PODS6 + POSTROUTING + "}\n"


def pods4(elements: str) -> str:
    """The map of IPv4 pods with these elements, as nft prints it."""
    return f"\tmap pods4 {{\n\t\ttype ipv4_addr : verdict\n\t\telements = {{ {elements} }}\n\t}}\n\n"


def pods6(elements: str) -> str:
    """The map of IPv6 pods with these elements, as nft prints it."""
    return f"\tmap pods6 {{\n\t\ttype ipv6_addr : verdict\n\t\telements = {{ {elements} }}\n\t}}\n\n"


ALICE4 = '10.1.2.5 comment "v1:net1:alice:eth0" : goto subnet-10.1.2.0/24'
ALICE6 = 'fd00:1::5 comment "v1:net1:alice:eth0" : goto subnet-fd00_1__/64'
BOB4 = '10.1.2.6 comment "v1:net1:bob:eth0" : goto subnet-10.1.2.0/24'


def generation(node: Node) -> int:
    """The generation ID of the node's ruleset."""

    def read() -> int:
        with Netlink(NETLINK_NETFILTER) as netlink:
            return messages.generation(netlink)

    return on(node, read)


# -- rules ----------------------------------------------------------------------------------------------------------


def test_one_pod(node: Node) -> None:
    """A pod is a map element that leads to the chain of its subnet; the rest of the table is the same for all pods."""
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/24"])
    assert table(node, TABLE) == HEAD + pods4(ALICE4) + NO_PODS6 + POSTROUTING + SUBNET4 + "}\n"


def test_dual_stack_pod(node: Node) -> None:
    """A dual-stack pod has an element and a chain for each address."""
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/24", "fd00:1::5/64"])
    assert table(node, TABLE) == HEAD + pods4(ALICE4) + pods6(ALICE6) + POSTROUTING + SUBNET4 + SUBNET6 + "}\n"


def test_two_pods_of_one_subnet(node: Node) -> None:
    """Two pods of one subnet share its chain."""
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/24"])
    on(node, masquerade.ensure, BOB, ["10.1.2.6/24"])
    assert table(node, TABLE) == HEAD + pods4(f"{ALICE4}, {BOB4}") + NO_PODS6 + POSTROUTING + SUBNET4 + "}\n"


def test_last_del_leaves_the_fixed_rules_only(node: Node) -> None:
    """After the last pod's DEL only the fixed rules are left, without elements or subnet chains."""
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/24", "fd00:1::5/64"])
    on(node, masquerade.ensure, BOB, ["10.1.2.6/24"])
    on(node, masquerade.delete, ALICE)
    assert table(node, TABLE) == HEAD + pods4(BOB4) + NO_PODS6 + POSTROUTING + SUBNET4 + "}\n"
    on(node, masquerade.delete, BOB)
    assert table(node, TABLE) == EMPTY


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("10.9.9.9/32", "ip daddr 10.9.9.9 return"),
        ("10.9.9.9/31", "ip daddr 10.9.9.8/31 return"),
        ("10.9.9.9/17", "ip daddr 10.9.0.0/17 return"),
        ("10.9.9.9/8", "ip daddr 10.0.0.0/8 return"),
        ("10.9.9.9/0", "ip daddr 0.0.0.0/0 return"),
        ("fd00::9/128", "ip6 daddr fd00::9 return"),
        ("fd00:ffff::9/31", "ip6 daddr fd00:fffe::/31 return"),
        ("::ffff:1.2.3.4/112", "ip6 daddr ::ffff:1.2.0.0/112 return"),
    ],
)
def test_every_prefix_length(node: Node, address: str, own: str) -> None:
    """A pod's subnet is its address masked with a prefix length of any size; `nft` accepts the chain's name."""
    on(node, masquerade.ensure, ALICE, [address])
    text = table(node, TABLE)
    (name,) = [line.split()[1] for line in text.splitlines() if line.startswith("\tchain subnet-")]
    assert chain(text, name)[0] == f'{own} comment "own subnet"'
    nft_program(node, "list", "chain", *TABLE.split(), name)
    assert on(node, masquerade.problems, ALICE, [address]) == []


def test_round_trip(node: Node) -> None:
    """`nft -f` restores the output of `nft list ruleset` exactly, and CHECK passes afterwards."""
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/24", "fd00:1::5/64"])
    on(node, masquerade.ensure, BOB, ["10.1.2.6/16"])
    saved = node.ruleset()
    nft_program(node, "-f", "-", stdin=f"flush ruleset\n{saved}")
    assert node.ruleset() == saved
    assert on(node, masquerade.problems, ALICE, ["10.1.2.5/24", "fd00:1::5/64"]) == []
    assert on(node, masquerade.problems, BOB, ["10.1.2.6/16"]) == []


def test_long_names(node: Node) -> None:
    """Names too long for a comment are stored as digests; CHECK finds their owner, and a sweep finds their network."""
    long = Attachment("n" * 80, "c" * 64, "eth0")
    on(node, masquerade.ensure, long, ["10.1.2.5/24"])
    assert 'comment "v1#' in table(node, TABLE)
    assert on(node, masquerade.problems, long, ["10.1.2.5/24"]) == []
    assert on(node, masquerade.sweep, "n" * 79, []) == 0
    assert on(node, masquerade.sweep, long.network, [long]) == 0
    assert on(node, masquerade.sweep, long.network, []) == 1
    assert table(node, TABLE) == EMPTY


# -- changes --------------------------------------------------------------------------------------------------------


def test_second_ensure_changes_nothing(node: Node) -> None:
    """If everything is in place, `ensure` commits no transaction."""
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/24", "fd00:1::5/64"])
    before = generation(node)
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/24", "fd00:1::5/64"])
    assert generation(node) == before


def test_each_change_is_one_transaction(node: Node) -> None:
    """The first `ensure`, a change of address and a delete are one transaction each."""
    for change in (
        partial(masquerade.ensure, ALICE, ["10.1.2.5/24", "fd00:1::5/64"]),
        partial(masquerade.ensure, ALICE, ["10.1.3.5/24"]),
        partial(masquerade.delete, ALICE),
    ):
        before = generation(node)
        on(node, change)
        assert generation(node) == before + 1


def test_new_address_replaces_the_old(node: Node) -> None:
    """ADD with other addresses removes the attachment's old ones, and the chain of the subnet it left."""
    on(node, masquerade.ensure, ALICE, ["10.9.9.9/24", "fd00:1::5/64"])
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/24"])
    assert table(node, TABLE) == HEAD + pods4(ALICE4) + NO_PODS6 + POSTROUTING + SUBNET4 + "}\n"


def test_two_interfaces_are_independent(node: Node) -> None:
    """Two interfaces of one container on one network: after the DEL of one, the other is still masqueraded."""
    second = Attachment("net1", "alice", "eth1")
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/24"])
    on(node, masquerade.ensure, second, ["10.1.2.7/24"])
    on(node, masquerade.delete, ALICE)
    assert on(node, masquerade.problems, second, ["10.1.2.7/24"]) == []
    assert "10.1.2.5" not in table(node, TABLE)


def test_late_delete_of_a_stale_owner(node: Node) -> None:
    """If IPAM has assigned an address to a new pod, a late DEL of the old pod does not remove it."""
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/24"])
    on(node, masquerade.ensure, BOB, ["10.1.2.5/24"])
    on(node, masquerade.delete, ALICE)
    assert on(node, masquerade.problems, BOB, ["10.1.2.5/24"]) == []
    assert "alice" not in table(node, TABLE)


def changing_hands(node: Node) -> Callable[[messages.Element], bool]:
    """Return a predicate for Alice's elements; before its first call returns, Bob takes over her address."""
    takeovers = [partial(masquerade.ensure, BOB, ["10.1.2.5/24"])]

    def is_alices(found: messages.Element) -> bool:
        answer = found.owner == "v1:net1:alice:eth0"
        if takeovers:
            assert at_once(node, [takeovers.pop()]) == 0
        return answer

    return is_alices


def test_del_decided_on_stale_state(node: Node) -> None:
    """If the address changes owner between the read and the commit of a DEL, the new owner keeps it."""
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/24"])
    assert on(node, pod_table.remove, masquerade.TABLE, changing_hands(node)) == []
    assert on(node, masquerade.problems, BOB, ["10.1.2.5/24"]) == []


def test_add_decided_on_stale_state(node: Node) -> None:
    """If an old address of a pod changes owner while an ADD replaces it, the new owner keeps it."""
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/24"])
    alice = {b"v1:net1:alice:eth0"}
    on(node, pod_table.put, masquerade.TABLE, [], [], is_stale=changing_hands(node), terms=alice)
    assert on(node, masquerade.problems, BOB, ["10.1.2.5/24"]) == []
    assert "alice" not in table(node, TABLE)


def test_delete_without_anything(node: Node) -> None:
    """Deleting or sweeping when no table exists succeeds repeatedly and creates nothing."""
    for _ in range(2):
        on(node, masquerade.delete, ALICE)
        assert on(node, masquerade.sweep, "net1", []) == 0
    assert node.ruleset() == ""


def test_names_that_begin_alike(node: Node) -> None:
    """A delete removes its owner's elements only, not those of owners whose names share a prefix."""
    longer = [
        Attachment("net1", "alice", "eth01"),
        Attachment("net1", "alice2", "eth0"),
        Attachment("net11", "alice", "eth0"),
    ]
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/24"])
    for number, owner in enumerate(longer, 20):
        on(node, masquerade.ensure, owner, [f"10.1.2.{number}/24"])
    on(node, masquerade.delete, ALICE)
    assert [on(node, masquerade.problems, owner, [f"10.1.2.{n}/24"]) for n, owner in enumerate(longer, 20)] == [
        [],
        [],
        [],
    ]


def test_sweep(node: Node) -> None:
    """A sweep removes the invalid attachments of the network with all their addresses, and no others."""
    other = Attachment("net2", "alice", "eth0")
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/24", "fd00:1::5/64"])
    on(node, masquerade.ensure, BOB, ["10.1.2.6/24"])
    on(node, masquerade.ensure, other, ["10.1.2.7/24"])
    assert on(node, masquerade.sweep, "net1", [BOB]) == 1
    assert on(node, masquerade.problems, BOB, ["10.1.2.6/24"]) == []
    assert on(node, masquerade.problems, other, ["10.1.2.7/24"]) == []
    assert "alice:eth0" not in table(node, TABLE).replace("net2:alice", "")
    assert on(node, masquerade.sweep, "net1", [BOB]) == 0


def test_sweep_of_thousands(node: Node) -> None:
    """A sweep of more elements than fit into one transaction removes all of them."""
    lines = [f'10.{i >> 8}.{i & 255}.1 comment "v1:net1:c{i}:eth0" : goto subnet-10.1.2.0/24' for i in range(2500)]
    on(node, masquerade.ensure, BOB, ["10.1.2.6/24"])
    nft_program(node, "-f", "-", stdin=f"add element {TABLE} pods4 {{ {', '.join(lines)} }}\n")
    assert on(node, masquerade.sweep, "net1", [BOB]) == 2500
    assert table(node, TABLE) == HEAD + pods4(BOB4) + NO_PODS6 + POSTROUTING + SUBNET4 + "}\n"


# -- drift ----------------------------------------------------------------------------------------------------------

DRIFTS = {
    "chain flushed": f"flush chain {TABLE} postrouting",
    "subnet's chain flushed": f"flush chain {TABLE} subnet-10.1.2.0/24",
    "table flushed": f"flush table {TABLE}",
    "table deleted": f"delete table {TABLE}",
    "foreign rule in front": f"insert rule {TABLE} postrouting ip saddr 10.0.0.0/8 return",
    "foreign rule behind": f'add rule {TABLE} subnet-10.1.2.0/24 drop comment "beyond"',
    "element deleted": f"delete element {TABLE} pods4 {{ 10.1.2.5 }}",
    "map flushed": f"flush map {TABLE} pods4",
    "element leads elsewhere": f"flush map {TABLE} pods4; add element {TABLE} pods4 {{ 10.1.2.5 : accept }}",
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift_is_found_and_repaired(node: Node, drift: str) -> None:
    """CHECK reports any change to the table, and the next ADD repairs it."""
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/24"])
    whole = table(node, TABLE)
    nft_program(node, "-f", "-", stdin=DRIFTS[drift])
    assert on(node, masquerade.problems, ALICE, ["10.1.2.5/24"]) != []
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/24"])
    assert table(node, TABLE) == whole
    assert on(node, masquerade.problems, ALICE, ["10.1.2.5/24"]) == []


def test_repair_keeps_the_elements(node: Node) -> None:
    """When the ADD of one pod repairs the rules, the elements of other pods are kept."""
    on(node, masquerade.ensure, ALICE, ["10.1.2.5/24"])
    nft_program(node, "-f", "-", stdin=DRIFTS["table flushed"])
    on(node, masquerade.ensure, BOB, ["10.1.2.6/24"])
    assert on(node, masquerade.problems, ALICE, ["10.1.2.5/24"]) == []


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda: None, "10.1.2.5 is not masqueraded"),
        (lambda: masquerade.ensure(BOB, ["10.1.2.5/24"]), "for v1:net1:bob:eth0, not for v1:net1:alice:eth0"),
        (lambda: masquerade.ensure(ALICE, ["10.1.2.5/16"]), "by chain subnet-10.1.0.0/16, not by subnet-10.1.2.0/24"),
        (lambda: masquerade.ensure(ALICE, ["fd00::5/64"]), "10.1.2.5 is not masqueraded"),
    ],
)
def test_messages_of_check(node: Node, prepare: Callable[[], None], sentence: str) -> None:
    """CHECK reports that an address is not masqueraded, or is masqueraded for another owner or subnet."""
    on(node, prepare)
    assert any(sentence in problem for problem in on(node, masquerade.problems, ALICE, ["10.1.2.5/24"]))


def test_refusal_names_the_step(node: Node) -> None:
    """The error for a refused transaction names the refused step and the reason; nothing is changed."""
    nft_program(node, "-f", "-", stdin=f"table {TABLE} {{ map pods4 {{ type ipv6_addr : verdict; }}; }}")
    before = node.ruleset()
    with pytest.raises(NetlinkError, match="nftables: add set pods4 to table inet slash24_masquerade: File exists"):
        on(node, masquerade.ensure, ALICE, ["10.1.2.5/24"])
    assert node.ruleset() == before


# -- concurrency ----------------------------------------------------------------------------------------------------


def test_sixteen_first_adds_at_once(node: Node) -> None:
    """Sixteen concurrent ADDs without a table create the rules once and sixteen elements."""
    owners = [Attachment("net1", f"c{i}", "eth0") for i in range(16)]
    calls = [partial(masquerade.ensure, owner, [f"10.1.2.{i + 10}/24"]) for i, owner in enumerate(owners)]
    assert at_once(node, calls) == 0
    text = table(node, TABLE)
    assert text.count("goto subnet-10.1.2.0/24") == 16
    assert POSTROUTING in text
    assert SUBNET4 in text


def test_adds_and_deletes_at_once(node: Node) -> None:
    """ADDs into a subnet succeed while DELs of its last pods delete its chain; all added pods are masqueraded."""
    old = [Attachment("net1", f"old{i}", "eth0") for i in range(8)]
    new = [Attachment("net1", f"new{i}", "eth0") for i in range(8)]
    for i, owner in enumerate(old):
        on(node, masquerade.ensure, owner, [f"10.1.2.{i + 10}/24"])
    deletes = [partial(masquerade.delete, owner) for owner in old]
    adds = [partial(masquerade.ensure, owner, [f"10.1.2.{i + 10}/24"]) for i, owner in enumerate(new)]
    assert at_once(node, [call for pair in zip(deletes, adds, strict=True) for call in pair]) == 0
    text = table(node, TABLE)
    assert "old" not in text
    assert [on(node, masquerade.problems, owner, [f"10.1.2.{i + 10}/24"]) for i, owner in enumerate(new)] == [[]] * 8

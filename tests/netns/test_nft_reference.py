"""Our DEL after an ADD by the reference suite deletes its masquerade and MAC filter rules, and no others."""

import pytest

from rules import reference as leftovers
from spec.attachment import Attachment
from tests.netns.cni import CNI
from tests.netns.nft_tools import nft, on
from tests.netns.node import Node


def conf(backend: str) -> dict:
    """A bridge network with every feature that creates rules."""
    return {
        "cniVersion": "1.0.0",
        "name": "net1",
        "type": "bridge",
        "bridge": "br0",
        "isGateway": True,
        "ipMasq": True,
        "ipMasqBackend": backend,
        "macspoofchk": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1::/64"}]]},
    }


def addresses(result: dict) -> list[str]:
    """The addresses in a result, in CIDR notation."""
    return [ip["address"] for ip in result["ips"]]


def rules(node: Node) -> str:
    """All rules of the node, without handles and counters, which differ from run to run."""
    return nft(node, "--stateless", "list", "ruleset")


def delete_all(node: Node, owner: Attachment, known: list[str]) -> None:
    """Delete the rules as a DEL does."""
    on(node, leftovers.delete_masquerade, owner, known)
    on(node, leftovers.delete_antispoof, owner)


@pytest.fixture(params=["iptables", "nftables"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend of the reference plugin's ipMasq."""
    return request.param


def test_our_delete_equals_the_references(node: Node, reference: CNI, backend: str) -> None:
    """Our delete restores the rules from before the ADD, with another pod's intact, as the reference's DEL does."""
    alice, bob = node.pod("alice"), node.pod("bob")
    reference.add(conf(backend), bob)
    before = rules(node)
    added = reference.add(conf(backend), alice)
    assert rules(node) != before
    delete_all(node, Attachment("net1", "alice", "eth0"), addresses(added))
    assert rules(node) == before
    reference.delete(conf(backend), bob)
    empty = rules(node)
    again = reference.add(conf(backend), node.pod("carol"))
    delete_all(node, Attachment("net1", "carol", "eth0"), addresses(again))
    assert rules(node) == empty
    assert "CNI-" not in empty
    assert "cni-br" not in empty


def test_without_addresses(node: Node, reference: CNI, backend: str) -> None:
    """A pod's rules are deleted even if its addresses are unknown."""
    bob = node.pod("bob")
    reference.add(conf(backend), bob)
    before = rules(node)
    reference.add(conf(backend), node.pod("alice"))
    delete_all(node, Attachment("net1", "alice", "eth0"), [])
    assert rules(node) == before


def test_two_interfaces_of_one_container(node: Node, reference: CNI, backend: str) -> None:
    """Two interfaces on one network share an iptables chain: the remaining interface keeps its rules."""
    alice = node.pod("alice")
    first = reference.add(conf(backend), alice)
    second = reference.add(conf(backend), alice, ifname="eth1")
    delete_all(node, Attachment("net1", "alice", "eth0"), addresses(first))
    left = rules(node)
    for address in addresses(second):
        assert f"saddr {address.split('/')[0]} " in left
    for address in addresses(first):
        assert f"saddr {address.split('/')[0]} " not in left
    assert "cni-br-iface-alice-eth1-mac" in left
    assert "alice-eth0" not in left
    delete_all(node, Attachment("net1", "alice", "eth1"), addresses(second))
    assert "CNI-" not in rules(node)
    assert "masquerade comment" not in rules(node)
    assert "cni-br" not in rules(node)


def test_address_without_its_prefix(node: Node, reference: CNI) -> None:
    """Addresses may lack the prefix length; an address that is not the pod's deletes nothing."""
    added = reference.add(conf("iptables"), node.pod("alice"))
    whole = rules(node)
    on(node, leftovers.delete_masquerade, Attachment("net1", "alice", "eth0"), ["10.1.2.99", "fd00:1::99"])
    assert rules(node) == whole
    bare = [address.split("/")[0] for address in addresses(added)]
    on(node, leftovers.delete_masquerade, Attachment("net1", "alice", "eth0"), bare)
    assert "CNI-" not in rules(node)


def test_source_as_a_subnet(node: Node) -> None:
    """A jump for the pod's subnet, as in early releases, is recognised as the pod's, whatever the prefix length."""
    chain = "CNI-e8f6f419596f7f47b3468487"  # the reference's name for net1, cid1
    for subnet in ("10.1.2.0/24", "10.1.0.0/17", "10.1.2.5/32"):
        node.run(["iptables", "-t", "nat", "-N", chain])
        node.run(["iptables", "-t", "nat", "-A", "POSTROUTING", "-s", subnet, "-j", chain])
        node.run(["iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.2.0.0/16", "-j", chain])
        on(node, leftovers.delete_masquerade, Attachment("net1", "cid1", "eth0"), ["10.1.2.5/24"])
        assert subnet.removesuffix("/32") not in rules(node)
        assert "ip saddr 10.2.0.0/16" in rules(node)
        on(node, leftovers.delete_masquerade, Attachment("net1", "cid1", "eth0"), ["10.2.0.9/24"])
        assert chain not in rules(node)


def test_chain_used_by_a_foreign_rule(node: Node) -> None:
    """A chain that an administrator's rule uses stays, without an error; the pod's own jump is deleted."""
    chain = "CNI-e8f6f419596f7f47b3468487"  # the reference's name for net1, cid1
    node.run(["iptables", "-t", "nat", "-N", chain])
    node.run(["iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.1.2.5/32", "-j", chain])
    node.run(["iptables", "-t", "nat", "-A", "OUTPUT", "-j", chain])
    on(node, leftovers.delete_masquerade, Attachment("net1", "cid1", "eth0"), ["10.1.2.5/24"])
    assert "10.1.2.5" not in rules(node)
    assert f"jump {chain}" in rules(node)


def test_nothing_left(node: Node) -> None:
    """If the reference left no rules, nothing is deleted or created."""
    delete_all(node, Attachment("net1", "alice", "eth0"), ["10.1.2.5/24"])
    delete_all(node, Attachment("net1", "alice", "eth0"), [])
    assert rules(node) == ""


def test_foreign_rules_stay(node: Node, reference: CNI, backend: str) -> None:
    """Rules of other tools, with expressions that we cannot parse, are unchanged."""
    append = ["iptables", "-t", "nat", "-A", "POSTROUTING"]
    node.run([*append, "-p", "tcp", "-m", "multiport", "--dports", "1,2", "-j", "RETURN"])
    node.run([*append, "-m", "comment", "--comment", "CNI-e8f6", "-j", "ACCEPT"])
    hook = "type filter hook prerouting priority -300"
    mine = f'table bridge nat {{ chain PREROUTING {{ {hook}; ether type arp accept comment "mine"; }}; }}'
    nft(node, "-f", "-", stdin=mine)
    saved = node.run(["iptables-save", "-t", "nat"]).stdout.splitlines()
    alice = node.pod("alice")
    added = reference.add(conf(backend), alice)
    delete_all(node, Attachment("net1", "alice", "eth0"), addresses(added))
    after = node.run(["iptables-save", "-t", "nat"]).stdout.splitlines()
    assert [line for line in after if line[:1] == "-"] == [line for line in saved if line[:1] == "-"]
    assert 'comment "mine"' in rules(node)

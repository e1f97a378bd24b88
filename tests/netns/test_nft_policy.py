"""Network policies: the text of the two tables, and the elements of pods in them."""

import re
import threading
import time
from functools import partial

import pytest

from linux.nftables.transactions import Transaction, change
from rules import policy
from spec.attachment import Attachment
from tests.netns.nft_tools import at_once, chain, nft, on, table
from tests.netns.node import Node
from tests.netns.policy_tables import (
    ALICE,
    BOB,
    BRIDGE,
    EMPTY,
    EMPTY_BRIDGE,
    EVE,
    GROUP,
    INET,
    IPS,
    MAC,
    assert_alice_is_held,
    assert_nothing_but_gateway,
    decide,
    hold,
)


def test_text(node: Node) -> None:
    """The base is the same text on every node; it survives a saved and restored ruleset, and goes as a whole."""
    assert on(node, policy.ensure_base) is True
    assert on(node, policy.ensure_base) is False
    assert (table(node, INET), table(node, BRIDGE)) == (EMPTY, EMPTY_BRIDGE)
    nft(node, "-f", "-", stdin=f"flush ruleset\n{node.ruleset()}")
    assert (table(node, INET), table(node, BRIDGE)) == (EMPTY, EMPTY_BRIDGE)
    assert on(node, policy.ensure_base) is False
    on(node, policy.delete_all)
    on(node, policy.delete_all)
    assert node.ruleset() == ""


def test_constants_name_what_is_there(node: Node) -> None:
    """Whoever looks for what is foreign finds all chains and sets of the base by their constants."""
    on(node, policy.ensure_base)
    for name in (policy.TABLE, policy.BRIDGE_TABLE):
        text = table(node, str(name))
        assert set(re.findall(r"^\tchain (\S+) ", text, re.MULTILINE)) == set(policy.BASE_CHAINS[name])
        assert re.findall(r"^\t(?:set|map) (\S+) ", text, re.MULTILINE) == [one.name for one in policy.BASE_SETS[name]]


def test_a_pod_is_held_and_released(node: Node) -> None:
    """An ADD without a daemon makes the base and holds the pod; its DEL leaves only its addresses, for a while."""
    assert hold(node) == frozenset()
    assert_alice_is_held(node)
    nft(node, "-f", "-", stdin=f"flush ruleset\n{node.ruleset()}")
    assert_alice_is_held(node)
    on(node, policy.release, ALICE, IPS, "vetha")
    assert_nothing_but_gateway(node, left4=IPS[0], left6=IPS[1])
    assert on(node, policy.list_left) == {*IPS}
    on(node, policy.forget_left, [*IPS, "10.9.9.9"])
    assert on(node, policy.list_left) == frozenset()
    assert_nothing_but_gateway(node)


def test_an_address_that_is_left_again_is_not_forgotten(node: Node) -> None:
    """Between the listing and the end of the flush another pod may have had it, whose connections may be open."""
    others = ("10.1.2.6", "fd00:1::6")
    hold(node)
    hold(node, BOB, others, "vethb")
    on(node, policy.release, ALICE, IPS, "vetha")
    on(node, policy.release, BOB, others, "vethb")
    assert on(node, policy.list_left) == {*IPS, *others}
    hold(node)
    on(node, policy.release, ALICE, IPS, "vetha")
    on(node, policy.forget_listed, [*IPS, *others])
    assert on(node, policy.list_left) == {*IPS}
    assert on(node, policy.list_left) == {*IPS}
    on(node, policy.forget_listed, IPS)
    assert on(node, policy.list_left) == frozenset()


def test_a_prefix_is_ignored(node: Node) -> None:
    """Addresses may come as IPAM gives them, with prefixes, or as IPv4 mapped into IPv6."""
    hold(node, ips=("10.1.2.5/24", "::ffff:10.1.2.5", "fd00:1::5/64"))
    assert_alice_is_held(node)


def test_without_tables_there_is_nothing_to_release(node: Node) -> None:
    """DEL, GC and the daemon's look at what is left write nothing on a node without policies."""
    on(node, policy.release, ALICE, IPS, "vetha")
    on(node, policy.release, ALICE)
    assert on(node, policy.sweep, "net1", []) == 0
    assert on(node, policy.list_left) == frozenset()
    on(node, policy.forget_left, IPS)
    assert on(node, policy.is_held, IPS) is False
    assert node.ruleset() == ""


@pytest.mark.parametrize(("ips", "link"), [(IPS, "vetha"), ((), ""), (IPS, ""), ((), "vetha")])
def test_release_finds_what_it_is_not_told(node: Node, ips: tuple[str, ...], link: str) -> None:
    """A DEL that does not know addresses or link of the pod finds them by its owner."""
    hold(node, BOB, ("10.1.2.6",), "vethb")
    on(node, policy.release, BOB, ("10.1.2.6",), "vethb")
    on(node, policy.forget_left, ["10.1.2.6"])
    hold(node)
    on(node, policy.release, BOB, ips, link)
    assert_alice_is_held(node)
    on(node, policy.release, ALICE, ips, link)
    assert_nothing_but_gateway(node, left4=IPS[0], left6=IPS[1])


def test_a_new_owner_inherits_nothing(node: Node) -> None:
    """An address that another pod had is held, whatever its policies were, and its connections are to be flushed.

    The late DEL of the other changes nothing.
    """
    hold(node)
    decide(node)
    assert hold(node, BOB, IPS[:1], "vethb") == {IPS[0]}
    text = table(node, INET)
    assert f'{IPS[0]} comment "v1:net1:bob:eth0" : goto held' in text
    assert "to-1 }" not in text
    assert "exempt4 {\n\t\ttype ipv4_addr\n\t}" in text
    on(node, policy.release, ALICE, IPS, "vetha")
    assert on(node, policy.problems, BOB, IPS[:1], "vethb") == []
    assert on(node, policy.list_left) == {IPS[1]}


def test_addresses_that_are_left_are_to_be_flushed_by_the_next_owner(node: Node) -> None:
    """A pod that gets the address of one that is gone is told to flush; after that nobody else does."""
    hold(node)
    on(node, policy.release, ALICE, IPS, "vetha")
    assert hold(node, BOB, IPS, "vethb") == {*IPS}
    assert on(node, policy.list_left) == frozenset()


def test_a_repeated_add_holds_again(node: Node) -> None:
    """What the daemon decided for the first ADD is taken back; connections of the pod itself need no flush."""
    hold(node)
    decide(node)
    assert hold(node, link="vetha") == frozenset()
    on(node, policy.release, ALICE, IPS, "vetha")
    nft(node, "delete", "chain", *INET.split(), "in-1")
    nft(node, "delete", "chain", *INET.split(), "to-1")
    on(node, policy.forget_left, IPS)
    assert_nothing_but_gateway(node)


def test_is_held_until_decided(node: Node) -> None:
    """A pod waits as long as one of its addresses is held in any direction."""
    hold(node)
    decide(node)
    assert on(node, policy.is_held, IPS[:1]) is False
    assert on(node, policy.is_held, IPS) is True
    assert on(node, policy.problems, ALICE, IPS, "vetha") == []


def test_release_of_a_decided_pod(node: Node) -> None:
    """DEL removes what the daemon had made of the pod's elements, but not its chains."""
    hold(node)
    decide(node)
    on(node, policy.release, ALICE, IPS, "vetha")
    on(node, policy.forget_left, IPS)
    assert chain(table(node, INET), "in-1") == ["goto denied_ingress"]
    nft(node, "-f", "-", stdin="delete chain inet slash24_policy in-1; delete chain inet slash24_policy to-1")
    assert_nothing_but_gateway(node)


def test_sweep(node: Node) -> None:
    """GC releases the network's attachments that are not valid, and none of other networks."""
    hold(node, BOB, ("10.1.2.6", "fd00:1::6"), "vethb")
    hold(node, EVE, ("10.1.2.7",), "vethe")
    hold(node)
    assert on(node, policy.sweep, "net1", [ALICE]) == 1
    assert on(node, policy.sweep, "net2", []) == 1
    assert on(node, policy.list_left) == {"10.1.2.6", "fd00:1::6", "10.1.2.7"}
    on(node, policy.forget_left, ["10.1.2.6", "fd00:1::6", "10.1.2.7"])
    assert_alice_is_held(node)


def test_many_adds_at_once(node: Node) -> None:
    """Of processes that find no tables each holds its pod; none undoes what another did."""
    calls = [
        partial(
            policy.hold, Attachment("net1", f"pod{number}", "eth0"), (f"10.1.2.{number}",), f"veth{number}", GROUP, MAC
        )
        for number in range(10, 30)
    ]
    assert at_once(node, calls) == 0
    text = table(node, INET)
    assert text.count(": goto held") == 40
    assert on(node, policy.ensure_base) is False


def test_two_adds_that_get_one_address(node: Node) -> None:
    """If IPAM gives an address twice, one pod has it and the other's elements are gone: never a mixture."""
    calls = [partial(policy.hold, owner, IPS, link, GROUP, MAC) for owner, link in ((ALICE, "vetha"), (BOB, "vethb"))]
    assert at_once(node, calls) == 0
    owners = set(re.findall(r"v1:net1:\w+:eth0", table(node, INET)))
    assert len(owners) == 1


def test_the_bridge_gets_another_mac(node: Node) -> None:
    """The next ADD, or the daemon, has frames sent to the new MAC, and forgets the old one."""
    hold(node)
    on(node, policy.set_gateway, GROUP, "02:00:00:00:00:02")
    assert f"{GROUP} . {MAC}" not in table(node, BRIDGE)
    assert table(node, BRIDGE).count("02:00:00:00:00:02") == 2
    hold(node)
    assert_alice_is_held(node)


def test_calls_of_one_agent_that_meet(node: Node) -> None:
    """A DEL and an ADD of one address that come together end as one after the other: the ADD is told to flush."""
    hold(node)
    told = []

    def together() -> None:
        started, go_on = threading.Event(), threading.Event()

        def occupy(_: Transaction) -> None:
            started.set()
            go_on.wait(5)

        calls = [
            lambda: change(occupy),
            lambda: policy.release(ALICE, IPS, "vetha"),
            lambda: told.append(policy.hold(BOB, IPS, "vethb", GROUP, MAC, "cbr0")),
        ]
        threads = [threading.Thread(target=on, args=(node, call)) for call in calls]
        for thread in threads:
            thread.start()
            started.wait(5)
            time.sleep(0.05)  # so that they are queued in this order
        go_on.set()
        for thread in threads:
            thread.join()

    together()
    assert told == [frozenset(IPS)]
    assert on(node, policy.list_left) == frozenset()
    assert on(node, policy.problems, BOB, IPS, "vethb") == []

"""policy/programming.py mends what others have changed, and deletes what is not used any more."""

import re
from dataclasses import replace

import pytest

from policy.compiled import ADDRESSES4, AddressSet, Compiled
from tests.netns.nft_tools import nft, on
from tests.netns.node import Node
from tests.netns.policy_tools import (
    B4,
    SETTINGS,
    TABLE,
    Clock,
    addresses,
    delta_between,
    enforced,
    example,
    generation,
    leads_to,
    listed,
    local_of,
    programmer,
)

# -- damage -----------------------------------------------------------------------------------------------------------

DAMAGE = {
    "table deleted": "delete table T",
    "table flushed": "flush table T",
    "bridge table deleted": "delete table bridge slash24_policy",
    "chain flushed": "flush chain T in4_web",
    "chain deleted": "flush map T ingress6\nflush chain T in6_web\ndelete chain T in6_web",
    "chain of another kind": "flush map T ingress6\nflush chain T in6_web\ndelete chain T in6_web\n"
    "add chain T in6_web { type filter hook input priority 0; }\nadd rule T in6_web ip6 saddr @peers6_shop drop",
    "rule added": "add rule T in4_web accept",
    "rule in front": "insert rule T admin accept",
    "rule replaced": "flush chain T node4\nadd rule T node4 accept\nadd rule T node4 accept",
    "foreign chain": "add chain T mine\nadd rule T mine ip saddr @peers4_shop drop",
    "foreign base chain": "add chain T mine { type filter hook forward priority 0; }\nadd rule T mine jump in4_web",
    "foreign set": "add set T mine { type inet_service; elements = { 1 }; }",
    "set flushed": "flush set T peers4_shop",
    "element added": "add element T peers4_shop { 10.9.9.9 }",
    "element with a comment": 'flush set T peers4_shop\nadd element T peers4_shop { 10.1.2.7 comment "x", 10.1.3.9 }',
    "interval changed": "flush set T nets4_office\nadd element T nets4_office { 203.0.113.0/24 }",
    "set of another kind": "flush chain T out4_names\ndelete set T named4_http\n"
    "add set T named4_http { type ipv4_addr; }\nadd chain T mine\nadd rule T mine ip saddr @named4_http drop",
    "pod deleted": "delete element T pods4 { 10.1.2.5 }",
    "pod led elsewhere": "delete element T ingress4 { 10.1.2.5 }\nadd element T ingress4 { 10.1.2.5 : goto refuse }",
    "maps flushed": "flush map T ingress4\nflush map T egress4\nflush map T to_node4",
    "isolated flushed": "flush set T isolated4",
    "exemption added": "add element T exempt4 { 10.1.2.5 }",
    "metadata flushed": "flush chain T metadata",
    "ports of the node opened": "insert rule T node_access accept",
    "log flushed": "flush chain T log_egress",
    "host veth freed": "flush set bridge slash24_policy receivers",
    "established packets dropped": "flush chain T forward",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_resync_repairs(node: Node, damage: str) -> None:
    """Whatever somebody has changed is as it was, and the next resync finds nothing to write."""
    clock = Clock()
    made = programmer(SETTINGS, clock)
    on(node, made.resync, example(), local_of(example()))
    on(node, made.resync, example(), local_of(example()))
    right = listed(node)
    nft(node, "-f", "-", stdin=DAMAGE[damage].replace(" T", f" {TABLE}"))
    assert listed_or_nothing(node) != right
    on(node, made.resync, example(), local_of(example()))
    clock.now += 3
    on(node, made.sweep)
    assert listed(node) == right
    before = generation(node)
    on(node, made.resync, example(), local_of(example()))
    on(node, made.sweep)
    assert generation(node) == before


def listed_or_nothing(node: Node) -> object:
    """As `listed`; None if a table is missing."""
    both = node.ruleset().count("table inet slash24_policy") and node.ruleset().count("table bridge slash24_policy")
    return listed(node) if both else None


def test_resync_of_pods_alone(node: Node) -> None:
    """It repairs the elements of pods, and neither reads nor writes anything else; it tells whether any were wrong."""
    made = programmer(SETTINGS)
    on(node, made.resync, example(), local_of(example()))
    right = listed(node)
    nft(node, "-f", "-", stdin=f"flush map {TABLE} ingress4\nflush set {TABLE} isolated4\nflush chain {TABLE} node4")
    assert on(node, made.resync_pods, example(), local_of(example())) is True
    rules = {key: value for key, value in right.items() if key == "inet rules of node4"}
    assert listed(node) | rules == right
    assert "inet rules of node4" not in listed(node)
    before = generation(node)
    assert on(node, made.resync_pods, example(), local_of(example())) is False
    assert generation(node) == before


@pytest.mark.parametrize("rule", ["accept", "ip6 saddr @peers6_shop meta l4proto . th dport @web drop"])
@pytest.mark.parametrize("is_new", [False, True])
def test_a_rule_that_was_replaced_under_its_comment(node: Node, rule: str, is_new: bool) -> None:
    """A rule that differs only in what it does is noticed, also by a daemon that has just started."""
    made = programmer()
    on(node, made.resync, example(), local_of(example()))
    on(node, made.resync, example(), local_of(example()))
    right = listed(node)
    handle = re.search(r"@peers6_shop .* # handle (\d+)", nft(node, "-a", "list", "chain", *TABLE.split(), "in6_web"))
    nft(node, "replace", "rule", *TABLE.split(), "in6_web", "handle", handle[1], rule)
    on(node, (programmer() if is_new else made).resync, example(), local_of(example()))
    assert listed(node) == right


def test_a_new_daemon_takes_over(node: Node) -> None:
    """A programmer that has written nothing yet finds what another has written, and goes on by deltas."""
    on(node, programmer(SETTINGS).resync, example(), local_of(example()))
    before = generation(node)
    made = programmer(SETTINGS)
    on(node, made.resync, example(), local_of(example()))
    assert generation(node) == before
    then = replace(example(), pods=example().pods | {B4: enforced(2, ingress="in4_web")})
    on(node, made.apply, delta_between(example(), then))
    assert leads_to(node, B4) == "in4_web"


# -- what is not used any more ----------------------------------------------------------------------------------------


def test_sweep_waits(node: Node) -> None:
    """Chains and sets are deleted three seconds after their last use, those that jump to each other too."""
    clock = Clock()
    made = programmer(clock=clock)
    on(node, made.resync, example(), local_of(example()))
    right = listed(node)
    empty = Compiled(
        pods={address: replace(one, ingress="", egress="", to_node="") for address, one in example().pods.items()}
    )
    on(node, made.apply, delta_between(example(), empty))
    clock.now += 2.9
    on(node, made.sweep)
    assert {key for key in right if "chain" in key} <= listed(node).keys()
    clock.now += 0.1
    on(node, made.sweep)
    names = {*example().chains, *example().sets}
    assert not [key for key in listed(node) if key.split()[-1] in names]


def test_what_is_used_again_stays(node: Node) -> None:
    """A chain and a set that a later delta has again are not deleted, and have what they should."""
    clock = Clock()
    made = programmer(clock=clock)
    on(node, made.resync, example(), local_of(example()))
    without = Compiled(
        pods={address: replace(one, ingress="", egress="", to_node="") for address, one in example().pods.items()}
    )
    shop = AddressSet(ADDRESSES4, addresses("10.1.9.9"), "pods of app=shop")
    again = replace(example(), sets=example().sets | {"peers4_shop": shop}, metadata_exempt=frozenset())
    on(node, made.apply, delta_between(example(), without))
    clock.now += 2
    on(node, made.apply, delta_between(without, again))
    clock.now += 9
    on(node, made.sweep)
    before = generation(node)
    on(node, made.resync, again, local_of(again))
    assert generation(node) == before


def test_what_others_use_stays(node: Node) -> None:
    """A set that a foreign rule uses is not deleted, and does not keep the rest from it."""
    clock = Clock()
    made = programmer(clock=clock)
    on(node, made.resync, example(), local_of(example()))
    nft(node, "-f", "-", stdin=f"add chain {TABLE} mine\nadd rule {TABLE} mine ip saddr @peers4_shop drop")
    on(node, made.apply, delta_between(example(), Compiled(pods={})))
    clock.now += 3
    on(node, made.sweep)
    left = {key.split()[-1] for key in listed(node)} & {*example().chains, *example().sets}
    assert left == {"peers4_shop"}
    on(node, made.resync, Compiled(), {})
    clock.now += 3
    on(node, made.sweep)
    on(node, made.sweep)
    assert "peers4_shop" not in node.ruleset()
    assert "chain mine" not in node.ruleset()

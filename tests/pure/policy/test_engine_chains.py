"""What chains and sets are made of: few rules, named and shared by what is in them."""

import re
from collections.abc import Sequence

import pytest

from policy.compiled import ALLOW, DROP, JUMP, SERVICES, Chain, ChainRule, Compiled
from policy.naming import comment_of
from policy.objects import (
    ACCEPT,
    BASELINE,
    DENY,
    EVERYTHING,
    SCTP,
    TCP,
    UDP,
    ContainerPort,
    NetworkPeer,
    NodePeer,
    Pod,
    PodPeer,
    Ports,
    Rule,
)
from spec.addresses import pack
from tests.pure.policy.shop import (
    CLUSTER,
    DB,
    FAR,
    LAB,
    OUTSIDE,
    WEB,
    cluster_policy,
    compiled_of,
    engine_of,
    having,
    local,
    of_shop,
    of_teams,
    passes,
    policy,
    says,
)

FROM_WEB = policy("from-web", of_shop(app="db"), ingress=[says(ACCEPT, of_shop(app="web"))])
EVERYBODY = PodPeer(EVERYTHING, namespaces=EVERYTHING)
SINGLE = Ports(TCP, 80, 80)


def rules_for_db(*rules: Rule, version: int = 4) -> tuple[Compiled, tuple[ChainRule, ...]]:
    """The rules of the chain that a NetworkPolicy with these rules for ingress of db becomes."""
    compiled = compiled_of(policy("some", of_shop(app="db"), ingress=rules))
    jump, last = compiled.chains[compiled.pods[DB.ips[version == 6]].ingress].rules
    assert (jump.verdict, jump.comment, last.verdict) == (JUMP, "shop/some", DROP)
    return compiled, compiled.chains[jump.target].rules


def egress_of_web(*rules: Rule) -> Compiled:
    """What is in force if web may only send what these rules say."""
    return compiled_of(policy("some", of_shop(app="web"), egress=rules))


def test_names_are_short_plain_and_those_of_the_content() -> None:
    """Also after a restart, and on every node."""
    admin = cluster_policy("a", ingress=[says(DENY, NodePeer())], egress=[says(ACCEPT, NetworkPeer("10.0.0.0/8"))])
    base = cluster_policy("b", tier=BASELINE, egress=[says(DENY, ports=[SINGLE, Ports(UDP, 53, 53)])])
    compiled = compiled_of(FROM_WEB, admin, base)
    names = {*compiled.chains, *compiled.sets}
    assert names
    assert not [name for name in names if not re.fullmatch("[a-z0-9-]{1,60}", name)]
    prefixes = {name[: name.rindex("-")] for name in names}
    assert prefixes == {
        *("in", "eg", "tn", "r-in", "admin-in", "admin-eg", "admin-tn", "baseline-eg", "baseline-tn"),
        *("addresses4", "addresses6", "networks4", "services"),
    }
    assert compiled == compiled_of(base, admin, FROM_WEB)


def test_equal_lists_of_rules_are_one_chain_whatever_policy_they_are_of() -> None:
    """The jump names the policies; a pod jumps to it once."""
    both = [policy(name, of_shop(), ingress=FROM_WEB.ingress) for name in ("a", "b")]
    compiled = compiled_of(*both)
    chains = {name: chain for name, chain in compiled.chains.items() if name.startswith("r-")}
    assert len(chains) == 2  # IPv4, IPv6
    assert len({one.ingress for one in compiled.pods.values()}) == 2
    rules = compiled.chains[compiled.pods[DB.ips[0]].ingress].rules
    assert [rule.comment for rule in rules] == ["shop/a, shop/b", "isolated by shop/a, shop/b"]


def test_a_policy_that_accepts_nothing_is_no_chain() -> None:
    """Its pods' chain drops."""
    nothing = [(), (says(ACCEPT, ports=[]),), (Rule(peers=()),), (says(ACCEPT, NetworkPeer("2001:db8::/32")),)]
    for rules in nothing:
        compiled = compiled_of(policy("none", of_shop(app="db"), ingress=rules))
        assert compiled.chains[compiled.pods[DB.ips[0]].ingress].rules == (
            ChainRule(DROP, comment="isolated by shop/none"),
        )


def test_a_rule_about_everybody_and_everything_is_one_rule() -> None:
    """For both IP versions; that is what all addresses of a version are, too."""
    assert rules_for_db(says())[1] == (ChainRule(ALLOW, comment="rule[0]"),)
    everywhere = says(ACCEPT, NetworkPeer("0.0.0.0/0"), of_shop(), NodePeer())
    assert rules_for_db(everywhere)[1] == (ChainRule(ALLOW, comment="rule[0]"),)
    assert len(rules_for_db(everywhere, version=6)[1]) == 2


@pytest.mark.parametrize("version", [4, 6])
def test_a_rule_has_a_set_for_each_selector_and_one_for_all_networks(version: int) -> None:
    """And one for all single ports; ranges and whole protocols are rules."""
    peers = (of_shop(app="web"), NodePeer(), NetworkPeer("10.0.0.0/9"), NetworkPeer("10.128.0.0/9"))
    peers += (NetworkPeer("fd00::/64"), of_shop(app="web"))
    ports = (SINGLE, Ports(TCP, 443, 443), Ports(UDP, 53, 53), Ports(TCP, 1000, 2000), Ports(SCTP), Ports(SCTP, 9, 9))
    compiled, rules = rules_for_db(says(ACCEPT, *peers, ports=ports), version=version)
    assert len(rules) == 3 * 3
    assert {rule.version for rule in rules} == {version}
    (services,) = (one for one in compiled.sets.values() if one.kind == SERVICES)
    assert services.elements == {b"\x06\0\x50", b"\x06\x01\xbb", b"\x11\0\x35"}
    networks = {element for one in compiled.sets.values() for element in one.elements if len(element) == 8}
    assert networks == {pack("10.0.0.0") + pack("10.255.255.255")}
    found = {(rule.protocol, rule.first, rule.last) for rule in rules}
    assert found == {(0, 0, 0), (6, 1000, 2000), (132, 0, 0)}


def test_a_single_port_needs_no_set() -> None:
    """It is in the rule."""
    compiled, rules = rules_for_db(says(ACCEPT, ports=[SINGLE, SINGLE]))
    assert rules == (ChainRule(ALLOW, protocol=6, first=80, last=80, comment="rule[0]"),)
    assert compiled.sets == {}


def test_networks_are_of_whoever_has_their_addresses() -> None:
    """Also of pods; exceptions are no denials."""
    rules = [says(ACCEPT, NetworkPeer("10.0.0.0/16", ("10.0.1.0/31",))), says(ACCEPT, NetworkPeer("10.0.1.1/32"))]
    compiled, _ = rules_for_db(*rules)
    reaches = {one: passes(compiled, one, DB.ips[0]) for one in ("10.0.0.255", "10.0.1.0", "10.0.1.1", "10.0.1.2")}
    assert reaches == {"10.0.0.255": True, "10.0.1.0": False, "10.0.1.1": True, "10.0.1.2": True}


@pytest.mark.parametrize("peers", [(), (of_shop(),), (EVERYBODY,), (NetworkPeer("10.0.0.0/8"),)])
def test_a_named_port_is_that_of_the_pod_that_is_called(peers: Sequence) -> None:
    """For egress of the peer, for ingress of the pod that is selected; with any protocol if none is said."""
    for protocol in (TCP, ""):
        rule = says(ACCEPT, *peers, ports=[Ports(protocol, name="sql")])
        sending = egress_of_web(rule)
        assert passes(sending, WEB.ips[0], DB.ips[0], 5432)
        assert not passes(sending, WEB.ips[0], DB.ips[0], 5433)
        assert passes(sending, WEB.ips[0], LAB.ips[0], 5433) is (peers != (of_shop(),))
        assert not passes(sending, WEB.ips[0], LAB.ips[0], 5432)
        assert not passes(sending, WEB.ips[0], OUTSIDE, 5432)
        receiving, _ = rules_for_db(rule)
        assert passes(receiving, FAR.ips[0], DB.ips[0], 5432)
        assert not passes(receiving, FAR.ips[0], DB.ips[0], 5433)
        assert not passes(receiving, FAR.ips[0], DB.ips[0], 5432, "UDP")


def test_sets_of_named_ports_for_ingress_have_only_pods_of_this_node() -> None:
    """Nobody asks for others there."""
    compiled, _ = rules_for_db(says(ACCEPT, EVERYBODY, ports=[Ports(TCP, name="sql")]))
    named = [one for one in compiled.sets.values() if one.kind.startswith("named")]
    assert [one.elements for one in named if one.kind == "named4"] == [{pack(DB.ips[0]) + b"\x06\x15\x38"}]
    assert {one.comment for one in named} == {"port sql/TCP of pods of this node"}


def test_nodes_have_no_named_ports() -> None:
    """A rule about them alone matches nothing then."""
    compiled = egress_of_web(says(ACCEPT, NodePeer(), ports=[Ports(TCP, name="sql")]))
    assert not [name for name in compiled.chains if name.startswith("r-")]


def test_the_rules_that_a_packet_meets_do_not_grow_with_pods() -> None:
    """Nor with namespaces, nodes, or policies that do not select the pod."""
    engine = engine_of(FROM_WEB)
    before = engine.compiled.chains
    many = [
        Pod("shop", f"p{n}", {"app": "web"}, (f"10.1.0.{n}",), (ContainerPort("sql", TCP, n + 1),)) for n in range(50)
    ]
    others = [policy(f"other-{n}", of_shop(app="other"), ingress=[says()]) for n in range(50)]
    engine.replace([*CLUSTER, FROM_WEB, *many, *others])
    for pod in many[:20]:
        engine.put_local(local(pod))
    engine.take()
    assert engine.compiled.chains == before


def test_comments_say_who_is_in_a_set() -> None:
    """And where a rule stands."""
    rule = says(ACCEPT, of_shop(app="web"), of_teams(team="red"), NodePeer(having(role="edge")), where="ingress[3]")
    compiled, rules = rules_for_db(rule)
    assert {rule.comment for rule in rules} == {"ingress[3]"}
    assert {one.comment for one in compiled.sets.values()} == {
        "pods app=web in namespace shop",
        "all pods in namespaces team=red",
        "nodes role=edge",
    }


def test_comments_have_no_quotes_and_are_not_long() -> None:
    """Labels and names are whatever somebody has written."""
    assert comment_of('a"b\\c\n{d}é') == "a?b?c??d??"
    assert comment_of("x" * 121) == f"{'x' * 117}..."
    assert comment_of("x" * 120) == "x" * 120


def test_all_rules_of_a_tier_are_in_one_chain_in_order() -> None:
    """Each says which policy it is of."""
    policies = [cluster_policy(name, priority=at, ingress=[says(DENY, NodePeer())]) for at, name in enumerate("ba")]
    compiled = compiled_of(*policies)
    jump, last = compiled.chains[compiled.pods[DB.ips[0]].ingress].rules
    chain = compiled.chains[jump.target]
    assert isinstance(chain, Chain)
    assert [rule.comment for rule in chain.rules] == ["b rule[0]", "a rule[0]"]
    assert last == ChainRule(ALLOW, comment="not isolated")

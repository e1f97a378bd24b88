"""Which policy decides: the tiers in their order, and what they never say anything about."""

import pytest

from policy.compiled import EGRESS, INGRESS
from policy.objects import ACCEPT, BASELINE, DENY, PASS, TCP, UDP, NodePeer, Ports
from policy.verdicts import Judge, Packet
from spec.addresses import pack
from tests.pure.policy.shop import (
    DB,
    FAR,
    HERE,
    HOST,
    LAB,
    OUTSIDE,
    THERE,
    WEB,
    cluster_policy,
    compiled_of,
    engine_of,
    of_shop,
    of_teams,
    passes,
    policy,
    reaching,
    says,
)

FROM_WEB = policy("from-web", of_shop(app="db"), ingress=[says(ACCEPT, of_shop(app="web"))])
CLOSED = policy("closed", of_shop(), egress=[], ingress=[])
EVERYBODY = {WEB.ips[0], FAR.ips[0], LAB.ips[0], HERE, THERE, OUTSIDE}


def test_without_policies_nobody_is_restricted() -> None:
    """Pods have no chains then, and there are no sets."""
    compiled = compiled_of()
    assert reaching(compiled, DB.ips[0]) == EVERYBODY
    assert (compiled.chains, compiled.sets) == ({}, {})
    assert {(one.ingress, one.egress, one.to_node) for one in compiled.pods.values()} == {("", "", "")}


def test_a_policy_isolates_what_it_selects_for_what_it_has_rules_about() -> None:
    """Others, and the other direction, stay as they were. The own node always reaches its pods."""
    compiled = compiled_of(FROM_WEB)
    assert reaching(compiled, DB.ips[0]) == {WEB.ips[0], FAR.ips[0], HERE}
    assert reaching(compiled, WEB.ips[0]) >= {DB.ips[0], LAB.ips[0], OUTSIDE}
    assert passes(compiled, DB.ips[0], OUTSIDE)


def test_policies_add_up() -> None:
    """What any of them accepts is accepted."""
    other = policy("from-lab", of_shop(app="db"), ingress=[says(ACCEPT, of_teams(team="blue"))])
    assert reaching(compiled_of(FROM_WEB, other), DB.ips[0]) == {WEB.ips[0], FAR.ips[0], LAB.ips[0], HERE}


def test_pods_on_the_network_of_their_node_are_nodes() -> None:
    """Selectors of pods do not have them, those of nodes do."""
    assert THERE not in reaching(compiled_of(FROM_WEB), DB.ips[0])
    assert HOST.labels == WEB.labels
    edge = cluster_policy("edge", ingress=[says(ACCEPT, NodePeer())])
    assert reaching(compiled_of(CLOSED, edge), DB.ips[0]) == {HERE, THERE}


@pytest.mark.parametrize(("action", "reaches"), [(ACCEPT, True), (DENY, False), (PASS, False)])
def test_admin_policies_are_asked_first(action: str, reaches: bool) -> None:
    """What they pass on, NetworkPolicies decide, and not the next Admin policy."""
    first = cluster_policy("first", ingress=[says(action, of_teams(team="blue"))])
    second = cluster_policy("second", priority=1, ingress=[says(ACCEPT, of_teams(team="blue"))])
    assert passes(compiled_of(CLOSED, first, second), LAB.ips[0], DB.ips[0]) is reaches


def test_of_admin_policies_the_lower_priority_is_asked_first_and_then_the_first_name() -> None:
    """Within one, the rules are asked in order."""
    for names, priorities in ((("b", "a"), (1, 2)), (("a", "b"), (1, 1))):
        accepting = cluster_policy(names[0], priority=priorities[0], ingress=[says(ACCEPT), says(DENY)])
        denying = cluster_policy(names[1], priority=priorities[1], ingress=[says(DENY)])
        assert reaching(compiled_of(denying, accepting), DB.ips[0]) == EVERYBODY


def test_baseline_policies_are_asked_only_about_pods_that_no_networkpolicy_isolates() -> None:
    """A NetworkPolicy replaces them."""
    default = cluster_policy("default", tier=BASELINE, ingress=[says(ACCEPT, of_teams(team="red")), says(DENY)])
    assert reaching(compiled_of(default), DB.ips[0]) == {WEB.ips[0], FAR.ips[0], HERE}
    lab = policy("from-lab", of_shop(app="db"), ingress=[says(ACCEPT, of_teams(team="blue"))])
    assert reaching(compiled_of(default, lab), DB.ips[0]) == {LAB.ips[0], HERE}


def test_networkpolicies_do_not_keep_pods_from_their_own_node() -> None:
    """But from others."""
    compiled = compiled_of(CLOSED)
    assert passes(compiled, DB.ips[0], HERE)
    assert not passes(compiled, DB.ips[0], THERE)
    assert {one.to_node for one in compiled.pods.values()} == {""}


def test_cluster_policies_keep_pods_from_their_own_node() -> None:
    """Those of Baseline only pods that no NetworkPolicy isolates."""
    rules = [says(ACCEPT, NodePeer(), ports=[Ports(UDP, 53, 53)]), says(DENY, NodePeer())]
    admin, base = cluster_policy("nodes", egress=rules), cluster_policy("nodes", tier=BASELINE, egress=rules)
    for policies, reaches in (([admin], False), ([base], False), ([admin, CLOSED], False), ([base, CLOSED], True)):
        compiled = compiled_of(*policies)
        assert passes(compiled, DB.ips[0], HERE, 53, "UDP")
        assert passes(compiled, DB.ips[0], HERE, 53, "TCP") is reaches


def test_node_access_holds_for_pods_with_cluster_policies_too() -> None:
    """ICMP always passes; (0, 0) are all ports."""
    compiled = compiled_of(cluster_policy("nodes", egress=[says(ACCEPT, NodePeer())]))
    access = [(6, 53, 53), (17, 0, 0)]
    judge = Judge(compiled, node_access=access, is_own_node=frozenset({pack(HERE)}).__contains__)
    wanted = {(6, 53): True, (6, 54): False, (17, 9): True, (1, 0): True, (132, 53): False}
    found = {one: judge.decide(Packet(pack(DB.ips[0]), pack(HERE), *one)).is_allowed for one in wanted}
    assert found == wanted


def test_both_ends_must_allow_a_connection_between_pods_of_this_node() -> None:
    """Egress of the one, ingress of the other; and a pod reaches itself whatever they say."""
    out = policy("out", of_shop(app="web"), egress=[says(ACCEPT, of_shop(app="db"), ports=[Ports(TCP, 80, 80)])])
    compiled = compiled_of(out, FROM_WEB)
    assert passes(compiled, WEB.ips[0], DB.ips[0], 80)
    assert not passes(compiled, WEB.ips[0], DB.ips[0], 81)
    assert not passes(compiled_of(out, CLOSED), WEB.ips[0], DB.ips[0], 80)
    assert passes(compiled_of(CLOSED), WEB.ips[0], WEB.ips[0])


def test_the_verdict_names_the_policy_and_its_rule() -> None:
    """Or the policies that isolate the pod."""
    admin = cluster_policy("guard", ingress=[says(DENY, of_teams(team="blue"), where="no-lab")])
    judge = Judge(compiled_of(FROM_WEB, CLOSED, admin))

    def why(source: str, destination: str) -> str:
        return judge.decide(Packet(pack(source), pack(destination), 6, 80)).why

    assert why(LAB.ips[0], DB.ips[0]) == "ingress of shop/db: guard no-lab"
    assert why(FAR.ips[0], DB.ips[0]) == "ingress of shop/db: shop/from-web rule[0]"
    assert why(OUTSIDE, DB.ips[0]) == "ingress of shop/db: isolated by shop/closed, shop/from-web"
    assert why(DB.ips[0], OUTSIDE) == "egress of shop/db: isolated by shop/closed"
    assert why(OUTSIDE, FAR.ips[0]) == "not isolated"


def test_a_pod_says_which_policies_may_deny_something_to_it() -> None:
    """Those that isolate it, those with rules that deny, but none that only accepts, or is not asked."""
    admin = cluster_policy("guard", ingress=[says(DENY)], egress=[says(ACCEPT)])
    base = cluster_policy("base", tier=BASELINE, ingress=[says(DENY)], egress=[says(DENY)])
    found = compiled_of(FROM_WEB, admin, base).pods[DB.ips[0]].policies
    assert found == ((INGRESS, "guard"), (INGRESS, "shop/from-web"), (EGRESS, "base"))


def test_the_metadata_service_is_left_to_the_exceptions() -> None:
    """Whatever policies say."""
    engine = engine_of(exceptions=[of_shop(app="db")])
    assert engine.compiled.metadata_exempt == set(DB.ips)
    judge = Judge(engine.compiled, metadata_deny=True)
    for source, is_allowed in ((DB, True), (WEB, False), (FAR, True)):
        assert judge.decide(Packet(pack(source.ips[0]), pack("169.254.169.254"), 6, 80)).is_allowed is is_allowed
    assert not judge.decide(Packet(pack("fd00::1"), pack("fd00:ec2::254"), 6, 80)).is_allowed

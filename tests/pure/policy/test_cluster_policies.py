"""ClusterNetworkPolicy is read as the API says, and fails closed as it demands."""

import pytest

from policy.documents import WrongDocument, read_document
from policy.objects import (
    ACCEPT,
    ADMIN,
    BASELINE,
    DENY,
    EVERYTHING,
    IN,
    PASS,
    NetworkPeer,
    NodePeer,
    PodPeer,
    Policy,
    Ports,
    Requirement,
    Rule,
    Selector,
)
from tests.pure.policy.made import document

APP = Selector((Requirement("app", IN, ("x",)),))
SELECT_APP = {"matchLabels": {"app": "x"}}
ALL_PODS = PodPeer(EVERYTHING, EVERYTHING)
ANY = [{"namespaces": {}}]


def cluster_policy(**spec: object) -> dict:
    """A ClusterNetworkPolicy for all pods."""
    common = {"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}}
    return {**document("ClusterNetworkPolicy", spec={**common, **spec}), "metadata": {"name": "x"}}


def read(**spec: object) -> Policy:
    """The policy with that spec, in which nothing is wrong."""
    found = read_document(cluster_policy(**spec))
    assert isinstance(found, Policy)
    return found


def wrong(**spec: object) -> WrongDocument:
    """What is wrong with a policy."""
    with pytest.raises(WrongDocument) as caught:
        read_document(cluster_policy(**spec))
    return caught.value


def test_tier_priority_and_subject_are_read() -> None:
    """The subject is namespaces, or pods in them; without a selector of namespaces in all."""
    assert read() == Policy(ADMIN, "", "x", ALL_PODS, None, None, 5)
    policy = read(tier="Baseline", priority=1000, subject={"pods": {"podSelector": SELECT_APP}})
    assert policy == Policy(BASELINE, "", "x", PodPeer(APP, EVERYTHING), None, None, 1000)
    both = {"pods": {"podSelector": {}, "namespaceSelector": SELECT_APP}}
    assert read(subject=both).subject == PodPeer(EVERYTHING, APP)


def test_rules_are_read_in_order() -> None:
    """With their names; a direction without rules is not affected."""
    rules = [
        {"name": 'say "hi"\n', "action": "Deny", "to": ANY},
        {"action": "Pass", "to": ANY},
        {"action": "Accept", "to": ANY},
    ]
    assert read(egress=rules, ingress=[]).egress == (
        Rule((ALL_PODS,), None, DENY, "say _hi__"),
        Rule((ALL_PODS,), None, PASS, "egress[1]"),
        Rule((ALL_PODS,), None, ACCEPT, "egress[2]"),
    )
    assert read(egress=rules, ingress=[]).ingress is None


def test_peers_are_read() -> None:
    """Those of egress may be nodes and networks, too."""
    peers = [
        {"namespaces": SELECT_APP},
        {"pods": {"podSelector": SELECT_APP, "namespaceSelector": {}}},
        {"nodes": SELECT_APP},
        {"networks": ["10.0.0.1/8", "::/0"]},
    ]
    assert read(egress=[{"action": "Accept", "to": peers}]).egress[0].peers == (
        PodPeer(EVERYTHING, APP),
        PodPeer(APP, EVERYTHING),
        NodePeer(APP),
        NetworkPeer("10.0.0.0/8"),
        NetworkPeer("::/0"),
    )


def test_protocols_are_read() -> None:
    """A number, a range, a name of any protocol."""
    protocols = [
        {"tcp": {"destinationPort": {"number": 80}}},
        {"udp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}},
        {"sctp": {"destinationPort": {"number": 1}}},
        {"destinationNamedPort": "http"},
    ]
    assert read(ingress=[{"action": "Deny", "from": ANY, "protocols": protocols}]).ingress[0].ports == (
        Ports("TCP", 80, 80),
        Ports("UDP", 1, 65535),
        Ports("SCTP", 1, 1),
        Ports("", name="http"),
    )


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, '"spec.egress[0].to": expected at least one peer, got nothing'),
        ({"to": []}, '"spec.egress[0].to": expected at least one peer, got []'),
        ({"to": [{}]}, '"spec.egress[0].to[0]": expected one of "namespaces", "pods", "nodes", "networks", '),
        ({"to": [{"services": {}}]}, '"spec.egress[0].to[0]": expected no other fields than "namespaces", "pods", '),
        ({"to": [{"namespaces": {}, "nodes": {}}]}, '"spec.egress[0].to[0]": expected one of "namespaces", "pods", '),
        ({"to": [*ANY, {"domainNames": ["a.example"]}]}, '"spec.egress[0].to[1].domainNames": slash24 does not '),
        ({"to": [{"pods": {}}]}, '"spec.egress[0].to[0].pods.podSelector": expected an object, got nothing'),
        ({"to": [{"networks": []}]}, '"spec.egress[0].to[0].networks": expected at least one CIDR, got []'),
        ({"to": [{"networks": ["x"]}]}, '"spec.egress[0].to[0].networks[0]": expected a CIDR, such as '),
        ({"to": ANY, "from": ANY}, '"spec.egress[0]": expected no other fields than "name", "action", "to", '),
        ({"to": ANY, "protocols": []}, '"spec.egress[0].protocols": expected at least one protocol, or no such field'),
        ({"to": ANY, "protocols": [{}]}, '"spec.egress[0].protocols[0]": expected one of "tcp", "udp", "sctp", '),
        ({"to": ANY, "protocols": [{"icmp": {}}]}, '"spec.egress[0].protocols[0]": expected no other fields than '),
        ({"to": ANY, "protocols": [{"tcp": {}}]}, '"spec.egress[0].protocols[0].tcp.destinationPort": expected an '),
        ({"to": ANY, "protocols": [{"tcp": {"destinationPort": {"number": 0}}}]},
            '"spec.egress[0].protocols[0].tcp.destinationPort.number": expected an integer of 1 to 65535, got 0'),
        ({"to": ANY, "protocols": [{"tcp": {"destinationPort": {"range": {"start": 5, "end": 5}}}}]},
            '"spec.egress[0].protocols[0].tcp.destinationPort.range.end": expected an integer of 6 to 65535, got 5'),
        ({"to": ANY, "protocols": [{"destinationNamedPort": "80"}]},
            '"spec.egress[0].protocols[0].destinationNamedPort": expected a name of at most 15 lower-case letters'),
        ({"to": [{"nodes": {}}], "protocols": [{"destinationNamedPort": "http"}]},
            '"spec.egress[0].protocols[0].destinationNamedPort": expected none in a rule about nodes or networks, '),
        ({"to": ANY, "name": 7}, '"spec.egress[0].name": expected a string, got 7'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("action", [ACCEPT, DENY, PASS])
def test_a_rule_that_cannot_be_read_fails_closed(action: str, rule: dict, message: str) -> None:
    """One that accepts matches nothing; any other denies everything. The rules after it are in force."""
    last = {"action": "Accept", "to": ANY}
    error = wrong(egress=[{"action": action, **rule}, last], ingress=[{"action": "Accept", "from": ANY}])
    assert str(error).startswith(message)
    assert str(error).endswith(f"; egress[0] {'accepts nothing' if action == ACCEPT else 'denies everything'}")
    closed = () if action == ACCEPT else (Rule(None, None, DENY, "egress[0]"),)
    assert error.item.egress == (*closed, Rule((ALL_PODS,), None, ACCEPT, "egress[1]"))
    assert error.item.ingress == (Rule((ALL_PODS,), None, ACCEPT, "ingress[0]"),)


@pytest.mark.parametrize("rule", [7, None, {}, {"action": "accept", "from": ANY}, {"action": ["Deny"], "from": ANY}])
def test_a_rule_whose_action_is_not_known_denies_everything(rule: object) -> None:
    """It may be one of a later version of the API."""
    error = wrong(ingress=[rule])
    assert error.item.ingress == (Rule(None, None, DENY, "ingress[0]"),)
    assert str(error).endswith("; ingress[0] denies everything")


def test_a_list_of_rules_that_is_none_denies_everything() -> None:
    """It may have had one that denies."""
    error = wrong(egress={"action": "Deny"})
    assert str(error) == '"spec.egress": expected a list, got an object; everything is denied'
    assert error.item.egress == (Rule(None, None, DENY, "egress"),)


def test_beside_an_unknown_field_only_rules_that_deny_are_in_force() -> None:
    """What the field would have said is not known."""
    rules = [{"action": action, "from": ANY} for action in ("Accept", "Deny", "Pass")]
    error = wrong(ingress=rules, egres=[])
    assert error.item.ingress == (Rule((ALL_PODS,), None, DENY, "ingress[1]"),)
    assert str(error).endswith('got "egres"; only its rules with "Deny" are in force')


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"tier": "admin"}, '"spec.tier": expected "Admin" or "Baseline", got "admin"'),
        ({"tier": None}, '"spec.tier": expected "Admin" or "Baseline", got nothing'),
        ({"priority": 1001}, '"spec.priority": expected an integer of 0 to 1000, got 1001'),
        ({"priority": True}, '"spec.priority": expected an integer of 0 to 1000, got true'),
        ({"priority": None}, '"spec.priority": expected an integer of 0 to 1000, got nothing'),
        ({"subject": None}, '"spec.subject": expected an object, got nothing'),
        ({"subject": {}}, '"spec.subject": expected one of "namespaces", "pods", got nothing'),
        ({"subject": {"namespaces": {"app": "x"}}}, '"spec.subject.namespaces": expected no other fields than '),
    ],
)  # fmt: skip
def test_a_policy_whose_pods_or_place_are_not_known_is_not_in_force(spec: dict, message: str) -> None:
    """It is told."""
    error = wrong(**spec, ingress=[{"action": "Deny", "from": ANY}])
    assert str(error).startswith(message)
    assert error.item is None


def test_a_policy_without_a_spec_is_not_in_force() -> None:
    """There is nothing to be enforced."""
    with pytest.raises(WrongDocument, match='"spec": expected an object, got nothing'):
        read_document({**cluster_policy(), "spec": None})

"""What is wrong with a document is told, and never allows anything."""

import pytest

from policy.documents import WrongDocument, read_document
from policy.objects import EVERYTHING, NETWORK, PodPeer, Policy, Ports, Rule
from tests.pure.policy.made import document, network_policy


def wrong(value: object) -> WrongDocument:
    """What is wrong with a document."""
    with pytest.raises(WrongDocument) as caught:
        read_document(value)
    return caught.value


TIP = "; ingress[0] is not in force"
LABEL_VALUE = 'the value of a label: "", or at most 63 letters, digits, "-", "_" and ".", in quotes'
PORT = 'an integer of 1 to 65535, or a name of at most 15 lower-case letters, digits and hyphens, such as "http"'


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (7, '"spec.ingress[0]": expected an object, got 7'),
        (None, '"spec.ingress[0]": expected an object, got nothing'),
        ({"form": []}, '"spec.ingress[0]": expected no other fields than "from", "ports", got "form"'),
        ({"to": []}, '"spec.ingress[0]": expected no other fields than "from", "ports", got "to"'),
        ({"from": {}}, '"spec.ingress[0].from": expected a list, got {}'),
        (
            {"from": [{}]},
            ('"spec.ingress[0].from[0]": expected one of "podSelector", "namespaceSelector", "ipBlock", got nothing'),
        ),
        (
            {"from": [{"podSelector": None}]},
            ('"spec.ingress[0].from[0]": expected one of "podSelector", "namespaceSelector", "ipBlock", got nothing'),
        ),
        (
            {"from": [{"podSelector": {}, "ipBlock": {"cidr": "::/0"}}]},
            (
                '"spec.ingress[0].from[0]": expected one of '
                '"podSelector", "namespaceSelector", "ipBlock", got "podSelector" and "ipBlock"'
            ),
        ),
        (
            {"from": [{"podSelector": {}, "nodes": {}}]},
            (
                '"spec.ingress[0].from[0]": expected no other fields than '
                '"podSelector", "namespaceSelector", "ipBlock", got "nodes"'
            ),
        ),
        (
            {"from": [{"ipBlock": {}}]},
            (
                '"spec.ingress[0].from[0].ipBlock.cidr": expected a CIDR, such as "10.0.0.0/8" '
                'or "fd00::/8", got nothing'
            ),
        ),
        (
            {"from": [{"ipBlock": {"cidr": "10.0.0.1"}}]},
            (
                '"spec.ingress[0].from[0].ipBlock.cidr": expected a CIDR, such '
                'as "10.0.0.0/8" or "fd00::/8", got "10.0.0.1"'
            ),
        ),
        (
            {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]},
            '"spec.ingress[0].from[0].ipBlock.except[0]": expected a part of 10.0.0.0/8, got "11.0.0.0/16"',
        ),
        (
            {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]},
            '"spec.ingress[0].from[0].ipBlock.except[0]": expected a part of 10.0.0.0/8, got "10.0.0.0/8"',
        ),
        (
            {"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["::/1"]}}]},
            '"spec.ingress[0].from[0].ipBlock.except[0]": expected a part of 0.0.0.0/0, got "::/1"',
        ),
        ({"ports": [{"port": 0}]}, f'"spec.ingress[0].ports[0].port": expected {PORT}, got 0'),
        ({"ports": [{"port": 65536}]}, f'"spec.ingress[0].ports[0].port": expected {PORT}, got 65536'),
        ({"ports": [{"port": True}]}, f'"spec.ingress[0].ports[0].port": expected {PORT}, got true'),
        ({"ports": [{"port": "80"}]}, f'"spec.ingress[0].ports[0].port": expected {PORT}, got "80"'),
        ({"ports": [{"port": ""}]}, f'"spec.ingress[0].ports[0].port": expected {PORT}, got ""'),
        ({"ports": [{"port": "http\n"}]}, f'"spec.ingress[0].ports[0].port": expected {PORT}, got "http\\n"'),
        (
            {"ports": [{"port": 80, "endPort": 79}]},
            '"spec.ingress[0].ports[0].endPort": expected an integer of 80 to 65535, got 79',
        ),
        (
            {"ports": [{"endPort": 79}]},
            '"spec.ingress[0].ports[0].endPort": expected none, unless "port" is a number, got 79',
        ),
        (
            {"ports": [{"port": "http", "endPort": 79}]},
            '"spec.ingress[0].ports[0].endPort": expected none, unless "port" is a number, got 79',
        ),
        (
            {"ports": [{"protocol": "tcp"}]},
            '"spec.ingress[0].ports[0].protocol": expected "TCP", "UDP" or "SCTP", got "tcp"',
        ),
        (
            {"ports": [{"number": 80}]},
            ('"spec.ingress[0].ports[0]": expected no other fields than "protocol", "port", "endPort", got "number"'),
        ),
    ],
)
def test_a_rule_that_is_wrong_is_not_in_force_and_its_pods_stay_isolated(rule: object, message: str) -> None:
    """The other rules are in force."""
    error = wrong(network_policy(ingress=[rule, {"ports": [{"port": 1}]}]))
    assert str(error) == message + TIP
    assert error.item == Policy(
        NETWORK, "ns", "x", PodPeer(EVERYTHING, None, "ns"), (Rule(None, (Ports("TCP", 1, 1),), where="ingress[1]"),)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"spec": {"egres": []}},
            ('"spec": expected no other fields than "podSelector", "policyTypes", "ingress", "egress", got "egres"'),
        ),
        (
            {"egress": []},
            (
                '"the document": expected no other fields than "apiVersion", "kind", "metadata", "spec", '
                '"status", got "egress"'
            ),
        ),
        ({"spec": {"policyTypes": ["Egres"]}}, '"spec.policyTypes[0]": expected "Ingress" or "Egress", got "Egres"'),
        ({"spec": {"policyTypes": "Egress"}}, '"spec.policyTypes": expected a list, got "Egress"'),
        ({"spec": {"egress": {}}}, '"spec.egress": expected a list, got {}'),
    ],
)
def test_a_policy_whose_directions_cannot_be_told_isolates_in_both(change: dict, message: str) -> None:
    """Rules that can be read are in force."""
    spec = {"ingress": [{}], **change.get("spec", {})}
    error = wrong({**network_policy(), **change, "spec": spec})
    assert str(error).startswith(f"{message}; pods are isolated in both directions")
    assert error.item.ingress == (Rule(where="ingress[0]"),)
    assert error.item.egress == ()


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ([], '"spec.podSelector": expected an object, got []'),
        (
            {"app": "x"},
            '"spec.podSelector": expected no other fields than "matchLabels", "matchExpressions", got "app"',
        ),
        ({"matchLabels": []}, '"spec.podSelector.matchLabels": expected an object, got []'),
        ({"matchLabels": {"app": True}}, f'"spec.podSelector.matchLabels[app]": expected {LABEL_VALUE}, got true'),
        ({"matchLabels": {"app": 5}}, f'"spec.podSelector.matchLabels[app]": expected {LABEL_VALUE}, got 5'),
        ({"matchLabels": {"app": "x y"}}, f'"spec.podSelector.matchLabels[app]": expected {LABEL_VALUE}, got "x y"'),
        ({"matchLabels": {"app": "x\n"}}, f'"spec.podSelector.matchLabels[app]": expected {LABEL_VALUE}, got "x\\n"'),
        (
            {"matchLabels": {"a b": "x"}},
            (
                '"spec.podSelector.matchLabels": expected the key of a label, such as "app" or '
                '"example.com/app", got "a b"'
            ),
        ),
        (
            {"matchExpressions": [{"key": "a", "operator": "in", "values": ["x"]}]},
            (
                '"spec.podSelector.matchExpressions[0].operator": expected "In", "NotIn", "Exists" or "DoesNotExist", '
                'got "in"'
            ),
        ),
        (
            {"matchExpressions": [{"key": "a", "operator": "In", "values": []}]},
            '"spec.podSelector.matchExpressions[0].values": expected at least one value with "In", got []',
        ),
        (
            {"matchExpressions": [{"key": "a", "operator": "NotIn"}]},
            '"spec.podSelector.matchExpressions[0].values": expected at least one value with "NotIn", got nothing',
        ),
        (
            {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]},
            '"spec.podSelector.matchExpressions[0].values": expected none with "Exists", got a list',
        ),
        (
            {"matchExpressions": [{"operator": "Exists"}]},
            (
                '"spec.podSelector.matchExpressions[0].key": expected the key '
                'of a label, such as "app" or "example.com/app", got nothing'
            ),
        ),
        (
            {"matchExpressions": [{"key": "a", "operator": "Exists", "value": "x"}]},
            (
                '"spec.podSelector.matchExpressions[0]": expected no other fields than "key", "operator", "values", '
                'got "value"'
            ),
        ),
    ],
)
def test_a_policy_whose_pods_are_not_known_is_not_in_force(selector: object, message: str) -> None:
    """As the API server would refuse it."""
    error = wrong(network_policy(podSelector=selector))
    assert (str(error), error.item) == (message, None)


@pytest.mark.parametrize(
    ("rules", "count"),
    [
        ([{"from": [{"podSelector": {"matchLabels": {"app": f"a{number}"}}}]} for number in range(1001)], 1000),
        ([{"from": [{"podSelector": {"matchLabels": {"app": f"a{number}"}}} for number in range(1001)]}], 0),
        ([{"from": [{"ipBlock": {"cidr": f"10.{number >> 8}.{number & 255}.0/24"}} for number in range(9000)]}], 1),
        ([{"ports": [{"port": port} for port in range(1, 9000)]}], 1),
        ([{"ports": [{"port": port, "endPort": port + 1} for port in range(1, 5001)]}], 1),
        ([{"ports": [{"port": port, "endPort": port + 1} for port in range(1, 5002)]}], 0),
        (
            [
                {
                    "from": [{"podSelector": {"matchLabels": {"app": f"a{number}"}}} for number in range(20)],
                    "ports": [{"port": port, "endPort": port + 1} for port in range(1, 101)],
                }
            ]
            * 4,
            2,
        ),
    ],
)
def test_a_policy_that_is_too_large_is_in_force_in_part(rules: list, count: int) -> None:
    """Who writes policies for a namespace must not keep nodes busy; networks and single ports are no burden."""
    value = network_policy(ingress=rules)
    if count == len(rules):
        assert len(read_document(value).ingress) == count
        return
    caught = wrong(value)
    assert len(caught.item.ingress) == count
    assert str(caught).endswith(
        f"more than 1000 selectors, or 5000 pairs of a selector and a range of ports; ingress[{count}] and those after "
        "it are not in force"
    )


def test_a_few_problems_of_a_policy_are_told() -> None:
    """And how many more there are."""
    text = str(wrong(network_policy(ingress=[7] * 10)))
    assert text.count("is not in force") == 3
    assert text.endswith("; and 7 more")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, '"the document": expected an object, got 7'),
        (
            {},
            (
                '"kind": expected a kind, such as "Pod", "Namespace", "Node", "NetworkPolicy", "ClusterNetworkPolicy", '
                "got nothing"
            ),
        ),
        ({"kind": "NetworkPolicy"}, '"apiVersion": expected "networking.k8s.io/v1", got nothing'),
        (
            {"kind": "NetworkPolicy", "apiVersion": "extensions/v1beta1"},
            (
                '"kind": expected "NetworkPolicy" of '
                '"networking.k8s.io/v1" or "ClusterNetworkPolicy" of "policy.networking.k8s.io/v1alpha2", got '
                '"NetworkPolicy" of "extensions/v1beta1"'
            ),
        ),
        (
            {"kind": "CiliumNetworkPolicy", "apiVersion": "cilium.io/v2"},
            (
                '"kind": expected "NetworkPolicy" of '
                '"networking.k8s.io/v1" or "ClusterNetworkPolicy" of "policy.networking.k8s.io/v1alpha2", got '
                '"CiliumNetworkPolicy" of "cilium.io/v2"'
            ),
        ),
        (
            document("Pod", metadata={}),
            ('"metadata.name": expected a name of lower-case letters, digits, hyphens and dots, got nothing'),
        ),
        (
            document("Pod", metadata={"name": "X"}),
            ('"metadata.name": expected a name of lower-case letters, digits, hyphens and dots, got "X"'),
        ),
        (
            document("Pod", metadata={"name": "x", "namespace": "a.b"}),
            ('"metadata.namespace": expected the name of a namespace, got "a.b"'),
        ),
        (document("Pod", metadata={"name": 7}), '"metadata.name": expected a string, got 7'),
        (document("Pod", metadata=[]), '"metadata": expected an object, got []'),
        (
            document("Pod", metadata={"name": "x", "labels": {"a": 5}}),
            '"metadata.labels[...]": expected a string, got 5',
        ),
        (
            document("Pod", metadata={"name": "x", "labels": {5: "a"}}),
            '"metadata.labels": expected strings as keys, in quotes if they look like something else',
        ),
        (document("Pod", spec={"hostNetwork": "yes"}), '"spec.hostNetwork": expected true or false, got "yes"'),
        (
            document("Pod", spec={"containers": [{"ports": [{"name": "a", "containerPort": "1"}]}]}),
            '"spec.containers[0].ports[0].containerPort": expected an integer, got "1"',
        ),
        (
            document("Pod", spec={"containers": [{"ports": [{"name": "a", "containerPort": 0}]}]}),
            '"spec.containers[].ports[].containerPort": expected an integer of 1 to 65535, got 0',
        ),
        (
            document("Pod", spec={"containers": [{"ports": [{"name": "A", "containerPort": 1}]}]}),
            (
                '"spec.containers[].ports[].name": expected a name of at most 15 lower-case letters, digits and '
                'hyphens, such as "http", got "A"'
            ),
        ),
        (document("Pod", status={"podIP": "10.0.0.300"}), '"status.podIPs": expected IP addresses, got "10.0.0.300"'),
        (
            document("Node", status={"addresses": [{"type": "InternalIP", "address": "x"}]}),
            '"status.addresses": expected IP addresses, got "x"',
        ),
        (
            document("Namespace", metadata={"name": "a.b"}),
            ('"metadata.name": expected a name of lower-case letters, digits, hyphens and dots, got "a.b"'),
        ),
    ],
)
def test_a_document_that_is_wrong_as_a_whole_is_told(value: object, message: str) -> None:
    """With the field, what is there, and what is allowed."""
    error = wrong(value)
    assert (str(error), error.item) == (message, None)

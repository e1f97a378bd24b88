"""Arbitrary documents: whatever they say, they are objects or sentences; and selectors are canonical."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.documents import KINDS, WrongDocument, decode, read_all, read_document
from policy.objects import EXISTS, IN, NOT_IN, Policy, Selector
from tests.pure.policy.made import document, network_policy


def read(**spec: object) -> Policy:
    """The NetworkPolicy with that spec, in which nothing is wrong."""
    found = read_document(network_policy(**spec))
    assert isinstance(found, Policy)
    return found


labels = st.dictionaries(
    st.sampled_from(["a", "b", "example.com/c"]), st.sampled_from(["", "x", "y", "Z.9"]), max_size=3
)
expressions = st.lists(
    st.builds(
        lambda key, operator, values: {"key": key, "operator": operator, "values": values},
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([IN, NOT_IN]),
        st.lists(st.sampled_from(["", "x", "y"]), min_size=1, max_size=4),
    )
    | st.builds(
        lambda key, operator: {"key": key, "operator": operator},
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([EXISTS, "DoesNotExist"]),
    ),
    max_size=4,
)


def as_document(selector: Selector) -> dict:
    """A selector as a document has it, with expressions only."""
    return {
        "matchExpressions": [
            {"key": each.key, "operator": each.operator, "values": list(each.values)} for each in selector.requirements
        ]
    }


@given(labels, expressions, st.randoms(use_true_random=False))
def test_equal_selectors_are_equal_values(match: dict, more: list, random: object) -> None:
    """Whatever the order, whatever is there twice, and whether labels are written as expressions."""
    selector = read(podSelector={"matchLabels": match, "matchExpressions": more}).subject.pods
    assert read(podSelector=as_document(selector)).subject.pods == selector
    shuffled = [*more, *more]
    random.shuffle(shuffled)
    other = {
        "matchExpressions": [
            *shuffled,
            *({"key": key, "operator": IN, "values": [value, value]} for key, value in reversed(match.items())),
        ]
    }
    assert read(podSelector=other).subject.pods == selector
    assert hash(read(podSelector=other).subject) == hash(read(podSelector=as_document(selector)).subject)


KEYS = [
    "kind",
    "apiVersion",
    "metadata",
    "spec",
    "status",
    "name",
    "namespace",
    "labels",
    "annotations",
    "podSelector",
    "policyTypes",
    "ingress",
    "egress",
    "from",
    "to",
    "ports",
    "port",
    "endPort",
    "protocol",
    "namespaceSelector",
    "ipBlock",
    "cidr",
    "except",
    "matchLabels",
    "matchExpressions",
    "key",
    "operator",
    "values",
    "items",
    "tier",
    "priority",
    "subject",
    "namespaces",
    "pods",
    "nodes",
    "networks",
    "domainNames",
    "action",
    "protocols",
    "tcp",
    "destinationPort",
    "range",
    "number",
    "start",
    "end",
    "destinationNamedPort",
    "nodeName",
    "hostNetwork",
    "containers",
    "initContainers",
    "podIP",
    "podIPs",
    "ip",
    "phase",
    "addresses",
    "type",
    "address",
    "resourceVersion",
    "uid",
    "restartPolicy",
    "containerPort",
]
WORDS = [*KINDS, *KINDS.values(), "List", "PodList", "x", "Ingress", "Egress", "TCP", "10.0.0.0/8", "In", "Exists"]
WORDS += ["Admin", "Accept", "Deny", "http", "", "\ud800", "\0"]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70000) | st.floats() | st.sampled_from(WORDS) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=2), inner, max_size=6)
    ),
    max_leaves=25,
)


def some(kind: str) -> st.SearchStrategy[dict]:
    """Documents of a kind with arbitrary parts."""
    meta = st.just({"name": "x"}) | values
    parts = st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS[13:], values))
    return st.builds(
        lambda meta, spec, status: {**document(kind), "metadata": meta, "spec": spec, "status": status},
        meta,
        parts | values,
        parts | values,
    )


@given(values | st.sampled_from(list(KINDS)).flatmap(some))
def test_any_value_is_an_object_or_a_sentence(value: object) -> None:
    """Nothing else is raised; and a policy that is in force in part never accepts what could not be read."""
    with suppress(WrongDocument):
        read_document(value)
    for each in read_all(value):
        assert each.item or each.problem or each.identity[0] == "Pod"


@given(st.sampled_from(list(KINDS)), st.binary(max_size=30) | values.map(lambda each: json.dumps(each).encode()))
def test_any_json_is_an_object_or_a_sentence(kind: str, text: bytes) -> None:
    """The API server is not trusted with more."""
    found = decode(kind, text)
    assert found.item or found.problem or found.identity[0] == "Pod"


@pytest.mark.parametrize("depth", [90, 100_000])
def test_nesting_of_any_depth_is_no_crash(depth: int) -> None:
    """It is a sentence."""
    nested = b'{"metadata": {"name": "x"}, "spec": ' + b"[" * depth + b"]" * depth + b"}"
    for kind in ("NetworkPolicy", "Pod"):
        assert decode(kind, nested).problem

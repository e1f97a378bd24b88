"""Nodes of the Kubernetes API become records, whatever they contain."""

import json
import re
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nodes.records import from_value, to_value
from nodes.registries.kubernetes.objects import (
    ADDRESSES,
    RECORD,
    Condition,
    announcement,
    entries_of,
    network_condition,
    read_node,
)
from nodes.registries.kubernetes.registry import KubernetesRegistry, read_options
from nodes.registry import Entry
from plugins.node.records import Node
from spec.config import Section
from spec.errors import CNIError
from tests.conftest import ROOT
from tests.pure.test_docs import documented

CREATED, SINCE = "2026-11-30T06:37:19Z", 1796020639


def node(name: object = "a", **changes: object) -> dict:
    """A dual-stack Node as the API has it; `changes`: other values of parts, by their names."""
    value = {
        "metadata": {"name": name, "uid": "u", "resourceVersion": "7", "creationTimestamp": CREATED},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:244:0:1::/64"]},
        "status": {"addresses": [address("192.0.2.1"), address("2001:db8::1"), address("a", "Hostname")]},
    }
    for path, change in changes.items():
        *parts, last = path.split("__")
        place = value
        for part in parts:
            place = place[part]
        place[last] = change
    return value


def address(text: object, kind: object = "InternalIP") -> dict:
    """An address of a Node's status."""
    return {"type": kind, "address": text}


def read(value: object) -> Entry:
    """The entry of a Node."""
    ((_, entry),) = entries_of([json.dumps(value).encode()])
    return entry


ADDRESSES_OF_A, SUBNETS_OF_A = ("192.0.2.1", "2001:db8::1"), ("10.244.1.0/24", "fd00:244:0:1::/64")
ZONE = {"topology.kubernetes.io/zone": "z1"}
PLAIN = Node("a", ADDRESSES_OF_A, SUBNETS_OF_A, since=SINCE)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"spec__podCIDRs": []}, {"subnets": ("10.244.1.0/24",)}),
        ({"spec__podCIDRs": None, "spec__podCIDR": None}, {"subnets": ()}),
        ({"spec": {}, "status": {}}, {"subnets": (), "addresses": ()}),
        ({"metadata__labels": ZONE}, {"zone": "z1"}),
        ({"metadata__annotations": {ADDRESSES: "198.51.100.7, fd00::7"}}, {"addresses": ("198.51.100.7", "fd00::7")}),
        ({"metadata__creationTimestamp": "yesterday"}, {"since": 0}),
    ],
)
def test_a_node_is_a_record(changes: dict, expected: dict) -> None:
    """With its podCIDRs, its InternalIPs or the operator's annotation, its zone and its age."""
    assert read(node(**changes)) == Entry("a", replace(PLAIN, **expected))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"spec__podCIDRs": ["10.244.1.9/24"]}, 'without host bits, got "10.244.1.9/24"'),
        ({"spec__podCIDRs": {"a": 1}}, "a list of strings, got an object"),
        ({"status": []}, "it is not a Node: Expected `object`, got `array` - at `$.status`"),
        ({"status__addresses": [address("nowhere")]}, 'an address like "192.0.2.2", got "nowhere"'),
        ({"metadata__annotations": {ADDRESSES: "192.0.2.300"}}, f'the annotation {ADDRESSES}: "addresses": expected'),
        ({"metadata__annotations": {RECORD: "{"}}, f"the annotation {RECORD}: "),
        ({"metadata__annotations": {RECORD: '{"version": 2}'}}, "it has version 2"),
    ],
)
def test_a_wrong_node_is_a_problem(changes: dict, problem: str) -> None:
    """Under its own name, with a sentence about what is wrong; it does not affect the others."""
    texts = [json.dumps(each).encode() for each in (node("wrong", **changes), node())]
    (_, wrong), (_, other) = entries_of(texts)
    assert (wrong.key, wrong.node) == ("wrong", None)
    assert problem in wrong.problem
    assert other.node == PLAIN


def test_what_a_node_has_announced_counts_except_its_name_age_and_zone() -> None:
    """These are the API server's to say."""
    announced = Node(
        "liar", ("198.51.100.7",), ("10.9.0.0/24",), vtep_mac="02:00:00:00:00:07", vni=9, since=1, zone="x"
    )
    record = json.dumps(to_value(announced))
    entry = read(node(metadata__annotations={RECORD: record, ADDRESSES: "192.0.2.9"}, metadata__labels=ZONE))
    assert entry.node == replace(announced, name="a", since=SINCE, zone="z1")


@pytest.mark.parametrize("mac", ["", "02:24:0a:f4:01:00"])
def test_nothing_is_announced_that_the_node_says_itself(mac: str) -> None:
    """Not the computed MAC either, nor what is the same on all nodes."""
    wanted = replace(PLAIN, vtep_mac=mac, vni=1, port=4789, cluster="c", addresses=ADDRESSES_OF_A[::-1])
    assert announcement(wanted, read_node(json.dumps(node()).encode())[0]) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"addresses": ("198.51.100.7",)},
        {"subnets": ("10.9.0.0/24",)},
        {"subnets": ("10.244.1.0/24", "10.9.0.0/24")},
        {"vtep_mac": "02:00:00:00:00:07"},
    ],
)
def test_others_read_what_was_announced(change: dict) -> None:
    """The annotation of a record that differs from the Node makes the Node that record."""
    wanted = replace(PLAIN, **change)
    text = announcement(wanted, read_node(json.dumps(node()).encode())[0])
    assert read(node(metadata__annotations={RECORD: text})).node == wanted


def test_the_condition_of_the_network_is_found_among_others() -> None:
    """And a Node without one has none."""
    conditions = [{"type": "Ready", "status": "True"}, {"type": "NetworkUnavailable", "status": "False", "reason": "R"}]
    found = [
        network_condition(read_node(json.dumps(node(status={"conditions": each})).encode())[0])
        for each in (conditions, [], None, [{"type": 1}], "x", [{"type": "NetworkUnavailable", "status": []}])
    ]
    assert found == [Condition("False", "R", ""), *[Condition()] * 5]


KEYS = ("metadata", "spec", "status", "name", "podCIDRs", "podCIDR", "addresses", "address", "annotations", "labels")
KEYS += ("type", "uid", "creationTimestamp", "resourceVersion", "conditions", ADDRESSES, RECORD, *ZONE)
VALUES = ("a", "InternalIP", "10.244.1.0/24", "192.0.2.1", CREATED, "{}", '{"podCIDRs": [1]}', "\ud800", "", "x" * 300)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(VALUES) | st.text(max_size=9)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6)
)


@given(
    st.builds(node, JSON)
    | JSON
    | st.builds(
        lambda path, value: node(**{path: value}),
        st.sampled_from(
            [
                "metadata",
                "spec",
                "status",
                "spec__podCIDRs",
                "status__addresses",
                "metadata__annotations",
                "metadata__labels",
                "status__conditions",
                "metadata__creationTimestamp",
            ]
        ),
        JSON,
    )
)
def test_any_json_is_an_entry(value: object) -> None:
    """With a record that every reader of records accepts, or with a problem."""
    ((found, entry),) = entries_of([json.dumps(value).encode()])
    assert entry.key == found.name
    assert (entry.node is None) == bool(entry.problem)
    assert entry.node is None or from_value(to_value(entry.node)) == entry.node
    network_condition(found)
    announcement(PLAIN, found)


@given(st.binary(max_size=60) | st.integers(1000, 100_000).map(lambda depth: b'{"spec":{"podCIDRs":' + b"[" * depth))
def test_any_bytes_are_an_entry(text: bytes) -> None:
    """With a problem."""
    ((_, entry),) = entries_of([text])
    assert entry.node or entry.problem


def test_the_page_has_every_option_and_no_other() -> None:
    """Of the table [kubernetes]."""
    asked = []

    class Recorder(Section):
        def raw(self, key: str) -> object:
            asked.append(key)
            return super().raw(key)

    read_options(Recorder({}))
    assert set(asked) == set(documented("registry-kubernetes.md"))


def test_the_documented_rights_are_those_of_the_manifest() -> None:
    """docs/registry-kubernetes.md and deploy/slash24.yaml have the same rules."""
    page = (ROOT / "docs" / "registry-kubernetes.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    manifest = yaml.safe_load_all((ROOT / "deploy" / "slash24.yaml").read_text())
    (role,) = [value for value in manifest if value["kind"] == "ClusterRole"]
    assert yaml.safe_load(block)["rules"] == role["rules"]


@pytest.mark.parametrize(
    ("url", "options", "expected"),
    [
        ("kubernetes://192.0.2.10", {}, '"registry": expected "kubernetes"; the API server is set by "server"'),
        ("kubernetes", {"server": "192.0.2.10"}, '"server": expected a URL like "https://192.0.2.10:6443", got'),
        ("kubernetes", {"server": "https://192.0.2.10/x"}, '"server": expected a URL'),
        ("kubernetes", {"server": "https://[::1"}, '"server": expected a URL'),
        ("kubernetes", {"kubeconfig": "admin.conf"}, '"kubeconfig": expected an absolute path'),
        ("kubernetes", {"subnets": "slash24"}, '"subnets": expected the namespace and name of a ConfigMap'),
        ("kubernetes", {"subnets": "a/../b"}, '"subnets": expected the namespace and name of a ConfigMap'),
        ("kubernetes", {"tlsServerName": 1}, '"tlsServerName": expected a string'),
    ],
)
def test_wrong_options_are_explained(url: str, options: dict, expected: str) -> None:
    """Without any connection."""
    with pytest.raises(CNIError) as caught:
        KubernetesRegistry(url, "a", Section(options))
    assert expected in caught.value.msg

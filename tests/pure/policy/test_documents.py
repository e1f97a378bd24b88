"""Documents become objects, as the API documents them; what is wrong is told, and never allows anything."""

import copy
import json

import pytest

from policy.documents import KINDS, Document, decode, identity_of, read_all, read_document
from policy.objects import (
    EVERYTHING,
    IN,
    ClusterNode,
    ContainerPort,
    Namespace,
    NetworkPeer,
    Pod,
    PodPeer,
    Policy,
    Ports,
    Requirement,
    Rule,
    Selector,
)
from tests.pure.policy.made import document, network_policy

APP = Selector((Requirement("app", IN, ("x",)),))
SELECT_APP = {"matchLabels": {"app": "x"}}


def read(**spec: object) -> Policy:
    """The NetworkPolicy with that spec, in which nothing is wrong."""
    found = read_document(network_policy(**spec))
    assert isinstance(found, Policy)
    return found


@pytest.mark.parametrize(
    ("spec", "directions"),
    [
        ({}, "i"),
        ({"policyTypes": []}, "i"),
        ({"policyTypes": None}, "i"),
        ({"ingress": [{}]}, "i"),
        ({"egress": []}, "i"),
        ({"egress": [{}]}, "ie"),
        ({"ingress": [], "egress": [{}]}, "ie"),
        ({"policyTypes": ["Ingress"], "egress": [{}]}, "i"),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, "e"),
        ({"policyTypes": ["Egress"]}, "e"),
        ({"policyTypes": ["Egress", "Ingress"]}, "ie"),
    ],
)
def test_policy_types_have_the_defaults_of_the_api(spec: dict, directions: str) -> None:
    """Ingress, and Egress if there are rules for it; what is listed counts alone."""
    policy = read(**spec)
    assert (policy.ingress is not None, policy.egress is not None) == ("i" in directions, "e" in directions)


def test_an_absent_list_and_an_empty_one_are_all() -> None:
    """Of peers and of ports; while an empty list of rules allows nothing."""
    anybody = (Rule(None, None, where="ingress[0]"),)
    for rule in ({}, {"from": []}, {"ports": []}, {"from": None, "ports": None}):
        assert read(ingress=[rule]).ingress == anybody
    assert read(ingress=[]).ingress == ()
    assert read(policyTypes=["Ingress"]).ingress == ()


def test_the_subject_is_in_the_policy_s_namespace() -> None:
    """An absent selector and an empty one select all its pods."""
    assert read().subject == read(podSelector={}).subject == PodPeer(EVERYTHING, None, "ns")
    assert read(podSelector=SELECT_APP).subject == PodPeer(APP, None, "ns")
    assert read_document({**network_policy(), "metadata": {"name": "x"}}).namespace == "default"


def test_peers_are_read() -> None:
    """Each kind, and both selectors together."""
    peers = [
        {"podSelector": SELECT_APP},
        {"namespaceSelector": SELECT_APP},
        {"podSelector": {}, "namespaceSelector": {}},
        {"podSelector": SELECT_APP, "namespaceSelector": {}},
        {"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.3.0.1/16", "10.2.0.0/16", "10.2.0.0/16"]}},
        {"ipBlock": {"cidr": "FD00:0::/8"}},
        {"ipBlock": {"cidr": "::ffff:10.0.0.0/104"}},
    ]
    assert read(egress=[{"to": peers}]).egress[0].peers == (
        PodPeer(APP, None, "ns"),
        PodPeer(EVERYTHING, APP),
        PodPeer(EVERYTHING, EVERYTHING),
        PodPeer(APP, EVERYTHING),
        NetworkPeer("10.0.0.0/8", ("10.2.0.0/16", "10.3.0.0/16")),
        NetworkPeer("fd00::/8"),
        NetworkPeer("10.0.0.0/8"),
    )


def test_ports_are_read() -> None:
    """By number, by name, ranges, protocols alone."""
    ports = [
        {},
        {"protocol": "UDP"},
        {"port": 80},
        {"port": 1, "endPort": 65535, "protocol": "SCTP"},
        {"port": 7, "endPort": 7},
        {"port": "http-2", "protocol": "UDP"},
    ]
    assert read(ingress=[{"ports": ports}]).ingress[0].ports == (
        Ports("TCP"),
        Ports("UDP"),
        Ports("TCP", 80, 80),
        Ports("SCTP", 1, 65535),
        Ports("TCP", 7, 7),
        Ports("UDP", name="http-2"),
    )


POD = document(
    "Pod",
    spec={
        "nodeName": "n",
        "containers": [
            {"name": "a", "ports": [{"name": "http", "containerPort": 80}, {"containerPort": 81}]},
            {"name": "b", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP", "hostPort": 5353}]},
        ],
        "initContainers": [
            {"name": "c", "ports": [{"name": "gone", "containerPort": 1}]},
            {"name": "d", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 2}]},
        ],
    },
    status={"phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "FD00::07"}]},
)


def test_a_pod_is_read() -> None:
    """Its addresses are canonical; ports with names, of containers that run as long as it does."""
    pod = copy.deepcopy(POD)
    pod["metadata"] |= {"labels": {"app": "x"}, "uid": "u", "annotations": {"kubernetes.io/config.mirror": "m"}}
    assert read_document(pod) == Pod(
        "ns",
        "x",
        {"app": "x"},
        ("10.0.0.7", "fd00::7"),
        (ContainerPort("http", "TCP", 80), ContainerPort("dns", "UDP", 53), ContainerPort("side", "TCP", 2)),
        "n",
        False,
        ("u", "m"),
    )
    assert read_document(document("Pod")) == Pod("ns", "x")
    assert read_document(document("Pod", status={"podIP": "::ffff:10.0.0.7"})).ips == ("10.0.0.7",)
    assert read_document(document("Pod", spec={"hostNetwork": True})).is_host_network


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_is_none(phase: str) -> None:
    """Its address may be another's by now. Its document is still known as that of a pod."""
    ended = {**POD, "status": {"phase": phase, "podIP": "10.0.0.7"}}
    assert read_document(ended) is None
    assert list(read_all(ended)) == [Document(("Pod", "ns", "x"))]


def test_a_namespace_has_its_name_as_a_label() -> None:
    """Whether its document has it, or another one, or not."""
    for own in ({}, {"kubernetes.io/metadata.name": "other"}):
        value = document("Namespace", metadata={"name": "n", "labels": {"a": "b", **own}})
        assert read_document(value) == Namespace("n", {"a": "b", "kubernetes.io/metadata.name": "n"})


def test_a_node_has_the_addresses_of_its_links() -> None:
    """Not its names."""
    kinds = ("Hostname", "InternalIP", "ExternalIP", "InternalDNS", "InternalIP")
    addresses = [
        {"type": kind, "address": each} for kind, each in zip(kinds, ("h", "1.2.3.4", "::A", "d", "::a"), strict=True)
    ]
    value = document("Node", metadata={"name": "n", "labels": {"a": "b"}}, status={"addresses": addresses})
    assert read_document(value) == ClusterNode("n", {"a": "b"}, ("1.2.3.4", "::a"))


def test_other_kinds_are_ignored() -> None:
    """A folder may have the manifests of a whole application."""
    for kind, version in (("Deployment", "apps/v1"), ("Service", "v1"), ("Pod", "v2"), ("Node", "x/v1")):
        assert read_document({"kind": kind, "apiVersion": version, "metadata": 7}) is None
        assert list(read_all({"kind": kind, "apiVersion": version})) == []


def test_lists_are_read() -> None:
    """Of any kinds, or of one, whose entries need not say which; nested; one wrong entry does not affect the others."""
    both = [document("Pod"), 7, {"kind": "Service", "apiVersion": "v1"}, network_policy()]
    found = list(read_all({"kind": "List", "apiVersion": "v1", "items": both}))
    assert [each.identity for each in found] == [("Pod", "ns", "x"), None, ("NetworkPolicy", "ns", "x")]
    bare = {"metadata": {"name": "x"}, "spec": {}}
    value = {"kind": "NetworkPolicyList", "apiVersion": KINDS["NetworkPolicy"], "items": [bare]}
    assert [each.identity for each in read_all(value)] == [("NetworkPolicy", "default", "x")]
    assert [each.identity for each in read_all({"kind": "List", "apiVersion": "v1", "items": [value]})] == [
        ("NetworkPolicy", "default", "x")
    ]
    assert [each.problem for each in read_all({"kind": "PodList", "apiVersion": "v1", "items": 7})] == [
        '"items": expected a list, got 7'
    ]
    assert list(read_all({"kind": "PodList", "apiVersion": "v1", "items": None})) == []


def test_json_is_read_as_documents_are() -> None:
    """With the version; an object of the API need not say its kind."""
    namespace = document("Namespace", metadata={"name": "n"})
    for kind, value in (("Pod", POD), ("NetworkPolicy", network_policy(ingress=[{}])), ("Namespace", namespace)):
        meta = {**value["metadata"], "resourceVersion": "7"}
        bare = {key: each for key, each in {**value, "metadata": meta}.items() if key not in ("kind", "apiVersion")}
        (expected,) = read_all(value)
        found = decode(kind, json.dumps(bare).encode())
        assert (found.identity, found.item, found.problem, found.version) == (
            expected.identity,
            expected.item,
            "",
            "7",
        )
        assert identity_of(found.item) == found.identity


def test_objects_that_have_the_same_share_it() -> None:
    """Ten thousand pods must not have ten thousand copies of their labels."""
    pods = [decode("Pod", json.dumps({**POD, "metadata": {"name": f"x{n}", "labels": {"a": "b"}}})) for n in range(2)]
    assert pods[0].item.labels is pods[1].item.labels
    assert pods[0].item.ports is pods[1].item.ports
    assert pods[0].item.node is pods[1].item.node

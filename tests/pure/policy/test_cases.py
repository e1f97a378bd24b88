"""The cases that are tried with real packets: slash24 reads their documents, and the model tells them apart."""

import socket
from collections.abc import Mapping
from itertools import product

import pytest

from policy.anew import compile_all
from policy.documents import WrongDocument, read_document
from policy.objects import ClusterNode, LocalPod
from policy.objects import Pod as KnownPod
from policy.verdicts import Judge, Packet
from spec.addresses import pack
from tests.policy import cluster, model
from tests.policy.cases import CASES

PODS = [(namespace, name) for namespace in cluster.NAMESPACES for name in cluster.PODS]
ADDRESSES = {
    **{f"{ns}_{name}_4": f"10.244.{number % 2 + 1}.{number + 2}" for number, (ns, name) in enumerate(PODS)},
    **{f"{ns}_{name}_6": f"fd00:244:0:{number % 2 + 1}::{number + 2}" for number, (ns, name) in enumerate(PODS)},
    **{f"n{number}_4": f"192.0.2.{number}" for number in (1, 2, 3)},
    **{f"n{number}_6": f"2001:db8:1::{number}" for number in (1, 2, 3)},
    **{f"net{number}_4": f"10.244.{number}.0/24" for number in (1, 2, 3)},
    **{f"net{number}_6": f"fd00:244:0:{number}::/64" for number in (1, 2, 3)},
    "outside_4": "203.0.113.2",
    "outside_6": "2001:db8:9::2",
}
BASE = [
    *(cluster.namespace(name) for name in cluster.NAMESPACES),
    *(cluster.node(name, [ADDRESSES[f"{name}_4"], ADDRESSES[f"{name}_6"]]) for name in cluster.NODES),
    *(
        cluster.pod(ns, name, ips=[ADDRESSES[f"{ns}_{name}_{version}"] for version in "46"], node=f"n{number % 2 + 1}")
        for number, (ns, name) in enumerate(PODS)
    ),
]
UNKNOWN = {"cluster-wide egress: domain names are not known"}
PROBES = [*product((model.TCP, model.UDP, model.SCTP), (80, 81)), (model.ICMP, 0)]


def documents_of(step: list) -> list:
    """The documents of a step in a cluster with made-up addresses."""
    return cluster.overlaid(BASE, cluster.filled(step, ADDRESSES))


@pytest.mark.parametrize("name", CASES)
def test_slash24_reads_the_documents(name: str) -> None:
    """With one exception, they are as the API server accepts them."""
    for step in CASES[name]:
        for document in cluster.filled(step, ADDRESSES):
            if name in UNKNOWN and document["kind"] == "ClusterNetworkPolicy":
                with pytest.raises(WrongDocument):
                    read_document(document)
            else:
                assert read_document(document) is not None


def _matrix(documents: list) -> set:
    ends = [model.Pod(*one) for one in PODS]
    others = [model.Node("n1"), model.Node("n2"), model.Outside("203.0.113.2")]
    return {
        (source, target, *probe)
        for source, target in (*product(ends, ends), *product(ends, others), *product(others, ends))
        for probe in PROBES
        if not model.allows(documents, source, target, *probe)
    }


def test_the_cases_differ() -> None:
    """By what they deny; there are 120 matrices and more."""
    found = {name: [frozenset(_matrix(documents_of(step))) for step in steps] for name, steps in CASES.items()}
    assert len({matrix for matrices in found.values() for matrix in matrices}) >= 120
    assert not found["no policy"][0]


PLACES = "n1", "n2"
SOME = [PODS[0], PODS[1], PODS[2], PODS[3], PODS[8]]
SOME_PROBES = [*((4, one) for one in PROBES), (6, (model.TCP, 80)), (6, (model.UDP, 80))]
NUMBERS = {
    model.TCP: socket.IPPROTO_TCP,
    model.UDP: socket.IPPROTO_UDP,
    model.SCTP: 132,
    (model.ICMP, 4): socket.IPPROTO_ICMP,
    (model.ICMP, 6): socket.IPPROTO_ICMPV6,
}


def _read(document: Mapping) -> object:
    try:
        return read_document(document)
    except WrongDocument as wrong:
        return wrong.item


def _judges(documents: list) -> dict[str, Judge]:
    """Who decides on each node what its pods send and receive."""
    items = [_read(one) for one in documents]
    found = {}
    for node in [one for one in items if isinstance(one, ClusterNode) and one.name in PLACES]:
        here = [one for one in items if isinstance(one, KnownPod) and one.node == node.name]
        attached = [LocalPod(one.name + one.namespace, one.ips, "", one.namespace, one.name) for one in here]
        own = set(map(pack, node.ips))
        compiled = compile_all(items, attached, needs_pods=False)
        found[node.name] = Judge(compiled, is_own_node=own.__contains__)
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_rules_say_what_the_model_says(name: str) -> None:
    """On the nodes of both ends, in both families; some pods stand for all, which the model would take minutes for."""
    ends = [(model.Pod(*one), PLACES[PODS.index(one) % 2], f"{one[0]}_{one[1]}") for one in SOME]
    ends += [(model.Node(name), name, name) for name in PLACES]
    ends += [(None, "", "outside")]
    wrong = []
    for step in CASES[name]:
        documents = documents_of(step)
        judges = _judges(documents)
        for one, two in product(ends, ends):
            if one == two or not {one, two} & {end for end in ends if isinstance(end[0], model.Pod)}:
                continue
            for family, (protocol, port) in SOME_PROBES:
                source, target = (ADDRESSES[f"{key}_{family}"] for _, _, key in (one, two))
                number = NUMBERS.get(protocol) or NUMBERS[protocol, family]
                packet = Packet(pack(source), pack(target), number, port)
                passes = all(judges[at].decide(packet).is_allowed for at in {one[1], two[1]} - {""})
                who = [end or model.Outside(address) for (end, *_), address in ((one, source), (two, target))]
                if passes is not model.allows(documents, *who, protocol, port, family=family):
                    wrong.append((one[2], two[2], protocol, port, family, "passes" if passes else "is denied"))
    assert not wrong

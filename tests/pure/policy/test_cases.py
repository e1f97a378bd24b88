"""The cases that are tried with real packets: slash24 reads their documents, and the model tells them apart."""

from itertools import product

import pytest

from policy.documents import WrongDocument, read_document
from tests.policy import cluster, model
from tests.policy.cases import CASES

PODS = [(namespace, name) for namespace in cluster.NAMESPACES for name in cluster.PODS]
ADDRESSES = {
    **{f"{ns}_{name}_4": f"10.244.{number % 3 + 1}.{number + 2}" for number, (ns, name) in enumerate(PODS)},
    **{f"{ns}_{name}_6": f"fd00:244:0:{number % 3 + 1}::{number + 2}" for number, (ns, name) in enumerate(PODS)},
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
        cluster.pod(ns, name, ips=[ADDRESSES[f"{ns}_{name}_{version}"] for version in "46"], node=f"n{number % 3 + 1}")
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

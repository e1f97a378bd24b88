"""The pages on `kubenet` and `vxlan` are correct about errors and about skipped peers."""

import pytest

from tests.netns.cluster_tools import refused, told
from tests.netns.cni import CNI
from tests.netns.node import Node

PEER = {"name": "b", "addresses": ["192.0.2.2"], "podCIDRs": ["10.30.2.0/24"]}


@pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
def test_errors_of_nodes_are_as_explained(kind: str, cni: CNI, node: Node) -> None:
    """docs/kubenet.md and docs/vxlan.md list the errors about nodes and peers, with their codes."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    conf = {"cniVersion": "1.1.0", "name": "net", "type": kind, "podCIDRs": ["10.30.1.0/24"]}
    cases = [
        ({**conf, "podCIDRs": []}, 11, 'the subnet file "/run/slash24/node.json" cannot be used: '),
        ({**conf, "peersFile": "/run/nosuch"}, 11, 'the peers file "/run/nosuch" cannot be used: '),
        (
            {**conf, "podCIDRs": ["192.0.2.128/25"]},
            7,
            '"podCIDRs": 192.0.2.128/25 overlaps 192.0.2.1/24 of link "wan0"',
        ),
    ]
    pod = node.pod("pod")
    for wrong, code, text in cases:
        for verb, expected in (("ADD", code), ("STATUS", 50)):
            error = refused(cni, verb, wrong, pod)
            assert (error.code, text in error.msg) == (expected, True), error.raw
    cni.add({**conf, "peers": [PEER]}, pod)


@pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
def test_peers_are_skipped_as_explained(kind: str, cni: CNI, node: Node) -> None:
    """ADD and STATUS succeed and log to stderr the messages that docs/kubenet.md and docs/vxlan.md quote."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    node.run(["ip", "route", "add", "10.30.3.0/24", "via", "192.0.2.3"])
    conf = {"cniVersion": "1.1.0", "name": "net", "type": kind, "podCIDRs": ["10.30.1.0/24"]}
    other = {"name": "c", "addresses": ["192.0.2.4"], "podCIDRs": ["10.30.4.0/24"]}
    cases = [
        ([PEER, {**other, "vtepMAC": "02:24:0a:1e:02:00"}], 'in conflict with peer "c" over the VTEP MAC', "vxlan"),
        ([PEER, {**PEER, "name": "c", "addresses": ["192.0.2.4"]}], 'in conflict with peer "c" over the subnet', ""),
        ([{**PEER, "addresses": ["198.51.100.2"]}], 'peer "b" (198.51.100.2) is not on a link of this node', "kubenet"),
        ([{**PEER, "podCIDRs": []}], 'peer "b" has no "podCIDRs" that can be used', ""),
    ]
    for number, (peers, text, only) in enumerate(cases):
        if only in ("", kind):
            for verb in ("STATUS", "ADD"):
                lines = told(
                    cni, verb, {**conf, "peers": peers}, node.pod(f"{verb}{number}") if verb == "ADD" else None
                )
                assert any(text in line for line in lines), lines
    lines = told(cni, "ADD", {**conf, "peers": [{**PEER, "podCIDRs": ["10.30.3.0/24"]}]}, node.pod("last"))
    assert any("in the way: 10.30.3.0/24 via 192.0.2.3" in line for line in lines)

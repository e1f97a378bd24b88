"""A node whose subnet changes while pods run: old pods keep working, and new pods use the new subnet."""

from pathlib import Path

import pytest

from tests.netns.cluster_tools import (
    LEASES,
    NO_PODS,
    NODE_FILE,
    PEERS_FILE,
    network,
    own_routes,
    pods_left,
    record,
    write,
)
from tests.netns.cni import CNI
from tests.netns.node import NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, Node, Pod, ask

BEFORE, AFTER = ("10.244.1.0/24", "fd00:244:0:1::/64"), ("10.244.9.0/24", "fd00:244:0:9::/64")
GATEWAYS = ({"10.244.1.1/24", "fd00:244:0:1::1/64"}, {"10.244.9.1/24", "fd00:244:0:9::1/64"})
KINDS = pytest.mark.parametrize("kind", ["kubenet", "vxlan"])


@pytest.fixture
def outside(node: Node) -> Pod:
    """The outside host, behind the node's default route; it has no route to pods."""
    made = node.outside()
    made.run(["ip", "route", "flush", "default"])
    made.run(["ip", "-6", "route", "flush", "default"])
    node.run(["ip", "route", "add", "default", "via", OUTSIDE_V4])
    return made


def conf_of(kind: str) -> dict:
    """The configuration of a node with an agent: subnet and peers are in files."""
    return network(kind, podCIDRs=None, hairpinMode="promiscuous-bridge")


@KINDS
def test_pods_of_the_old_subnet_keep_working(cni: CNI, node: Node, outside: Pod, kind: str) -> None:
    """They and new pods reach each other and the outside; old gateways stay until the last old lease is gone."""
    old, older, new = (node.pod(name) for name in ("old", "older", "new"))
    conf = conf_of(kind)
    write(node, NODE_FILE, {"podCIDRs": list(BEFORE)})
    write(node, PEERS_FILE, {"peers": [record(1), record(3)]})
    results = [cni.add(conf, old), cni.add(conf, older)]
    write(node, NODE_FILE, {"podCIDRs": list(AFTER)})
    result = cni.add(conf, new)
    assert [ip["address"] for ip in result["ips"]] == ["10.244.9.2/24", "fd00:244:0:9::2/64"]
    assert node.addresses("cbr0") == GATEWAYS[0] | GATEWAYS[1]
    for one, two, address, own in (
        (old, new, "10.244.9.2", "10.244.1.2"),
        (new, old, "fd00:244:0:1::2", "fd00:244:0:9::2"),
        (old, outside, OUTSIDE_V4, NODE_V4),
        (old, outside, OUTSIDE_V6, NODE_V6),
        (new, outside, OUTSIDE_V4, NODE_V4),
    ):
        assert one.reaches(address)
        assert ask(one, two, address, 80, "tcp") == own
    cni.check(conf, new, result)
    cni.delete(conf, old, results[0])
    assert node.addresses("cbr0") == GATEWAYS[0] | GATEWAYS[1]
    assert older.reaches(OUTSIDE_V4)
    cni.delete(conf, older, results[1])
    assert node.addresses("cbr0") == GATEWAYS[1]
    assert "10.244.1." not in node.ruleset()
    cni.check(conf, new, result)
    assert new.reaches(OUTSIDE_V4)
    cni.delete(conf, new, result)
    assert pods_left(node, old, older, new) == NO_PODS


@KINDS
def test_the_nodes_own_record_may_be_outdated(cni: CNI, node: Node, outside: Pod, kind: str) -> None:
    """The peers include the node itself, recognised by its subnet or an address; it gets no route."""
    write(node, NODE_FILE, {"podCIDRs": list(BEFORE)})
    conf, pod = conf_of(kind), node.pod("pod")
    for own in (record(1), record(1, addresses=["198.51.100.77"]), record(8, addresses=[NODE_V4, NODE_V6])):
        write(node, PEERS_FILE, {"peers": [own, record(2)]})
        result = cni.add(conf, pod)
        cni.check(conf, pod, result)
        assert set(own_routes(node)) == {"10.244.2.0/24", "fd00:244:0:2::/64"}
        cni.delete(conf, pod, result)


@KINDS
def test_gc_deletes_gateways_of_deleted_pods(cni: CNI, node: Node, outside: Pod, kind: str) -> None:
    """The last pod of the old subnet got no DEL: GC releases its lease, then deletes the gateway."""
    conf, old, new = conf_of(kind), node.pod("old"), node.pod("new")
    write(node, NODE_FILE, {"podCIDRs": list(BEFORE)})
    cni.add(conf, old)
    write(node, NODE_FILE, {"podCIDRs": list(AFTER)})
    result = cni.add(conf, new)
    cni.gc(conf, new)
    assert node.addresses("cbr0") == GATEWAYS[1]
    cni.check(conf, new, result)


def test_other_addresses_on_the_bridge_are_left_alone(cni: CNI, node: Node, bin_dir: Path) -> None:
    """Addresses on the bridge from the administrator, or from another network on the same bridge, stay."""
    pods = [node.pod(name) for name in ("one", "two", "three")]
    conf = network("kubenet")
    cni.add(conf, pods[0])
    node.run(["ip", "addr", "add", "10.77.0.9/16", "dev", "cbr0"])
    other = network("kubenet", name="other", podCIDRs=["10.9.0.0/24"])
    cni.add(other, pods[1])
    result = cni.add(conf, pods[2])
    cni.delete(conf, pods[0])
    gateways = GATEWAYS[0] | {"10.9.0.1/24", "10.77.0.9/16"}
    assert node.addresses("cbr0") == gateways
    cni.check(conf, pods[2], result)
    cni.delete(other, pods[1])
    cni.add(conf, pods[0])
    assert node.addresses("cbr0") == GATEWAYS[0] | {"10.77.0.9/16"}


def test_leases_of_the_old_subnet_are_released(cni: CNI, node: Node) -> None:
    """host-local releases them although its ranges have changed."""
    conf, old = conf_of("kubenet"), node.pod("old")
    write(node, NODE_FILE, {"podCIDRs": list(BEFORE)})
    result = cni.add(conf, old)
    write(node, NODE_FILE, {"podCIDRs": list(AFTER)})
    cni.delete(conf, old, result)
    assert not node.path(f"{LEASES}/10.244.1.2").exists()
    assert node.addresses("cbr0") == set()

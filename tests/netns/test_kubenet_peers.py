"""Routes to the other nodes of `kubenet`: wanted ones are there, vanished ones go, foreign ones are never touched."""

import pytest

from tests.netns.cluster_tools import NO_PODS, PEERS_FILE, network, own_routes, pods_left, record, refused, write
from tests.netns.cni import CNI
from tests.netns.node import Node, Pod

TO_2 = {"10.244.2.0/24": ("192.0.2.2", "wan0"), "fd00:244:0:2::/64": ("2001:db8:1::2", "wan0")}
TO_3 = {"10.244.3.0/24": ("192.0.2.3", "wan0"), "fd00:244:0:3::/64": ("2001:db8:1::3", "wan0")}


@pytest.fixture
def pod(node: Node) -> Pod:
    """A pod to be, on a node with a link."""
    node.outside()
    return node.pod("pod")


def test_peers_inline_in_a_file_or_in_the_agents_file(cni: CNI, node: Node, pod: Pod) -> None:
    """Inline ones and those of the file add up; the agent's file is read unless another is named."""
    write(node, PEERS_FILE, {"peers": [record(3)]})
    write(node, "/run/others.json", {"peers": [record(2)]})
    for keys, wanted in (
        ({"peers": [record(2)]}, TO_2 | TO_3),
        ({}, TO_3),
        ({"peersFile": "/run/others.json"}, TO_2),
        ({"peersFile": "/run/others.json", "peers": [record(2), record(3)]}, TO_2 | TO_3),
    ):
        conf = network("kubenet", **keys)
        result = cni.add(conf, pod)
        assert own_routes(node) == wanted
        cni.check(conf, pod, result)
        cni.delete(conf, pod, result)
        assert own_routes(node) == wanted, "routes belong to the node, not to a pod"
    node.path(PEERS_FILE).unlink()
    cni.add(network("kubenet"), pod)
    assert own_routes(node) == {}


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), ("{", ""), ("[]", "peers"), ("{}{}", "")])
def test_a_peers_file_that_can_not_be_read(cni: CNI, node: Node, pod: Pod, content: str | None, why: str) -> None:
    """11 for an ADD, 50 for STATUS, the file named; the ADD leaves nothing. A record in it that is wrong: likewise."""
    path = "/run/others.json"
    if content:
        write(node, path, content)
    conf = network("kubenet", peersFile=path)
    for verb, code in (("ADD", 11), ("STATUS", 50)):
        error = refused(cni, verb, conf, pod)
        assert (error.code, path in error.msg, why in error.text) == (code, True, True)
    write(node, path, {"peers": [record(2, addresses=["node2"])]})
    error = refused(cni, "ADD", conf, pod)
    assert (error.code, "peers[0].addresses" in error.text) == (11, True)
    assert pods_left(node, pod) == NO_PODS
    assert "cbr0" not in node.links()


def test_a_vanished_peer_loses_its_route(cni: CNI, node: Node, pod: Pod) -> None:
    """At the next ADD; a peer that moves is followed."""
    cni.add(network("kubenet", peers=[record(2), record(3)]), pod)
    moved = record(3, addresses=["192.0.2.33", "2001:db8:1::33"])
    cni.add(network("kubenet", peers=[moved]), node.pod("second"))
    assert own_routes(node) == {
        "10.244.3.0/24": ("192.0.2.33", "wan0"),
        "fd00:244:0:3::/64": ("2001:db8:1::33", "wan0"),
    }


def test_a_foreign_route_is_never_touched(cni: CNI, node: Node, pod: Pod) -> None:
    """Another subnet's stays; one that does the work of ours is accepted; one in the way fails the ADD and is named."""
    node.run(["ip", "route", "add", "10.244.77.0/24", "via", "192.0.2.7"])
    node.run(["ip", "route", "add", "10.244.2.0/24", "via", "192.0.2.2", "proto", "static"])
    conf = network("kubenet", peers=[record(2)])
    cni.check(conf, pod, cni.add(conf, pod))
    second = node.pod("second")
    error = refused(cni, "ADD", network("kubenet", peers=[record(2, addresses=["192.0.2.9", "2001:db8:1::9"])]), second)
    assert error.code == 999
    assert "10.244.2.0/24 via 192.0.2.2 dev wan0" in error.text
    assert set(second.links()) == {"lo"}
    assert len(pods_left(node, pod)["leases"]) == 2
    cni.add(network("kubenet", peers=[]), second)
    found = {r["dst"]: r["protocol"] for r in node.ip("route")}
    assert (found["10.244.2.0/24"], found["10.244.77.0/24"]) == ("static", "boot")


def test_networks_on_one_node_leave_each_others_routes(cni: CNI, node: Node, pod: Pod) -> None:
    """Each keeps to its clusterCIDRs."""
    cni.add(network("kubenet", peers=[record(2)]), pod)
    other = network(
        "kubenet",
        name="other",
        bridge="cbr1",
        podCIDRs=["10.9.1.0/24"],
        clusterCIDRs=["10.9.0.0/16"],
        peers=[record(3, podCIDRs=["10.9.3.0/24"])],
    )
    cni.add(other, node.pod("second"))
    assert own_routes(node) == TO_2 | {"10.9.3.0/24": ("192.0.2.3", "wan0")}


@pytest.mark.parametrize("address", ["198.51.100.2", "10.244.1.77"])
def test_a_peer_on_no_link_is_refused(cni: CNI, node: Node, pod: Pod, address: str) -> None:
    """Also one whose address is said to be on the pods' own bridge. The message names what could reach it."""
    peer = record(2, addresses=[address], podCIDRs=["10.244.2.0/24"])
    error = refused(cni, "ADD", network("kubenet", peers=[peer]), pod)
    assert error.code == 7
    assert f'peer "n2" ({address}) is on no link of this node' in error.msg
    assert '"vxlan"' in error.text
    assert pods_left(node, pod) == NO_PODS
    assert "cbr0" not in node.links()


def test_a_peer_without_an_address_of_the_family_is_refused(cni: CNI, node: Node, pod: Pod) -> None:
    """A route to an IPv6 subnet needs an IPv6 address."""
    error = refused(cni, "ADD", network("kubenet", peers=[record(2, addresses=["192.0.2.2"])]), pod)
    assert (error.code, "IPv6" in error.text, '"n2"' in error.text) == (7, True, True)


def test_check_names_what_has_drifted_and_the_next_add_repairs_it(cni: CNI, node: Node, pod: Pod) -> None:
    """A route that is gone or leads elsewhere, a table of rules that is gone, a gateway taken from the bridge."""
    conf = network("kubenet", peers=[record(2), record(3)], hairpinMode="promiscuous-bridge")
    result, second = cni.add(conf, pod), node.pod("second")
    for damage, named in (
        (["ip", "route", "del", "10.244.2.0/24"], "10.244.2.0/24 via 192.0.2.2 dev wan0"),
        (["ip", "-6", "route", "del", "fd00:244:0:3::/64"], "fd00:244:0:3::/64"),
        (["ip", "route", "replace", "10.244.2.0/24", "via", "192.0.2.9", "proto", "24"], "via 192.0.2.9"),
        (["nft", "delete", "table", "inet", "slash24_egress_net"], "slash24_egress_net"),
        (["nft", "flush", "ruleset"], "slash24_egress_net"),
        (["nft", "delete", "table", "bridge", "slash24_dedup_net"], "slash24_dedup_net"),
        (["ip", "addr", "del", "10.244.1.1/24", "dev", "cbr0"], "10.244.1.1/24"),
        (["ip", "link", "set", "cbr0", "promisc", "off"], "promiscuous"),
    ):
        cni.check(conf, pod, result)
        node.run(damage)
        error = refused(cni, "CHECK", {**conf, "prevResult": result}, pod)
        assert named in error.text, error
        cni.delete(conf, second, cni.add(conf, second))
        cni.check(conf, pod, result)

"""Routes from a `kubenet` node to its peers: wanted routes exist, stale ones are deleted, foreign ones never change."""

import pytest

from tests.netns.cluster_tools import NO_PODS, PEERS_FILE, network, own_routes, pods_left, record, refused, told, write
from tests.netns.cni import CNI
from tests.netns.node import Node, Pod

TO_2 = {"10.244.2.0/24": ("192.0.2.2", "wan0"), "fd00:244:0:2::/64": ("2001:db8:1::2", "wan0")}
TO_3 = {"10.244.3.0/24": ("192.0.2.3", "wan0"), "fd00:244:0:3::/64": ("2001:db8:1::3", "wan0")}


@pytest.fixture
def pod(node: Node) -> Pod:
    """A pod namespace on a node with an uplink."""
    node.outside()
    return node.pod("pod")


def test_peers_inline_in_a_file_or_in_the_agents_file(cni: CNI, node: Node, pod: Pod) -> None:
    """Inline peers and those in the file are merged; the agent's file is the default."""
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
    write(node, PEERS_FILE, {"peers": []})
    cni.add(network("kubenet"), pod)
    assert own_routes(node) == {}


@pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
def test_a_peers_file_that_had_peers_must_exist(cni: CNI, node: Node, pod: Pod, kind: str) -> None:
    """If the file is deleted or lost in a reboot, ADD returns 11, STATUS 50, routes stay; an empty list is valid."""
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    conf, second = network(kind), node.pod("second")
    cni.status(conf)
    cni.delete(conf, second, cni.add(conf, second))
    write(node, PEERS_FILE, {"peers": [record(2)]})
    result = cni.add(conf, pod)
    routes = own_routes(node)
    assert set(routes) == set(TO_2)
    node.path(PEERS_FILE).unlink()
    for verb, code, which in (("ADD", 11, second), ("STATUS", 50, None), ("CHECK", 11, pod)):
        error = refused(cni, verb, {**conf, "prevResult": result} if verb == "CHECK" else conf, which)
        assert (error.code, "is missing, but had peers when it was last read" in error.msg) == (code, True)
    assert own_routes(node) == routes
    cni.delete(conf, pod, result)
    cni.add(network(kind, peersFile=write(node, "/run/others.json", {"peers": [record(3)]})), pod)
    cni.delete(conf, pod)
    assert set(own_routes(node)) == set(TO_3)
    cni.add(conf, pod)  # another file's state does not matter, and the default file was given up when another was named
    write(node, PEERS_FILE, {"peers": [record(2)]})
    cni.delete(conf, pod)
    cni.add(conf, pod)
    write(node, PEERS_FILE, {"peers": []})
    cni.add(conf, second)
    node.path(PEERS_FILE).unlink()
    cni.status(conf)


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), ("{", ""), ("[]", "peers"), ("{}{}", "")])
def test_an_unusable_peers_file(cni: CNI, node: Node, pod: Pod, content: str | None, why: str) -> None:
    """ADD returns 11 and STATUS 50, naming the file; ADD leaves nothing."""
    path = "/run/others.json"
    if content:
        write(node, path, content)
    conf = network("kubenet", peersFile=path)
    for verb, code in (("ADD", 11), ("STATUS", 50)):
        error = refused(cni, verb, conf, pod)
        assert (error.code, path in error.msg, why in error.text) == (code, True, True)
    assert pods_left(node, pod) == NO_PODS
    assert "cbr0" not in node.links()


BAD = [
    None,
    {"name": "joining", "addresses": ["192.0.2.7"], "podCIDRs": [None]},
    record(4, addresses=["node4"]),
    record(5, addresses=["198.51.100.5"], podCIDRs=["10.244.5.0/24"]),
    record(6, podCIDRs=["10.244.1.0/25"]),
    record(7, podCIDRs=["0.0.0.0/0"]),
    record(8, addresses=["192.0.2.8"]),
]
NAMED = ["peers[0]", '"joining"', "peers[2].addresses", '"n5" (198.51.100.5)', '"n6"', '"n7"', '"n8" has no IPv6']


@pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
def test_bad_records_are_skipped(cni: CNI, node: Node, pod: Pod, kind: str) -> None:
    """ADD, CHECK, STATUS and DEL succeed for the other peers; ADD and STATUS log the skipped peers to stderr."""
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    write(node, PEERS_FILE, {"peers": [*BAD, record(2), record(3)]})
    conf = network(kind)
    good = own_routes_of(
        cni, node, network(kind, peersFile=write(node, "/run/good.json", {"peers": [record(2), record(3)]}))
    )
    result = cni.add(conf, pod)
    assert {d: hop for d, hop in own_routes(node).items() if d in TO_2 | TO_3} == good
    cni.check(conf, pod, result)
    for lines in (told(cni, "STATUS", conf), told(cni, "ADD", conf, node.pod("second"))):
        named = NAMED[:3] + (NAMED[4:6] if kind == "vxlan" else NAMED[3:])
        assert [name for name in named if not any(name in line for line in lines)] == []
        assert all(line.startswith(f"{kind}: ") for line in lines)
        assert not any('"n2"' in line or '"n3"' in line for line in lines)
    cni.delete(conf, pod, result)


def own_routes_of(cni: CNI, node: Node, conf: dict) -> dict:
    """Return the routes that an ADD creates."""
    pod = node.pod("before")
    cni.delete(conf, pod, cni.add(conf, pod))
    return own_routes(node)


def test_a_peer_keeps_a_subnet_that_a_new_record_claims(cni: CNI, node: Node, pod: Pod) -> None:
    """An existing route is not given to a later record; of two conflicting new records, neither gets a route."""
    thief = record(4, podCIDRs=["10.244.2.0/24", "fd00:244:0:2::/65"])
    cni.add(network("kubenet", peers=[record(2)]), pod)
    conf = network("kubenet", peers=[thief, record(2)])
    second = node.pod("second")
    cni.check(conf, second, cni.add(conf, second))
    assert own_routes(node) == TO_2
    node.run(["sh", "-c", "ip route flush proto 24; ip -6 route flush proto 24"])
    lines = told(cni, "ADD", conf, node.pod("third"))
    assert own_routes(node) == {}
    assert sum("in conflict" in line for line in lines) == 4


def test_an_address_shared_with_this_node_does_not_identify_a_peer(cni: CNI, node: Node, pod: Pod) -> None:
    """Docker's bridge has the same address on every node: only a node's own address or subnet identifies its record."""
    node.run(["sh", "-c", "ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0"])
    conf = network("kubenet", peers=[record(2, addresses=["172.17.0.1", "192.0.2.2", "2001:db8:1::2"]), record(1)])
    lines = told(cni, "ADD", conf, pod)
    assert own_routes(node) == TO_2
    assert len(lines) == 0 or all('"n1"' in line for line in lines)


def test_a_link_that_is_down_is_not_used_for_a_peer(cni: CNI, node: Node, pod: Pod) -> None:
    """Another address of the peer is used; a peer without one is skipped, and ADD succeeds."""
    node.run(["ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1"])
    node.run(["ip", "addr", "add", "198.51.100.1/24", "dev", "lan0"])
    peers = [record(2, addresses=["198.51.100.2", "192.0.2.2", "2001:db8:1::2"])]
    peers += [record(3, link="198.51.100", podCIDRs=["10.244.3.0/24"])]
    lines = told(cni, "ADD", network("kubenet", peers=peers), pod)
    assert own_routes(node) == TO_2
    assert any('"n3" (198.51.100.3) is not on a link of this node that is up' in line for line in lines)


def test_a_removed_peer_loses_its_route(cni: CNI, node: Node, pod: Pod) -> None:
    """The next ADD deletes the route; the routes of a peer with a new address are updated."""
    cni.add(network("kubenet", peers=[record(2), record(3)]), pod)
    moved = record(3, addresses=["192.0.2.33", "2001:db8:1::33"])
    cni.add(network("kubenet", peers=[moved]), node.pod("second"))
    assert own_routes(node) == {
        "10.244.3.0/24": ("192.0.2.33", "wan0"),
        "fd00:244:0:3::/64": ("2001:db8:1::33", "wan0"),
    }


def test_a_foreign_route_is_never_touched(cni: CNI, node: Node, pod: Pod) -> None:
    """Routes to other subnets stay; an equivalent route is accepted; ADD logs a conflicting route, and CHECK fails."""
    node.run(["ip", "route", "add", "10.244.77.0/24", "via", "192.0.2.7"])
    node.run(["ip", "route", "add", "10.244.2.0/24", "via", "192.0.2.2", "proto", "static"])
    conf = network("kubenet", peers=[record(2)])
    cni.check(conf, pod, cni.add(conf, pod))
    second, conf = node.pod("second"), network("kubenet", peers=[record(2, addresses=["192.0.2.9", "2001:db8:1::9"])])
    (line,) = told(cni, "ADD", conf, second)
    assert "in the way: 10.244.2.0/24 via 192.0.2.2 dev wan0" in line
    third = node.pod("third")
    error = refused(cni, "CHECK", {**conf, "prevResult": cni.add(conf, third)}, third)
    assert (error.code, "10.244.2.0/24 via 192.0.2.2 dev wan0" in error.text) == (999, True)
    cni.add(network("kubenet", peers=[]), node.pod("fourth"))
    found = {r["dst"]: r["protocol"] for r in node.ip("route")}
    assert (found["10.244.2.0/24"], found["10.244.77.0/24"]) == ("static", "boot")


def test_networks_on_one_node_leave_each_others_routes(cni: CNI, node: Node, pod: Pod) -> None:
    """Each network only manages routes in its clusterCIDRs."""
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


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (
            "198.51.100.2",
            "(198.51.100.2) is not on a link of this node that is up: a route needs a shared link; use type",
        ),
        ("10.244.1.77", 'has no "addresses" that can be used (10.244.1.77)'),
    ],
)
def test_a_peer_on_no_link_is_skipped(cni: CNI, node: Node, pod: Pod, address: str, why: str) -> None:
    """So is a peer whose address is in the pods' own subnet. The message suggests what would reach it."""
    peer = record(2, addresses=[address], podCIDRs=["10.244.2.0/24"])
    for _ in range(2):  # the second time the bridge exists
        (line,) = told(cni, "ADD", network("kubenet", peers=[peer]), pod)
        assert f'kubenet: peer "n2" {why}' in line
        assert own_routes(node) == {}
        cni.delete(network("kubenet"), pod)


def test_check_names_what_has_drifted_and_the_next_add_repairs_it(cni: CNI, node: Node, pod: Pod) -> None:
    """A missing or changed route, a missing table, a missing gateway address, a cleared promiscuous flag."""
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


ODD = [
    record(20, podCIDRs=["10.244.20.0/32", "fd00:244:0:20::/128"]),
    record(21, podCIDRs=["10.244.21.0/31", "::ffff:10.244.22.0/120"]),
    record(22, addresses=["192.0.2.255", "2001:db8:1::"], podCIDRs=["10.244.23.0/24", "fd00:244:0:23::/64"]),
    record(23, addresses=["::ffff:192.0.2.23", "2001:db8:1::23"], podCIDRs=["10.244.24.0/24"]),
    record(24, addresses=["255.255.255.255", "169.254.1.1"], podCIDRs=["10.244.25.0/24"]),
    record(25, addresses=["192.0.2.25"] * 40, podCIDRs=["10.244.26.0/24"] * 40, name="n" * 4000),
    record(26, addresses=["2001:db8:1::2", "192.0.2.2"], podCIDRs=["fd00:244:0:26::/64"], name='"\n\u202e'),
    record(27, podCIDRs=["0.0.0.0/32"]),
    record(28, podCIDRs=["::/128", "::1/128"]),
    *(record(30 + n, podCIDRs=["10.244.30.0/24"]) for n in range(40)),
]


@pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
def test_odd_records_do_not_affect_other_peers(cni: CNI, node: Node, pod: Pod, kind: str) -> None:
    """Even records that only the kernel would refuse: valid peers get their routes, and CHECK passes after ADD."""
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    write(node, PEERS_FILE, {"peers": [*ODD, record(2), record(3)]})
    conf = network(kind)
    result = cni.add(conf, pod)
    assert (set(TO_2) | set(TO_3)) <= set(own_routes(node))
    cni.check(conf, pod, result)
    assert all(line.startswith(f"{kind}: ") and len(line) < 500 for line in told(cni, "STATUS", conf))

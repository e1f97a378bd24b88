"""IPv6 needs an MTU of at least 1280 bytes: with less, the kernel silently disables IPv6 on a link."""

import pytest

from tests.conformance.support import DUAL, V4, V6, StandIn, host_local, layer2, leases, network
from tests.netns.cni import CNI, CNIFailure, with_prev
from tests.netns.node import Node

SENTENCE = r"expected at least 1280, which IPv6 \(.*\) needs, got {}"
STATIC = {"type": "static", "addresses": [{"address": "fd00:1::5/64"}]}
NODE = {"cniVersion": "1.1.0", "name": "cluster", "podCIDRs": ["fd00:244:0:1::/64", "10.244.1.0/24"]}


@pytest.mark.parametrize(
    "keys",
    [
        {"ipam": host_local(V6)},
        {"ipam": DUAL},
        {"ipam": {"type": "host-local", **V6}},
        {"ipam": host_local(V4), "runtimeConfig": {"ipRanges": [[V6]]}},
        {"ipam": STATIC},
        {"ipam": {"type": "static"}, "runtimeConfig": {"ips": ["fd00:1::5/64"]}},
        {"ipam": {"type": "static"}, "args": {"cni": {"ips": ["fd00:1::5/64"]}}},
    ],
)
def test_bridge_refuses_a_small_mtu_before_it_makes_anything(cni: CNI, node: Node, keys: dict) -> None:
    """ADD and STATUS fail with code 7 and name the key; 1280 is accepted."""
    pod = node.pod("pod1")
    for verb in (lambda conf: cni.add(conf, pod), cni.status):
        with pytest.raises(CNIFailure, match=f'"mtu": {SENTENCE.format(1279)}') as caught:
            verb(layer2(mtu=1279, **keys))
        assert caught.value.code == 7
    assert ("br0" in node.links(), leases(node)) == (False, {})
    cni.add(layer2(mtu=1280, **keys), pod)


def test_configured_addresses_that_are_replaced_do_not_count(cni: CNI, node: Node) -> None:
    """If the runtime requests IPv4 in place of a configured IPv6 address, or with IPv4 alone, less is accepted."""
    conf = layer2(mtu=1000, ipam=STATIC, runtimeConfig={"ips": ["10.1.2.5/24"]})
    cni.status(conf)
    cni.add(conf, node.pod("pod1"))
    cni.add(layer2(mtu=1000, ipam=host_local(V4)), node.pod("pod2"))


def test_an_ipv6_address_from_another_ipam_plugin_counts(node: Node, bin_dir, tmp_path) -> None:
    """It is not known beforehand: the ADD is undone, with the same message."""
    stand_in = StandIn(tmp_path)
    stand_in.answers(add={"cniVersion": "1.1.0", "ips": [{"address": "fd00:1::5/64"}]})
    cni = CNI(node, bin_dir, more=(tmp_path,))
    with pytest.raises(CNIFailure, match=f'"mtu": {SENTENCE.format(1000)}'):
        cni.add(network({"type": "stand-in"}, mtu=1000), node.pod("pod1"))
    assert "br0" not in node.links()


def test_an_existing_bridge_with_a_small_mtu_is_refused(cni: CNI, node: Node) -> None:
    """It cannot carry an IPv6 gateway: the message names the bridge, and nothing is left."""
    node.run(["ip", "link", "add", "br0", "mtu", "1000", "type", "bridge"])
    with pytest.raises(CNIFailure, match=f'MTU of "br0": {SENTENCE.format(1000)}') as caught:
        cni.add(network(host_local(V6)), node.pod("pod1"))
    assert (caught.value.code, leases(node)) == (7, {})


@pytest.mark.parametrize(
    ("kind", "keys", "uplink", "what"),
    [
        ("kubenet", {"mtu": 1200}, 1500, '"mtu": .* got 1200'),
        ("kubenet", {}, 1000, "the smallest MTU of the node's links: .* got 1000"),
        ("vxlan", {"mtu": 1200}, 1500, '"mtu": .* got 1200'),
        ("vxlan", {}, 1320, 'MTU that the tunnel leaves of the 1320 of "wan0": .* got 1270'),
    ],
)
def test_kubenet_and_vxlan_refuse_a_small_mtu(
    cni: CNI, node: Node, kind: str, keys: dict, uplink: int, what: str
) -> None:
    """ADD and STATUS fail with code 7 before anything is made, whether the MTU is configured or derived."""
    node.outside()
    if uplink < 1280:  # wan0 loses its IPv6 addresses, and needs none here
        node.run(["ip", "-6", "address", "flush", "dev", "wan0"])
    node.run(["ip", "link", "set", "wan0", "mtu", str(uplink)])
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    conf, pod = {**NODE, "type": kind, **keys}, node.pod("pod1")
    for verb in (lambda: cni.add(conf, pod), lambda: cni.status(conf)):
        with pytest.raises(CNIFailure, match=what) as caught:
            verb()
        assert caught.value.code == 7
    assert not {"cbr0", "slash24.1"} & set(node.links())
    if kind == "kubenet":
        cni.add({**conf, "podCIDRs": ["10.244.1.0/24"]}, pod)


def test_tuning_refuses_an_mtu_that_would_remove_addresses(cni: CNI, node: Node) -> None:
    """The pod keeps its IPv6 addresses; a pod with IPv4 alone may have that MTU."""
    pods = [node.pod("pod1"), node.pod("pod2")]
    tuning = {"cniVersion": "1.1.0", "name": "net", "type": "tuning", "mtu": 1000}
    result = cni.add(network(DUAL), pods[0])
    with pytest.raises(CNIFailure, match=f'"mtu": {SENTENCE.format(1000)}') as caught:
        cni.add(with_prev(tuning, result), pods[0])
    assert caught.value.code == 7
    assert pods[0].addresses("eth0") == {"10.1.2.2/24", "fd00:1::2/64"}
    other = cni.add(network(host_local(V4), name="net2"), pods[1])
    cni.add(with_prev(tuning, other), pods[1])
    assert pods[1].links()["eth0"]["mtu"] == 1000

"""DEL removes what ADD created, in any state and any number of times (spec section 2 "DEL")."""

from collections.abc import Mapping

import pytest

from tests.conformance.support import (
    DUAL,
    Refused,
    StandIn,
    container_interface,
    host_veth,
    layer2,
    leases,
    mentions,
    network,
    on_bridge,
    traces,
)
from tests.netns.cni import CNI, VERSIONS, CNIFailure
from tests.netns.node import Node, Pod


def nothing_of(node: Node, pod: Pod) -> None:
    """Asserts that no link, lease or rule of the pod is left on the node."""
    assert leases(node) == {}
    assert on_bridge(node) == set()
    assert mentions(node, pod.name, "10.1.2.2", "fd00:1::2") == []


@pytest.mark.parametrize("version", VERSIONS)
def test_del_removes_all_of_the_pod(cni: CNI, node: Node, pod: Pod, version: str) -> None:
    """The interface, its host veth and the leases are deleted; the bridge, which belongs to the network, may stay."""
    conf = network(DUAL, version=version)
    result = cni.add(conf, pod)
    cni.delete(conf, pod, result)
    nothing_of(node, pod)
    assert "eth0" not in pod.links()


@pytest.mark.parametrize("conf", [network(), layer2()], ids=["with addresses", "layer 2"])
def test_del_repeats(cni: CNI, node: Node, pod: Pod, conf: Mapping) -> None:
    """A second and a third DEL succeed, and so does the DEL of an attachment that was never added."""
    cni.delete(conf, pod)
    cni.add(conf, pod)
    for _ in range(3):
        cni.delete(conf, pod)
    nothing_of(node, pod)


def test_del_of_the_ipam_plugin_repeats(ipam: CNI, node: Node, pod: Pod) -> None:
    """The same for an IPAM plugin."""
    ipam.delete(network(), pod)
    ipam.add(network(), pod)
    ipam.delete(network(), pod)
    ipam.delete(network(), pod)
    assert leases(node) == {}


@pytest.mark.parametrize("netns", [None, ""], ids=["absent", "empty"])
def test_del_without_namespace_frees_the_addresses(cni: CNI, node: Node, pod: Pod, netns: str | None) -> None:
    """CNI_NETNS is optional for DEL: the leases are released without it."""
    result = cni.add(network(DUAL), pod)
    cni.delete(network(DUAL), pod, result, netns=netns)
    assert leases(node) == {}


def test_del_without_namespace_removes_the_interface(cni: CNI, node: Node, pod: Pod) -> None:
    """The result of ADD names the host veth, so DEL can delete it without the namespace."""
    result = cni.add(network(), pod)
    cni.delete(network(), pod, result, netns="")
    nothing_of(node, pod)


def test_del_after_the_namespace_vanished(cni: CNI, node: Node, pod: Pod) -> None:
    """If the namespace and its path do not exist any more, DEL still releases the leases."""
    result = cni.add(network(DUAL), pod)
    pod.vanish()
    cni.delete(network(DUAL), pod, result)
    assert leases(node) == {}


def test_del_where_the_namespace_is_a_plain_file(cni: CNI, node: Node, pod: Pod) -> None:
    """A reboot leaves plain files where namespaces were mounted: DEL releases the leases and succeeds."""
    result = cni.add(network(), pod)
    pod.vanish()
    node.path(pod.path).write_text("")
    cni.delete(network(), pod, result)
    assert leases(node) == {}


def test_del_in_its_own_namespace_leaves_the_nodes_link_alone(cni: CNI, node: Node, pod: Pod) -> None:
    """CNI_NETNS that is the plugin's own namespace belongs to no pod: a link of that name stays, error or not."""
    node.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "uplink"])
    node.run(["ip", "netns", "attach", "self", str(node.pid)])
    try:
        cni.delete(network(), pod, netns="/run/netns/self")
    except CNIFailure as refused:
        assert refused.code == 8  # noqa: PT017 (both are correct: to refuse, or to release the leases and succeed)
    assert {"eth0", "uplink"} <= set(node.links())


def test_del_after_the_interface_vanished(cni: CNI, node: Node, pod: Pod) -> None:
    """If the pod's interface does not exist any more, DEL removes the rest."""
    result = cni.add(network(), pod)
    pod.run(["ip", "link", "del", "eth0"])
    cni.delete(network(), pod, result)
    nothing_of(node, pod)


def test_del_after_the_bridge_vanished(cni: CNI, node: Node, pod: Pod) -> None:
    """If the bridge does not exist any more, DEL removes the pod's interface and leases."""
    result = cni.add(network(), pod)
    node.run(["ip", "link", "del", "br0"])
    cni.delete(network(), pod, result)
    assert "eth0" not in pod.links()
    assert host_veth(result) not in node.links()
    assert leases(node) == {}


def test_del_needs_no_result(cni: CNI, node: Node, pod: Pod) -> None:
    """Runtimes before 0.4.0 pass no prevResult, and after a failed ADD there is none."""
    cni.add(network(DUAL, ipMasq=True), pod)
    cni.delete(network(DUAL, ipMasq=True), pod)
    nothing_of(node, pod)


def test_del_takes_unknown_arguments(cni: CNI, node: Node, pod: Pod) -> None:
    """CNI_ARGS that are unknown to the plugin, or that it cannot parse, do not keep DEL from removing everything."""
    cni.add(network(), pod)
    cni.delete(network(), pod, args="FOO=bar;;=")
    nothing_of(node, pod)


def test_del_leaves_the_other_pods_alone(cni: CNI, node: Node, pod: Pod, other: Pod) -> None:
    """DEL removes only this pod's resources: the other pod keeps its link, lease and rules, and its CHECK passes."""
    conf = network(ipMasq=True, macspoofchk=True)
    first, second = cni.add(conf, pod), cni.add(conf, other)
    cni.delete(conf, pod, first)
    assert on_bridge(node) == {host_veth(second)}
    assert leases(node).keys() == {"10.1.2.3"}
    assert mentions(node, "10.1.2.3")
    assert mentions(node, container_interface(second, other)["mac"])
    cni.check(conf, other, second)


def test_del_leaves_the_pods_other_interface_alone(cni: CNI, node: Node, pod: Pod) -> None:
    """A pod attached twice loses only the interface that is deleted."""
    conf = network(isDefaultGateway=None, isGateway=True)
    cni.add(conf, pod)
    second = cni.add(conf, pod, ifname="eth1")
    cni.delete(conf, pod)
    assert pod.addresses("eth1") == {"10.1.2.3/24"}
    assert leases(node) == {"10.1.2.3": f"{pod.name}\r\neth1"}
    cni.check(conf, pod, second, ifname="eth1")


def test_del_of_one_of_two_masqueraded_interfaces(cni: CNI, node: Node, pod: Pod) -> None:
    """Each of a pod's two attachments to a network has its own masquerade: DEL of one keeps the other's."""
    conf = network(isDefaultGateway=None, isGateway=True, ipMasq=True)
    first = cni.add(conf, pod)
    cni.add(conf, pod, ifname="eth1")
    cni.delete(conf, pod, first)
    assert mentions(node, "10.1.2.3")
    assert not mentions(node, "10.1.2.2")


@pytest.mark.parametrize("state", ["namespace vanished", "interface vanished", "namespace not given"])
@pytest.mark.parametrize("feature", ["ipMasq", "macspoofchk"])
def test_del_removes_the_rules_in_any_state(cni: CNI, node: Node, pod: Pod, feature: str, state: str) -> None:
    """The rules of a pod are removed even if its link or namespace does not exist any more, or CNI_NETNS is empty."""
    conf = network(**{feature: True})
    result = cni.add(conf, pod)
    mac = container_interface(result, pod)["mac"]
    assert mentions(node, "10.1.2.2", mac)
    if state == "interface vanished":
        pod.run(["ip", "link", "del", "eth0"])
    elif state == "namespace vanished":
        pod.vanish()
    cni.delete(conf, pod, result, **({"netns": ""} if state == "namespace not given" else {}))
    assert mentions(node, pod.name, "10.1.2.2", mac) == []


def test_del_without_the_ipam_plugin_says_so_and_removes_the_rest(
    cni: CNI, node: Node, pod: Pod, refused: Refused
) -> None:
    """Without its IPAM plugin installed DEL returns an error, but deletes the interface."""
    cni.add(network(), pod)
    with refused():
        cni.delete(network({"type": "no-such-ipam"}), pod)
    assert on_bridge(node) == set()


def test_del_with_a_failing_ipam_plugin_finishes_the_rest(
    with_stand_in: CNI, stand_in: StandIn, node: Node, pod: Pod
) -> None:
    """The IPAM plugin's error is returned after everything else was removed: interface and masquerade."""
    stand_in.answers(
        add={"cniVersion": "1.1.0", "ips": [{"address": "10.1.2.2/24", "gateway": "10.1.2.1"}]},
        errors={"DEL": {"code": 123, "msg": "out of order"}},
    )
    conf = network({"type": "stand-in"}, ipMasq=True)
    result = with_stand_in.add(conf, pod)
    with pytest.raises(CNIFailure) as caught:
        with_stand_in.delete(conf, pod, result)
    assert (caught.value.code, caught.value.msg) == (123, "out of order")
    assert on_bridge(node) == set()
    assert mentions(node, "10.1.2.2") == []


def test_add_works_again_after_del(cni: CNI, node: Node, pod: Pod) -> None:
    """The same attachment can be added again, and its DEL leaves as little behind as the first."""
    cni.add(network(), pod)
    cni.delete(network(), pod)
    before = traces(node, pod)
    cni.delete(network(), pod, cni.add(network(), pod))
    assert traces(node, pod) == before

"""Requested ports that `portmap` finds taken: those of a deleted pod are freed, any other owner is named."""

import re

import pytest

from tests.netns.cni import CNI, CNIFailure
from tests.netns.nft_tools import nft, table
from tests.netns.node import NODE_V4, NODE_V6, OUTSIDE_V4, Node, Pod, ask, wait_until
from tests.netns.published import BRIDGE, HTTP, OTHER_V4, POD_V4, TABLE, Member, port, portmap


@pytest.fixture
def outside(node: Node) -> Pod:
    """The external host; created first, which gives the node its addresses."""
    return node.outside()


@pytest.fixture
def pod(cni: CNI, outside: Pod) -> Member:
    """The pod that owns the ports."""
    return Member(cni, "poda")


@pytest.fixture
def other(cni: CNI, pod: Member) -> Member:
    """The pod that requests them."""
    return Member(cni, "podb")


def die(pod: Pod, result: dict) -> None:
    """Delete the pod's namespace without a DEL, and wait until the kernel has deleted its link."""
    pod.vanish()
    veth = next(one["name"] for one in result["interfaces"] if one["name"].startswith("veth"))
    assert wait_until(lambda: veth not in pod.node.links())


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
@pytest.mark.parametrize("host_ip", ["", "0.0.0.0", "::", NODE_V4, NODE_V6])
def test_ports_of_a_deleted_pod_are_freed(pod: Member, other: Member, protocol: str, host_ip: str) -> None:
    """Its host veth is missing, so it loses the requested port and all others, with conditions and masquerading."""
    wanted = port(8083, 80, protocol, host_ip)
    pod.add(wanted, HTTP, conditionsV4=["-s", "192.0.2.0/24"])
    die(pod.pod, pod.result)
    other.add(wanted)
    assert "poda" not in table(pod.node, TABLE)
    assert "-if-" not in table(pod.node, TABLE)
    other.check(wanted)


def test_traffic_goes_to_the_new_pod(pod: Member, other: Member, outside: Pod) -> None:
    """The port leads to the pod that took it over."""
    pod.add(HTTP)
    die(pod.pod, pod.result)
    other.add(HTTP)
    assert ask(outside, other.pod, OTHER_V4, 80, "tcp", to=(NODE_V4, 8080)) == OUTSIDE_V4


@pytest.mark.parametrize("holder", ["short name", "long name"])
def test_a_running_pod_keeps_its_port_and_the_message_says_how_to_free_it(
    pod: Member, other: Member, node: Node, holder: str
) -> None:
    """The command in the message frees the port when pasted into a shell."""
    wanted = port(8083, 80, host_ip=NODE_V4)
    name = {"containerid": "a" * 120} if holder == "long name" else {}
    third = node.pod("podc")
    result = pod.cni.add(BRIDGE, third, **name)
    pod.cni.add({**portmap(wanted), "prevResult": result}, third, **name)
    before = node.ruleset()
    with pytest.raises(CNIFailure, match="is taken by v1") as caught:
        other.add(wanted)
    assert node.ruleset() == before
    advice = caught.value.details
    assert advice.startswith("if that pod is gone, free ")
    node.run(["sh", "-ec", advice.partition(": ")[2]])
    other.add(wanted)
    other.check(wanted)


def test_no_port_is_freed_while_the_bridge_has_an_untagged_veth(
    pod: Member, other: Member, reference: CNI, node: Node
) -> None:
    """A veth without our tag may be the owner's, so nothing proves that the owner is deleted."""
    pod.add(HTTP)
    other.cni.delete(BRIDGE, pod.pod)
    Member(reference, "podc")
    with pytest.raises(CNIFailure, match="is taken by v1:net:poda:eth0"):
        other.add(HTTP)


def test_ports_of_a_deleted_pod_on_another_network_are_freed(cni: CNI, pod: Member, outside: Pod) -> None:
    """What counts is the bridge of the owner's network."""
    far = pod.node.pod("podf")
    ipam = {"type": "host-local", "subnet": "10.9.0.0/24"}
    result = cni.add({**BRIDGE, "name": "there", "bridge": "br1", "ipam": ipam}, far)
    cni.add({**portmap(HTTP, name="there"), "prevResult": result}, far)
    with pytest.raises(CNIFailure, match="is taken by v1:there:podf:eth0"):
        pod.add(HTTP)
    die(far, result)
    pod.add(HTTP)
    pod.check(HTTP)


@pytest.mark.parametrize("gateway", ["other end of a port", "VLAN of the bridge"])
def test_ports_of_a_deleted_pod_are_freed_if_the_gateway_is_beside_the_bridge(
    cni: CNI, outside: Pod, gateway: str
) -> None:
    """The bridge behind the gateway's VLAN link or veth counts; the gateway's own bridge port is not a pod's."""
    node, conf = outside.node, {**BRIDGE, "isDefaultGateway": False}
    pods = [node.pod("poda"), node.pod("podb")]
    results = [cni.add(conf, pod) for pod in pods]
    if gateway == "VLAN of the bridge":
        made = node.run(["ip", "link", "add", "link", "br0", "name", "br0.7", "type", "vlan", "id", "7"], check=False)
        if made.returncode:
            pytest.skip("kernel lacks VLAN links")
    else:
        node.run(["ip", "link", "add", "br0.7", "type", "veth", "peer", "name", "inner"])
        node.run(["ip", "link", "set", "inner", "up", "master", "br0"])
    node.run(["ip", "link", "set", "br0.7", "up"])
    node.run(["ip", "address", "add", "10.1.2.1/24", "dev", "br0.7"])
    node.run(["ip", "address", "add", "fd00:1::1/64", "dev", "br0.7", "nodad"])
    cni.add({**portmap(HTTP), "prevResult": results[0]}, pods[0])
    with pytest.raises(CNIFailure, match="is taken by"):
        cni.add({**portmap(HTTP), "prevResult": results[1]}, pods[1])
    die(pods[0], results[0])
    cni.add({**portmap(HTTP), "prevResult": results[1]}, pods[1])


def second_interface(pod: Member) -> dict:
    """Attach the container to another network, with IPv4 alone; the result."""
    ipam = {"type": "host-local", "subnet": "10.9.0.0/24"}
    return pod.cni.add({**BRIDGE, "name": "there", "bridge": "br1", "ipam": ipam}, pod.pod, ifname="eth1")


def test_a_container_has_its_ports_once_whatever_networks_it_has(pod: Member, outside: Pod) -> None:
    """Runtimes publish its ports on each of its networks: the first keeps them, the second gets those that are new."""
    with_first, new = portmap(HTTP, name="there"), port(8084, 80)
    result = second_interface(pod)
    pod.add(HTTP, port(8083, 80))
    pod.cni.add({**with_first, "prevResult": result}, pod.pod, ifname="eth1")
    pod.cni.check(with_first, pod.pod, result, ifname="eth1")
    with_new = portmap(HTTP, new, name="there", conditionsV4=["-s", "192.0.2.0/24"])
    pod.cni.add({**with_new, "prevResult": result}, pod.pod, ifname="eth1")
    pod.cni.check(with_new, pod.pod, result, ifname="eth1")
    pod.check(HTTP, port(8083, 80))
    assert ask(outside, pod.pod, POD_V4, 80, "tcp", to=(NODE_V4, 8080)) == OUTSIDE_V4
    assert listed(pod.node) == {("", 8080), ("", 8083), ("", 8084)}
    pod.cni.delete(with_new, pod.pod, result, ifname="eth1")
    pod.check(HTTP, port(8083, 80))
    pod.cni.add({**with_first, "prevResult": result}, pod.pod, ifname="eth1")
    pod.delete()
    with pytest.raises(CNIFailure, match="8080/tcp is not forwarded"):
        pod.cni.check(with_first, pod.pod, result, ifname="eth1")
    pod.cni.add({**with_first, "prevResult": result}, pod.pod, ifname="eth1")
    pod.cni.check(with_first, pod.pod, result, ifname="eth1")
    pod.cni.delete(with_first, pod.pod, result, ifname="eth1")
    assert listed(pod.node) == set()


def test_a_container_does_not_share_another_containers_ports(pod: Member, other: Member) -> None:
    """One port is its other interface's, one is free because its pod is gone, one belongs to a running pod."""
    result = second_interface(pod)
    pod.add(HTTP)
    other.add(port(8084, 80))
    third = Member(pod.cni, "podc")
    third.add(port(8085, 80))
    conf = portmap(HTTP, port(8084, 80), port(8085, 80), name="there")
    die(other.pod, other.result)
    with pytest.raises(CNIFailure, match="8085/tcp is taken by v1:net:podc:eth0"):
        pod.cni.add({**conf, "prevResult": result}, pod.pod, ifname="eth1")
    conf = portmap(HTTP, port(8084, 80), name="there")
    pod.cni.add({**conf, "prevResult": result}, pod.pod, ifname="eth1")
    pod.cni.check(conf, pod.pod, result, ifname="eth1")


def test_a_failed_add_frees_no_ports(cni: CNI, pod: Member, other: Member) -> None:
    """One port belongs to a deleted pod, another to a running one: the ADD fails and changes nothing."""
    pod.add(HTTP)
    third = Member(cni, "podc")
    third.add(port(8081, 80))
    die(pod.pod, pod.result)
    before = pod.node.ruleset()
    with pytest.raises(CNIFailure, match="8081/tcp is taken by v1:net:podc:eth0"):
        other.add(HTTP, port(8081, 80))
    assert pod.node.ruleset() == before


def test_an_entry_without_an_owner_is_kept(pod: Member, other: Member) -> None:
    """An administrator's entry stays, and the message says how to delete it."""
    pod.add(port(8081, 80))
    nft(pod.node, "add", "element", *TABLE.split(), "ports4", "{ tcp . 8080 : 10.9.9.9 . 80 }")
    with pytest.raises(CNIFailure, match="is taken by an unknown owner") as caught:
        other.add(HTTP)
    pod.node.run(["sh", "-ec", caught.value.details.partition(": ")[2]])
    other.add(HTTP)


# -- programs that look for free ports ------------------------------------------------------------------------------


def listed(node: Node) -> set[tuple[str, int]]:
    """The ports in use, with their address ("" for all), as nerdctl reads them from iptables."""
    found = set()
    shown = node.run(["iptables", "-t", "nat", "-S", "CNI-HOSTPORT-DNAT"], check=False).stdout
    for rule in shown.splitlines():
        ports = re.search(r"--dports ((,?\d+)+)", rule)
        address = re.search(r"-d (\S+?)(?:/\d+)?\s", rule)
        found |= {(address[1] if address else "", int(one)) for one in (ports[1].split(",") if ports else ())}
    return found


def test_ports_in_use_are_listed_where_nerdctl_looks(pod: Member, other: Member) -> None:
    """Each port of each pod is listed until it is replaced or removed: by DEL, by GC, or with a deleted pod."""
    node, many = pod.node, [port(9000 + number, 80, "udp") for number in range(20)]
    pod.add(HTTP, port(8053, 53, "udp", NODE_V4), port(8132, 132, "sctp", "::"), port(8133, 80, "tcp", NODE_V6))
    assert listed(node) == {("", 8080), (NODE_V4, 8053), ("", 8132)}
    other.add(*many)
    assert listed(node) == {("", 8080), (NODE_V4, 8053), ("", 8132), *(("", 9000 + number) for number in range(20))}
    pod.add(port(8081, 80))
    other.delete()
    assert listed(node) == {("", 8081)}
    other.add(HTTP)
    pod.cni.gc(portmap(), other.pod)
    assert listed(node) == {("", 8080)}
    die(other.pod, other.result)
    pod.add(HTTP, port(8084, 80))
    assert listed(node) == {("", 8080), ("", 8084)}
    node.run(["iptables", "-t", "nat", "-F"])
    pod.add(HTTP)
    assert listed(node) == {("", 8080)}


def test_ports_of_kubernetes_pods_are_not_listed(pod: Member, other: Member) -> None:
    """Kubernetes does not look for free ports itself."""
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web"
    conf = {**portmap(HTTP), "prevResult": pod.result}
    pod.cni.add(conf, pod.pod, args=args)
    other.add(port(8081, 80))
    assert listed(pod.node) == {("", 8081)}
    pod.cni.delete(conf, pod.pod, pod.result, args=args)
    assert listed(pod.node) == {("", 8081)}


def test_after_a_flush_the_next_add_lists_the_ports_of_all_pods(pod: Member, other: Member) -> None:
    """Each port once, whichever pod the ADD is for."""
    pod.add(HTTP)
    pod.node.run(["iptables", "-t", "nat", "-F"])
    other.add(port(8081, 80))
    other.add(port(8081, 80))
    assert listed(pod.node) == {("", 8080), ("", 8081)}
    shown = pod.node.run(["iptables", "-t", "nat", "-S", "CNI-HOSTPORT-DNAT"]).stdout
    assert shown.count("--dports") == 2


def test_listed_ports_do_not_affect_the_references_packets(
    pod: Member, other: Member, outside: Pod, reference: CNI
) -> None:
    """The reference's jump passes through the list to its own rules, and neither CHECK takes the list for mappings."""
    pod.add(HTTP)
    other.add(port(8081, 80), cni=reference, backend="iptables")
    assert ask(outside, other.pod, OTHER_V4, 80, "tcp", to=(NODE_V4, 8081)) == OUTSIDE_V4
    assert ask(outside, pod.pod, POD_V4, 80, "tcp", to=(NODE_V4, 8080)) == OUTSIDE_V4
    other.check(port(8081, 80), cni=reference, backend="iptables")
    other.delete(port(8081, 80), cni=reference, backend="iptables")
    pod.check(HTTP)
    nft(pod.node, "flush", "map", *TABLE.split(), "ports4")
    with pytest.raises(CNIFailure, match="is not forwarded"):
        pod.check(HTTP)

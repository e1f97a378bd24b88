"""Pods that run while their bridge is deleted, or the node's MTU changes."""

from collections.abc import Callable

import pytest

from linux import netns_ids
from linux.netlink.socket import Netlink
from linux.netns_ids import opened
from linux.rtnl.links import find_link
from nodes.running_pods import follow_mtu, leased, list_host_veths, rejoin
from plugins.node.conf import NodeConf, parse_section
from spec.config import Section
from tests.netns.cluster_tools import network
from tests.netns.cni import CNI
from tests.netns.node import Node, Pod
from tests.netns.overlay_tools import inside


@pytest.fixture
def pods(cni: CNI, node: Node, monkeypatch: pytest.MonkeyPatch) -> list[Pod]:
    """Two pods of `kubenet`, with an MTU of 1460 bytes; this process finds their namespaces as on the node."""
    monkeypatch.setattr(netns_ids, "_FOLDERS", (str(node.path("/run/netns")),))
    made = [node.pod("a"), node.pod("b")]
    for pod in made:
        cni.add(network("kubenet"), pod)
    return made


def conf(**keys: object) -> NodeConf:
    """The configuration of the node."""
    return parse_section(Section(network("kubenet", **keys)))


def addresses(pod: Pod) -> list[str]:
    """The pod's addresses, without prefix lengths."""
    return [cidr.partition("/")[0] for cidr in pod.addresses("eth0")]


def ports(node: Node) -> dict[str, dict]:
    """The host veths by alias, with what makes them ports."""
    found = {link["ifalias"]: link for link in node.links().values() if link.get("ifalias", "").startswith("v1:")}
    keys = ("hairpin", "isolated", "learning", "flood")
    data = {alias: link.get("linkinfo", {}).get("info_slave_data", {}) for alias, link in found.items()}
    return {
        alias: {"master": link.get("master"), "state": link["operstate"], **{key: data[alias].get(key) for key in keys}}
        for alias, link in found.items()
    }


def on_node(node: Node, call: Callable[[Netlink], object]) -> object:
    """What a call returns in the node's network namespace."""
    with inside(node) as host:
        return call(host)


@pytest.mark.parametrize("mode", ["hairpin-veth", "none"])
def test_pods_join_a_bridge_that_was_replaced(cni: CNI, node: Node, mode: str) -> None:
    """With the flags that an ADD sets, and with the gateways: also that of an earlier subnet."""
    first, second = node.pod("first"), node.pod("second")
    earlier = ["10.244.9.0/24", "fd00:244:0:9::/64"]
    cni.add(network("kubenet", podCIDRs=earlier, hairpinMode=mode), first)
    cni.add(network("kubenet", hairpinMode=mode), second)
    before = ports(node)
    gateways = node.addresses("cbr0")
    assert {"10.244.1.1/24", "10.244.9.1/24"} <= gateways
    node.run(["ip", "link", "del", "cbr0"])
    assert not first.reaches(addresses(second)[0], timeout=0)
    node.run(["ip", "link", "add", "cbr0", "type", "bridge"])
    node.run(["ip", "link", "set", "cbr0", "up"])
    used = (*addresses(first), *addresses(second))
    joined = on_node(
        node, lambda host: rejoin(host, "net", conf(hairpinMode=mode), find_link(host, "cbr0"), lambda: used)
    )
    assert joined == (2, ())
    assert ports(node) == before
    assert node.addresses("cbr0") == gateways
    assert all(first.reaches(address) for address in addresses(second))
    again = on_node(node, lambda host: rejoin(host, "net", conf(), find_link(host, "cbr0"), lambda: used))
    assert again == (0, ())


def test_only_pods_without_a_bridge_join(cni: CNI, node: Node, pods: list[Pod]) -> None:
    """Neither those of another network, nor those on another bridge, nor links of others."""
    other = node.pod("other")
    cni.add(network("kubenet", name="other", bridge="br1", podCIDRs=["10.9.0.0/24"], clusterCIDRs=None), other)
    node.run(["ip", "link", "add", "theirs", "type", "veth", "peer", "name", "theirs1"])
    node.run(["ip", "link", "add", "br2", "type", "bridge"])
    names = {veth.alias: veth.name for veth in on_node(node, lambda host: list_host_veths(host, "net"))}
    assert set(names) == {"v1:net:a:eth0", "v1:net:b:eth0"}
    for name in names.values():
        node.run(["ip", "link", "set", name, "nomaster"])
    node.run(["ip", "link", "set", names["v1:net:b:eth0"], "master", "br2"])
    joined = on_node(node, lambda host: rejoin(host, "net", conf(), find_link(host, "cbr0"), list))
    assert joined == (1, ())
    assert {alias: port["master"] for alias, port in ports(node).items()} == {
        "v1:net:a:eth0": "cbr0",
        "v1:net:b:eth0": "br2",
        "v1:other:other:eth0": "br1",
    }
    assert "master" not in node.links()["theirs"]


def mtus(node: Node, pods: list[Pod]) -> set[int]:
    """The MTUs of all links of the pods, on both sides."""
    veths = on_node(node, lambda host: list_host_veths(host, "net"))
    return {veth.mtu for veth in veths} | {pod.links()["eth0"]["mtu"] for pod in pods}


@pytest.mark.parametrize("mtu", [1400, 1600])
def test_both_sides_of_running_pods_follow_the_mtu(node: Node, pods: list[Pod], mtu: int) -> None:
    """Down and up; the pods' addresses and routes stay."""
    before = [(pod.addresses("eth0"), pod.routes()) for pod in pods]
    assert on_node(node, lambda host: follow_mtu(host, "net", mtu)) == (2, ())
    assert mtus(node, pods) == {mtu}
    assert [(pod.addresses("eth0"), pod.routes()) for pod in pods] == before
    assert on_node(node, lambda host: follow_mtu(host, "net", mtu)) == (0, ())


def test_a_smaller_mtu_that_was_set_inside_stays(node: Node, pods: list[Pod]) -> None:
    """As by the plugin `tuning`; but a larger one would lose packets."""
    pods[0].run(["ip", "link", "set", "eth0", "mtu", "1300"])
    pods[1].run(["ip", "link", "set", "eth0", "mtu", "1600"])
    assert on_node(node, lambda host: follow_mtu(host, "net", 1400)) == (2, ())
    assert [pod.links()["eth0"]["mtu"] for pod in pods] == [1300, 1400]


def test_a_pod_without_a_name_is_found_by_its_process(node: Node, pods: list[Pod]) -> None:
    """Its namespace has no file any more, but a process in it."""
    running = pods[0].start(["sleep", "60"])
    try:
        node.run(["umount", "-l", "/run/netns/a"])
        assert on_node(node, lambda host: follow_mtu(host, "net", 1400)) == (2, ())
        inside_pod = ["nsenter", f"--net=/proc/{running.pid}/ns/net", "ip", "-o", "link", "show", "eth0"]
        assert " mtu 1400 " in node.run(inside_pod).stdout
    finally:
        running.kill()
        running.wait()


def test_a_pod_that_cannot_be_found_is_told(node: Node, pods: list[Pod]) -> None:
    """Its host veth keeps its MTU too, so that it is tried again; the others follow."""
    with node.path("/run/netns/a").open():  # this keeps the namespace
        node.run(["umount", "-l", "/run/netns/a"])
        changed, problems = on_node(node, lambda host: follow_mtu(host, "net", 1400))
        veth = next(veth for veth in on_node(node, lambda host: list_host_veths(host, "net")) if ":a:" in veth.alias)
        assert (changed, veth.mtu) == (1, 1460)
    assert problems == (
        f'cannot set the MTU of pods to 1400: their namespaces are not found, host veths "{veth.name}"',
    )


def test_namespaces_are_found_by_their_ids(node: Node, pods: list[Pod]) -> None:
    """Those that exist; the descriptors are closed afterwards."""
    with inside(node) as host:
        wanted = {veth.peer_netns for veth in list_host_veths(host, "net")}
        with opened(host, {*wanted, 7777}) as found:
            assert set(found) == wanted


def test_leases_name_the_addresses_of_pods(node: Node, pods: list[Pod]) -> None:
    """Those of host-local; none for other plugins."""
    folder = str(node.path("/var/lib/cni/networks"))
    expected = {address for pod in pods for address in addresses(pod)}
    assert set(leased("net", Section({"dataDir": folder}))) == expected
    assert leased("none", Section({"dataDir": folder})) == ()
    assert leased("net", Section({"type": "static"})) == ()

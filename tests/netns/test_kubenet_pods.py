"""How `kubenet` applies the keys that concern pods: MTU, hairpin mode, masquerade and IPAM."""

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.netns.cluster_tools import NO_PODS, network, pods_left, record, refused
from tests.netns.cni import CNI
from tests.netns.node import NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, Node, ask


def add_link(node: Node, name: str, mtu: int, *, kind: str = "veth", up: bool = True) -> None:
    """Create a link on the node that counts, or does not count, for the MTU of pods."""
    words = ["type", "veth", "peer", "name", f"{name}x"] if kind == "veth" else ["type", kind]
    node.run(["ip", "link", "add", name, "mtu", str(mtu), *words])
    for link in (name, f"{name}x")[: (2 if kind == "veth" else 1) if up else 0]:
        node.run(["ip", "link", "set", link, "mtu", str(mtu), "up"])


def test_the_mtu_is_the_smallest_of_the_nodes_links(cni: CNI, node: Node) -> None:
    """Counts links that are up, not loopback or point-to-point, and not the pods' own; below 576 the MTU is 1460."""
    pod = node.pod("pod")

    def mtu_with(**keys: object) -> int:
        conf = network("kubenet", **keys)
        result = cni.add(conf, pod)
        cni.check(conf, pod, result)
        (port,) = [one["name"] for one in result["interfaces"] if one["name"].startswith("veth")]
        found = {pod.links()["eth0"]["mtu"], node.links()[port]["mtu"]}
        cni.delete(conf, pod, result)
        assert len(found) == 1
        return found.pop()

    assert mtu_with() == 1460  # only the loopback is up
    assert mtu_with() == 1460  # the bridge exists now and does not count
    add_link(node, "big", 9000)
    assert mtu_with() == 9000
    add_link(node, "eth", 1500)
    assert mtu_with() == 1500
    add_link(node, "down", 1300, up=False)
    node.run(["ip", "tuntap", "add", "ptp", "mode", "tun"])  # point-to-point, like tunnels
    node.run(["ip", "link", "set", "ptp", "mtu", "1200", "up"])
    assert mtu_with() == 1500
    assert mtu_with(mtu=1400) == 1400
    assert mtu_with(mtu=9000) == 9000
    add_link(node, "tiny", 500)
    assert mtu_with() == 1460


def test_running_pods_keep_their_mtu(cni: CNI, node: Node) -> None:
    """A smaller link added later reduces the MTU of the next pod; CHECK of the earlier pod still passes."""
    add_link(node, "eth", 1500)
    conf, pods = network("kubenet"), [node.pod("one"), node.pod("two")]
    result = cni.add(conf, pods[0])
    add_link(node, "vpn", 1420)
    second = cni.add(conf, pods[1])
    assert [pod.links()["eth0"]["mtu"] for pod in pods] == [1500, 1420]
    for pod, answer in zip(pods, (result, second), strict=True):
        cni.check(conf, pod, answer)
    assert pods[0].reaches("10.244.1.3")


@pytest.mark.parametrize(
    ("mode", "hairpin", "promiscuous"),
    [
        (None, True, False),
        ("hairpin-veth", True, False),
        ("promiscuous-bridge", False, True),
        ("none", False, False),
    ],
)
def test_hairpin_modes(cni: CNI, node: Node, mode: str | None, hairpin: bool, promiscuous: bool) -> None:
    """Each mode has only its own settings; only promiscuous-bridge has the filter of duplicates."""
    pod, conf = node.pod("pod"), network("kubenet", hairpinMode=mode)
    result = cni.add(conf, pod)
    (port,) = [one["name"] for one in result["interfaces"] if one["name"].startswith("veth")]
    assert node.links()[port]["linkinfo"]["info_slave_data"]["hairpin"] is hairpin
    assert ("PROMISC" in node.links()["cbr0"]["flags"]) is promiscuous
    assert ("table bridge slash24_dedup_net" in node.ruleset()) is promiscuous
    cni.check(conf, pod, result)
    cni.delete(conf, pod, result)
    assert pods_left(node, pod) == NO_PODS


def test_a_promiscuous_bridge_filters_its_duplicates(cni: CNI, node: Node) -> None:
    """Frames from the bridge's MAC with a pod's address are dropped, in both families; pods and gateway are reachable.

    With another mode, the promiscuous flag and the rules are removed.
    """
    one, two = node.pod("one"), node.pod("two")
    conf = network("kubenet", hairpinMode="promiscuous-bridge")
    cni.add(conf, one)
    cni.add(conf, two)
    if node.run(["cat", "/proc/sys/net/bridge/bridge-nf-call-iptables"], check=False).stdout.strip() == "1":
        mac = node.links()["cbr0"]["address"]
        rules = node.run(["nft", "list", "table", "bridge", "slash24_dedup_net"]).stdout
        for version, subnet in (("ip", "10.244.1.0/24"), ("ip6", "fd00:244:0:1::/64")):
            assert f"ether saddr {mac}" in rules
            assert f"{version} saddr {subnet} drop" in rules
    for address in ("10.244.1.1", "10.244.1.3", "fd00:244:0:1::1", "fd00:244:0:1::3"):
        assert one.reaches(address)
    cni.add(network("kubenet", hairpinMode="none"), node.pod("three"))
    assert "slash24_dedup" not in node.ruleset()
    assert "PROMISC" not in node.links()["cbr0"]["flags"]


@pytest.mark.parametrize(
    ("keys", "masqueraded"),
    [
        ({}, True),
        ({"clusterCIDRs": None}, True),
        ({"ipMasq": False}, False),
        ({"nonMasqueradeCIDRs": ["192.0.2.0/24", "2001:db8:1::/64"]}, False),
        ({"nonMasqueradeCIDRs": ["10.0.0.0/8", "192.0.0.0/16", "192.0.2.2/32", "2001:db8::/32"]}, False),
        ({"nonMasqueradeCIDRs": ["172.16.0.0/12"]}, True),
        ({"clusterCIDRs": ["10.244.0.0/16", "192.0.2.0/24", "2001:db8::/32", "fd00:244::/48"]}, False),
        ({"peers": [record(2)]}, False),  # the outside host is another node here
    ],
    ids=json.dumps,
)
def test_masquerade(cni: CNI, node: Node, keys: dict, masqueraded: bool) -> None:
    """Traffic that leaves the cluster has the node's address; all other traffic has the pod's."""
    outside, pod = node.outside(), node.pod("pod")
    cni.add(network("kubenet", **keys), pod)
    seen = {(v, kind): ask(pod, outside, v, 80, kind) for v in (OUTSIDE_V4, OUTSIDE_V6) for kind in ("tcp", "udp")}
    own = {OUTSIDE_V4: "10.244.1.2", OUTSIDE_V6: "fd00:244:0:1::2"}
    wanted = {OUTSIDE_V4: NODE_V4, OUTSIDE_V6: NODE_V6} if masqueraded else own
    assert seen == {(v, kind): wanted[v] for v, kind in seen}


def test_nothing_is_masqueraded_between_pods_or_to_the_node(cni: CNI, node: Node) -> None:
    """Between pods of one subnet, and to the node at any of its addresses."""
    node.outside()
    one, two = node.pod("one"), node.pod("two")
    conf = network("kubenet", clusterCIDRs=None)
    cni.add(conf, one)
    cni.add(conf, two)
    for address, host in (("10.244.1.3", two), ("10.244.1.1", node), (NODE_V4, node)):
        assert ask(one, host, address, 80, "tcp") == "10.244.1.2"
    for address, host in (("fd00:244:0:1::3", two), ("fd00:244:0:1::1", node), (NODE_V6, node)):
        assert one.reaches(address)
        assert ask(one, host, address, 80, "udp") == "fd00:244:0:1::2"


@pytest.mark.parametrize("whose", ["ours", "the reference's"])
def test_another_ipam(cni: CNI, node: Node, bin_dir: Path, reference_bin: Path, tmp_path: Path, whose: str) -> None:
    """`static` from either suite: its addresses are used, default routes and gateways added; DEL removes everything."""
    folder = bin_dir
    if whose != "ours":
        folder = tmp_path
        (folder / "static").symlink_to(reference_bin / "static")
    called = CNI(node, bin_dir, more=(folder,))
    ipam = {"type": "static", "addresses": [{"address": "10.244.1.77/24"}, {"address": "fd00:244:0:1::77/64"}]}
    conf, pod = network("kubenet", ipam=ipam), node.pod("pod")
    called.status(conf)
    result = called.add(conf, pod)
    assert pod.addresses("eth0") == {"10.244.1.77/24", "fd00:244:0:1::77/64"}
    assert {"default", "default6"} <= set(pod.routes())
    assert node.addresses("cbr0") == {"10.244.1.1/24", "fd00:244:0:1::1/64"}
    assert pod.reaches("10.244.1.1")
    called.check(conf, pod, result)
    called.delete(conf, pod, result)
    assert pods_left(node, pod) == NO_PODS


def test_existing_ipam_keys_are_kept(cni: CNI, node: Node) -> None:
    """Type, ranges and routes are filled in; existing keys are kept, whatever their case."""
    pod = node.pod("pod")
    own = [[{"subnet": "10.244.1.0/24", "rangeStart": "10.244.1.100"}]]
    for ipam, address, routes in (
        ({"dataDir": "/run/leases"}, "10.244.1.2/24", {"0.0.0.0/0", "::/0"}),
        ({"type": "host-local", "ranges": own}, "10.244.1.100/24", {"0.0.0.0/0", "::/0"}),
        ({"Ranges": own, "routes": [{"dst": "10.0.0.0/8"}]}, "10.244.1.101/24", {"10.0.0.0/8", "0.0.0.0/0"}),
        ({"subnet": "10.244.1.0/25", "rangeEnd": "10.244.1.2"}, "10.244.1.2/25", {"0.0.0.0/0", "::/0"}),
    ):
        conf = network("kubenet", ipam=ipam, podCIDRs=["10.244.1.0/24"] if "dataDir" not in ipam else None)
        if "dataDir" in ipam:
            conf["podCIDRs"] = ["10.244.1.0/24", "fd00:244:0:1::/64"]
        result = cni.add(conf, pod)
        assert result["ips"][0]["address"] == address
        assert {route["dst"] for route in result["routes"]} <= routes
        assert ("/run/leases" in ipam.values()) == node.path("/run/leases/net/10.244.1.2").exists()
        cni.check(conf, pod, result)
        cni.delete(conf, pod, result)
    assert not node.path("/run/leases/net/10.244.1.2").exists()


_WITHOUT_SUBNET_ROUTE = """
import subprocess
from linux.netlink.socket import Netlink
from tests.netns import fail_every_step
RTM_NEWROUTE = 24
send, removed = Netlink.send, []
def without_subnet_route(pod, requests, **options):
    routes = [one for one in requests if int.from_bytes(one[4:6], "little") == RTM_NEWROUTE]
    if routes and len(routes) < len(requests):
        send(pod, [one for one in requests if one not in routes], **options)
        subprocess.run(["ip", "-6", "route", "del", "fd00:244:0:1::/64", "dev", "eth0"], check=True)
        removed.append(requests)
        requests = routes
    return send(pod, requests, **options)
Netlink.send = without_subnet_route
status = fail_every_step.call("ADD", __import__("sys").stdin.read(), "{home}", "/run/netns/pod")
raise SystemExit(status if removed else "no route was removed")
"""


def test_the_route_to_the_ipv6_subnet_may_be_missing(cni: CNI, node: Node) -> None:
    """The kernel omits it when memory is short: ADD adds it, and then the default route."""
    pod, conf = node.pod("pod"), network("kubenet")
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    script = _WITHOUT_SUBNET_ROUTE.replace("{home}", str(cni.folder))
    node.run([sys.executable, "-c", script], stdin=json.dumps(conf), env=env)
    assert {"fd00:244:0:1::/64", "default6"} <= set(pod.routes())
    assert pod.reaches("fd00:244:0:1::1")


def test_status_with_a_missing_ipam_plugin(cni: CNI, node: Node) -> None:
    """STATUS returns 50 and names the plugin."""
    error = refused(cni, "STATUS", network("kubenet", ipam={"type": "nobody"}))
    assert (error.code, "nobody" in error.text) == (50, True)

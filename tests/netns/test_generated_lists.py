"""The network configuration lists that nerdctl and CRI-O write, as they are, run by cnitool."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.conformance.support import leases
from tests.netns.cni import Cnitool
from tests.netns.node import NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, Node, Pod, ask

CACHE = "/var/lib/cni/results"
NETWORKS = ("bridge", "other", "inner", "dual", "crio")


def nerdctl(
    name: str, bridge: str, ranges: Sequence[Sequence[Mapping]], *, policy: str = "same-bridge", internal: bool = False
) -> dict:
    """What `nerdctl network create` writes; `policy`: "isolated" with `--opt icc=false`; internal: `--internal`."""
    ipam = {"type": "host-local", "ranges": ranges}
    plugin = {"type": "bridge", "bridge": bridge, "hairpinMode": True, "ipam": ipam}
    ports = []
    if not internal:
        ipam["routes"] = [{"dst": "0.0.0.0/0"}]
        plugin |= {"isGateway": True, "ipMasq": True}
        ports = [{"type": "portmap", "capabilities": {"portMappings": True}}]
    if any(":" in each["subnet"] for one in ranges for each in one):
        plugin["capabilities"] = {"ips": True}
    firewall = {"type": "firewall", "ingressPolicy": policy}
    made_by = {"nerdctlID": "7e2e" * 16, "nerdctlLabels": {"nerdctl/default-network": "true"}}
    plugins = [plugin, *ports, firewall, {"type": "tuning"}]
    return {"cniVersion": "1.0.0", "name": name, **made_by, "plugins": plugins}


def crio(ranges: Sequence[str], routes: Sequence[str]) -> dict:
    """What CRI-O installs."""
    ipam = {
        "type": "host-local",
        "routes": [{"dst": route} for route in routes],
        "ranges": [[{"subnet": subnet}] for subnet in ranges],
    }
    flags = {"isGateway": True, "ipMasq": True, "hairpinMode": True}
    return {
        "cniVersion": "1.0.0",
        "name": "crio",
        "plugins": [{"type": "bridge", "bridge": "cni0", **flags, "ipam": ipam}],
    }


DEFAULT = nerdctl("bridge", "nerdctl0", [[{"subnet": "10.4.0.0/24", "gateway": "10.4.0.1"}]])
OTHER = nerdctl("other", "br-8b2e3f0c9d1a", [[{"subnet": "10.4.1.0/24", "gateway": "10.4.1.1"}]])
CRIO_RANGES, CRIO_ROUTES = ("10.85.0.0/16", "1100:200::/24"), ("0.0.0.0/0", "::/0")
CRIO = {
    "10-crio-bridge": crio(CRIO_RANGES, CRIO_ROUTES),
    "11-crio-ipv4-bridge": crio(CRIO_RANGES[:1], CRIO_ROUTES[:1]),
}


@pytest.fixture
def tool(node: Node, bin_dir: Path, reference_bin: Path) -> Iterator[Cnitool]:
    """The real cnitool, with only our plugins in CNI_PATH; at the end no lease or cached result is left."""
    yield Cnitool(node, reference_bin / "cnitool", (bin_dir,))
    assert list(node.path(CACHE).iterdir()) == []
    assert all(leases(node, f"/var/lib/cni/networks/{name}") == {} for name in NETWORKS)


def attach(tool: Cnitool, network: str, name: str, **options: object) -> tuple[Pod, list[str]]:
    """A new pod of the network, and its addresses; CHECK passes."""
    pod = tool.node.pod(name)
    result = tool.ok("add", network, pod, **options)
    tool.ok("check", network, pod, **options)
    return pod, [each["address"].partition("/")[0] for each in result["ips"]]


def test_nerdctls_networks(tool: Cnitool, node: Node) -> None:
    """Containers reach those of their network alone, and outside; their ports are published."""
    outside = node.outside()
    for conf in (DEFAULT, OTHER):
        tool.write(conf)
    ports = {"capabilities": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}}
    web, (address,) = attach(tool, "bridge", "web", **ports)
    near, _ = attach(tool, "bridge", "near")
    far, (far_address,) = attach(tool, "other", "far")
    assert near.reaches(address)
    assert not far.reaches(address, timeout=0)
    assert not near.reaches(far_address, timeout=0)
    assert ask(far, outside, OUTSIDE_V4, 80, "tcp") == NODE_V4
    assert ask(outside, web, address, 80, "tcp", to=(NODE_V4, 8080)) == OUTSIDE_V4
    tool.ok("del", "bridge", web, **ports)
    tool.ok("del", "bridge", near)
    tool.ok("del", "other", far)
    assert "10.4." not in node.ruleset()


def test_an_internal_network_of_nerdctl(tool: Cnitool, node: Node) -> None:
    """Containers reach each other, and have no route to anywhere else."""
    tool.write(nerdctl("inner", "br-0123456789ab", [[{"subnet": "10.4.2.0/24", "gateway": "10.4.2.1"}]], internal=True))
    one, _ = attach(tool, "inner", "one")
    other, (address,) = attach(tool, "inner", "other")
    assert one.reaches(address)
    assert set(one.routes()) == {"10.4.2.0/24", "fe80::/64"}
    for pod in (one, other):
        tool.ok("del", "inner", pod)


def test_a_network_of_nerdctl_with_ipv6_and_reserved_addresses(tool: Cnitool, node: Node) -> None:
    """`--ipv6`, `--ip6` and `--aux-address`, which splits a range in two; with `--opt icc=false`."""
    outside = node.outside()
    split = [
        {"subnet": "10.4.3.0/24", "rangeStart": "10.4.3.1", "rangeEnd": "10.4.3.1", "gateway": "10.4.3.1"},
        {"subnet": "10.4.3.0/24", "rangeStart": "10.4.3.3", "rangeEnd": "10.4.3.255", "gateway": "10.4.3.1"},
    ]
    v6 = [{"subnet": "fd00:4:3::/64", "gateway": "fd00:4:3::1"}]
    tool.write(nerdctl("dual", "br-ba9876543210", [split, v6], policy="isolated"))
    wanted = {"capabilities": {"ips": ["fd00:4:3::77/64"]}}
    one, addresses = attach(tool, "dual", "one", **wanted)
    assert addresses == ["10.4.3.3", "fd00:4:3::77"]
    assert ask(one, outside, OUTSIDE_V4, 80, "tcp") == NODE_V4
    tool.ok("del", "dual", one, **wanted)


@pytest.mark.parametrize("name", CRIO)
def test_crios_networks(tool: Cnitool, node: Node, name: str) -> None:
    """Pods reach each other, and outside by the node's address, in each IP version of the list."""
    outside = node.outside()
    tool.write(CRIO[name])
    one, _ = attach(tool, "crio", "one")
    other, addresses = attach(tool, "crio", "other")
    there = {OUTSIDE_V4: NODE_V4, OUTSIDE_V6: NODE_V6}
    for address, (far, seen) in zip(addresses, there.items(), strict=False):
        assert one.reaches(address)
        assert ask(one, outside, far, 80, "tcp") == seen
    for pod in (one, other):
        tool.ok("del", "crio", pod)
    assert len(addresses) == len(CRIO[name]["plugins"][0]["ipam"]["ranges"])
    assert not set(addresses) & set(node.ruleset().split())


def test_crios_loopback(tool: Cnitool, node: Node) -> None:
    """The list 99-loopback of CRI-O."""
    tool.write({"cniVersion": "1.0.0", "name": "loopback", "plugins": [{"type": "loopback"}]})
    pod = node.pod("pod")
    tool.ok("add", "loopback", pod, ifname="lo")
    assert pod.reaches("127.0.0.1")
    tool.ok("del", "loopback", pod, ifname="lo")

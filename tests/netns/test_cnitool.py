"""The suite as a runtime uses it: the real cnitool, a network configuration list, frozen executables."""

import json
from pathlib import Path

import pytest

from tests.conformance.support import leases, on_bridge
from tests.netns.cni import Cnitool
from tests.netns.node import NODE_V4, OUTSIDE_V4, Node, ask

CACHE = "/var/lib/cni/results"
# The README's example, dual-stack.
PODS = {
    "cniVersion": "1.1.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isDefaultGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.22.0.0/24"}], [{"subnet": "fd00:22::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        },
    ],
}
TINY = {
    "cniVersion": "1.1.0",
    "name": "tiny",
    "plugins": [
        {"type": "bridge", "bridge": "cni1", "ipam": {"type": "host-local", "subnet": "10.33.0.0/30"}},
    ],
}


@pytest.fixture
def tool(node: Node, bin_dir: Path, reference_bin: Path) -> Cnitool:
    """The real cnitool, with only our plugins in CNI_PATH."""
    return Cnitool(node, reference_bin / "cnitool", (bin_dir,))


def in_version(conflist: dict, version: str) -> dict:
    """The list in another version of the specification."""
    return conflist | {"cniVersion": version}


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_add_check_del(tool: Cnitool, node: Node, version: str) -> None:
    """Two pods get addresses and communicate, CHECK passes, DEL leaves no link, lease, rule or cached result."""
    tool.write(in_version(PODS, version))
    outside = node.outside()
    first, second = node.pod("first"), node.pod("second")
    results = [tool.ok("add", "pods", pod) for pod in (first, second)]
    assert [ip["address"] for ip in results[1]["ips"]] == ["10.22.0.3/24", "fd00:22::3/64"]
    assert {result["cniVersion"] for result in results} == {version}
    assert ask(first, second, "10.22.0.3", 80, "tcp") == "10.22.0.2"
    assert ask(first, second, "fd00:22::3", 80, "tcp") == "fd00:22::2"
    assert ask(first, outside, OUTSIDE_V4, 80, "tcp") == NODE_V4
    for pod in (first, second):
        if version >= "0.4.0":
            tool.ok("check", "pods", pod)
        tool.ok("del", "pods", pod)
        tool.ok("del", "pods", pod)
    assert set(node.links()) == {"lo", "wan0", "cni0"}
    assert leases(node, "/var/lib/cni/networks/pods") == {}
    assert list(node.path(CACHE).iterdir()) == []
    assert "10.22.0.2" not in node.ruleset()
    assert "10.22.0.3" not in node.ruleset()


def test_check_names_a_missing_route(tool: Cnitool, node: Node) -> None:
    """After the default route is deleted, `cnitool check` fails and names the route."""
    tool.write(PODS)
    pod = node.pod("first")
    tool.ok("add", "pods", pod)
    pod.run(["ip", "route", "del", "default"])
    done = tool.run("check", "pods", pod)
    assert done.returncode != 0
    assert "0.0.0.0/0" in done.stdout + done.stderr


def test_gc(tool: Cnitool, node: Node) -> None:
    """`cnitool gc`, which passes no valid attachments, leaves no lease, link or masquerade rule of the network."""
    tool.write(PODS)
    pods = [node.pod(f"pod{i}") for i in range(3)]
    for pod in pods:
        tool.ok("add", "pods", pod)
    pods[0].vanish()
    tool.ok("gc", "pods", pods[1])
    assert list(node.path(CACHE).iterdir()) == []
    assert leases(node, "/var/lib/cni/networks/pods") == {}
    assert set(node.links()) == {"lo", "cni0"}
    assert "10.22.0." not in node.ruleset()


def test_status(tool: Cnitool, node: Node) -> None:
    """`cnitool status` succeeds while addresses are free; when there are none it fails, if so configured."""
    plugin = TINY["plugins"][0]
    tool.write({**TINY, "plugins": [{**plugin, "ipam": {**plugin["ipam"], "statusWhenFull": "unavailable"}}]})
    pod = node.pod("first")
    tool.ok("status", "tiny", pod)
    tool.ok("add", "tiny", pod)
    done = tool.run("status", "tiny", node.pod("second"))
    assert done.returncode != 0
    assert "no IP addresses available" in done.stdout + done.stderr
    tool.ok("del", "tiny", pod)
    tool.ok("status", "tiny", pod)


def test_two_networks_of_a_pod(tool: Cnitool, node: Node) -> None:
    """A pod on two networks has an interface in each; the DEL of one keeps the other."""
    tool.write(PODS)
    tool.write(TINY)
    pod = node.pod("first")
    tool.ok("add", "pods", pod)
    tool.ok("add", "tiny", pod, ifname="net1")
    assert pod.addresses("net1") == {"10.33.0.2/30"}
    tool.ok("check", "tiny", pod, ifname="net1")
    tool.ok("del", "tiny", pod, ifname="net1")
    assert "net1" not in pod.links()
    tool.ok("check", "pods", pod)


def test_capabilities(tool: Cnitool, node: Node) -> None:
    """Values that the runtime passes for the capabilities mac, ips and ipRanges are applied."""
    plugin = PODS["plugins"][0] | {"capabilities": {"mac": True, "ips": True, "ipRanges": True}}
    tool.write(PODS | {"plugins": [plugin | {"ipam": {"type": "host-local"}}]})
    mac = "c2:b0:57:49:47:f1"
    capabilities = {"mac": mac, "ips": ["10.44.0.44"], "ipRanges": [[{"subnet": "10.44.0.0/24"}]]}
    pod = node.pod("first")
    tool.ok("add", "pods", pod, capabilities=capabilities)
    assert pod.addresses("eth0") == {"10.44.0.44/24"}
    assert pod.links()["eth0"]["address"] == mac
    tool.ok("check", "pods", pod, capabilities=capabilities)
    tool.ok("del", "pods", pod, capabilities=capabilities)
    assert leases(node, "/var/lib/cni/networks/pods") == {}


def test_the_error_of_a_plugin_is_printed(tool: Cnitool, node: Node) -> None:
    """cnitool prints the plugin's message about what is wrong with the configuration."""
    tool.write(PODS | {"plugins": [PODS["plugins"][0] | {"mtu": "big"}]})
    done = tool.run("add", "pods", node.pod("first"))
    assert done.returncode != 0
    assert '"mtu": expected an integer' in done.stderr
    assert "big" in done.stderr


def test_del_of_a_pod_added_before_the_list_was_edited(tool: Cnitool, node: Node) -> None:
    """After the list was edited under a running pod, DEL still deletes it: cnitool passes the cached result."""
    tool.write(in_version(PODS, "0.4.0"))
    pod = node.pod("first")
    tool.ok("add", "pods", pod)
    tool.write(json.loads(json.dumps(PODS).replace("10.22.", "10.23.")))
    tool.run("del", "pods", pod)
    assert leases(node, "/var/lib/cni/networks/pods") == {}
    assert "eth0" not in pod.links()


def test_del_of_a_pod_added_before_a_reboot(tool: Cnitool, node: Node) -> None:
    """A reboot removed namespace, link and rules, and left a plain file at the netns path: DEL frees the leases."""
    tool.write(PODS)
    pod = node.pod("first")
    tool.ok("add", "pods", pod)
    node.run(["ip", "link", "del", "cni0"])
    node.run(["nft", "flush", "ruleset"])
    pod.vanish()
    node.path(pod.path).write_text("")
    tool.ok("del", "pods", pod)
    assert leases(node, "/var/lib/cni/networks/pods") == {}
    assert on_bridge(node) == set()

"""`slash24 pods` and what it knows of attachments: real pods, of runtimes with a cache and without."""

import json
from pathlib import Path

import pytest

from tests.netns.cli_tools import document, outlived, slash24
from tests.netns.cni import CNI, Cnitool
from tests.netns.node import Node, Pod

LONG = "n" * 80


def conf(name: str, bridge: str = "cni0", subnet: str = "10.1.0.0/24", **keys: object) -> dict:
    """A network of one bridge."""
    ipam = {"type": "host-local", "subnet": subnet}
    return {"cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": bridge, "ipam": ipam, **keys}


@pytest.fixture
def cnitool(node: Node, reference_bin: Path, bin_dir: Path) -> Cnitool:
    """cnitool with our plugins, and the network "net"."""
    tool = Cnitool(node, reference_bin / "cnitool", (bin_dir,))
    plugin = {key: value for key, value in conf("net", isGateway=True).items() if key not in ("name", "cniVersion")}
    tool.write({"cniVersion": "1.0.0", "name": "net", "plugins": [plugin]})
    return tool


def problems(node: Node, *words: str) -> dict[str, list[str]]:
    """What is wrong, by the host veth's namespace, of those with a problem; the exit status must say so."""
    status, found = document(node, "pods", *words)
    wrong = {one["netns"].rpartition("/")[2]: one["problems"] for one in found if one["problems"]}
    assert status == (1 if wrong else 0)
    return wrong


def test_pods_of_a_node(node: Node, cni: CNI, cnitool: Cnitool) -> None:
    """With Kubernetes' name from the cache, without a cache, and under a name too long for a tag."""
    web, plain, long = node.pod("web"), node.pod("plain"), node.pod("c" * 60)
    result = cnitool.ok("add", "net", web, args="IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0")
    cni.add(conf("net"), plain)
    cni.add(conf(LONG, "cni1", "10.2.0.0/24"), long)
    assert web.reaches("10.1.0.1")

    status, found = document(node, "pods")
    assert status == 0
    by_netns = {one["netns"]: one for one in found}
    assert set(by_netns) == {web.path, plain.path, long.path}
    one, links = by_netns[web.path], node.links()
    expected = {"network": "net", "pod": "shop/web-0", "ifname": "eth0", "addresses": ["10.1.0.2"], "bridge": "cni0"}
    assert {key: one[key] for key in expected} == expected
    assert one["container"].startswith("cnitool-")
    assert (links[one["veth"]]["ifindex"], links[one["veth"]]["ifalias"]) == (one["index"], one["tag"])
    assert one["mac"] == result["interfaces"][2]["mac"] == web.links()["eth0"]["address"]
    inside = web.ip("-s", "link", "show", "eth0")[0]["stats64"]
    assert 84 < one["received"]["bytes"] <= inside["rx"]["bytes"]
    assert 84 < one["sent"]["bytes"] <= inside["tx"]["bytes"]
    assert by_netns[plain.path]["container"] == "plain"
    assert (by_netns[long.path]["network"], by_netns[long.path]["container"]) == (LONG, "c" * 60)

    assert [one["netns"] for one in document(node, "pods", "--network", LONG)[1]] == [long.path]
    status, text = slash24(node, "pods", "--network", "net")
    assert status == 0
    assert ["net", "shop/web-0", one["container"][:13], "eth0", "10.1.0.2"] in [
        line.split()[:5] for line in text.splitlines()
    ]


def test_a_node_without_pods(node: Node) -> None:
    """That is well."""
    assert slash24(node, "pods") == (0, "No pod is attached to a network of this node.\n")
    assert document(node, "pods") == (0, [])


def test_what_is_wrong_with_links_is_told(node: Node, cni: CNI) -> None:
    """Down on either side, without a bridge, or with a bridge that is down."""
    pods = {name: node.pod(name) for name in ("a", "b", "c", "d")}
    for pod in pods.values():
        cni.add(conf("net"), pod)
    assert problems(node) == {}
    veths = {one["netns"].rpartition("/")[2]: one["veth"] for one in document(node, "pods")[1]}
    node.run(["ip", "link", "set", veths["a"], "down"])
    pods["b"].run(["ip", "link", "set", "eth0", "down"])
    node.run(["ip", "link", "set", veths["c"], "nomaster"])
    assert problems(node) == {
        "a": [f'its host veth "{veths["a"]}" is down'],
        "b": ['its interface "eth0" is down'],
        "c": [f'its host veth "{veths["c"]}" is not a port of a bridge'],
    }
    node.run(["ip", "link", "set", "cni0", "down"])
    assert problems(node)["d"] == ['its bridge "cni0" is down']


def test_what_is_wrong_with_addresses_is_told(node: Node, cni: CNI) -> None:
    """Not leased, leased to another, missing inside; a network whose addresses nobody leases is well."""
    pods = {name: node.pod(name) for name in ("a", "b", "c")}
    for pod in pods.values():
        cni.add(conf("net"), pod)
    static = {"type": "static", "addresses": [{"address": "10.9.0.2/24"}]}
    cni.add(conf("fixed", "cni1", ipam=static), node.pod("fixed"))
    leases = node.path("/var/lib/cni/networks/net")
    (leases / "10.1.0.2").unlink()
    (leases / "10.1.0.3").write_text("stranger\r\neth0")
    pods["c"].run(["ip", "addr", "flush", "dev", "eth0"])
    assert problems(node) == {
        "a": ["10.1.0.2 is not leased, and may be given to another pod"],
        "b": ["10.1.0.3 is leased to container stranger"],
        "c": ["10.1.0.4 is missing in its namespace"],
    }
    status, text = slash24(node, "pods")
    assert (status, "a (net, eth0): 10.1.0.2 is not leased" in text) == (1, True)


def test_namespaces_and_veths_that_are_gone(node: Node, cnitool: Cnitool) -> None:
    """A process keeps a namespace that the runtime has deleted; somebody deletes a veth under a running pod."""
    lost, bare = node.pod("lost"), node.pod("bare")
    for pod in (lost, bare):
        cnitool.ok("add", "net", pod)
    veths = {one["netns"]: one["veth"] for one in document(node, "pods")[1]}
    with outlived(lost) as process:
        node.run(["ip", "link", "del", veths[bare.path]])
        status, found = document(node, "pods")
        told = {one["netns"]: one["problems"] for one in found}
    assert status == 1
    there = f"/proc/{process.pid}/ns/net"
    assert told == {
        there: [f"its namespace is no longer at {lost.path}, and only {there} leads there"],
        bare.path: [f"its host veth is gone, though its namespace {bare.path} is there"],
    }


def test_pods_of_the_reference_plugin(node: Node, reference: CNI, reference_bin: Path) -> None:
    """Their veths have no alias; the cache tells which they are."""
    tool = Cnitool(node, reference_bin / "cnitool", (reference_bin,))
    tool.write({"cniVersion": "1.0.0", "name": "old", "plugins": [conf("old")]})
    pod: Pod = node.pod("a")
    result = tool.ok("add", "old", pod)
    status, (found,) = document(node, "pods")
    veth = next(one["name"] for one in result["interfaces"] if one["name"].startswith("veth"))
    assert (status, found["netns"], found["veth"], found["tag"], found["problems"]) == (0, pod.path, veth, "", [])
    assert json.dumps(found["addresses"]) == '["10.1.0.2"]'

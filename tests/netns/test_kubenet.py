"""A `kubenet` node: where its subnet is configured, and what a pod gets from it."""

import json

import pytest

from tests.netns.cluster_tools import (
    LEASES,
    NO_PODS,
    NODE_FILE,
    OWN,
    PEERS_FILE,
    network,
    pods_left,
    record,
    refused,
    write,
)
from tests.netns.cni import CNI
from tests.netns.node import Node

BARE = {"cniVersion": "1.1.0", "name": "net", "type": "kubenet"}
SUBNET_ENV = """FLANNEL_NETWORK=10.244.0.0/16
FLANNEL_SUBNET=10.244.1.1/24
FLANNEL_IPV6_NETWORK=fd00:244::/48
FLANNEL_IPV6_SUBNET=fd00:244:0:1::1/64
FLANNEL_MTU=1430
FLANNEL_IPMASQ=true
"""


@pytest.mark.parametrize("subnets", [OWN[:1], OWN[1:], OWN], ids=["v4", "v6", "dual"])
def test_a_pod_needs_nothing_but_the_subnet(cni: CNI, node: Node, subnets: tuple[str, ...]) -> None:
    """The pod gets bridge cbr0 with the gateways, host-local's addresses, default routes, forwarding, hairpin mode."""
    pod, other = node.pod("pod"), node.pod("other")
    conf = {**BARE, "podCIDRs": list(subnets)}
    result = cni.add(conf, pod)
    second = cni.add(conf, other)
    gateways = {"10.244.1.1/24", "fd00:244:0:1::1/64"} if len(subnets) > 1 else {subnets[0].replace(".0/", ".1/")}
    gateways = {gateway.replace("::/64", "::1/64") for gateway in gateways}
    assert node.addresses("cbr0") == gateways
    assert {ip["gateway"] for ip in result["ips"]} == {gateway.partition("/")[0] for gateway in gateways}
    assert {ip["address"] for ip in result["ips"]} == pod.addresses("eth0")
    assert {r["dst"] for r in result["routes"]} == {"::/0" if ":" in s else "0.0.0.0/0" for s in subnets}
    (port,) = [one for one in result["interfaces"] if one["name"].startswith("veth")]
    assert node.links()[port["name"]]["linkinfo"]["info_slave_data"]["hairpin"]
    for ip in second["ips"]:
        assert pod.reaches(ip["address"].partition("/")[0])
    for gateway in gateways:
        assert pod.reaches(gateway.partition("/")[0])
    for each, answer in ((pod, result), (other, second)):
        cni.check(conf, each, answer)
        cni.delete(conf, each, answer)
        cni.delete(conf, each, answer)
    assert pods_left(node, pod, other) == NO_PODS


@pytest.mark.parametrize(
    "keys",
    [
        {"podCIDR": OWN[0]},
        {"podCIDR": [OWN[0]]},
        {"podCIDRs": OWN[0]},
        {"podCIDRs": [OWN[0]]},
        {"PODCIDRS": [OWN[0]]},
        {"podCIDRs": [OWN[0]], "podCIDR": "10.9.0.0/24"},
        {"podCIDRs": [OWN[0]], "subnetFile": "/nowhere"},
    ],
    ids=json.dumps,
)
def test_the_subnet_in_the_configuration(cni: CNI, node: Node, keys: dict) -> None:
    """`podCIDRs` or `podCIDR`, a list or a string; the first takes precedence over the second, both over a file."""
    result = cni.add({**BARE, **keys}, node.pod("pod"))
    assert [ip["address"] for ip in result["ips"]] == ["10.244.1.2/24"]


@pytest.mark.parametrize("path", [None, "/run/flannel/subnet.env", "/var/lib/subnet"])
@pytest.mark.parametrize("content", [{"podCIDRs": list(OWN), "mtu": 1430}, SUBNET_ENV], ids=["JSON", "subnet.env"])
def test_the_subnet_in_a_file(cni: CNI, node: Node, path: str | None, content: object) -> None:
    """The agent's JSON and flannel's subnet.env are recognised by content; the default path is the agent's."""
    write(node, path or NODE_FILE, content)
    conf = BARE | ({"subnetFile": path} if path else {})
    pod = node.pod("pod")
    result = cni.add(conf, pod)
    assert [ip["address"] for ip in result["ips"]] == ["10.244.1.2/24", "fd00:244:0:1::2/64"]
    assert pod.links()["eth0"]["mtu"] == 1430
    cni.status(conf)
    cni.check(conf, pod, result)


@pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file or directory"),
        ("", "has no subnet"),
        ("{", ""),
        ({"podCIDRs": []}, "has no subnet"),
        ({"podCIDRs": ["10.244.1.1/24"]}, "without host bits"),
        ("FLANNEL_SUBNET=ten", ""),
    ],
)
def test_without_its_subnet_a_node_is_not_ready(cni: CNI, node: Node, kind: str, content: object, why: str) -> None:
    """ADD fails with 11 and STATUS with 50, naming the file and what is wrong with it; nothing is created."""
    conf = {**BARE, "type": kind}
    if content is not None:
        write(node, NODE_FILE, content)
    pod = node.pod("pod")
    for verb, code in (("ADD", 11), ("STATUS", 50)):
        error = refused(cni, verb, conf, pod)
        assert error.code == code
        assert f'"{NODE_FILE}"' in error.msg
        assert why in error.text
    assert set(node.links()) == {"lo"}
    assert pods_left(node, pod) == NO_PODS
    cni.delete(conf, pod)
    cni.gc(conf)


def test_two_subnets_of_one_family_are_refused(cni: CNI, node: Node) -> None:
    """In the configuration it is a configuration error; in a file, an error that names the file."""
    pod, two = node.pod("pod"), ["10.244.1.0/24", "10.244.2.0/24"]
    error = refused(cni, "ADD", {**BARE, "podCIDRs": two}, pod)
    assert (error.code, '"podCIDRs"' in error.msg) == (7, True)
    write(node, NODE_FILE, {"podCIDRs": two})
    error = refused(cni, "ADD", BARE, pod)
    assert (error.code, f'"{NODE_FILE}"' in error.msg) == (11, True)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"bridge": "a/b"}, '"bridge"'),
        ({"podCIDRs": ["10.244.1.9/24"]}, '"podCIDRs"'),
        ({"podCIDRs": 24}, '"podCIDRs"'),
        ({"mtu": 67}, '"mtu"'),
        ({"hairpinMode": "on"}, '"hairpinMode"'),
        ({"hairpinMode": True}, '"hairpinMode"'),
        ({"ipMasq": "yes"}, '"ipMasq"'),
        ({"clusterCIDRs": ["all"]}, '"clusterCIDRs"'),
        ({"nonMasqueradeCIDRs": ["10.0.0.1/8"]}, '"nonMasqueradeCIDRs"'),
        ({"peers": [{"name": "b", "addresses": ["b"]}]}, '"peers[0].addresses"'),
        ({"peers": [record(2), record(3, vtepMAC="02:24")]}, '"peers[1].vtepMAC"'),
        ({"peers": {"name": "b"}}, '"peers"'),
        ({"subnetFile": 1, "podCIDRs": None}, '"subnetFile"'),
        ({"peersFile": []}, '"peersFile"'),
        ({"ipam": "host-local"}, '"ipam"'),
    ],
)
def test_a_wrong_key_is_named(cni: CNI, node: Node, keys: dict, named: str) -> None:
    """Error 7 names the key; ADD leaves nothing; the following DEL succeeds."""
    pod = node.pod("pod")
    conf = network("kubenet", **keys)
    error = refused(cni, "ADD", conf, pod)
    assert error.code == 7
    assert named in error.text
    assert set(node.links()) == {"lo"}
    if "ipam" not in keys:
        cni.delete(conf, pod)


@pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
def test_del_succeeds_whatever_the_state_of_files_and_configuration(cni: CNI, node: Node, kind: str) -> None:
    """With no subnet file, an invalid peers file or invalid keys, DEL still removes the pod."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    write(node, NODE_FILE, {"podCIDRs": list(OWN)})
    conf = {**BARE, "type": kind}
    pods = [node.pod(f"pod{number}") for number in range(3)]
    results = [cni.add(conf, pod) for pod in pods]
    node.path(NODE_FILE).unlink()
    cni.delete(conf, pods[0], results[0])
    write(node, NODE_FILE, "garbage")
    write(node, PEERS_FILE, "garbage")
    cni.delete(conf, pods[1], results[1])
    broken = {"mtu": "big", "hairpinMode": 1, "podCIDRs": [1], "peers": "x", "ipMasq": 2, "bridge": 3, "vni": "x"}
    cni.delete(conf | broken, pods[2])
    assert pods_left(node, *pods) == NO_PODS


@pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
def test_gc_keeps_what_is_valid(cni: CNI, node: Node, kind: str) -> None:
    """GC deletes links and leases of other attachments, even without the subnet file; the node's state stays."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    conf = network(kind, peers=[record(2)])
    pods = [node.pod(f"pod{number}") for number in range(3)]
    results = [cni.add(conf, pod) for pod in pods]
    cni.gc(conf, pods[1])
    assert len(pods_left(node, *pods)["veths"]) == 1
    cni.check(conf, pods[1], results[1])
    cni.gc({**BARE, "type": kind}, pods[1])
    assert sorted(f.name for f in node.path(LEASES).glob("*:*")) == ["fd00:244:0:1::3"]
    cni.gc({**BARE, "type": kind})
    assert pods_left(node, *pods) == NO_PODS
    assert "10.244.2.0/24" in node.routes()

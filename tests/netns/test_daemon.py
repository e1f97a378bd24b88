"""The daemon on a node, with a registry of files: pods, drift, restarts, and what happens without it."""

import json
import signal

import pytest

from tests.netns.cluster_tools import own_routes
from tests.netns.cni import CNI
from tests.netns.daemon_tools import (  # noqa: F401 (one is a fixture)
    CONFLIST,
    NODES,
    Start,
    add,
    conf_of,
    daemon_command,
    daemon_environment,
    daemons_started,
    forwarding,
    neighbours,
    read_record,
    write_record,
)
from tests.netns.node import Node, wait_until

pytestmark = pytest.mark.cold
PEERS_FILE, NODE_FILE = "/run/slash24/peers.json", "/run/slash24/node.json"


def content(node: Node, path: str) -> dict:
    """A JSON file of the node."""
    return json.loads(node.path(path).read_text())


@pytest.mark.parametrize("mode", ["kubenet", "vxlan"])
def test_a_pod_is_added_through_the_conflist(node: Node, cni: CNI, daemon: Start, mode: str) -> None:
    """With an address of the subnet that was leased, while the peers' routes are there already."""
    write_record(node, 2)
    daemon(mode).await_ready()
    assert set(own_routes(node)) == {"10.244.2.0/24", "fd00:244:0:2::/64"}
    pod, result = add(cni, "p1")
    subnets = read_record(node)["podCIDRs"]
    assert [ip["address"].partition("/")[2] for ip in result["ips"]] == [one.partition("/")[2] for one in subnets]
    assert all(node.reaches(ip["address"].partition("/")[0]) for ip in result["ips"])
    cni.check(conf_of(node), pod, result)


def test_a_pod_of_the_bridge_plugin_is_added(node: Node, cni: CNI, daemon: Start) -> None:
    """With the subnet that was leased; the others' routes are somebody else's."""
    write_record(node, 2)
    daemon("bridge").await_ready()
    _, result = add(cni, "p1")
    subnets = read_record(node)["podCIDRs"]
    assert [ip["address"].partition("/")[2] for ip in result["ips"]] == [one.partition("/")[2] for one in subnets]
    assert own_routes(node) == {}
    assert read_record(node)["addresses"] == ["192.0.2.1", "2001:db8:1::1"]


def test_the_record_says_how_this_node_is_reached(node: Node, daemon: Start) -> None:
    """Its addresses, subnets and VTEP, as the tunnel has them."""
    daemon("vxlan").await_ready()
    record = read_record(node)
    device = node.links()["slash24.1"]
    assert record["addresses"][0] == "192.0.2.1"
    assert (record["vtepMAC"], record["vni"], record["port"]) == (device["address"], 1, 4789)
    assert content(node, NODE_FILE)["podCIDRs"] == record["podCIDRs"]


def test_nodes_that_join_and_leave_are_followed(node: Node, daemon: Start) -> None:
    """Without an ADD."""
    daemon("vxlan").await_ready()
    write_record(node, 2)
    write_record(node, 3)
    assert wait_until(lambda: len(own_routes(node)) == 4)
    assert forwarding(node) == {"02:00:00:00:01:02": "192.0.2.2", "02:00:00:00:01:03": "192.0.2.3"}
    (node.path(NODES) / "n2.json").unlink()
    assert wait_until(lambda: set(own_routes(node)) == {"10.244.3.0/24", "fd00:244:0:3::/64"})
    assert wait_until(lambda: [one["name"] for one in content(node, PEERS_FILE)["peers"]] == ["n3"])
    assert forwarding(node) == {"02:00:00:00:01:03": "192.0.2.3"}


@pytest.mark.parametrize(
    "damage",
    [
        "ip route del 10.244.2.0/24",
        "ip route replace 10.244.2.0/24 via 192.0.2.2 proto 24",
        "ip -6 route del fd00:244:0:2::/64",
        "ip neigh del 10.244.2.0 dev slash24.1",
        "bridge fdb del 02:00:00:00:01:02 dev slash24.1",
        "bridge fdb replace 02:00:00:00:01:02 dev slash24.1 dst 192.0.2.9",
        "ip link del slash24.1",
        "ip link set slash24.1 down",
        "ip link set slash24.1 address 02:00:00:00:00:99",
        "ip link set slash24.1 mtu 1300",
        "ip addr flush dev slash24.1 scope global",
        "ip link del cbr0",
        "ip link set cbr0 down",
        "nft delete table inet slash24_egress_slash24",
        "nft delete table inet slash24_vtep_slash24",
        "sysctl -q net.ipv4.conf.slash24/1.forwarding=0",
        "sysctl -q net.ipv4.ip_forward=0",
    ],
)
def test_drift_is_repaired(node: Node, daemon: Start, damage: str) -> None:
    """At once, not at the next comparison of everything."""
    write_record(node, 2)
    one = daemon("vxlan").await_ready()
    assert wait_until(lambda: state(node) == state(node))
    before = state(node)
    done = node.run(["sh", "-c", damage], check=False)
    assert done.returncode == 0, done.stderr
    assert wait_until(lambda: state(node) == before, timeout=10), (before, state(node), one.log)
    if any(word in damage for word in (" del ", " delete ", " flush ", " down")):
        assert wait_until(lambda: json.loads(one.page("status")[1])["repairs"])


def state(node: Node) -> dict:
    """What the daemon keeps."""
    links = {name: link for name, link in node.links().items() if name in ("cbr0", "slash24.1")}
    return {
        "routes": own_routes(node),
        "neighbours": neighbours(node) if "slash24.1" in links else {},
        "forwarding": forwarding(node) if "slash24.1" in links else {},
        "links": {name: (link["address"], link["mtu"], "UP" in link["flags"]) for name, link in links.items()},
        "addresses": {name: node.addresses(name) for name in links},
        "rules": {line for line in node.ruleset().splitlines() if "handle" not in line},
        "forwards": [node.sysctl(f"ipv4/conf/{name}/forwarding") for name in links] + [node.sysctl("ipv4/ip_forward")],
    }


def test_what_is_not_ours_stays(node: Node, daemon: Start) -> None:
    """A foreign route in the cluster's networks that leads to no node of ours."""
    write_record(node, 2)
    daemon("vxlan").await_ready()
    node.run(["ip", "route", "add", "10.244.77.0/24", "via", "192.0.2.2", "proto", "bird"])
    write_record(node, 3)
    assert wait_until(lambda: len(own_routes(node)) == 4)
    assert "10.244.77.0/24" in node.routes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_network_outlives_the_daemon(node: Node, cni: CNI, daemon: Start, number: int) -> None:
    """Nothing changes when it ends, pods are added without it, and its successor adopts everything."""
    write_record(node, 2)
    one = daemon("vxlan").await_ready()
    add(cni, "p1")
    assert wait_until(lambda: len(content(node, PEERS_FILE)["peers"]) == 1)
    before = state(node)
    one.stop(number)
    assert state(node) == before
    assert node.path(CONFLIST).exists()
    add(cni, "p2")
    with node.path("/run/monitor").open("w") as said:
        monitor = node.start(["ip", "monitor", "route", "neigh", "link", "address"], stdout=said)
    try:
        daemon("vxlan").await_ready()
    finally:
        monitor.kill()
        monitor.wait()
    assert state(node) == before
    assert [line for line in node.path("/run/monitor").read_text().splitlines() if "slash24.1" in line] == []


def test_only_one_daemon_runs(node: Node, daemon: Start) -> None:
    """The second one says who runs, and touches nothing."""
    one = daemon("vxlan").await_ready()
    other = daemon("vxlan")
    assert other.process.wait(10) == 1
    assert f"another slash24-node runs on this node, with process ID {one.process.pid}" in other.log
    assert one.page("readyz")[0] == 200


def test_the_configuration_is_checked(node: Node, bin_dir, daemon: Start) -> None:
    """`--check` explains mistakes, and runs nothing."""
    node.path("/run/bad.toml").write_text('mode = "vxlan"\ncluster = ["10.244.0.0/16"]\n\n[vxlan]\nvni = "seven"\n')
    argv = [*daemon_command(bin_dir), "--config", "/run/bad.toml", "--check"]
    done = node.run(argv, env=daemon_environment(bin_dir), check=False)
    assert done.returncode == 1
    assert '/run/bad.toml:5: "vni"' in done.stderr


def test_the_own_address_is_followed(node: Node, daemon: Start) -> None:
    """The others are told, and the tunnel sends from the new one."""
    write_record(node, 2)
    daemon("vxlan").await_ready()
    node.run(["ip", "addr", "add", "192.0.2.7/24", "dev", "wan0"])
    node.run(["ip", "addr", "del", "192.0.2.1/24", "dev", "wan0"])
    node.run(["ip", "addr", "replace", "192.0.2.7/24", "dev", "wan0"])
    node.run(["ip", "route", "replace", "default", "via", "192.0.2.2"])
    assert wait_until(lambda: read_record(node)["addresses"][0] == "192.0.2.7"), read_record(node)
    assert wait_until(lambda: node.links()["slash24.1"]["linkinfo"]["info_data"].get("local") == "192.0.2.7")
    assert wait_until(lambda: len(own_routes(node)) == 2)


def test_a_wrong_record_stops_nobody(node: Node, cni: CNI, daemon: Start) -> None:
    """It is told; the others are served, and pods are added."""
    write_record(node, 2)
    (node.path(NODES) / "bad.json").write_text("[1, 2]")
    write_record(node, 3, podCIDRs=["10.244.0.0/8"])
    write_record(node, 4)
    one = daemon("vxlan").await_ready()
    assert wait_until(lambda: len(own_routes(node)) == 4), one.log
    assert {dst for dst in own_routes(node) if ":" not in dst} == {"10.244.2.0/24", "10.244.4.0/24"}
    add(cni, "p1")

    def names(word: str) -> bool:
        return any(word in problem for problem in json.loads(one.page("readyz")[1])["problems"])

    assert wait_until(lambda: names("bad") and names("n3")), one.page("readyz")

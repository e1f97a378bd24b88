"""What the daemon does when something happens: each case of docs/slash24-node.md that one node can show."""

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.netns.cluster_tools import PEERS_FILE, own_routes, refused, write
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
    read_record,
    write_record,
)
from tests.netns.node import Node, wait_until
from tests.netns.test_daemon import NODE_FILE, content

pytestmark = pytest.mark.cold(reason="the daemon is what is tested")
OTHER = {"podCIDRs": ["10.244.77.0/24", "fd00:244:0:77::/64"]}


def renumber(node: Node, *subnets: str, **keys: object) -> None:
    """Give this node other subnets, as an administrator does in the registry."""
    path = node.path(NODES) / "n1.json"
    path.with_suffix(".new").write_text(json.dumps({**read_record(node), "podCIDRs": list(subnets), **keys}))
    os.rename(path.with_suffix(".new"), path)


def test_no_subnet_is_told_until_there_is_one(node: Node, cni: CNI, daemon: Start) -> None:
    """A registry that gives none, because it may not: plugins say so, then the pod is added."""
    one = daemon("vxlan", more="[file]\npublish = false\n")
    assert wait_until(lambda: node.path(NODE_FILE).exists()), one.log
    assert content(node, NODE_FILE)["podCIDRs"] == []
    conf = {"cniVersion": "1.1.0", "name": "slash24", "type": "vxlan"}
    assert not node.path(CONFLIST).exists()
    why = content(node, NODE_FILE)["problem"]
    assert "this node has no subnet yet" in why
    assert (refused(cni, "ADD", conf, node.pod("p1")).code, refused(cni, "STATUS", conf).code) == (11, 50)
    assert why in refused(cni, "ADD", conf, node.pod("p2")).text
    assert one.page("readyz")[0] == 503
    write_record(node, 1, **OTHER)
    one.await_ready()
    _, result = add(cni, "p3")
    assert result["ips"][0]["address"].startswith("10.244.77.")


def test_pods_of_an_earlier_subnet_are_announced_until_they_are_gone(node: Node, cni: CNI, daemon: Start) -> None:
    """Beside the new one, which new pods get; the tunnel keeps its MAC meanwhile."""
    write_record(node, 2)
    daemon("vxlan").await_ready()
    before = read_record(node)
    pod, old = add(cni, "p1")
    renumber(node, *OTHER["podCIDRs"])
    both = [*OTHER["podCIDRs"], *before["podCIDRs"]]
    assert wait_until(lambda: read_record(node)["podCIDRs"] == both), read_record(node)
    assert read_record(node)["vtepMAC"] == before["vtepMAC"] == node.links()["slash24.1"]["address"]
    assert node.reaches(old["ips"][0]["address"].partition("/")[0])
    assert content(node, NODE_FILE)["podCIDRs"] == OTHER["podCIDRs"]
    _, new = add(cni, "p2")
    assert new["ips"][0]["address"].startswith("10.244.77.")
    assert node.reaches(new["ips"][0]["address"].partition("/")[0])
    cni.delete(conf_of(node), pod, old)
    assert wait_until(lambda: read_record(node)["podCIDRs"] == OTHER["podCIDRs"]), read_record(node)


def test_the_subnet_of_an_older_node_gives_no_addresses(node: Node, cni: CNI, daemon: Start) -> None:
    """Until the conflict is over; the conflist stays."""
    one = daemon("vxlan").await_ready()
    own = read_record(node)
    write_record(node, 2, podCIDRs=own["podCIDRs"], since=1)
    assert wait_until(lambda: content(node, NODE_FILE)["podCIDRs"] == []), one.log
    assert wait_until(lambda: one.page("readyz")[0] == 503)
    assert "n2" in json.loads(one.page("readyz")[1])["message"]
    assert node.path(CONFLIST).exists()
    conf = {**conf_of(node), "cniVersion": "1.1.0"}  # the first version with STATUS
    assert (refused(cni, "ADD", conf, node.pod("p1")).code, refused(cni, "STATUS", conf).code) == (11, 50)
    (node.path(NODES) / "n2.json").unlink()
    assert wait_until(lambda: one.page("readyz")[0] == 200)
    add(cni, "p2")


def test_a_younger_node_with_our_subnet_is_left_out(node: Node, cni: CNI, daemon: Start) -> None:
    """This node keeps it, and its pods are served."""
    one = daemon("vxlan").await_ready()
    write_record(node, 2, podCIDRs=read_record(node)["podCIDRs"], since=(1 << 62))
    write_record(node, 3)
    assert wait_until(lambda: len(own_routes(node)) == 2), one.log
    assert one.page("readyz")[0] == 200
    assert any("n2" in problem for problem in json.loads(one.page("readyz")[1])["problems"])
    add(cni, "p1")


def test_a_node_that_is_replaced_under_its_name_is_reached(node: Node, daemon: Start) -> None:
    """Another machine with another address, subnet and MAC."""
    write_record(node, 2)
    daemon("vxlan").await_ready()
    write_record(node, 2, addresses=["192.0.2.9"], podCIDRs=["10.244.9.0/24"], vtepMAC="02:00:00:00:01:09")
    assert wait_until(lambda: set(own_routes(node)) == {"10.244.9.0/24"})


def test_a_record_that_somebody_deletes_is_written_again(node: Node, daemon: Start) -> None:
    """With the same subnets: pods have addresses of them."""
    daemon("vxlan").await_ready()
    before = read_record(node)
    (node.path(NODES) / "n1.json").unlink()
    assert wait_until((node.path(NODES) / "n1.json").exists)
    assert wait_until(lambda: read_record(node).get("vtepMAC") == before["vtepMAC"]), read_record(node)
    assert read_record(node)["podCIDRs"] == before["podCIDRs"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ('interface = "lan1"', ["198.51.100.1"]),
        ('network = "198.51.100.0/24"', ["198.51.100.1"]),
        ('ips = ["198.51.100.1"]', ["198.51.100.1"]),
    ],
)
def test_the_configured_address_is_used(node: Node, daemon: Start, address: str, expected: list[str]) -> None:
    """In place of that of the default route: for the record, and for the tunnel."""
    node.run(["ip", "link", "add", "lan1", "type", "bridge"])
    node.run(["ip", "addr", "add", "198.51.100.1/24", "dev", "lan1"])
    node.run(["ip", "link", "set", "lan1", "up"])
    daemon("vxlan", more=f"[address]\n{address}\n").await_ready()
    assert read_record(node)["addresses"] == expected
    assert node.links()["slash24.1"]["linkinfo"]["info_data"]["local"] == "198.51.100.1"


@pytest.mark.parametrize("family", ["4", "6", "both"])
def test_two_families_have_an_address_each(node: Node, daemon: Start, family: str) -> None:
    """Also where the node has a default route for one alone: nodes on a link need none."""
    if family != "4":
        node.run(["ip", "route", "add", "default", "via", "2001:db8:1::2"])
    if family == "6":
        node.run(["ip", "-4", "route", "del", "default"])
    daemon("vxlan").await_ready()
    assert read_record(node)["addresses"] == ["192.0.2.1", "2001:db8:1::1"]


def test_it_needs_the_capabilities_of_its_unit(node: Node, cni: CNI, bin_dir: Path, daemon: Start) -> None:
    """With them it makes a network, repairs it, and sets the MTU of running pods."""
    unit = (Path(__file__).parent.parent.parent / "deploy" / "slash24-node.service").read_text()
    assert "CapabilityBoundingSet=CAP_NET_ADMIN CAP_DAC_OVERRIDE CAP_SYS_ADMIN CAP_SYS_PTRACE\n" in unit
    write_record(node, 2)
    having = "--bounding-set=-all,+net_admin,+dac_override,+sys_admin,+sys_ptrace"
    one = daemon("vxlan", prefix=["setpriv", having, "--inh-caps=-all", "--no-new-privs"]).await_ready()
    pod, _ = add(cni, "p1")
    node.run(["ip", "link", "del", "slash24.1"])
    assert wait_until(lambda: len(own_routes(node)) == 2), one.log
    node.run(["ip", "link", "set", "wan0", "mtu", "1400"])
    assert wait_until(lambda: pod.links()["eth0"]["mtu"] == 1350), one.log


def test_systemd_is_told_when_it_is_ready_and_that_it_lives(node: Node, daemon: Start) -> None:
    """READY after the first comparison, WATCHDOG again and again, STOPPING at the end."""
    path = node.path("/run/notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(15)
        environ = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "400000"}
        one = daemon("vxlan", environ=environ)
        seen = [manager.recv(100)]
        while seen.count(b"WATCHDOG=1") < 5 or b"READY=1" not in seen:
            seen.append(manager.recv(100))
        assert one.stop() == 0
        while seen[-1] != b"STOPPING=1":
            seen.append(manager.recv(100))
    assert set(seen) == {b"READY=1", b"WATCHDOG=1", b"STOPPING=1"}


def test_logs_can_be_json(node: Node, daemon: Start) -> None:
    """An object a line, with a level; lines below the level are left out."""
    one = daemon("vxlan", "--log-format", "json").await_ready()
    lines = [json.loads(line) for line in one.log.splitlines()]
    assert {"time", "level", "event"} <= set(lines[0])
    assert {line["level"] for line in lines} <= {"info", "notice", "warning"}
    assert one.stop() == 0
    quiet = daemon("vxlan", "--log-level", "notice").await_ready()
    assert "event=lease" not in quiet.log


@pytest.mark.parametrize("mode", ["kubenet", "vxlan"])
def test_an_uplink_that_flaps_costs_no_route(node: Node, daemon: Start, mode: str) -> None:
    """The kernel removes routes of a link that goes down, and says nothing of those of IPv4."""
    write_record(node, 2)
    daemon(mode).await_ready()
    node.run(["sysctl", "-q", "net.ipv6.conf.wan0.keep_addr_on_down=1"])
    before = own_routes(node)
    assert len(before) == 2
    node.run(["ip", "link", "set", "wan0", "down"])
    node.run(["ip", "link", "set", "wan0", "up"])
    node.run(["ip", "route", "replace", "default", "via", "192.0.2.2"])
    assert wait_until(lambda: own_routes(node) == before), own_routes(node)


def test_the_mtu_of_the_uplink_is_followed(node: Node, cni: CNI, daemon: Start) -> None:
    """By the tunnel, and in the file for plugins."""
    one = daemon("vxlan").await_ready()
    node.run(["ip", "link", "set", "wan0", "mtu", "1400"])
    assert wait_until(lambda: node.links()["slash24.1"]["mtu"] == 1350), one.log
    assert wait_until(lambda: content(node, NODE_FILE)["mtu"] == 1350)
    pod, _ = add(cni, "p1")
    assert pod.links()["eth0"]["mtu"] == 1350


def test_an_uplink_that_is_replaced_is_followed(node: Node, daemon: Start) -> None:
    """By another link with another address."""
    write_record(node, 2)
    one = daemon("vxlan").await_ready()
    node.run(["ip", "link", "add", "wan1", "type", "veth", "peer", "name", "wan1p"])
    node.run(["ip", "link", "set", "wan1p", "up"])
    node.run(["ip", "link", "set", "wan1", "up"])
    node.run(["ip", "link", "del", "wan0"])
    node.run(["ip", "addr", "add", "203.0.113.5/24", "dev", "wan1"])
    node.run(["ip", "route", "add", "default", "via", "203.0.113.1"])
    assert wait_until(lambda: read_record(node)["addresses"] == ["203.0.113.5"]), one.log
    assert wait_until(lambda: len(own_routes(node)) == 2)
    assert node.links()["slash24.1"]["linkinfo"]["info_data"]["local"] == "203.0.113.5"


def test_a_conflist_that_is_gone_is_written_again(node: Node, daemon: Start) -> None:
    """With the next comparison of everything."""
    one = daemon("vxlan").await_ready()
    before = node.path(CONFLIST).read_bytes()
    node.path(CONFLIST).unlink()
    node.run(["ip", "link", "set", "cbr0", "down"])
    assert wait_until(node.path(CONFLIST).exists), one.log
    assert node.path(CONFLIST).read_bytes() == before


def test_a_start_without_the_registry_keeps_the_network(node: Node, cni: CNI, daemon: Start) -> None:
    """As the files of the last daemon say: drift is repaired, pods are added; then the registry's records count."""
    write_record(node, 2)
    daemon("vxlan").await_ready().stop()
    assert content(node, NODE_FILE)["podCIDRs"]
    folder = node.path(NODES)
    away = folder.rename(folder.with_name("away"))
    one = daemon("vxlan")
    assert wait_until(lambda: "event=adopted" in one.log, timeout=30), one.log
    node.run(["ip", "route", "del", "10.244.2.0/24"])
    assert wait_until(lambda: len(own_routes(node)) == 2), one.log
    add(cni, "p1")
    if folder.exists():
        folder.rmdir()
    away.rename(folder)
    write_record(node, 3)
    assert wait_until(lambda: len(own_routes(node)) == 4, timeout=30), one.log
    assert read_record(node)["podCIDRs"] == content(node, NODE_FILE)["podCIDRs"]


@pytest.mark.parametrize("kept", [True, False])
def test_a_daemon_that_starts_again_keeps_the_same_network_from_the_start(
    node: Node, cni: CNI, daemon: Start, *, kept: bool
) -> None:
    """Before it has heard of any node, ADDs do the pod's part alone; with another configuration, not yet."""
    write_record(node, 2)
    daemon("vxlan").await_ready().stop(signal.SIGKILL)
    folder = node.path(NODES)
    folder.rename(folder.with_name("away"))
    write(node, PEERS_FILE, "{")
    assert refused(cni, "ADD", conf_of(node), node.pod("early")).code == 11
    one = daemon("vxlan", more="" if kept else "[vxlan]\nvni = 7")
    if kept:
        add(cni, "p1")
    else:
        assert refused(cni, "ADD", conf_of(node), node.pod("p1")).code == 11
    assert "event=adopted" not in one.log
    assert "event=synchronised" not in one.log

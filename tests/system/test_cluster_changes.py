"""What happens to a running cluster: `docs/slash24-node.md` has a sentence for each of these."""

import json
import signal
from pathlib import Path

import pytest

from tests.netns.node import Pod, wait_until
from tests.system.daemons import CONFLIST, READY_SECONDS, REGISTRY, Cluster, Served
from tests.system.probes import probing
from tests.system.underlay import ROUTER, assert_all_talk, assert_talk

pytestmark = pytest.mark.cold(reason="its nodes have agents of their own")

End = tuple[Served, Pod]


@pytest.fixture
def ends(cluster: Cluster) -> list[End]:
    """Three nodes with a pod each, two on the left link and one behind the router, that reach each other."""
    for link in ("left", "left", "right"):
        cluster.join(link)
    cluster.settle()
    made = [(one, one.add(f"pod{one.number}")) for one in cluster.nodes]
    assert_all_talk(made)
    return made


def renumber(one: Served, v4: str, v6: str, router: tuple[str, str]) -> None:
    """Give a node's eth0 other addresses and gateways."""
    one.node.run(["ip", "addr", "flush", "dev", "eth0", "scope", "global"])
    for address, length, gateway in ((v4, 24, router[0]), (v6, 64, router[1])):
        one.node.run(["ip", "addr", "add", f"{address}/{length}", "dev", "eth0"])
        one.node.run(["ip", "route", "replace", "default", "via", gateway])
    one.addresses = (v4, v6)


def underlays(one: Served) -> set[str]:
    """The addresses to which a node tunnels frames."""
    shown = json.loads(one.node.run(["bridge", "-j", "fdb", "show", "dev", "slash24.1"]).stdout)
    return {entry["dst"] for entry in shown if "dst" in entry}


# -- daemons and nodes ----------------------------------------------------------------------------------------------


def test_without_daemons_the_network_stays(cluster: Cluster, ends: list[End]) -> None:
    """All daemons are killed: no packet is lost, and pods start and end as before; nor is one when they come back."""
    (one, pod), (_, far) = ends[0], ends[2]
    address = ends[2][0].address(far, 4)
    with probing(pod, address) as loss:
        for each in cluster.nodes:
            each.daemon.end(signal.SIGKILL)
        new = one.add("new")
        assert_talk((one, new), ends[2])
        one.delete(new)
        for each in cluster.nodes:
            each.start()
        cluster.settle()
    assert loss.lost == 0, loss
    assert_all_talk(ends)


def test_a_restart_keeps_the_subnets(cluster: Cluster, ends: list[End]) -> None:
    """The daemon gets the node's subnets again, even if nothing in /run has survived."""
    before = [one.subnets for one in cluster.nodes]
    for one in cluster.nodes:
        one.daemon.end()
        one.node.run(["sh", "-c", f"rm /run/slash24/*.json {CONFLIST}"])
        one.start()
    cluster.settle()
    assert [one.subnets for one in cluster.nodes] == before
    assert_all_talk(ends)


def test_a_node_is_replaced_under_the_same_name(cluster: Cluster, ends: list[End]) -> None:
    """The new machine, with another address, gets the subnets of the name; the others reach it there."""
    old = cluster.nodes.pop(1)
    subnets = old.subnets
    old.agent.process.kill()
    old.agent.process.wait()
    old.daemon.end(signal.SIGKILL)
    old.node.close()
    new = cluster.join("right", old.name)
    cluster.settle()
    assert new.subnets == subnets
    assert_all_talk([ends[0], ends[2], (new, new.add("pod"))])
    assert new.addresses[0] in underlays(cluster.nodes[0])
    assert old.addresses[0] not in underlays(cluster.nodes[0])


def test_a_node_is_renamed(cluster: Cluster, ends: list[End]) -> None:
    """Its pods are reached as before: the record under the old name stays until somebody removes it."""
    one = ends[0][0]
    one.restart(node="another")
    one.wait_until_ready()
    new = one.add("new")
    assert_all_talk([*ends, (one, new)])


def test_two_nodes_with_one_name(cluster: Cluster, ends: list[End]) -> None:
    """It is logged; the nodes with names of their own talk without a loss."""
    (_, pod), _, (third, far) = ends
    with probing(pod, third.address(far, 4)) as loss:
        twin = cluster.join("left", ends[1][0].name)
        logs = [twin.daemon, ends[1][0].daemon]
        told = wait_until(lambda: any("another one have its name" in one.log for one in logs), timeout=READY_SECONDS)
        assert told, (twin.daemon.log, ends[1][0].daemon.log)
    assert loss.lost == 0, loss
    assert_all_talk([ends[0], ends[2]])


def test_a_node_that_leaves_for_good_is_forgotten(cluster: Cluster, ends: list[End]) -> None:
    """Once its record is removed, the others have no route to it."""
    gone = cluster.nodes.pop(1)
    gone.close()
    (cluster.folder / f"{gone.name}.json").unlink()
    cluster.settle()
    assert_all_talk([ends[0], ends[2]])


# -- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [False, True], ids=["tunnel", "directRouting"])
def test_a_node_gets_another_address(cluster: Cluster, *, direct: bool) -> None:
    """The others follow, also for pods that run."""
    for link in ("left", "left", "right"):
        cluster.join(link, vxlan={"directRouting": direct})
    cluster.settle()
    ends = [(one, one.add(f"pod{one.number}")) for one in cluster.nodes]
    renumber(cluster.nodes[0], "192.0.2.77", "2001:db8:1::77", (f"192.0.2.{ROUTER}", f"2001:db8:1::{ROUTER}"))
    assert wait_until(lambda: "192.0.2.77" in underlays(cluster.nodes[2]), timeout=READY_SECONDS)
    cluster.settle()
    assert_all_talk(ends)


def test_a_node_moves_to_another_link(cluster: Cluster, ends: list[End]) -> None:
    """It is behind the router then, with addresses of the other link."""
    one = cluster.nodes[0]
    cluster.underlay.fabric.run(["ip", "link", "set", "n1", "master", "right"])
    renumber(one, "198.51.100.77", "2001:db8:2::77", (f"198.51.100.{ROUTER}", f"2001:db8:2::{ROUTER}"))
    assert wait_until(lambda: "198.51.100.77" in underlays(cluster.nodes[1]), timeout=READY_SECONDS)
    assert_all_talk(ends)


def test_the_uplink_flaps(cluster: Cluster, ends: list[End]) -> None:
    """Down and up, whereby the kernel removes routes: pods talk again."""
    one = cluster.nodes[0]
    for _ in range(3):
        one.node.run(["ip", "link", "set", "eth0", "down"])
        one.node.run(["ip", "link", "set", "eth0", "up"])
    renumber(one, *one.addresses, (f"192.0.2.{ROUTER}", f"2001:db8:1::{ROUTER}"))
    cluster.settle()
    assert_all_talk(ends)


def test_the_uplink_is_replaced(cluster: Cluster, ends: list[End]) -> None:
    """A new link of the same name and addresses, with another index: the tunnel gets it as its parent."""
    one, fabric = cluster.nodes[0], cluster.underlay.fabric
    one.node.run(["ip", "link", "del", "eth0"])
    peer = ["peer", "name", "n1", "netns", str(fabric.pid)]
    one.node.run(["ip", "link", "add", "eth0", "type", "veth", *peer])
    one.node.run(["sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad"])
    one.node.run(["ip", "link", "set", "eth0", "up"])
    fabric.run(["ip", "link", "set", "n1", "master", "left", "up"])
    renumber(one, *one.addresses, (f"192.0.2.{ROUTER}", f"2001:db8:1::{ROUTER}"))
    cluster.settle()
    assert_all_talk(ends)


def test_the_uplinks_mtu_shrinks(cluster: Cluster, ends: list[End]) -> None:
    """Running pods follow, so that no packet of theirs is too large for the tunnel; later pods get it at once."""
    one, pod = ends[0]
    one.node.run(["ip", "link", "set", "eth0", "mtu", "1400"])
    assert wait_until(lambda: pod.links()["eth0"]["mtu"] == 1350, timeout=READY_SECONDS), one.daemon.log
    assert one.node.links()["slash24.1"]["mtu"] == 1350
    new = one.add("new")
    assert new.links()["eth0"]["mtu"] == 1350
    assert_all_talk(ends)


# -- the registry ---------------------------------------------------------------------------------------------------


def test_the_registry_is_gone(cluster: Cluster, ends: list[End]) -> None:
    """The network stays, no packet is lost, pods start; the pages say what is wrong, until the registry is back."""
    one, pod = ends[0]
    with probing(pod, ends[2][0].address(ends[2][1], 4)) as loss:
        moved = cluster.folder.rename(cluster.folder.with_name("elsewhere"))
        one.node.run(["umount", REGISTRY])
        new = one.add("new")
        assert_talk((one, new), ends[2])
        one.daemon.end()
        one.start()
        assert wait_until(lambda: REGISTRY in one.daemon.log, timeout=READY_SECONDS), one.daemon.log
        assert not one.daemon.is_ready
        assert_talk((one, one.add("later")), ends[2])
        moved.rename(cluster.folder)
        cluster.share(one.node)
        cluster.settle()
    assert loss.lost == 0, loss


def test_nodes_are_cut_off_from_each_other(cluster: Cluster, ends: list[End]) -> None:
    """Nothing is taken away meanwhile: as soon as packets pass again, pods talk."""
    fabric = cluster.underlay.fabric
    routes = [set(one.routes()) for one in cluster.nodes]
    fabric.run(["ip", "link", "set", "n1", "nomaster"])
    assert not ends[0][1].reaches(ends[1][0].address(ends[1][1], 4), timeout=1)
    assert [set(one.routes()) for one in cluster.nodes] == routes
    fabric.run(["ip", "link", "set", "n1", "master", "left"])
    assert_all_talk(ends)


# -- subnets --------------------------------------------------------------------------------------------------------


def test_a_nodes_subnets_change_under_running_pods(cluster: Cluster, ends: list[End]) -> None:
    """New pods get addresses of the new ones; those that run keep theirs, and are reached as before."""
    one, pod = ends[0]
    before = one.subnets
    record = cluster.folder / f"{one.name}.json"
    new = ("10.244.200.0/24", "fd00:244:0:200::/64")
    changed = json.loads(record.read_text()) | {"podCIDRs": [*new, *before]}
    with probing(pod, ends[2][0].address(ends[2][1], 4)) as loss:
        write(record, changed)
        assert wait_until(lambda: one.subnets == new, timeout=READY_SECONDS), one.daemon.log
        late = one.add("late")
        assert one.address(late, 4).startswith("10.244.200.")
        for each in cluster.nodes[1:]:
            assert wait_until(lambda each=each: {*new, *before} <= set(each.routes()), timeout=READY_SECONDS)
        assert_all_talk([*ends, (one, late)])
    assert loss.lost == 0, loss


def test_what_is_no_longer_needed_of_an_old_subnet_goes(cluster: Cluster, ends: list[End]) -> None:
    """Once the last pod of the old subnets has gone, the others have no route to them."""
    one, pod = ends[0]
    record = cluster.folder / f"{one.name}.json"
    changed = json.loads(record.read_text()) | {"podCIDRs": ["10.244.200.0/24", "fd00:244:0:200::/64"]}
    write(record, changed)
    assert wait_until(lambda: one.subnets == tuple(changed["podCIDRs"]), timeout=READY_SECONDS)
    one.delete(pod)
    one.restart()
    cluster.settle()
    assert_all_talk([*ends[1:], (one, one.add("new"))])


def test_two_nodes_with_one_subnet(cluster: Cluster, ends: list[End]) -> None:
    """The older keeps it; the younger gives no addresses and says so; the others talk."""
    (_, pod), second, third = ends
    rival = cluster.serve(cluster.underlay.join("right"), "rival")
    rival.wait_until_ready()
    record = cluster.folder / "rival.json"
    write(record, json.loads(record.read_text()) | {"podCIDRs": list(second[0].subnets)})
    assert wait_until(lambda: rival.problem, timeout=READY_SECONDS), rival.daemon.log
    assert second[0].subnets[0] in rival.problem
    assert not rival.is_ready()
    done = rival.tool.run("add", "slash24", rival.node.pod("refused"))
    assert done.returncode != 0
    assert second[0].subnets[0] in done.stdout + done.stderr
    with probing(pod, second[0].address(second[1], 4)) as loss:
        assert_all_talk([ends[0], second, third])
    assert loss.lost == 0, loss


def write(path: Path, value: object) -> None:
    """Replace a file of the registry by a value as JSON."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(value if isinstance(value, str) else json.dumps(value))
    new.rename(path)

"""`slash24 gc` and `slash24 leases`: killed pods, reboots, networks and names that are gone, and all doubts."""

import json
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from linux.ownership import group_of
from tests.netns import cli_tools
from tests.netns.cli_tools import ALONE, outlived
from tests.netns.cni import CNI, Cnitool
from tests.netns.node import Node, Pod, ask, wait_until

NOTHING = (0, "Nothing is left of pods that are gone.\n")
LEASES = "/var/lib/cni/networks"
LONG = "n" * 80
PLUGINS = [
    {
        "type": "bridge",
        "bridge": "cni0",
        "isDefaultGateway": True,
        "ipMasq": True,
        "macspoofchk": True,
        "sourceAddressValidation": True,
        "ipam": {"type": "host-local", "subnet": "10.1.0.0/24", "cooldown": 600},
    },
    {"type": "tuning", "mtu": 1400},
    {"type": "portmap", "capabilities": {"portMappings": True}},
    {"type": "firewall", "backend": "iptables", "ingressPolicy": "same-bridge"},
    {"type": "bandwidth", **{f"{way}{key}": 8_000_000 for way in ("ingress", "egress") for key in ("Rate", "Burst")}},
]


def conf(name: str, **keys: object) -> dict:
    """A network of one bridge, with a subnet of its own."""
    ipam = {"type": "host-local", "subnet": "10.2.0.0/24"}
    bridge = {"cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": "cni1", "isGateway": True}
    return {**bridge, "ipMasq": True, "ipam": ipam, **keys}


slash24, document = (partial(each, prefix=ALONE) for each in (cli_tools.slash24, cli_tools.document))


@pytest.fixture
def cnitool(node: Node, reference_bin: Path, bin_dir: Path) -> Cnitool:
    """cnitool with our plugins, and the network "net" with all of them."""
    tool = Cnitool(node, reference_bin / "cnitool", (bin_dir,))
    tool.write({"cniVersion": "1.0.0", "name": "net", "plugins": PLUGINS})
    return tool


def added(cnitool: Cnitool, name: str, port: int) -> Pod:
    """A pod with a host port."""
    pod = cnitool.node.pod(name)
    mapping = {"hostPort": port, "containerPort": 80, "protocol": "tcp"}
    cnitool.ok("add", "net", pod, capabilities={"portMappings": [mapping]})
    return pod


def end(*pods: Pod) -> None:
    """Delete the pods' namespaces, and wait until the kernel has deleted their links, which it does some time later."""
    node = pods[0].node
    before = veths(node)
    for pod in pods:
        pod.vanish()
    assert wait_until(lambda: len(veths(node)) == len(before) - len(pods))


def veths(node: Node) -> list[str]:
    """The names of the node's host veths."""
    return [name for name in node.links() if name.startswith("veth")]


def aged(node: Node, *paths: str) -> None:
    """As if the files had been written a while ago."""
    for path in paths:
        before = node.path(path).stat().st_mtime - 600
        os.utime(node.path(path), (before, before))


def state(node: Node) -> str:
    """All that a removal could change, without what counts."""
    files = node.run(["sh", "-c", "find /var/lib/cni /run | sort"])
    links = sorted(f"{name} {link.get('ifalias')}" for name, link in node.links().items())
    return "\n".join([re.sub(r"packets \d+ bytes \d+", "", node.ruleset()), files.stdout, *links])


def removed(node: Node, prefix: Sequence[str] = ALONE) -> bool:
    """Whether `gc --yes` has removed all that was stale; if not, AssertionError with what it said."""
    status, text = slash24(node, "gc", "--yes", prefix=prefix)
    assert status == 0, text
    return slash24(node, "gc", "--network", "none") == NOTHING


def whys(node: Node, prefix: Sequence[str] = ALONE) -> tuple[dict[str, str], dict[str, str]]:
    """Why things are stale, and why they are kept, by container."""
    status, found = document(node, "gc", prefix=prefix)
    assert status == (1 if found["stale"] else 0)
    return tuple({one["container"]: one["why"] for one in found[kind]} for kind in ("stale", "kept"))


def test_killed_pods_go_and_running_ones_stay(node: Node, cnitool: Cnitool) -> None:
    """Everything of every feature; a dry run changes nothing."""
    outside = node.outside()
    dead, live = added(cnitool, "dead", 8081), added(cnitool, "live", 8082)
    assert slash24(node, "gc") == NOTHING
    assert ask(outside, live, "10.1.0.3", 80, "tcp", to=("192.0.2.1", 8082)) == "192.0.2.2"
    container = next(one["container"] for one in document(node, "pods")[1] if one["netns"] == dead.path)
    end(dead)
    before = state(node)
    assert before.count(container) > 12

    status, text = slash24(node, "gc")
    assert (status, state(node)) == (1, before)
    assert f"its namespace {dead.path} is gone" in text
    assert "slash24 gc --yes" in text
    (one,) = document(node, "gc")[1]["stale"]
    kinds = {piece["kind"] for piece in one["pieces"]}
    assert kinds == {
        *("lease", "link", "nftables element", "listed host port", "saved settings", "file of libcni's cache"),
    }
    status, leases = document(node, "leases")
    assert (status, [lease["state"] for lease in leases["leases"]]) == (1, ["stale", "live"])

    assert slash24(node, "gc", "--network", "other") == NOTHING
    assert removed(node)
    after = state(node)
    assert container not in after
    assert "10.1.0.2" not in after.replace("10.1.0.254", "")
    assert slash24(node, "gc") == NOTHING
    (other,) = {one["container"] for one in document(node, "pods")[1]}
    assert after.count(other) == before.count(other) > 12
    assert after.count("10.1.0.3 ") == before.count("10.1.0.3 ")

    assert ask(outside, live, "10.1.0.3", 80, "tcp", to=("192.0.2.1", 8082)) == "192.0.2.2"
    assert live.reaches("192.0.2.2")
    cnitool.ok("check", "net", live)
    status, leases = document(node, "leases")
    assert (status, [lease["state"] for lease in leases["leases"]]) == (0, ["live"])
    assert [one["address"] for one in leases["cooling"]] == ["10.1.0.2"]
    assert 500 < leases["cooling"][0]["left"] <= 600
    (fullness,) = leases["ranges"]
    assert (fullness["addresses"], fullness["leased"], fullness["cooling"]) == (253, 1, 1)
    status, text = slash24(node, "leases")
    assert "net: 1 of 253 addresses of 10.1.0.1-10.1.0.254 leased, 1 cooling" in text
    cnitool.ok("del", "net", live)
    assert "v1:" not in state(node)


def test_pods_of_an_earlier_boot(node: Node, cnitool: Cnitool) -> None:
    """Also if there is a namespace of that name again."""
    pod = added(cnitool, "pod", 8081)
    container = document(node, "pods")[1][0]["container"]
    end(pod)
    (label,) = node.path(f"{LEASES}/net/.slash24").glob("*.*-*")
    label.rename(label.with_name(f"{label.name.rpartition('.')[0]}.00000000-0000-0000-0000-000000000000"))
    node.pod("pod")
    assert whys(node) == ({container: "its lease is of an earlier boot"}, {})
    assert removed(node)
    assert slash24(node, "gc") == NOTHING
    assert container not in state(node)


def test_names_and_networks_that_are_gone(node: Node, cni: CNI) -> None:
    """No conflist, no cache, no lease: a tag that is only a digest is enough."""
    plain, long, digest = node.pod("plain"), node.pod("c" * 60), node.pod("d" * 60)
    cni.add(conf("net"), plain)
    firewall = {"cniVersion": "1.0.0", "name": LONG, "type": "firewall", "backend": "iptables"}
    for pod in (long, digest):
        result = cni.add(conf(LONG, bridge="cni2", ipam={"type": "host-local", "subnet": "10.3.0.0/24"}), pod)
        cni.add({**firewall, "prevResult": result}, pod)
    end(plain, long, digest)
    aged(node, f"{LEASES}/net/10.2.0.2", f"{LEASES}/{LONG}/10.3.0.2")
    node.path(f"{LEASES}/{LONG}/10.3.0.3").unlink()
    assert "10.3.0.3" in node.run(["iptables", "-S", "CNI-FORWARD"]).stdout
    why = "no namespace has its link or its addresses"
    assert whys(node) == (
        {"plain": why, long.name: why, "": "nothing tells whose it was, and no pod has it"},
        {},
    )
    assert removed(node)
    assert slash24(node, "gc") == NOTHING
    assert not re.findall("v1[:#]", state(node))
    rules = node.run(["iptables", "-S", "CNI-FORWARD"]).stdout
    assert "10.3.0." not in rules


def test_pods_of_the_reference_plugins(node: Node, reference: CNI, reference_bin: Path) -> None:
    """Their leases and masquerade go when they are killed, and not before."""
    tool = Cnitool(node, reference_bin / "cnitool", (reference_bin,))
    tool.write({"cniVersion": "1.0.0", "name": "old", "plugins": [conf("old"), {"type": "firewall"}]})
    dead, live = node.pod("dead"), node.pod("live")
    for pod in (dead, live):
        tool.ok("add", "old", pod)
    assert slash24(node, "gc") == NOTHING
    end(dead)
    assert [*whys(node)[0].values()] == [f"its namespace {dead.path} is gone"]
    assert removed(node)
    assert slash24(node, "gc") == NOTHING
    assert "10.2.0.2" not in node.ruleset()
    assert {path.name for path in node.path(f"{LEASES}/old").glob("10.*")} == {"10.2.0.3"}
    tool.ok("check", "old", live)
    tool.ok("del", "old", live)


def test_what_may_be_live_is_kept(node: Node, cni: CNI, cnitool: Cnitool) -> None:
    """An ADD that may be running, an address that somebody has, another machine's lease, a namespace of a process."""
    added(cnitool, "live", 8081).run(["ip", "link", "set", "eth0", "down"])
    folder = node.path(f"{LEASES}/other")
    (folder / ".slash24" / "elsewhere.11111111-0000-0000-0000-000000000000").mkdir(parents=True)
    for number, name in enumerate(("young", "used", "theirs", "gone"), 2):
        (folder / f"10.219.0.{number}").write_text(f"{name}\r\neth0")
    os.link(folder / "10.219.0.4", next((folder / ".slash24").iterdir()) / "theirs:eth0:0")
    aged(node, *(f"{LEASES}/other/10.219.0.{number}" for number in (3, 4, 5)))
    user = node.pod("user")
    user.run(["ip", "addr", "add", "10.219.0.3/24", "dev", "lo"])
    lost = node.pod("lost")
    cni.add(conf("net2"), lost)
    with outlived(lost):
        aged(node, f"{LEASES}/net2/10.2.0.2")
        stale, kept = whys(node, prefix=())
        assert removed(node, prefix=())
        assert node.path(f"{LEASES}/net2/10.2.0.2").exists()
    assert stale == {"gone": "no namespace has its link or its addresses"}
    assert re.fullmatch(r"it was made \d+ s ago, and its ADD may still be running", kept.pop("young"))
    where = f"/run/netns/{user.name}"
    assert kept == {
        "used": f"10.219.0.3 is on lo in {where}",
        "theirs": "it was leased on another machine, elsewhere, that shares the folder",
    }
    assert sorted(path.name for path in folder.glob("10.*")) == ["10.219.0.2", "10.219.0.3", "10.219.0.4"]


def test_what_killed_calls_leave(node: Node, cni: CNI) -> None:
    """A lease that names nobody, a link that names nobody, both ends of a pair on the node, half of a pod's file."""
    cni.add(conf("net"), node.pod("live"))
    (node.path(LEASES) / "net" / "10.2.0.9").write_text("")
    aged(node, f"{LEASES}/net/10.2.0.9")
    node.run(["ip", "link", "add", "a0", "type", "veth", "peer", "name", "a1"])
    node.run(["ip", "link", "set", "a0", "group", str(group_of("net"))])
    node.run(["ip", "link", "add", "b0", "type", "veth", "peer", "name", "b1"])
    node.run(["ip", "link", "set", "b0", "alias", "v1:net:both:eth0"])
    node.path("/run/slash24").mkdir(exist_ok=True)
    left = node.path("/run/slash24/pods.v1:net:half:eth0.new")
    left.write_text("{")
    aged(node, "/run/slash24/pods.v1:net:half:eth0.new")
    found = document(node, "gc")[1]["stale"]
    assert {(piece["kind"], piece["name"]): one["why"] for one in found for piece in one["pieces"]} == {
        ("lease", "10.2.0.9"): "nothing tells whose it was, and no pod has it",
        ("unnamed link", "a0"): "an ADD was killed before it named the owner",
        ("link", "b0"): "both ends of its veth pair are in the node's namespace",
        ("file of a pod", "/run/slash24/pods.v1:net:half:eth0.new"): "no namespace has its link or its addresses",
    }
    assert removed(node)
    assert slash24(node, "gc") == NOTHING
    assert not {"a0", "b0"} & set(node.links())
    assert not left.exists()
    assert [one["problems"] for one in document(node, "pods")[1]] == [[]]


def test_pods_with_policies(node: Node, cni: CNI) -> None:
    """The file for the daemon, and what holds the pod in the policy tables."""
    kubernetes = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0"
    dead, live = node.pod("dead"), node.pod("live")
    for pod in (dead, live):
        cni.add(conf("net", policyWait=0), pod, args=kubernetes)
    assert {one["pod"] for one in document(node, "pods")[1]} == {"shop/web-0"}
    end(dead)
    aged(node, f"{LEASES}/net/10.2.0.2", "/run/slash24/pods/v1:net:dead:eth0.json")
    assert whys(node)[0] == {"dead": "no namespace has its link or its addresses"}
    assert removed(node)
    assert slash24(node, "gc") == NOTHING
    after = state(node)
    assert "v1:net:dead" not in after
    assert "v1:net:live:eth0.json" in after


def test_what_cannot_be_removed_is_told(node: Node, cnitool: Cnitool) -> None:
    """Exit status 3, and all else is removed; libcni's cache stays until nothing else is left."""
    pod = added(cnitool, "pod", 8081)
    end(pod)
    node.run(["sh", "-c", f"mount --bind {LEASES} {LEASES} && mount -o remount,bind,ro {LEASES}"])
    status, text = slash24(node, "gc", "--yes")
    assert status == 3
    assert re.search(r"Could not be removed: .*Read-only file system", text)
    (one,) = document(node, "gc")[1]["stale"]
    assert {piece["kind"] for piece in one["pieces"]} == {"lease", "file of libcni's cache"}
    node.run(["umount", LEASES])
    status, found = document(node, "gc", "--yes")
    assert (status, found["removed"], found["failures"]) == (0, True, [])
    assert slash24(node, "gc") == NOTHING


def test_leases_of_a_node_without_any(node: Node) -> None:
    """That is well."""
    assert slash24(node, "leases") == (0, "No address is leased on this node.\n")


def test_pods_without_leases_are_marked(node: Node, cni: CNI) -> None:
    """In the table, and by the exit status."""
    cni.add(conf("net"), node.pod("pod"))
    assert slash24(node, "leases")[0] == 0
    node.path(f"{LEASES}/net/10.2.0.2").unlink()
    status, text = slash24(node, "leases")
    assert (status, "no lease, and may be given to another pod" in text) == (1, True)
    assert json.loads(json.dumps(document(node, "leases")[1]["unleased"])) == [
        {"network": "net", "container": "pod", "pod": "", "addresses": ["10.2.0.2"]}
    ]


def test_names_that_no_runtime_gives(node: Node) -> None:
    """Paths are made of names: those of a lease must not lead out of the folders. The lease goes all the same."""
    victim = node.path("/run/cni/victim_eth0.json")
    victim.parent.mkdir()
    victim.write_text("{}")
    folder = node.path(f"{LEASES}/net")
    folder.mkdir(parents=True)
    (folder / "10.1.0.2").write_text("../victim\r\neth0")
    aged(node, f"{LEASES}/net/10.1.0.2")
    assert [*whys(node)[0]] == ["../victim"]
    assert removed(node)
    assert slash24(node, "gc") == NOTHING
    assert victim.exists()


def test_what_another_plugin_needs_stays(node: Node, reference: CNI, reference_bin: Path) -> None:
    """The cache of a network with others' plugins: these have to be called with it. Its lease of host-local goes."""
    tool = Cnitool(node, reference_bin / "cnitool", (reference_bin,))
    ipam = {"type": "host-local", "subnet": "10.4.0.0/24"}
    tool.write({"cniVersion": "1.0.0", "name": "ptp", "plugins": [{"type": "ptp", "ipam": ipam}]})
    pod, live = node.pod("pod"), node.pod("live")
    for each in (pod, live):
        tool.ok("add", "ptp", each)
    end(pod)
    assert [[piece["kind"] for piece in one["pieces"]] for one in document(node, "gc")[1]["stale"]] == [["lease"]]
    assert removed(node)
    assert slash24(node, "gc") == NOTHING
    assert len([*node.path("/var/lib/cni/results").iterdir()]) == 2
    assert document(node, "leases")[0] == 0
    tool.ok("check", "ptp", live)

"""Load: peers that come and go while pods are added, and a hundred pods at once on each of three nodes."""

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from select import select
from threading import Event

import pytest

from tests.netns.cluster_tools import PEERS_FILE, own_routes, write
from tests.netns.node import Node, Pod
from tests.system.underlay import Member, Underlay, assert_talk

KINDS = pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
PODS = 100

# One process per plugin call, all started before the first can have ended.
_AT_ONCE = """
cd /run/calls
for i in $(seq {pods}); do
    CNI_COMMAND={verb} CNI_CONTAINERID=p$i CNI_NETNS=/run/netns/p$i {plugin} <conf >{verb}.$i 2>&1 || echo $i >>failed &
done
wait
"""


def passing_peer(number: int) -> dict:
    """The record of a peer that comes and goes: the node does not exist, but its address is on the link."""
    addresses = [f"192.0.2.{100 + number}", f"2001:db8:1::{100 + number}"]
    return {"name": f"x{number}", "addresses": addresses, "podCIDRs": [f"10.244.{100 + number}.0/24"]}


@contextmanager
def deletions(node: Node) -> Iterator[list[str]]:
    """The routes deleted on a node meanwhile, as `ip monitor` reports them; filled in at the end."""
    mark = ["198.18.0.0/15", "dev", "lo"]
    found: list[str] = []
    with node.start(["ip", "monitor", "route"], stdout=subprocess.PIPE, text=True) as monitor:
        try:
            while not select([monitor.stdout], [], [], 0.1)[0]:
                node.run(["ip", "route", "replace", *mark])  # until it listens
            yield found
            node.run(["ip", "route", "del", *mark])
            for line in monitor.stdout:
                if line.startswith("Deleted 198.18."):
                    break
                found += [line] if line.startswith("Deleted") else []
        finally:
            monitor.terminate()


@KINDS
def test_pods_are_added_while_peers_change(underlay: Underlay, kind: str) -> None:
    """The peers file is rewritten all the time; routes to peers that are always in it are never deleted.

    In the end the routes match the last file, whichever version each ADD has read.
    """
    members = [underlay.join("left") for _ in range(2)]
    one, two = members
    lasting = [member.record for member in members]
    one.configure(kind, [], peers=None)
    two.configure(kind, members)
    write(one.node, PEERS_FILE, {"peers": lasting})
    other, pod = two.add("pod"), one.add("pod")
    stop, pods = Event(), [one.node.pod(f"p{number}") for number in range(64)]

    def change() -> int:
        turns = 0
        while not stop.is_set():
            passing = [passing_peer(number) for number in range(40) if (number + turns) % 3]
            write(one.node, PEERS_FILE, {"peers": [*passing[:20], *lasting, *passing[20:]]})
            turns += 1
            stop.wait(0.01)
        return turns

    with deletions(one.node) as deleted, ThreadPoolExecutor(5) as pool:
        changing = pool.submit(change)
        adding = [pool.submit(one.cni.add, one.conf, each) for each in pods]
        results = [each.result() for each in adding[:-4]]
        stop.set()
        assert changing.result() > 20
        write(one.node, PEERS_FILE, {"peers": [*lasting, passing_peer(7)]})
        results += [each.result() for each in adding[-4:]]
        last = one.add("last")
    assert [line for line in deleted if "10.244.2.0/24" in line or "fd00:244:0:2::/64" in line] == []
    assert any("10.244.1" in line for line in deleted), "no passing peer's route has ever gone"
    assert set(own_routes(one.node)) == {"10.244.2.0/24", "fd00:244:0:2::/64", "10.244.107.0/24"}
    assert_talk((one, pod), (two, other))
    for each, result in ((pods[0], results[0]), (pods[-1], results[-1])):
        one.cni.check(one.conf, each, result)
    one.check(last)


def all_at_once(members: Sequence[Member], verb: str) -> None:
    """Call the plugin for all pods of all nodes concurrently; assert that every call succeeds."""
    started = []
    for member in members:
        write(member.node, "/run/calls/conf", json.dumps(member.conf))
        env = member.cni.environ(verb) | {"CNI_IFNAME": "eth0"}
        script = _AT_ONCE.format(pods=PODS, verb=verb, plugin=member.cni.folder / member.conf["type"])
        started.append(member.node.start(["sh", "-c", script], env=env))
    for process in started:
        assert process.wait(timeout=170) == 0
    for member in members:
        failed = member.node.path("/run/calls/failed")
        assert not failed.exists(), [answer(member, verb, int(i)) for i in failed.read_text().split()[:3]]


def answer(member: Member, verb: str, number: int) -> str:
    """The output of the call for that pod."""
    return member.node.path(f"/run/calls/{verb}.{number}").read_text()


@pytest.mark.alone
@KINDS
def test_a_hundred_pods_at_once_on_each_of_three_nodes(underlay: Underlay, kind: str) -> None:
    """Three hundred concurrent cold ADDs on empty nodes, then DELs: addresses are unique, and pods reach each other."""
    members = [underlay.join("left") for _ in range(3)]
    for member in members:
        member.configure(kind, members)
        member.node.run(["sh", "-c", f"mkdir /run/calls; for i in $(seq {PODS}); do ip netns add p$i; done"])
    all_at_once(members, "ADD")
    for member in members:
        results = [json.loads(answer(member, "ADD", number)) for number in range(1, PODS + 1)]
        given = {ip["address"] for result in results for ip in result["ips"]}
        assert len(given) == 2 * PODS
        links = member.node.links().values()
        assert sum(link.get("master") == "cbr0" for link in links) == PODS
        assert len(own_routes(member.node)) == 4
        member.results.update({f"p{number}": result for number, result in enumerate(results, 1)})
    samples = [(member, pod_of(member, number)) for member, number in zip(members, (1, 50, 100), strict=True)]
    for member, pod in samples:
        member.check(pod)
    assert_talk(samples[0], samples[1])
    assert_talk(samples[2], samples[0])
    all_at_once(members, "DEL")
    for member in members:
        assert [name for name in member.node.links() if name.startswith("veth")] == []
        leases = [f.name for f in member.node.path("/var/lib/cni/networks/cluster").glob("*")]
        assert [name for name in leases if re.match(r"10\.|fd00:", name)] == []
        member.add("next")


def pod_of(member: Member, number: int) -> Pod:
    """The pod of that number."""
    return Pod(member.node, f"p{number}")

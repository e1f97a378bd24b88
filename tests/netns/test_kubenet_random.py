"""Random events on a `kubenet` or `vxlan` node: leases, links, gateways and routes stay consistent."""

import json
import random
import subprocess
import time
from dataclasses import dataclass, field

import pytest

from tests.netns.cluster_tools import LEASES, NODE_FILE, PEERS_FILE, network, own_routes, record, write
from tests.netns.cni import CNI
from tests.netns.node import Node, Pod

STEPS = 45
DAMAGE = (
    "ip route flush proto 24",
    "ip -6 route flush proto 24",
    "ip link del slash24.1",
    "ip neigh flush dev slash24.1 nud permanent",
    "nft flush ruleset",
    "ip addr flush dev cbr0 scope global",
    "ip link set cbr0 promisc off",
)


@dataclass
class Story:
    """The expected state of a node: the pods with their results, the subnet and the peers."""

    node: Node
    cni: CNI
    conf: dict
    chance: random.Random
    subnet: int = 1
    peers: tuple[int, ...] = ()
    made: int = 0
    damaged: bool = False
    live: dict[str, tuple[Pod, dict, int]] = field(default_factory=dict)

    def next_pod(self) -> Pod:
        """Create a new namespace."""
        self.made += 1
        return self.node.pod(f"pod{self.made}")

    def add(self) -> None:
        """Add a pod; afterwards the node is complete, whatever its state before."""
        pod = self.next_pod()
        result = self.cni.add(self.conf, pod)
        self.live[pod.name] = (pod, result, self.subnet)
        self.damaged = False
        assert set(own_routes(self.node)) == {
            subnet for peer in self.peers for subnet in (f"10.244.{peer}.0/24", f"fd00:244:0:{peer}::/64")
        }
        for each, answer, subnet in self.live.values():
            if subnet == self.subnet:
                self.cni.check(self.conf, each, answer)

    def delete(self) -> None:
        """Delete a pod: sometimes twice, sometimes after its namespace was deleted."""
        if self.live:
            name = self.chance.choice(sorted(self.live))
            pod, result, _ = self.live.pop(name)
            if self.chance.random() < 0.3:
                pod.vanish()
            for _ in range(self.chance.choice((1, 1, 2))):
                self.cni.delete(self.conf, pod, self.chance.choice((result, None)))

    def forget(self) -> None:
        """Drop a pod without DEL; GC gets the list of the others."""
        if self.live:
            self.live.pop(self.chance.choice(sorted(self.live)))
        self.cni.gc(self.conf, *(pod for pod, _, _ in self.live.values()))

    def kill(self) -> None:
        """Kill an ADD at a random moment, then run its DEL."""
        pod = self.next_pod()
        env = self.cni.environ("ADD", pod)
        plugin = self.node.start([self.cni.folder / self.conf["type"]], env=env, stdin=subprocess.PIPE, stdout=-3)
        with plugin:
            plugin.stdin.write(json.dumps(self.conf).encode())
            plugin.stdin.close()
            time.sleep(self.chance.uniform(0.02, 0.12))
            plugin.kill()
        self.cni.delete(self.conf, pod)
        self.damaged = True  # the killed ADD may have left part of the node's state

    def move(self) -> None:
        """Change the node's subnet."""
        self.subnet = self.chance.randint(1, 3)
        subnets = [f"10.244.{self.subnet}.0/24", f"fd00:244:0:{self.subnet}::/64"]
        write(self.node, NODE_FILE, {"podCIDRs": subnets})
        self.damaged = True

    def meet(self) -> None:
        """Change the peers; the node itself is always listed, with any subnet."""
        self.peers = tuple(self.chance.sample(range(10, 30), self.chance.randint(0, 12)))
        own = {**record(self.chance.randint(1, 3)), "addresses": ["192.0.2.1", "2001:db8:1::1"]}
        write(self.node, PEERS_FILE, {"peers": [own, *(record(peer) for peer in self.peers)]})

    def damage(self) -> None:
        """Delete something by hand."""
        self.node.run(["sh", "-c", self.chance.choice(DAMAGE)], check=False)
        self.damaged = True

    def look(self) -> None:
        """Check what must hold after every step."""
        leases = {f.name for f in self.node.path(LEASES).glob("*") if f.name[0].isdigit() or ":" in f.name}
        given = {ip["address"].partition("/")[0] for _, result, _ in self.live.values() for ip in result["ips"]}
        assert leases == given
        links = self.node.links()
        ports = {name for name, link in links.items() if link.get("master") == "cbr0"}
        hosts = {one["name"] for _, result, _ in self.live.values() for one in result["interfaces"]}
        assert ports == {name for name in hosts if name.startswith("veth")}
        assert {name for name in links if name.startswith("veth")} == ports
        if "cbr0" in links and not self.damaged:
            used = {self.subnet, *(subnet for _, _, subnet in self.live.values())}
            gateways = {one for n in used for one in (f"10.244.{n}.1/24", f"fd00:244:0:{n}::1/64")}
            assert self.node.addresses("cbr0") - gateways == set()


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", ["kubenet", "vxlan"])
def test_a_node_stays_consistent(cni: CNI, node: Node, kind: str, seed: int) -> None:
    """A random sequence of pods, subnets, peers, crashes and damage, reproducible by its seed."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    conf = network(kind, podCIDRs=None, hairpinMode="promiscuous-bridge" if seed % 2 else None)
    story = Story(node, cni, conf, random.Random(f"{kind} {seed}"))
    story.move()
    story.meet()
    told = []
    for _ in range(STEPS):
        names = ("add", "delete", "forget", "kill", "move", "meet", "damage")
        step = story.chance.choices(names, (8, 4, 1, 2, 1, 2, 2))[0]
        told.append(step)
        getattr(story, step)()
        try:
            story.look()
        except AssertionError as error:
            raise AssertionError(f"after {told}") from error
    while story.live:
        story.delete()
        story.look()

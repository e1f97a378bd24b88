"""For tests of `bandwidth`: a pod's link on a bridge, and its queueing disciplines and filters."""

import json
from collections.abc import Mapping

from tests.netns.cni import CNI, with_prev
from tests.netns.node import Node, Pod

RANGES = [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1::/64"}]]
BRIDGE = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br0", "isDefaultGateway": True}
BRIDGE |= {"ipam": {"type": "host-local", "ranges": RANGES}}
INGRESS = {"ingressRate": 4_000_000, "ingressBurst": 160_000}
EGRESS = {"egressRate": 2_000_000, "egressBurst": 160_000}
BOTH = INGRESS | EGRESS
FASTER = {**EGRESS, "egressRate": 8_000_000}


def limited(**limits: int) -> dict:
    """The configuration of the plugin, with these limits in runtimeConfig."""
    return {"cniVersion": "1.1.0", "name": "net", "type": "bandwidth", "runtimeConfig": {"bandwidth": limits}}


class Link:
    """A pod on a bridge, and the result of the bridge plugin."""

    def __init__(self, cni: CNI, name: str = "poda", ifname: str = "eth0", pod: Pod | None = None) -> None:
        self.cni, self.node, self.ifname = cni, cni.node, ifname
        self.pod = pod or cni.node.pod(name)
        self.result = cni.add(BRIDGE, self.pod, ifname=ifname)
        self.end = self.result["interfaces"][1]["name"]

    def add(self, cni: CNI | None = None, **limits: int) -> dict:
        """ADD of the chained plugin."""
        return (cni or self.cni).add(with_prev(limited(**limits), self.result), self.pod, ifname=self.ifname)

    def check(self, result: Mapping, cni: CNI | None = None, **limits: int) -> None:
        """CHECK of the chained plugin."""
        (cni or self.cni).check(limited(**limits), self.pod, result, ifname=self.ifname)

    def delete(self, result: Mapping | None, cni: CNI | None = None, **limits: int) -> None:
        """DEL of the chained plugin."""
        (cni or self.cni).delete(limited(**limits), self.pod, result, ifname=self.ifname)


def ifbs(node: Node) -> list[str]:
    """The names of the node's ifbs."""
    return sorted(name for name, one in node.links().items() if one.get("linkinfo", {}).get("info_kind") == "ifb")


def qdiscs(node: Node, link: str) -> dict[str, dict]:
    """The qdiscs of a link by kind, without the kernel's default ones, which have handle 0."""
    found = json.loads(node.run(["tc", "-j", "-s", "-d", "qdisc", "show", "dev", link]).stdout)
    return {one["kind"]: one for one in found if one["handle"] != "0:"}


def filters(node: Node, link: str) -> str:
    """The ingress filters of a link."""
    return node.run(["tc", "filter", "show", "dev", link, "ingress"]).stdout


def state(node: Node) -> list[object]:
    """Everything that ADD can change."""
    parts: list[object] = [node.run(["tc", "qdisc"]).stdout]
    for name, one in node.links().items():
        parts.append((name, one["ifindex"], one["mtu"], one["flags"], one.get("ifalias"), filters(node, name)))
    return parts

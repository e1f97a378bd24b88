"""Shared by the tests of `kubenet` and `vxlan` on one node: configurations, node and peers files, state of the node."""

import json
from collections.abc import Mapping

from tests.netns.cni import CNI, CNIFailure
from tests.netns.node import Node, Pod

OWN = ("10.244.1.0/24", "fd00:244:0:1::/64")
CLUSTER = ("10.244.0.0/16", "fd00:244::/48")
NODE_FILE, PEERS_FILE = "/run/slash24/node.json", "/run/slash24/peers.json"
LEASES = "/var/lib/cni/networks/net"


def network(kind: str, **keys: object) -> dict:
    """A dual-stack node's configuration; `keys` are added, those that are None are left out."""
    conf = {"cniVersion": "1.1.0", "name": "net", "type": kind, "podCIDRs": list(OWN), "clusterCIDRs": list(CLUSTER)}
    return {key: value for key, value in {**conf, **keys}.items() if value is not None}


def record(number: int, *, link: str = "192.0.2", **keys: object) -> dict:
    """The record of node NUMBER of the cluster, on the link of the test's node unless `link` names another."""
    addresses = [f"{link}.{number}"] + ([f"2001:db8:1::{number}"] if link == "192.0.2" else [])
    node = {"name": f"n{number}", "addresses": addresses}
    return {**node, "podCIDRs": [f"10.244.{number}.0/24", f"fd00:244:0:{number}::/64"], **keys}


def write(node: Node, path: str, content: object) -> str:
    """Replace a file of the node atomically, with text as it is or anything else as JSON, and return the path."""
    file = node.path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(file.name + ".new")
    new.write_text(content if isinstance(content, str) else json.dumps(content))
    new.rename(file)
    return path


def refused(cni: CNI, verb: str, conf: Mapping, pod: Pod | None = None) -> CNIFailure:
    """The error that a call returns."""
    try:
        cni.call(verb, conf, pod)
    except CNIFailure as failure:
        return failure
    raise AssertionError(f"{verb} succeeded")


def told(cni: CNI, verb: str, conf: Mapping, pod: Pod | None = None) -> list[str]:
    """The lines that a successful call prints to stderr."""
    done = cni.raw(conf["type"], cni.environ(verb, pod), json.dumps(conf))
    assert done.returncode == 0, done.stdout
    return done.stderr.splitlines()


def own_routes(node: Node) -> dict[str, tuple[str, str]]:
    """The routes of our routing protocol: destination -> next hop and link."""
    routes = [*node.ip("-4", "route"), *node.ip("-6", "route")]
    return {r["dst"]: (r["gateway"], r["dev"]) for r in routes if str(r.get("protocol")) == "24"}


def pods_left(node: Node, *pods: Pod) -> dict[str, object]:
    """Everything that belongs to pods: links on the node and in the pods, leases."""
    leases = [f.name for f in node.path(LEASES).glob("*") if f.name[0].isdigit() or ":" in f.name]
    links = [name for name in node.links() if name.startswith("veth")]
    return {"leases": leases, "veths": links, "inside": [name for pod in pods for name in pod.links() if name != "lo"]}


NO_PODS = {"leases": [], "veths": [], "inside": []}

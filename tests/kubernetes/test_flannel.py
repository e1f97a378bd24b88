"""flannel's registry in Kubernetes: real flanneld with a real API server, and slash24-node beside it."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nodes.registries.flannel_kubernetes import FlannelKubernetesRegistry
from nodes.registry import Wish
from plugins.node.records import Node
from spec.config import Section
from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.watching import set_status, watched
from tests.system.flannel_tools import (
    NET_CONF,
    Nodes,
    Program,
    assert_all_reach,
    assert_little_lost,
    identity,
)
from tests.system.traffic import Traffic
from tests.system.underlay import LINKS, ROUTER, Member, Underlay

PREFIX = "flannel.alpha.coreos.com/"


class KubernetesNodes(Nodes):
    """Nodes whose records are annotations, in an API server on the router between them."""

    def __init__(self, underlay: Underlay, folder: Path, reference: Path, home: Path) -> None:
        super().__init__(reference, home)
        self.underlay = underlay
        address = f"{LINKS['left'][0]}{ROUTER}"
        self.api = ApiServer(folder, address=address, host=underlay.fabric)
        self._net_conf = folder / "net-conf.json"
        self._net_conf.write_text(json.dumps(NET_CONF))

    def close(self) -> None:
        """End all daemons and the API server."""
        super().close()
        self.api.close()

    def join(self, link: str) -> Member:
        """A node with its Node, whose podCIDR the cluster has allocated."""
        member = self.underlay.join(link)
        spec = {"podCIDR": self.subnet_of(member), "podCIDRs": [self.subnet_of(member)]}
        name = f"n{member.number}"
        # flanneld ends with a panic if a Node has no annotation at all; controllers always add some.
        metadata = {"name": name, "annotations": {"node.alpha.kubernetes.io/ttl": "0"}}
        self.api.request("POST", "/api/v1/nodes", {"metadata": metadata, "spec": spec})
        set_status(self.api, name, addresses=[{"type": "InternalIP", "address": member.addresses[0]}])
        return member

    def subnet_of(self, member: Member) -> str:
        """The subnet of a node."""
        return f"10.244.{member.number}.0/24"

    def flanneld(self, member: Member) -> Program:
        """Start flanneld on a node."""
        options = ["--kube-subnet-mgr", f"--kubeconfig-file={self.api.kubeconfig}"]
        options.append(f"--net-config-path={self._net_conf}")
        return self.start_flanneld(member, *options, NODE_NAME=f"n{member.number}")

    def slash24(self, member: Member) -> Program:
        """Start slash24-node on a node."""
        more = f'\n[kubernetes]\nkubeconfig = "{self.api.kubeconfig}"\n'
        return self.start_slash24(member, "flannel+kubernetes", more=more)

    def annotations(self, member: Member) -> dict[str, str]:
        """flannel's annotations of a node."""
        found = self.api.request("GET", f"/api/v1/nodes/n{member.number}")["metadata"].get("annotations") or {}
        return {key.removeprefix(PREFIX): value for key, value in found.items() if key.startswith(PREFIX)}


@pytest.fixture
def nodes(tmp_path: Path, reference_bin: Path, bin_dir: Path) -> Iterator[KubernetesNodes]:
    """No nodes yet."""
    underlay = Underlay(bin_dir)
    try:
        with closing(KubernetesNodes(underlay, tmp_path, reference_bin, bin_dir)) as made:
            yield made
    finally:
        underlay.close()


def test_a_cluster_is_moved(nodes: KubernetesNodes) -> None:
    """A new node joins with the annotations that flanneld writes; flannel's nodes are moved while traffic passes."""
    members = [nodes.join(link) for link in ("left", "right", "left")]
    daemons = [nodes.flanneld(member) for member in members[:2]]
    nodes.slash24(members[2])
    pods = [nodes.flannel_pod(member, "old") for member in members[:2]]
    pods.append(nodes.slash24_pod(members[2], "old"))
    assert_all_reach(pods)
    theirs, ours = nodes.annotations(members[0]), nodes.annotations(members[2])
    data = json.dumps({"VNI": 1, "VtepMAC": identity(members[2])[1]}, separators=(",", ":"))
    assert ours == theirs | {"public-ip": members[2].addresses[0], "backend-data": data}
    with closing(Traffic(pods)) as traffic:
        traffic.report()
        for member, daemon in zip(members, daemons, strict=False):
            before = identity(member), nodes.annotations(member)
            daemon.stop()
            nodes.slash24(member)
            pods.append(nodes.slash24_pod(member, "new"))
            assert_little_lost(f"node {member.number} is moved", traffic)
            assert (identity(member), nodes.annotations(member)) == before
    assert_all_reach(pods)


def test_the_registry(tmp_path: Path) -> None:
    """Nodes without flannel's annotations are told; addresses are overwritten as in flannel; the prefix can be set."""
    prefix = "example.org/flannel-"
    with ApiServer(tmp_path) as api:
        for name in ("a", "b"):
            metadata = {"name": name, "annotations": {f"{prefix}public-ip-overwrite": "198.51.100.7"}}
            spec = {"podCIDR": f"10.244.{ord(name)}.0/24", "podCIDRs": [f"10.244.{ord(name)}.0/24"]}
            api.request("POST", "/api/v1/nodes", {"metadata": metadata, "spec": spec})
        options = Section({"kubeconfig": str(api.kubeconfig), "annotationPrefix": "example.org/flannel"})
        registry = FlannelKubernetesRegistry("flannel+kubernetes", "a", options)
        grant = registry.lease(Wish())
        assert (grant.subnets, grant.addresses) == (("10.244.97.0/24",), ("198.51.100.7",))
        registry.publish(Node("a", grant.addresses, grant.subnets, "12:c6:65:89:b4:e3", vni=1, port=8472))
        with watched(registry) as seen:
            own = seen.nodes["a"].node
            assert (own.addresses, own.subnets, own.vtep_mac) == (grant.addresses, grant.subnets, "12:c6:65:89:b4:e3")
            assert seen.nodes["b"].problem == "it has no annotations of flannel yet"
            registry.withdraw()
            seen.wait(lambda: seen.nodes["a"].node is None, "the record is gone")
        kept = api.request("GET", "/api/v1/nodes/a")["metadata"]["annotations"]
        assert kept == {f"{prefix}public-ip-overwrite": "198.51.100.7"}

"""The daemon on a node, with a real API server: what each tells the other."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodes.pod_status import ANNOTATION
from tests.kubernetes.apiserver import MERGE, STRATEGIC, ApiServer
from tests.kubernetes.watching import set_status
from tests.netns.cluster_tools import own_routes
from tests.netns.cni import CNI
from tests.netns.daemon_tools import CONFLIST, add, daemon_command, daemon_environment
from tests.netns.fixtures import node  # noqa: F401 (fixture)
from tests.netns.node import Node, Pod, wait_until

CONFIG = """
mode = "vxlan"
cluster = ["10.244.0.0/16", "fd00:244::/48"]
registry = "kubernetes"
node = "n1"
{more}

[kubernetes]
kubeconfig = "{kubeconfig}"
podNetworkStatus = true

[conflist]
path = "{conflist}"
"""


@pytest.fixture
def api(node: Node, tmp_path: Path) -> Iterator[ApiServer]:  # noqa: F811 (the fixture, not the import)
    """An API server in the node's network namespace."""
    node.outside()
    node.run(["ip", "route", "add", "default", "via", "192.0.2.2"])
    with ApiServer(tmp_path / "api", host=node) as made:
        yield made


Start = Callable[..., Path]


@pytest.fixture
def daemon(node: Node, api: ApiServer, bin_dir: Path, tmp_path: Path) -> Iterator[Start]:  # noqa: F811 (see above)
    """Starts the daemon; returns the path of its log."""
    processes = []

    def start(more: str = "", *options: str) -> Path:
        node.path("/run/slash24.toml").write_text(
            CONFIG.format(kubeconfig=api.kubeconfig, conflist=CONFLIST, more=more)
        )
        argv = [*daemon_command(bin_dir), "--config", "/run/slash24.toml", *options]
        with (tmp_path / "daemon.log").open("w") as log:
            processes.append(node.start(argv, env=daemon_environment(bin_dir), stderr=log, cwd="/"))
        return tmp_path / "daemon.log"

    yield start
    for process in processes:
        process.kill()
        process.wait()


def make(api: ApiServer, number: int, *, with_subnets: bool = True) -> None:
    """Create the Node of that number."""
    subnets = [f"10.244.{number}.0/24", f"fd00:244:0:{number}::/64"]
    spec = {"podCIDR": subnets[0], "podCIDRs": subnets} if with_subnets else {}
    api.request("POST", "/api/v1/nodes", {"metadata": {"name": f"n{number}"}, "spec": spec})
    addresses = [f"192.0.2.{number}", f"2001:db8:1::{number}"]
    set_status(api, f"n{number}", addresses=[{"type": "InternalIP", "address": one} for one in addresses])


def condition(api: ApiServer) -> tuple[str, str]:
    """Status and reason of the Node's condition NetworkUnavailable."""
    conditions = api.request("GET", "/api/v1/nodes/n1")["status"].get("conditions") or []
    return next(((one["status"], one["reason"]) for one in conditions if one["type"] == "NetworkUnavailable"), ("", ""))


def test_nodes_of_the_api_become_routes_and_the_api_learns_of_it(api: ApiServer, daemon: Start, node: Node) -> None:  # noqa: F811
    """The Node without podCIDRs is not ready, and says why; with them the conflist is written."""
    make(api, 1, with_subnets=False)
    make(api, 2)
    log = daemon()
    assert wait_until(lambda: condition(api) == ("True", "NoSubnet"), timeout=30), log.read_text()
    assert "has no podCIDRs: start kube-controller-manager" in log.read_text()
    assert not node.path(CONFLIST).exists()
    subnets = {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:244:0:1::/64"]}
    api.request("PATCH", "/api/v1/nodes/n1", {"spec": subnets}, kind=MERGE)
    assert wait_until(lambda: condition(api) == ("False", "RoutesInPlace"), timeout=30), log.read_text()
    assert set(own_routes(node)) == {"10.244.2.0/24", "fd00:244:0:2::/64"}
    assert node.path(CONFLIST).exists()
    assert "annotations" not in api.request("GET", "/api/v1/nodes/n1")["metadata"]
    make(api, 3)
    assert wait_until(lambda: "10.244.3.0/24" in own_routes(node)), log.read_text()
    api.request("DELETE", "/api/v1/nodes/n2")
    assert wait_until(lambda: "10.244.2.0/24" not in own_routes(node)), log.read_text()


def test_subnets_are_leased_if_the_cluster_allocates_none(api: ApiServer, daemon: Start, node: Node) -> None:  # noqa: F811
    """And announced, so that other nodes know them."""
    make(api, 1, with_subnets=False)
    log = daemon("allocate = [24, 64]")
    assert wait_until(lambda: condition(api) == ("False", "RoutesInPlace"), timeout=30), log.read_text()
    record = json.loads(api.request("GET", "/api/v1/nodes/n1")["metadata"]["annotations"]["slash24.dev/record"])
    assert record["podCIDRs"] == json.loads(node.path("/run/slash24/node.json").read_text())["podCIDRs"]
    assert [one.partition("/")[2] for one in record["podCIDRs"]] == ["24", "64"]


def make_pod(api: ApiServer, name: str, addresses: list[str], **annotations: str) -> None:
    """Create a Pod on the node, with these addresses in its status."""
    spec = {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}
    metadata = {"name": name, "annotations": {**annotations}}
    api.request("POST", "/api/v1/namespaces/default/pods", {"metadata": metadata, "spec": spec})
    status = {"phase": "Running", "podIP": addresses[0], "podIPs": [{"ip": one} for one in addresses]}
    api.request("PATCH", f"/api/v1/namespaces/default/pods/{name}/status", {"status": status}, kind=STRATEGIC)


def annotation(api: ApiServer, name: str) -> list[dict]:
    """The network status of a Pod, [] if it has none."""
    found = api.request("GET", f"/api/v1/namespaces/default/pods/{name}")["metadata"].get("annotations") or {}
    return json.loads(found.get(ANNOTATION, "[]"))


def test_the_networks_of_pods_are_reported(api: ApiServer, daemon: Start, cni: CNI) -> None:
    """With the interface and its MAC, for pods of this network; what others have written is left alone."""
    make(api, 1)
    api.request("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "default"}})
    log = daemon()
    assert wait_until(lambda: condition(api) == ("False", "RoutesInPlace"), timeout=30), log.read_text()
    pods: dict[str, tuple[Pod, list[str]]] = {}
    for name in ("p1", "p2"):
        pod, result = add(cni, name)
        pods[name] = pod, [ip["address"].partition("/")[0] for ip in result["ips"]]
    foreign = [{"name": "slash24", "ips": []}, {"name": "storage", "ips": ["192.0.2.77"]}]
    make_pod(api, "p2", pods["p2"][1], **{ANNOTATION: json.dumps(foreign)})
    make_pod(api, "elsewhere", ["10.99.0.1"])
    pod, addresses = pods["p1"]
    make_pod(api, "p1", addresses)
    assert wait_until(lambda: annotation(api, "p1"), timeout=30), log.read_text()
    mac = pod.links()["eth0"]["address"]
    expected = {"name": "slash24", "interface": "eth0", "ips": addresses, "mac": mac, "default": True, "dns": {}}
    assert annotation(api, "p1") == [expected]
    assert (annotation(api, "p2"), annotation(api, "elsewhere")) == (foreign, [])


@pytest.fixture
def cni(node: Node, bin_dir: Path) -> CNI:  # noqa: F811 (see above)
    """The plugins under test, called on the node."""
    return CNI(node, bin_dir)

"""slash24 on a cluster, by its manifests."""

from pathlib import Path

import pytest
import yaml

from plugins.__main__ import VERSION
from tests.conftest import ROOT
from tests.kubernetes.cluster import Cluster
from tests.netns.node import Host

MANIFEST, UNINSTALL = ROOT / "deploy/slash24.yaml", ROOT / "deploy/slash24-uninstall.yaml"
IMAGE = f"localhost/slash24:{VERSION}"
NAMESPACE = ("--namespace", "slash24")
DAEMON_SET = "daemonset/slash24"
CONTAINERS = ("install", "agent", "node")


def archive() -> Path:
    """The archive of the image."""
    path = ROOT / f"dist/slash24-{VERSION}-linux-amd64.oci.tar"
    if not path.exists():
        pytest.fail(f"{path} is not there; make it with ./build.sh --image", pytrace=False)
    return path


def install(cluster: Cluster, toml: str = "") -> None:
    """Apply the manifest, perhaps with another configuration, and wait until all nodes and daemons are ready."""
    if toml:
        objects = [each for each in yaml.safe_load_all(MANIFEST.read_text()) if each]
        (config,) = [each for each in objects if each["kind"] == "ConfigMap"]
        config["data"] = {"slash24.toml": toml}
        cluster.apply(*objects)
    else:
        cluster.kubectl("apply", "-f", MANIFEST)
    cluster.wait_until_ready()
    wait_for_daemons(cluster)


def wait_for_daemons(cluster: Cluster) -> None:
    """Wait until the DaemonSet's pods are the current ones and ready."""
    cluster.kubectl("rollout", "status", *NAMESPACE, DAEMON_SET, "--timeout=180s")


def uninstall(cluster: Cluster) -> None:
    """Remove slash24 from all nodes, then from the cluster, as the manual says."""
    cluster.kubectl("apply", "-f", UNINSTALL)
    wait_for_daemons(cluster)
    cluster.kubectl("delete", "-f", MANIFEST, "--timeout=90s")


def traces(node: Host) -> dict[str, str]:
    """What a network for pods adds to a node: links, routes, addresses, rules and files, as text."""
    commands = {
        "links": "ip -br link | cut -d' ' -f1",
        "routes": "ip route; ip -6 route",
        "addresses": "ip -br address",
        "rules": "nft list tables | grep -v kube-proxy",
        "files": "find /etc/cni /opt/cni /run/slash24/* /var/lib/cni 2>/dev/null",
    }
    return {name: node.run(["sh", "-c", f"{command}; true"]).stdout for name, command in commands.items()}

"""A real API server accepts the manifests and the chart, and gives the daemon the rights that it needs and no other."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.kubernetes.apiserver import ApiServer

TOOLS = ROOT / "build" / "kubernetes" / "tools"
CHART = ROOT / "deploy" / "helm" / "slash24"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server that enforces the pod security of namespaces, as all do."""
    with ApiServer(tmp_path_factory.mktemp("api")) as server:
        yield server


def run(server: ApiServer, tool: str, *words: str | Path) -> str:
    """The output of kubectl or helm; AssertionError with its complaint if it fails."""
    home = str(server.folder)
    environ = {"KUBECONFIG": str(server.kubeconfig), "HOME": home, "PATH": os.environ["PATH"]}
    done = subprocess.run([TOOLS / tool, *words], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


def rights(server: ApiServer, account: str) -> set[tuple[str, str, str]]:
    """What a service account may do: resource, names, verbs."""
    options = (f"--as=system:serviceaccount:{account}", "--as-group=system:serviceaccounts", "--no-headers")
    listing = run(server, "kubectl", "auth", "can-i", "--list", "--namespace=kube-system", *options)
    found = re.findall(r"^(\S+) +\[\] +(\[.*?\]) +(\[.*?\])$", listing, re.MULTILINE)
    return set(found)


def containers(server: ApiServer) -> set[str]:
    """The names of the containers of the DaemonSet."""
    path = "{.spec.template.spec['initContainers','containers'][*].name}"
    return set(run(server, "kubectl", "-n", "slash24", "get", "ds", "slash24", f"-o=jsonpath={path}").split())


def test_the_manifests_are_applied_and_deleted(server: ApiServer) -> None:
    """Twice, which changes nothing, then that of the removal; without a warning of the API server."""
    manifest = ROOT / "deploy" / "slash24.yaml"
    assert "unchanged" not in run(server, "kubectl", "apply", "-f", manifest)
    again = run(server, "kubectl", "apply", "-f", manifest).splitlines()
    assert [line for line in again if not line.endswith("unchanged")] == []
    assert containers(server) == {"install", "agent", "node"}
    run(server, "kubectl", "apply", "-f", ROOT / "deploy" / "slash24-uninstall.yaml")
    assert containers(server) == {"uninstall", "done"}
    run(server, "kubectl", "delete", "--wait=false", "-f", manifest)


def test_the_chart_is_installed_upgraded_and_removed(server: ApiServer) -> None:
    """With a namespace that helm creates; the removal by a value."""
    release = ("slash24", CHART, "--namespace=chart")
    run(server, "helm", "install", *release, "--create-namespace")
    run(server, "helm", "upgrade", *release, "--reuse-values", "--set", "uninstall=true")
    run(server, "helm", "rollback", "slash24", "--namespace=chart")
    run(server, "helm", "uninstall", "slash24", "--namespace=chart")


def test_the_service_account_has_the_rights_that_the_daemon_needs_and_no_other(server: ApiServer) -> None:
    """Nodes, their status, Events, what policies are about; by values the ConfigMap of subnets, and changes of pods."""
    release = ("slash24", CHART, "--namespace=chart")
    run(server, "helm", "install", *release, "--create-namespace")
    everybody = rights(server, "default:default")
    least = {
        ("nodes", "[]", "[get list watch]"),
        ("nodes/status", "[]", "[patch]"),
        ("events.events.k8s.io", "[]", "[create patch]"),
        ("namespaces", "[]", "[list watch]"),
        ("networkpolicies.networking.k8s.io", "[]", "[list watch]"),
        ("clusternetworkpolicies.policy.networking.k8s.io", "[]", "[list watch]"),
    }
    assert rights(server, "chart:slash24") - everybody == least | {("pods", "[]", "[list watch]")}
    run(server, "helm", "upgrade", *release, "--set", "leaseSubnets=true,podNetworkStatus=true")
    more = {
        ("configmaps", "[slash24-subnets]", "[get patch]"),
        ("configmaps", "[]", "[create]"),
        ("pods", "[]", "[list watch patch]"),
    }
    assert rights(server, "chart:slash24") - everybody == least | more
    run(server, "helm", "uninstall", "slash24", "--namespace=chart")

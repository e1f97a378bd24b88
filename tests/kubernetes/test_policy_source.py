"""Policies, pods, namespaces and nodes of a real API server."""

from collections.abc import Iterator

import pytest

from nodes.backoff import Backoff
from nodes.registries.kubernetes import following
from nodes.registries.kubernetes.access import Access
from policy.documents import KINDS
from policy.objects import EVERYTHING, NETWORK, Pod, PodPeer, Policy, Ports, Rule
from policy.sources.kubernetes import RESOURCES, KubernetesSource
from tests.kubernetes.apiserver import MERGE, ApiServer
from tests.kubernetes.policing import CRD, CRDS, PATHS, is_served, make_crd
from tests.netns.node import wait_until
from tests.pure.policy.kept import running

ROLES = "/apis/rbac.authorization.k8s.io/v1"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server with a namespace; "reader" may read nothing yet."""
    flags = ["--disable-admission-plugins=ServiceAccount"]
    with ApiServer(tmp_path_factory.mktemp("api"), users=[("reader", "readers")], flags=flags) as made:
        made.request("POST", PATHS["Namespace"], {"metadata": {"name": "a", "labels": {"team": "x"}}})
        subjects = [{"kind": "Group", "name": "readers", "apiGroup": "rbac.authorization.k8s.io"}]
        role = {"kind": "ClusterRole", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"}
        body = {"metadata": {"name": "reader"}, "subjects": subjects, "roleRef": role}
        made.request("POST", f"{ROLES}/clusterrolebindings", body)
        made.request("POST", f"{ROLES}/clusterroles", {"metadata": {"name": "reader"}, "rules": rules()})
        yield made


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """With short pauses, and small pages."""
    monkeypatch.setattr(Backoff, "next", lambda _self: 0.2)
    monkeypatch.setattr(following, "_MISSING", 0.5)
    monkeypatch.setattr(following, "_CONFIRMED", 1.0)
    monkeypatch.setattr(following, "PAGE", 3)


def rules(*without: str) -> list[dict]:
    """What the role of the daemon must allow, without some resources."""
    return [
        {"apiGroups": [each.group], "resources": [each.plural], "verbs": ["list", "watch"]}
        for each in RESOURCES
        if each.plural not in without
    ]


def source(api: ApiServer, user: str = "reader") -> KubernetesSource:
    """The source, with the rights of a user."""
    return KubernetesSource(Access(str(api.write_kubeconfig(user))))


def make_pod(api: ApiServer, name: str, ip: str) -> str:
    """Create a Pod that runs; returns its UID."""
    ports = [{"name": "http", "containerPort": 80}]
    spec = {"nodeName": "n", "containers": [{"name": "c", "image": "i", "ports": ports}]}
    path = "/api/v1/namespaces/a/pods"
    made = api.request("POST", path, {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
    set_status(api, name, phase="Running", podIPs=[{"ip": ip}], podIP=ip)
    return made["metadata"]["uid"]


def set_status(api: ApiServer, name: str, **status: object) -> None:
    """Change the status of a pod."""
    api.request("PATCH", f"/api/v1/namespaces/a/pods/{name}/status", {"status": status}, kind=MERGE)


def test_objects_come_change_and_go(api: ApiServer) -> None:
    """A list in pages at first, then every change; a pod that has ended is gone."""
    uids = {name: make_pod(api, name, f"10.0.0.{number}") for number, name in enumerate("stuvwxyz", 1)}
    ports = [{"port": "http"}, {"port": 1, "endPort": 9, "protocol": "UDP"}]
    body = {"metadata": {"name": "p"}, "spec": {"podSelector": {}, "ingress": [{"ports": ports}]}}
    api.request("POST", "/apis/networking.k8s.io/v1/namespaces/a/networkpolicies", body)
    with running(source(api)) as kept:
        kept.wait(lambda: kept.objects is not None)
        assert set(uids) <= kept.names
        found = kept.objects["Pod", "a", "s"]
        assert isinstance(found, Pod)
        assert (found.ips, found.node, found.uids) == (("10.0.0.1",), "n", (uids["s"],))
        assert [(each.name, each.number) for each in found.ports] == [("http", 80)]
        assert kept.objects["NetworkPolicy", "a", "p"] == Policy(
            NETWORK,
            "a",
            "p",
            PodPeer(EVERYTHING, None, "a"),
            (Rule(None, (Ports("TCP", name="http"), Ports("UDP", 1, 9)), where="ingress[0]"),),
        )
        assert kept.objects["Namespace", "", "a"].labels["team"] == "x"
        make_pod(api, "new", "fd00::1")
        kept.wait(lambda: "new" in kept.names and kept.objects["Pod", "a", "new"].ips)
        set_status(api, "new", phase="Failed")
        kept.wait(lambda: "new" not in kept.names)
        api.request("DELETE", "/apis/networking.k8s.io/v1/namespaces/a/networkpolicies/p")
        kept.wait(lambda: "p" not in kept.names)
        assert (kept.problems, kept.why) == ({}, "")


def test_a_missing_right_is_named(api: ApiServer) -> None:
    """And nothing is decided without it; once it is given, all goes on."""
    role = f"{ROLES}/clusterroles/reader"
    api.request("PATCH", role, {"rules": rules("networkpolicies")}, kind=MERGE)
    with running(source(api)) as kept:
        kept.wait(lambda: 'list and watch "networkpolicies" of the API group "networking.k8s.io"' in kept.why)
        assert kept.objects is None
        api.request("PATCH", role, {"rules": rules()}, kind=MERGE)
        kept.wait(lambda: kept.objects is not None and not kept.why)


def test_cluster_policies_are_followed_once_their_crd_is_there(api: ApiServer) -> None:
    """And are gone with it."""
    with running(source(api)) as kept:
        kept.wait(lambda: kept.objects is not None)
        make_crd(api)
        spec = {"tier": "Admin", "priority": 3, "subject": {"namespaces": {}}}
        name = {"apiVersion": KINDS["ClusterNetworkPolicy"], "kind": "ClusterNetworkPolicy", "metadata": {"name": "c"}}
        path = PATHS["ClusterNetworkPolicy"]
        assert wait_until(lambda: is_served(api, path), timeout=30)
        api.request("POST", path, {**name, "spec": spec})
        kept.wait(lambda: "c" in kept.names)
        assert kept.objects["ClusterNetworkPolicy", "", "c"].priority == 3
        api.request("DELETE", f"{CRDS}/{CRD}")
        kept.wait(lambda: "c" not in kept.names)
        assert kept.problems == {}


def test_a_server_that_starts_again_is_followed(api: ApiServer) -> None:
    """What it had before stays meanwhile."""
    with running(source(api)) as kept:
        kept.wait(lambda: kept.objects is not None)
        before = set(kept.objects)
        api.stop()
        kept.wait(lambda: kept.why)
        assert set(kept.objects) == before
        api.start()
        make_pod(api, "later", "10.0.0.99")
        kept.wait(lambda: "later" in kept.names and not kept.why)
        assert set(kept.objects) == {*before, ("Pod", "a", "later")}

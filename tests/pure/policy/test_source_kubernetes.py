"""The source in the Kubernetes API, with a small API server."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes.backoff import Backoff
from nodes.registries.kubernetes import following
from policy.objects import ClusterNode, Namespace, Pod
from policy.sources import kubernetes
from policy.sources.kubernetes import KubernetesSource
from tests.pure.policy.fake_api import PATHS, FakeApi, access_to
from tests.pure.policy.kept import running

POLICY = {"metadata": {"name": "p", "namespace": "a"}, "spec": {"podSelector": {}}}
CLUSTER = {"metadata": {"name": "c"}, "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """With short pauses."""
    monkeypatch.setattr(Backoff, "next", lambda _self: 0.05)
    monkeypatch.setattr(following, "_MISSING", 0.1)
    monkeypatch.setattr(following, "_CONFIRMED", 1.0)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    """An API server with an object of each kind but pods."""
    server = FakeApi()
    server.put("Namespace", {"metadata": {"name": "a"}})
    server.put("Node", {"metadata": {"name": "n"}, "status": {"addresses": [{"type": "InternalIP", "address": "::1"}]}})
    server.put("NetworkPolicy", POLICY)
    yield server
    server.close()


def pod(name: str, ip: str = "10.0.0.1", phase: str = "Running", **meta: object) -> dict:
    """A Pod of the API."""
    return {
        "metadata": {"name": name, "namespace": "a", "uid": f"uid-{name}", **meta},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": phase, "podIPs": [{"ip": ip}]},
    }


def wait_for_watches(api: FakeApi, *kinds: str) -> None:
    """Wait until kinds are watched."""
    deadline = time.monotonic() + 20
    while not all(map(api.watchers, kinds)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_first_list_has_everything(api: FakeApi, tmp_path: Path) -> None:
    """In pages; pods that have ended are not asked for."""
    for number in range(600):
        api.put("Pod", pod(f"p{number}", f"10.0.{number >> 8}.{number & 255}"))
    api.put("ClusterNetworkPolicy", CLUSTER)
    with running(KubernetesSource(access_to(api, tmp_path))) as kept:
        kept.wait(lambda: kept.objects is not None)
        assert len(kept.objects) == 604
        assert kept.objects["Pod", "a", "p7"] == Pod("a", "p7", {}, ("10.0.0.7",), (), "n", False, ("uid-p7",))
        assert kept.objects["Namespace", "", "a"] == Namespace("a", {"kubernetes.io/metadata.name": "a"})
        assert kept.objects["Node", "", "n"] == ClusterNode("n", {}, ("::1",))
        assert {"p", "c"} < kept.names
    pages = [params for path, params in api.asked if path == PATHS["Pod"] and "watch" not in params]
    assert len(pages) == 3
    assert pages[0]["fieldSelector"] == "status.phase!=Succeeded,status.phase!=Failed"


def test_changes_are_passed_on(api: FakeApi, tmp_path: Path) -> None:
    """New objects, changed ones, deleted ones, ended pods; not what is of no concern."""
    with running(KubernetesSource(access_to(api, tmp_path))) as kept:
        kept.wait(lambda: kept.objects is not None)
        wait_for_watches(api, *PATHS)
        api.put("Pod", pod("x"))
        kept.wait(lambda: "x" in kept.names)
        api.put("Pod", {**pod("x"), "spec": {"nodeName": "n", "schedulerName": "other"}})
        api.put("Pod", pod("x", labels={"k": "v"}))
        kept.wait(lambda: kept.objects["Pod", "a", "x"].labels == {"k": "v"})
        assert kept.calls.count(("put", ("Pod", "a", "x"))) == 2
        api.put("Pod", pod("x", phase="Succeeded"))
        kept.wait(lambda: "x" not in kept.names)
        api.put("NetworkPolicy", {**POLICY, "spec": {"podSelector": {}, "policyTypes": ["Egress"]}})
        kept.wait(lambda: kept.objects["NetworkPolicy", "a", "p"].ingress is None)
        api.delete("NetworkPolicy", "p", "a")
        kept.wait(lambda: "p" not in kept.names)


def test_nothing_is_decided_before_all_is_listed(api: FakeApi, tmp_path: Path) -> None:
    """A policy that is not known yet could forbid something; the permission that is missing is told."""
    api.fail("NetworkPolicy", 403)
    with running(KubernetesSource(access_to(api, tmp_path))) as kept:
        wait_for_watches(api, "Pod", "Node", "Namespace", "ClusterNetworkPolicy")
        kept.wait(lambda: kept.why)
        assert kept.why.endswith(
            "no /apis/networking.k8s.io/v1/networkpolicies (403); the ClusterRole of slash24-node must allow to list "
            'and watch "networkpolicies" of the API group "networking.k8s.io"'
        )
        api.put("Pod", pod("x"))
        assert kept.objects is None
        api.fail("NetworkPolicy", 0)
        kept.wait(lambda: kept.objects is not None)
        kept.wait(lambda: "x" in kept.names and kept.why == "")


def test_a_kind_that_is_lost_does_not_stop_the_others(api: FakeApi, tmp_path: Path) -> None:
    """Its objects stay; the loss is told until it is over, whatever the others say."""
    with running(KubernetesSource(access_to(api, tmp_path))) as kept:
        kept.wait(lambda: kept.objects is not None)
        wait_for_watches(api, *PATHS)
        api.fail("Node", 500)
        kept.wait(lambda: "/api/v1/nodes" in kept.why)
        api.put("Pod", pod("x"))
        kept.wait(lambda: "x" in kept.names)
        api.end("Pod")
        wait_for_watches(api, "Pod")
        assert "/api/v1/nodes" in kept.why
        assert "n" in kept.names
        api.fail("Node", 0)
        kept.wait(lambda: kept.why == "")


def test_without_the_crd_there_are_no_cluster_policies(api: FakeApi, tmp_path: Path) -> None:
    """It is looked for again; once it is there it is followed, and when it is gone its policies are."""
    api.fail("ClusterNetworkPolicy", 404)
    with running(KubernetesSource(access_to(api, tmp_path))) as kept:
        kept.wait(lambda: kept.objects is not None)
        assert kept.why == ""
        api.put("ClusterNetworkPolicy", CLUSTER)
        api.fail("ClusterNetworkPolicy", 0)
        kept.wait(lambda: "c" in kept.names)
        wait_for_watches(api, "ClusterNetworkPolicy")
        api.fail("ClusterNetworkPolicy", 404)
        kept.wait(lambda: "c" not in kept.names)
        kept.wait(lambda: kept.why == "")


def test_a_server_that_has_not_the_crd_for_a_moment_takes_no_policy_away(api: FakeApi, tmp_path: Path) -> None:
    """As it may say while it starts."""
    api.put("ClusterNetworkPolicy", CLUSTER)
    with running(KubernetesSource(access_to(api, tmp_path))) as kept:
        kept.wait(lambda: kept.objects is not None)
        wait_for_watches(api, *PATHS)
        api.fail("ClusterNetworkPolicy", 404)
        kept.wait(lambda: "(404)" in kept.why)
        api.fail("ClusterNetworkPolicy", 0)
        kept.wait(lambda: kept.why == "")
        assert not [call for call in kept.calls if call[0] == "remove"]


def test_another_list_becomes_differences(api: FakeApi, tmp_path: Path) -> None:
    """After a watch that the server cannot continue."""
    api.put("Pod", pod("stays"))
    api.put("Pod", pod("goes"))
    with running(KubernetesSource(access_to(api, tmp_path))) as kept:
        kept.wait(lambda: kept.objects is not None)
        wait_for_watches(api, *PATHS)
        gone = b'{"type":"ERROR","object":{"code":410,"message":"too old"}}'
        with api._lock:
            del api.objects[PATHS["Pod"]]["a", "goes"]
            api.end("Pod", gone)
            api.put("Pod", pod("new"))
        kept.wait(lambda: kept.names >= {"stays", "new"} and "goes" not in kept.names)
        about = [call for call in kept.calls if call[0] in ("put", "remove")]
        assert about == [("remove", ("Pod", "a", "goes")), ("put", ("Pod", "a", "new"))]


def test_an_object_that_is_wrong_is_told_and_keeps_what_it_had(api: FakeApi, tmp_path: Path) -> None:
    """Until it is right again, or deleted; the others are followed."""
    wrong = {"metadata": {"name": "w", "namespace": "a"}, "spec": {"podSelector": {"matchLabels": 7}}}
    api.put("NetworkPolicy", wrong)
    api.put("Pod", pod("x"))
    with running(KubernetesSource(access_to(api, tmp_path))) as kept:
        kept.wait(lambda: kept.objects is not None)
        wait_for_watches(api, *PATHS)
        kept.wait(lambda: kept.problems)
        sentence = 'NetworkPolicy a/w: "spec.podSelector.matchLabels": expected an object, got 7'
        assert kept.problems == {"NetworkPolicy a/w": sentence}
        assert "w" not in kept.names
        api.put("Pod", pod("x", ip="10.0.0.256"))
        kept.wait(lambda: len(kept.problems) == 2)
        assert kept.objects["Pod", "a", "x"].ips == ("10.0.0.1",)
        api.delete("NetworkPolicy", "w", "a")
        api.put("Pod", pod("x", ip="10.0.0.2"))
        kept.wait(lambda: not kept.problems)
        assert kept.objects["Pod", "a", "x"].ips == ("10.0.0.2",)


def test_a_mistake_does_not_end_a_thread(api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the sink, or of what reads an object; everything is listed again."""
    monkeypatch.setattr(kubernetes, "_PAUSE", 0.1)
    with running(KubernetesSource(access_to(api, tmp_path))) as kept:
        kept.wait(lambda: kept.objects is not None)
        wait_for_watches(api, *PATHS)
        with monkeypatch.context() as patch:
            patch.setattr(kubernetes, "decode", lambda *_: 1 // 0)
            api.put("Pod", pod("x"))
            kept.wait(lambda: "following pods: ZeroDivisionError" in kept.why)
        kept.wait(lambda: "x" in kept.names and not kept.why)

"""The daemon on a node, with a real API server: policies are in force as the API has them, and outlive it."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.kubernetes.apiserver import MERGE, ApiServer
from tests.kubernetes.test_node_daemon import Start, api, cni, condition, daemon, make
from tests.netns.agent_tools import page_at
from tests.netns.cni import CNI
from tests.netns.daemon_policy_tools import policy, talks
from tests.netns.daemon_tools import PAGES, conf_of
from tests.netns.fixtures import node
from tests.netns.node import Node, Pod, wait_until

__all__ = ["api", "cni", "daemon", "node"]

PODS, POLICIES = "/api/v1/namespaces/default/pods", "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
LISTEN = "--listen", PAGES
FROM_CLIENTS = [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]


class Cluster:
    """The API, and pods of the node, which are attached as a kubelet has them attached."""

    def __init__(self, api: ApiServer, cni: CNI) -> None:
        self.api, self.cni, self.node = api, cni, cni.node
        make(api, 1)
        api.request("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "default"}})

    def create(self, name: str, app: str) -> str:
        """Create a Pod with a label; its UID."""
        spec = {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}
        made = self.api.request("POST", PODS, {"metadata": {"name": name, "labels": {"app": app}}, "spec": spec})
        return made["metadata"]["uid"]

    def attach(self, name: str, uid: str) -> tuple[Pod, str]:
        """Attach a pod; and its IPv4 address."""
        pod = self.node.pod(name)
        names = f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};K8S_POD_UID={uid}"
        result = self.cni.add(conf_of(self.node), pod, args=f"IgnoreUnknown=1;{names}")
        return pod, result["ips"][0]["address"].partition("/")[0]

    def add(self, name: str, app: str) -> tuple[Pod, str]:
        """Create and attach a pod."""
        return self.attach(name, self.create(name, app))

    def page(self) -> dict:
        """What the daemon says of policies."""
        return json.loads(page_at(self.node.path(PAGES), "policies")[1])

    def is_complete(self) -> bool:
        """Whether a daemon has read everything."""
        with suppress(OSError):
            return self.page()["complete"]
        return False

    def held(self, name: str) -> bool:
        """Whether a pod is held, as far as the page has it."""
        return {pod["pod"]: pod["held"] for pod in self.page()["pods"]}.get(f"default/{name}", True)

    def policies(self) -> list[str]:
        """The names of the policies that are in force."""
        return [one["name"] for one in self.page()["policies"]]


Begin = Callable[..., Cluster]


@pytest.fixture
def begin(api: ApiServer, cni: CNI, daemon: Start, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """Starts the daemon, and returns when pods may be added."""
    made: list[Cluster] = []

    def begun(more: str = "") -> Cluster:
        made.append(made[0] if made else Cluster(api, cni))
        log = daemon(more, *LISTEN)
        assert wait_until(lambda: condition(api) == ("False", "RoutesInPlace"), timeout=30), log.read_text()
        if "enabled = false" not in more:
            assert wait_until(made[0].is_complete, timeout=30), log.read_text()
        return made[0]

    return begun


def test_policies_of_the_api_are_in_force(begin: Begin) -> None:
    """By default. A pod's are when its ADD returns; changes of policies and labels follow."""
    cluster = begin()
    assert conf_of(cluster.node)["policyWait"] == 5
    cluster.api.request("POST", POLICIES, policy("web", ingress=FROM_CLIENTS, pods={"app": "web"}))
    assert wait_until(lambda: cluster.policies() == ["web"])
    (web, address), (client, _), (other, _) = (cluster.add(name, name) for name in ("web", "client", "other"))
    assert wait_until(lambda: not any(cluster.held(name) for name in ("web", "client", "other")))
    assert talks(client, web, address)
    assert not talks(other, web, address)
    cluster.api.request("PATCH", f"{PODS}/other", {"metadata": {"labels": {"app": "client"}}}, kind=MERGE)
    assert wait_until(lambda: talks(other, web, address))
    cluster.api.request("PATCH", f"{POLICIES}/web", {"spec": {"ingress": []}}, kind=MERGE)
    assert wait_until(lambda: not talks(client, web, address))
    cluster.api.request("DELETE", f"{POLICIES}/web")
    assert wait_until(lambda: talks(client, web, address))


def test_a_pod_that_the_api_does_not_know_is_held(begin: Begin) -> None:
    """Until it does, with the UID that the runtime has: another one of its name is another pod."""
    cluster = begin("[policy]\npolicyWait = 1")
    web, address = cluster.add("web", "web")
    late, _ = cluster.attach("late", "unknown")
    assert cluster.held("late")
    assert not talks(late, web, address)
    uid = cluster.create("late", "late")
    assert not wait_until(lambda: not cluster.held("late"), timeout=1)
    cluster.cni.delete(conf_of(cluster.node), late)
    late.vanish()
    late, _ = cluster.attach("late", uid)
    assert wait_until(lambda: not cluster.held("late"))
    assert talks(late, web, address)


def test_policies_outlive_the_api_server(begin: Begin, api: ApiServer, daemon: Start, tmp_path: Path) -> None:
    """What is in force stays, also for a daemon that begins without it; what has changed meanwhile follows."""
    cluster = begin("[policy]\npolicyWait = 1")
    api.request("POST", POLICIES, policy("web", ingress=FROM_CLIENTS, pods={"app": "web"}))
    assert wait_until(lambda: cluster.policies() == ["web"])
    (web, address), (client, _), (other, _) = (cluster.add(name, name) for name in ("web", "client", "other"))
    late_uid = cluster.create("late", "client")
    assert wait_until(lambda: cluster.page()["documents"]["Pod"] == 4)
    api.stop()
    assert wait_until(lambda: not cluster.page()["connected"])
    assert talks(client, web, address)
    assert not talks(other, web, address)
    assert talks(cluster.attach("late", late_uid)[0], web, address)  # it is known
    api.start()
    api.request("DELETE", f"{POLICIES}/web")
    assert wait_until(lambda: talks(other, web, address), timeout=60), (tmp_path / "daemon.log").read_text()


def test_pods_of_before_get_policies_too(begin: Begin, api: ApiServer, daemon: Start, node: Node) -> None:
    """Their addresses say who they are."""
    cluster = begin("[policy]\nenabled = false")
    (web, address), (other, _) = cluster.add("web", "web"), cluster.add("other", "other")
    assert talks(other, web, address)
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    api.request("PATCH", f"{PODS}/web/status", {"status": status}, kind=MERGE)
    api.request("POST", POLICIES, policy("web", ingress=FROM_CLIENTS, pods={"app": "web"}))
    (pid,) = re.findall(r"\d+", node.path("/run/slash24/slash24-node.pid").read_text())
    node.run(["kill", pid])
    assert wait_until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text())
    cluster = begin()
    assert wait_until(lambda: not talks(other, web, address), timeout=30)
    assert {pod["pod"] for pod in cluster.page()["pods"]} == {"default/web"}

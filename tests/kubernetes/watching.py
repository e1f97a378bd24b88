"""A registry of Kubernetes that a test watches, and Nodes for it."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from nodes.registries.kubernetes.registry import KubernetesRegistry
from nodes.registry import Entry
from spec.config import Section
from tests.kubernetes.apiserver import STRATEGIC, ApiServer
from tests.netns.node import wait_until


class Seen:
    """What a registry has passed on: `nodes`, the records' entries by key; `calls`, the names of the sink's methods."""

    def __init__(self) -> None:
        self.nodes: dict[str, Entry] = {}
        self.calls: list[str] = []
        self.why: list[str] = []

    def replace(self, entries: Iterable[Entry]) -> None:
        """As `Sink`."""
        self.nodes = {entry.key: entry for entry in entries}
        self.calls.append("replace")

    def put(self, entry: Entry) -> None:
        """As `Sink`."""
        self.nodes[entry.key] = entry
        self.calls.append("put")

    def remove(self, key: str) -> None:
        """As `Sink`."""
        del self.nodes[key]
        self.calls.append("remove")

    def lost(self, why: str) -> None:
        """As `Sink`."""
        self.why.append(why)
        self.calls.append("lost")

    def alive(self) -> None:
        """As `Sink`."""
        self.calls.append("alive")

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Fail unless the condition becomes true."""
        assert wait_until(condition, timeout=60), f"{what}: {self.calls[-20:]}, {self.why[-3:]}, {list(self.nodes)[:9]}"

    def wait_for(self, call: str, times: int = 1) -> None:
        """Fail unless a method was called that often."""
        self.wait(lambda: self.calls.count(call) >= times, f"{times} x {call}")


def registry(api: ApiServer, node: str = "a", **options: object) -> KubernetesRegistry:
    """The registry of a node, as "admin" unless the options name another kubeconfig."""
    return KubernetesRegistry("kubernetes", node, Section({"kubeconfig": str(api.kubeconfig), **options}))


@contextmanager
def watched(opened: KubernetesRegistry, meanwhile: Callable[[], object] = lambda: None) -> Iterator[Seen]:
    """What a registry passes on, from its first list on; `meanwhile` is called while it asks for that."""
    seen = Seen()
    thread = threading.Thread(target=opened.watch, args=(seen,))
    thread.start()
    try:
        meanwhile()
        seen.wait_for("alive")
        yield seen
    finally:
        opened.close()
        thread.join(30)
        assert not thread.is_alive()


def make_node(api: ApiServer, name: str, number: int = 0, **annotations: str) -> dict:
    """Create a Node, with the podCIDR and the address of that number unless it is 0."""
    subnet = f"10.{number >> 8}.{number & 255}.0/24"
    spec = {"podCIDR": subnet, "podCIDRs": [subnet]} if number else {}
    made = api.request("POST", "/api/v1/nodes", {"metadata": {"name": name, "annotations": annotations}, "spec": spec})
    if number:
        set_status(api, name, addresses=[{"type": "InternalIP", "address": f"192.0.{number >> 8}.{number & 255}"}])
    return made


def set_status(api: ApiServer, name: str, **values: object) -> dict:
    """Patch the status of a Node, as its kubelet does."""
    return api.request("PATCH", f"/api/v1/nodes/{name}/status", {"status": values}, kind=STRATEGIC)


def delete_nodes(api: ApiServer) -> None:
    """Delete all Nodes, and what was leased to them."""
    api.request("DELETE", "/api/v1/nodes")
    api.request("DELETE", "/api/v1/namespaces/kube-system/configmaps")
    api.request("DELETE", "/apis/events.k8s.io/v1/namespaces/default/events")

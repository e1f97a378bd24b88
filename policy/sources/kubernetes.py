"""The source in the Kubernetes API: lists and watches Pods, Namespaces, Nodes and policies, each in its own thread.

Most changes of Pods and Nodes are of no concern to policies; they are decoded and compared, and end there.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from nodes.registries.kubernetes.access import Access, connect
from nodes.registries.kubernetes.following import Follower
from policy.documents import CLUSTER_POLICY, NAMESPACE, NETWORK_POLICY, NODE, POD, Document, decode
from policy.sources.sink import ClusterObject, Sink

_FORBIDDEN = "(403)"  # the end of what is raised for this status
_PAUSE = 5.0  # seconds after a mistake
_RUNNING = {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"}


@dataclass(frozen=True)
class Resource:
    """How the API calls a kind: the group and plural of RBAC, and the path of its list.

    `params`: select those that matter. `is_optional`: the API may not have it.
    """

    kind: str
    group: str
    plural: str
    path: str
    params: Mapping[str, str] | None = None
    is_optional: bool = False


RESOURCES = (
    Resource(NAMESPACE, "", "namespaces", "/api/v1/namespaces"),
    Resource(NODE, "", "nodes", "/api/v1/nodes"),
    Resource(NETWORK_POLICY, "networking.k8s.io", "networkpolicies", "/apis/networking.k8s.io/v1/networkpolicies"),
    Resource(
        CLUSTER_POLICY,
        "policy.networking.k8s.io",
        "clusternetworkpolicies",
        "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
        is_optional=True,
    ),
    Resource(POD, "", "pods", "/api/v1/pods", _RUNNING),
)
"""What is followed."""

Key = tuple[str, str]  # namespace and name


class KubernetesSource:
    """See `sink.Source`. The first list is passed when all resources have been listed."""

    def __init__(self, access: Access) -> None:
        """No I/O."""
        self._access = access
        self._lock = threading.Lock()
        self._followers: dict[str, Follower] = {}  # by kind
        self._closed = threading.Event()

    def run(self, sink: Sink) -> None:
        """As in Source."""
        cluster = _Cluster(sink)
        threads = [
            threading.Thread(target=self._follow, args=(each, cluster), name=f"policy-{each.plural}", daemon=True)
            for each in RESOURCES
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def close(self) -> None:
        """As in Source."""
        with self._lock:
            self._closed.set()
        for follower in self._followers.values():
            follower.close()

    def _follow(self, resource: Resource, cluster: "_Cluster") -> None:
        """Follow a resource until `close`."""
        receiver = _Receiver(resource, cluster)
        while not self._closed.is_set():
            follower = Follower(
                lambda: connect(self._access),
                resource.path,
                receiver,
                resource.params,
                is_optional=resource.is_optional,
            )
            with self._lock:
                if self._closed.is_set():
                    return
                self._followers[resource.kind] = follower
            try:
                follower.run()
            except Exception as error:  # noqa: BLE001  (a mistake here must not end the thread)
                receiver.lost(f"following {resource.plural}: {type(error).__name__}: {error}")
                self._closed.wait(_PAUSE)


class _Cluster:
    """What is known of all resources, and passed to the sink: whole when all have been listed, then by differences."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self._listed: set[str] = set()  # kinds
        self._lost: dict[str, str] = {}  # by kind
        self.known: dict[str, dict[Key, ClusterObject]] = {each.kind: {} for each in RESOURCES}

    def list(self, kind: str, found: dict[Key, ClusterObject]) -> None:
        """All objects of a kind."""
        with self._lock:
            before, listed = self.known[kind], self._listed | {kind}
            if self._is_complete():
                for key in [key for key in before if key not in found]:
                    self._sink.remove(kind, *key)
                for key, item in found.items():
                    if before.get(key) != item:
                        self._sink.put(item)
            elif len(listed) == len(RESOURCES):
                whole = {**self.known, kind: found}
                self._sink.replace([item for each in whole.values() for item in each.values()])
            # Last, so that all of it is passed again if the sink has made a mistake.
            self.known[kind], self._listed = found, listed

    def set(self, kind: str, key: Key, item: ClusterObject | None) -> None:
        """An object has changed; None: it is gone."""
        known = self.known[kind]  # which the thread of this kind alone changes
        if known.get(key) == item:
            return
        with self._lock:
            if self._is_complete():
                if item:
                    self._sink.put(item)
                else:
                    self._sink.remove(kind, *key)
            if item:
                known[key] = item
            else:
                del known[key]

    def _is_complete(self) -> bool:
        return len(self._listed) == len(RESOURCES)

    def tell(self, key: str, sentence: str | None) -> None:
        """As `Sink.wrong`."""
        with self._lock:
            self._sink.wrong(key, sentence)

    def lost(self, kind: str, why: str) -> None:
        """A kind cannot be followed, for now."""
        with self._lock:
            self._lost[kind] = why
            self._sink.lost("; ".join(dict.fromkeys(self._lost.values())))

    def alive(self, kind: str) -> None:
        """It can."""
        with self._lock:
            self._lost.pop(kind, None)
            if not self._lost:
                self._sink.alive()


class _Receiver:
    """Receives the objects of a resource, as `following.Receiver`."""

    def __init__(self, resource: Resource, cluster: _Cluster) -> None:
        self._resource, self._kind, self._cluster = resource, resource.kind, cluster
        self._told: dict[str, str] = {}

    def replace(self, objects: Iterable[msgspec.Raw]) -> None:
        """As in Receiver. An object that is wrong as a whole keeps what it had before."""
        known, found, problems = self._cluster.known[self._kind], {}, {}
        for text in objects:
            document = decode(self._kind, text)
            if document.problem:
                problems[_called(self._kind, document)] = document.problem
            if document.identity:
                key = document.identity[1:]
                item = document.item or (known.get(key) if document.problem else None)
                if item:
                    found[key] = item
        self._cluster.list(self._kind, found)
        self._tell(problems, {**self._told, **problems})
        self._cluster.alive(self._kind)

    def change(self, kind: str, item: msgspec.Raw) -> object:
        """As in Receiver."""
        document, is_gone = decode(self._kind, item), kind == "DELETED"
        if document.identity and (is_gone or document.item or not document.problem):
            self._cluster.set(self._kind, document.identity[1:], None if is_gone else document.item)
        if document.problem or self._told:
            name = _called(self._kind, document)
            self._tell({name: document.problem} if document.problem and not is_gone else {}, (name,))
        return document.version

    def lost(self, why: str) -> None:
        """As in Receiver."""
        if why.endswith(_FORBIDDEN):
            group, plural = self._resource.group, self._resource.plural
            why += (
                f'; the ClusterRole of slash24-node must allow to list and watch "{plural}" of the API group "{group}"'
            )
        self._cluster.lost(self._kind, why)

    def alive(self) -> None:
        """As in Receiver."""
        self._cluster.alive(self._kind)

    def _tell(self, problems: Mapping[str, str], keys: Iterable[str]) -> None:
        """Say what has changed of what is wrong with these objects."""
        for key in keys:
            problem = problems.get(key)
            if problem != self._told.get(key):
                self._cluster.tell(key, problem and f"{key}: {problem}")
            if problem:
                self._told[key] = problem
            else:
                self._told.pop(key, None)


def _called(kind: str, document: Document) -> str:
    _, namespace, name = document.identity or (kind, "", "without a name")
    return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"

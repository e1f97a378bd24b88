"""The registry of a Kubernetes cluster: Nodes are the records, and the cluster allocates the nodes' subnets.

Nothing is announced as long as a Node says all that others need: the MAC of a VTEP follows from the subnet.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

import msgspec

from nodes.registries.kubernetes.access import STRATEGIC, Access, Refused, Session, connect, read_access
from nodes.registries.kubernetes.following import Follower
from nodes.registries.kubernetes.objects import (
    RECORD,
    NodeObject,
    announcement,
    entry_of,
    network_condition,
    plain_record,
    read_node,
)
from nodes.registries.kubernetes.reports import NO_CONDITION, Events, condition_of, condition_patch, is_told
from nodes.registries.kubernetes.subnets import SubnetLeases
from nodes.registry import Entry, Grant, Readiness, RegistryError, Sink, Wish
from plugins.node.records import Node
from spec.config import Section, wrong_value

NODES = "/api/v1/nodes"
_LEASES = "kube-system/slash24-subnets"
_NOT_FOUND = 404

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Options:
    """The table [kubernetes]: `leases` is the namespace and name of the ConfigMap of `SubnetLeases`.

    `pod_status`: whether the networks of pods are reported (`nodes/pod_status.py`).
    """

    access: Access
    leases: tuple[str, str]
    pod_status: bool


def read_options(options: Section) -> Options:
    """Read the table. Raises CNIError 7."""
    leases = options.string("subnets") or _LEASES
    namespace, _, name = leases.partition("/")
    if not all(part and part.replace("-", "").replace(".", "").isalnum() for part in (namespace, name)):
        raise options.error("subnets", f'the namespace and name of a ConfigMap, like "{_LEASES}"')
    return Options(read_access(options), (namespace, name), options.boolean("podNetworkStatus"))


class KubernetesRegistry:
    """The Nodes of the cluster that `url`, "kubernetes", and the table `options` name; `node`: this node's name."""

    URL = "kubernetes"

    def __init__(self, url: str, node: str, options: Section) -> None:
        if url != self.URL:
            raise wrong_value("registry", f'"{self.URL}"; the API server is set by "server" in [kubernetes]', url)
        chosen = read_options(options)
        self._access, self._name, self._path = chosen.access, node, f"{NODES}/{quote(node, safe='')}"
        self._leases = SubnetLeases(*chosen.leases)
        self._events = Events()
        self._lock = threading.Lock()
        self._own: NodeObject | None = None  # as the watch has seen it last
        self._follower: Follower | None = None
        self._is_closed = False

    def lease(self, wish: Wish) -> Grant:
        """The subnets that the cluster has allocated to this node's Node, else those of the ConfigMap.

        Raises RegistryError.
        """
        own = self._own or self._ask(self._read_own)
        try:
            record = plain_record(own)
        except ValueError as error:
            raise RegistryError(f'the Node "{self._name}" cannot be used: {error}') from error
        subnets = record.subnets
        if not subnets and not wish.lengths:
            raise RegistryError(
                f'the Node "{self._name}" has no podCIDRs: start kube-controller-manager with --allocate-node-cidrs '
                'and --cluster-cidr, or set "allocate" in the configuration of slash24-node'
            )
        subnets = subnets or self._ask(lambda session: self._leases.lease(session, own, wish))
        return Grant(subnets, record.addresses, record.since, record.zone)

    def publish(self, node: Node) -> None:
        """Announce by an annotation what this node's Node does not say by itself. Raises RegistryError."""
        own = self._own or self._ask(self._read_own)
        wanted = announcement(node, own)
        if wanted != own.annotation(RECORD):
            self._annotate({RECORD: wanted or None})

    def watch(self, sink: Sink) -> None:
        """As `Registry.watch`."""
        receiver = NodeReceiver(sink, self._entry, self._name, self._see_own)
        with self._lock:
            if self._is_closed:
                return
            self._follower = Follower(lambda: connect(self._access), NODES, receiver)
        self._follower.run()

    def tell(self, readiness: Readiness) -> None:
        """Set the Node's condition NetworkUnavailable, and make Events of the warnings. Raises RegistryError."""
        own, due = self._own or self._ask(self._read_own), self._events.due(readiness.warnings)
        known = network_condition(own)
        if not is_told(readiness, known):
            patch = condition_patch(condition_of(readiness), known)
            self._ask(lambda session: self._patch(session, patch))
        if due:
            self._ask(lambda session: [self._events.write(session, own, warning) for warning in due])

    def withdraw(self) -> None:
        """Remove the annotations and the condition. Raises RegistryError.

        The Node stays, and its subnets stay its own: pods may have addresses of them.
        """
        patch = {"metadata": {"annotations": dict.fromkeys(self._own_annotations())}, **NO_CONDITION}
        try:
            self._ask(lambda session: self._patch(session, patch))
        except Refused as error:
            if error.code != _NOT_FOUND:
                raise

    def close(self) -> None:
        """End `watch`."""
        with self._lock:
            self._is_closed = True
        if self._follower:
            self._follower.close()

    def _entry(self, node: NodeObject) -> Entry:
        return entry_of(node)

    def _own_annotations(self) -> tuple[str, ...]:
        """The annotations that this node writes into its Node."""
        return (RECORD,)

    def _annotate(self, annotations: Mapping[str, str | None]) -> None:
        self._ask(lambda session: self._patch(session, {"metadata": {"annotations": annotations}}))

    def _ask(self, do: Callable[[Session], Answer]) -> Answer:
        with connect(self._access) as session:
            return do(session)

    def _read_own(self, session: Session) -> NodeObject:
        try:
            return self._checked(session.get(self._path))
        except Refused as error:
            if error.code != _NOT_FOUND:
                raise
            raise RegistryError(
                f'the cluster has no Node "{self._name}"; it appears when its kubelet has started, else set "node" in '
                "the configuration of slash24-node, or NODE_NAME, to the Node's name"
            ) from error

    def _patch(self, session: Session, patch: Mapping[str, object]) -> None:
        """A strategic merge patch of this node's Node, as far as "nodes/status" allows."""
        self._see_own(self._checked(session.send("PATCH", f"{self._path}/status", patch, kind=STRATEGIC)))

    def _checked(self, text: bytes) -> NodeObject:
        node, why = read_node(text)
        if why:
            raise RegistryError(f'the Node "{self._name}": {why}')
        return node

    def _see_own(self, node: NodeObject | None) -> None:
        self._own = node


class NodeReceiver:
    """Passes the records of Nodes to a `sink`, if they differ from what it has: most changes of a Node are heartbeats.

    `read` makes an entry of a Node. `see_own` receives the Node named `own`, None if there is none any more.
    """

    def __init__(
        self,
        sink: Sink,
        read: Callable[[NodeObject], Entry],
        own: str,
        see_own: Callable[[NodeObject | None], None],
    ) -> None:
        self._sink, self._read, self._name, self._see_own = sink, read, own, see_own
        self._known: dict[str, _Known] = {}

    def replace(self, objects: Iterable[msgspec.Raw]) -> None:
        """As `Receiver`."""
        known, own = {}, None
        for text in objects:
            node, why = read_node(text)
            known[node.name] = self._read_node(node, why)
            if node.name == self._name:
                node.detach()  # the page that it is a part of has megabytes
                own = node
        self._see_own(own)
        self._known = known
        self._sink.replace(each.entry for each in known.values())

    def change(self, kind: str, item: msgspec.Raw) -> object:
        """As `Receiver`."""
        node, why = read_node(item)
        key, version = node.name, node.metadata.resourceVersion
        is_gone = kind == "DELETED"
        if key == self._name:
            self._see_own(None if is_gone else node)
        before = self._known.pop(key, None) if is_gone else self._known.get(key)
        if is_gone:
            if before:
                self._sink.remove(key)
        elif not before or why or before.digest != node.digest:
            self._known[key] = now = self._read_node(node, why)
            if not before or before.entry != now.entry:
                self._sink.put(now.entry)
        return version

    def lost(self, why: str) -> None:
        """As `Receiver`."""
        self._see_own(None)
        self._sink.lost(why)

    def alive(self) -> None:
        """As `Receiver`."""
        self._sink.alive()

    def _read_node(self, node: NodeObject, why: str) -> "_Known":
        return _Known(0, Entry(node.name, None, why)) if why else _Known(node.digest, self._read(node))


@dataclass(frozen=True, slots=True)
class _Known:
    """What the sink has been told of a Node."""

    digest: int
    entry: Entry

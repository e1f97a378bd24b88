"""The pods of the cluster by namespace and labels, and which of them has an address.

Pods of a namespace with equal labels and named ports are one group: selectors are compared with groups, of which there
are far fewer than pods, and only groups keep labels.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from policy.objects import ContainerPort, Labels, LocalPod, Namespace, Pod, PodPeer
from spec.addresses import pack

NAME_LABEL = "kubernetes.io/metadata.name"
Key = tuple[str, str]
"""Namespace and name of a pod."""


@dataclass(eq=False, slots=True)
class Space:
    """A namespace, `is_known`: as an object; there are also those that only pods are in."""

    name: str
    labels: Labels
    is_known: bool = False
    groups: dict[object, "Group"] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Group:
    """Pods of a namespace with the same labels and named ports. `users`: how many pods are in it.

    `selections`: of policy/peers.py, those that have it.
    """

    space: Space
    labels: Labels
    ports: tuple[ContainerPort, ...]
    key: object
    users: int = 0
    addresses: dict[int, set[bytes]] = field(default_factory=lambda: {4: set(), 6: set()})
    selections: set = field(default_factory=set)


@dataclass(eq=False, slots=True)
class Local:
    """An attached pod of this node. `group`: as which it is known, None: it is not, or is in no namespace."""

    pod: LocalPod
    ips: tuple[bytes, ...]
    group: Group | None = None

    @property
    def is_decided(self) -> bool:
        """Whether it is known what is in force for it."""
        return self.group is not None or not self.pod.namespace


@dataclass(eq=False, slots=True)
class _Entry:
    """A pod that there is as an object. `ips`: those that it claims."""

    key: Key
    uids: tuple[str, ...]
    ips: tuple[bytes, ...]
    group: Group
    pod: Pod | None  # only of this node


class Listener(Protocol):
    """Is told what happens to groups, addresses and attached pods."""

    def group_added(self, group: Group) -> None:
        """A group without addresses has come."""

    def group_removed(self, group: Group) -> None:
        """A group has gone; it has no addresses."""

    def moved(self, address: bytes, old: Group | None, new: Group | None) -> None:
        """The pod that has an address is in another group now."""

    def attached(self, address: bytes, old: Group | None, new: Group | None) -> None:
        """Something about the attached pod that has an address has changed. None: none has it, or it is not known."""


def version_of(address: bytes) -> int:
    """The IP version of a packed address."""
    return 4 if len(address) == 4 else 6


def in_space(peer: PodPeer, space: Space) -> bool:
    """Whether the peer may have pods of a namespace."""
    return space.name == peer.namespace if peer.namespaces is None else peer.namespaces.matches(space.labels)


def selects(peer: PodPeer, group: Group) -> bool:
    """Whether the peer has the pods of a group."""
    return in_space(peer, group.space) and peer.pods.matches(group.labels)


class Index:
    """Namespaces, pods and attached pods, and who has which address.

    Of attached pods that claim an address, the newest has it; else of pods the one that has claimed it last.
    """

    def __init__(self, listener: Listener, *, needs_pods: bool, node: str) -> None:
        self.spaces: dict[str, Space] = {}
        self.locals: dict[str, Local] = {}
        self.here: dict[bytes, Local] = {}
        self._listener = listener
        self._needs_pods = needs_pods
        self._node = node
        self._pods: dict[Key, _Entry] = {}
        self._claims: dict[bytes, tuple[_Entry, ...]] = {}
        self._local_claims: dict[bytes, tuple[Local, ...]] = {}
        self._placed: dict[bytes, Group] = {}
        self._locals_of: dict[Key, tuple[Local, ...]] = {}

    def put_pod(self, pod: Pod) -> None:
        """Add or replace a pod."""
        key = (pod.namespace, pod.name)
        ips = () if pod.is_host_network else _packed(pod.ips)
        entry, group = self._pods.get(key), self._join(pod.namespace, pod.labels, pod.ports)
        if entry is None:
            entry = self._pods[key] = _Entry(key, pod.uids, (), group, None)
            old = None
        else:
            old, entry.group, entry.uids = entry.group, group, pod.uids
        entry.pod = pod if self._node and pod.node == self._node else None
        before = entry.ips
        if before != ips:
            self._unclaim(entry)
            entry.ips = ips
            for address in ips:
                self._claims[address] = (*self._claims.get(address, ()), entry)
        if before != ips or old is not group:
            self._place({*before, *ips})
        for local in self._locals_of.get(key, ()):
            self._recognise(local)
        if old:
            self._leave(old)

    def remove_pod(self, namespace: str, name: str) -> None:
        """Remove a pod, if there is one."""
        entry = self._pods.pop((namespace, name), None)
        if entry:
            self._unclaim(entry)
            self._place(entry.ips)
            for local in self._locals_of.get(entry.key, ()):
                self._recognise(local)
            self._leave(entry.group)

    def put_space(self, namespace: Namespace) -> Space | None:
        """Add or replace a namespace; returns it if its labels are others than before."""
        labels = {**namespace.labels, NAME_LABEL: namespace.name}
        space = self.spaces.get(namespace.name)
        if space is None:
            space = self.spaces[namespace.name] = Space(namespace.name, labels, is_known=True)
            return space
        was_known, space.is_known = space.is_known, True
        if not was_known:
            self._recognise_all(namespace.name)
        return self._relabel(space, labels)

    def remove_space(self, name: str) -> Space | None:
        """Remove a namespace, if there is one; returns it if it has pods, and its labels are others than before."""
        space = self.spaces.get(name)
        if space is None or not space.is_known:
            return None
        space.is_known = False
        if not space.groups:
            del self.spaces[name]
            return None
        return self._relabel(space, {NAME_LABEL: name})

    def put_local(self, pod: LocalPod) -> None:
        """Add or replace an attached pod."""
        local = Local(pod, _packed(pod.ips))
        old = self.locals.get(pod.owner)
        if old and old.group and (old.pod.namespace, old.pod.name, old.pod.uid) == (pod.namespace, pod.name, pod.uid):
            local.group = old.group
            local.group.users += 1
        self._forget_local(old)
        self.locals[pod.owner] = local
        key = (pod.namespace, pod.name)
        self._locals_of[key] = (*self._locals_of.get(key, ()), local)
        for address in local.ips:
            self._local_claims[address] = (*self._local_claims.get(address, ()), local)
        self._place({*local.ips, *(old.ips if old else ())})
        self._recognise(local)
        if old and old.group:
            self._leave(old.group)

    def remove_local(self, owner: str) -> None:
        """Remove an attached pod, if there is one."""
        local = self.locals.pop(owner, None)
        if local:
            self._forget_local(local)
            self._place(local.ips)
            if local.group:
                self._leave(local.group)

    def name_of(self, address: bytes) -> str:
        """The "namespace/name" of the pod that has an address, "" if none has."""
        local = self.here.get(address)
        if local:
            return f"{local.pod.namespace}/{local.pod.name}" if local.pod.name else ""
        claims = self._claims.get(address)
        return "/".join(claims[-1].key) if claims else ""

    def pod_keys(self) -> list[Key]:
        """Namespaces and names of all pods."""
        return list(self._pods)

    def space_names(self) -> list[str]:
        """The names of the namespaces that there are as objects."""
        return [space.name for space in self.spaces.values() if space.is_known]

    def on_node(self) -> Iterator[Pod]:
        """The pods of this node, but those on its own network."""
        return (entry.pod for entry in self._pods.values() if entry.pod and not entry.pod.is_host_network)

    def counts(self) -> Mapping[str, int]:
        """How many there are of each kind."""
        known = sum(space.is_known for space in self.spaces.values())
        return {"Pod": len(self._pods), "Namespace": known, "LocalPod": len(self.locals)}

    def _recognise_all(self, namespace: str) -> None:
        for local in list(self.locals.values()):
            if local.pod.namespace == namespace:
                self._recognise(local)

    def _recognise(self, local: Local) -> None:
        """Find out as which pod an attached pod is known. One that is no more stays known as it was, if needed."""
        pod = local.pod
        if not pod.namespace:
            return
        entry, space, old = self._pods.get((pod.namespace, pod.name)), self.spaces.get(pod.namespace), local.group
        if entry and (not pod.uid or not entry.uids or pod.uid in entry.uids):
            if self._needs_pods and old is None and not (space and space.is_known):
                return
            new = entry.group
            new.users += 1
        elif self._needs_pods:
            return
        else:
            new = self._join(pod.namespace, {}, ())
        local.group = new
        if new is not old:
            self._place(local.ips, local)
        if old:
            self._leave(old)

    def _place(self, addresses: Iterable[bytes], changed: Local | None = None) -> None:
        """Put addresses into the groups of the pods that have them now."""
        for address in addresses:
            locals_, claims = self._local_claims.get(address), self._claims.get(address)
            local = locals_[-1] if locals_ else None
            group = local.group if local else claims[-1].group if claims else None
            was, old = self.here.get(address), self._placed.get(address)
            if local is not was or (local and local is changed):
                if local:
                    self.here[address] = local
                else:
                    del self.here[address]
                self._listener.attached(address, old if was else None, group if local else None)
            if group is not old:
                self._move(address, old, group)

    def _move(self, address: bytes, old: Group | None, new: Group | None) -> None:
        version = version_of(address)
        if old:
            old.addresses[version].remove(address)
        if new:
            new.addresses[version].add(address)
            self._placed[address] = new
        else:
            del self._placed[address]
        self._listener.moved(address, old, new)

    def _unclaim(self, entry: _Entry) -> None:
        for address in entry.ips:
            _withdraw(self._claims, address, entry)

    def _forget_local(self, local: Local | None) -> None:
        if local:
            for address in local.ips:
                _withdraw(self._local_claims, address, local)
            _withdraw(self._locals_of, (local.pod.namespace, local.pod.name), local)

    def _relabel(self, space: Space, labels: Labels) -> Space | None:
        if space.labels == labels:
            return None
        space.labels = labels
        return space

    def _join(self, namespace: str, labels: Labels, ports: tuple[ContainerPort, ...]) -> Group:
        """The group of these labels and ports, with one more user."""
        space = self.spaces.get(namespace)
        if space is None:
            space = self.spaces[namespace] = Space(namespace, {NAME_LABEL: namespace})
        key = (frozenset(labels.items()), ports)
        group = space.groups.get(key)
        if group is None:
            group = space.groups[key] = Group(space, labels, ports, key)
            self._listener.group_added(group)
        group.users += 1
        return group

    def _leave(self, group: Group) -> None:
        group.users -= 1
        if not group.users:
            self._listener.group_removed(group)
            del group.space.groups[group.key]
            if not group.space.groups and not group.space.is_known:
                del self.spaces[group.space.name]


def _packed(ips: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(map(pack, ips)))


def _withdraw(claims: dict, key: object, one: object) -> None:
    left = tuple(other for other in claims[key] if other is not one)
    if left:
        claims[key] = left
    else:
        del claims[key]

"""The sets that chains refer to, kept up to date while pods come, go and change."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from policy.compiled import AddressSet, SetChange
from policy.expansion import NUMBERS, Named, SetSpec
from policy.index import Group, Index, Space, in_space, selects, version_of
from policy.objects import ClusterNode, NodePeer, PodPeer
from spec.addresses import pack


@dataclass(eq=False, slots=True)
class _Selection:
    """The groups that a peer selects, and the sets that are made of them."""

    peer: PodPeer
    groups: set[Group] = field(default_factory=set)
    sets: list["_Tracked"] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _Tracked:
    """A set: its elements as of the last take, and what each has gained (1) or lost (-1) since."""

    name: str
    spec: SetSpec
    elements: set[bytes]
    pending: dict[bytes, int] = field(default_factory=dict)
    frozen: AddressSet | None = None


class Sets:
    """The sets in use. Changes of `nodes` are told by `nodes_changed`."""

    def __init__(self) -> None:
        self._sets: dict[str, _Tracked] = {}
        self._selections: dict[PodPeer, _Selection] = {}
        self._in_one: dict[str, list[_Selection]] = {}  # by the only namespace that they have pods of
        self._in_many: list[_Selection] = []
        self._local: list[_Tracked] = []
        self._of_nodes: list[_Tracked] = []
        self._changed: set[_Tracked] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._sets

    def add(self, name: str, spec: SetSpec, index: Index, nodes: Iterable[ClusterNode]) -> AddressSet:
        """Begin to keep a set; returns it."""
        source = spec.source
        if isinstance(source, frozenset):
            made = self._sets[name] = _Tracked(name, spec, set(source))
        elif isinstance(source, NodePeer):
            made = self._sets[name] = _Tracked(name, spec, node_addresses(source, nodes, spec.version))
            self._of_nodes.append(made)
        elif isinstance(source, Named) and source.peer is None:
            placed = ((address, local.group) for address, local in index.here.items() if local.group)
            mine = ((address, group) for address, group in placed if version_of(address) == spec.version)
            found = {one for address, group in mine for one in elements_of(spec, address, group)}
            made = self._sets[name] = _Tracked(name, spec, found)
            self._local.append(made)
        else:
            selection = self._select(source.peer if isinstance(source, Named) else source, index.spaces)
            made = self._sets[name] = _Tracked(name, spec, _all_elements(spec, selection.groups))
            selection.sets.append(made)
        return _frozen(made)

    def discard(self, name: str) -> None:
        """Keep a set no longer."""
        gone = self._sets.pop(name)
        self._changed.discard(gone)
        source = gone.spec.source
        if isinstance(source, frozenset):
            return
        if isinstance(source, NodePeer):
            self._of_nodes.remove(gone)
        elif isinstance(source, Named) and source.peer is None:
            self._local.remove(gone)
        else:
            selection = self._selections[source.peer if isinstance(source, Named) else source]
            selection.sets.remove(gone)
            if not selection.sets:
                self._unselect(selection)

    def snapshot(self) -> dict[str, AddressSet]:
        """All sets, as of the last take of changes."""
        return {name: _frozen(one) for name, one in self._sets.items()}

    def take_changes(self) -> dict[str, SetChange]:
        """What sets have lost and gained since the last time."""
        changes = {}
        for one in self._changed:
            gone = frozenset(element for element, sign in one.pending.items() if sign < 0)
            new = frozenset(element for element, sign in one.pending.items() if sign > 0)
            one.pending = {}
            if gone or new:
                one.elements -= gone
                one.elements |= new
                one.frozen = None
                changes[one.name] = SetChange(one.spec.kind, gone, new)
        self._changed.clear()
        return changes

    def nodes_changed(self, nodes: Iterable[ClusterNode]) -> None:
        """Note that nodes have come or gone, or have other addresses or labels."""
        nodes = tuple(nodes)
        for one in self._of_nodes:
            found = node_addresses(one.spec.source, nodes, one.spec.version)
            one.pending = {**dict.fromkeys(one.elements - found, -1), **dict.fromkeys(found - one.elements, 1)}
            self._changed.add(one)

    def group_added(self, group: Group) -> None:
        """Find out who selects a new group, which has no addresses yet."""
        for selection in (*self._in_one.get(group.space.name, ()), *self._in_many):
            if selects(selection.peer, group):
                selection.groups.add(group)
                group.selections.add(selection)

    def group_removed(self, group: Group) -> None:
        """Forget a group, which has no addresses any more."""
        for selection in group.selections:
            selection.groups.discard(group)

    def space_changed(self, space: Space) -> None:
        """Find out anew who selects the groups of a namespace, which has got other labels."""
        for selection in self._in_many:
            for group in space.groups.values():
                self._reconsider(selection, group)

    def moved(self, address: bytes, old: Group | None, new: Group | None) -> None:
        """Move an address from the sets of one group to those of another."""
        before, after = old.selections if old else frozenset(), new.selections if new else frozenset()
        same_ports = old and new and old.ports == new.ports
        version = version_of(address)
        for selection in before | after:
            if same_ports and selection in before and selection in after:
                continue
            for one in selection.sets:
                if one.spec.version == version:
                    self._note(one, address, old if selection in before else None, new if selection in after else None)

    def attached(self, address: bytes, old: Group | None, new: Group | None) -> None:
        """Move the address of an attached pod of this node, in sets of named ports of such pods."""
        version = version_of(address)
        for one in self._local:
            if one.spec.version == version:
                self._note(one, address, old, new)

    def _note(self, one: _Tracked, address: bytes, old: Group | None, new: Group | None) -> None:
        gone = elements_of(one.spec, address, old) if old else set()
        come = elements_of(one.spec, address, new) if new else set()
        for element in gone - come:
            one.pending[element] = one.pending.get(element, 0) - 1
        for element in come - gone:
            one.pending[element] = one.pending.get(element, 0) + 1
        self._changed.add(one)

    def _select(self, peer: PodPeer, spaces: Mapping[str, Space]) -> _Selection:
        selection = self._selections.get(peer)
        if selection is None:
            selection = self._selections[peer] = _Selection(peer)
            self._alike(peer).append(selection)
            own = spaces.get(peer.namespace)
            for space in spaces.values() if peer.namespaces is not None else (own,) if own else ():
                if in_space(peer, space):
                    selection.groups.update(group for group in space.groups.values() if peer.pods.matches(group.labels))
            for group in selection.groups:
                group.selections.add(selection)
        return selection

    def _unselect(self, selection: _Selection) -> None:
        del self._selections[selection.peer]
        alike = self._alike(selection.peer)
        alike.remove(selection)
        if not alike and alike is not self._in_many:
            del self._in_one[selection.peer.namespace]
        for group in selection.groups:
            group.selections.discard(selection)

    def _alike(self, peer: PodPeer) -> list[_Selection]:
        return self._in_many if peer.namespaces is not None else self._in_one.setdefault(peer.namespace, [])

    def _reconsider(self, selection: _Selection, group: Group) -> None:
        was, is_in = group in selection.groups, selects(selection.peer, group)
        if was == is_in:
            return
        if is_in:
            selection.groups.add(group)
            group.selections.add(selection)
        else:
            selection.groups.discard(group)
            group.selections.discard(selection)
        for one in selection.sets:
            for address in group.addresses[one.spec.version]:
                self._note(one, address, group if was else None, group if is_in else None)


def elements_of(spec: SetSpec, address: bytes, group: Group) -> set[bytes]:
    """What an address of a pod of this group adds to a set, if the set has the group."""
    return {address} if isinstance(spec.source, PodPeer) else {address + end for end in _endings(spec, group)}


def node_addresses(peer: NodePeer, nodes: Iterable[ClusterNode], version: int) -> set[bytes]:
    """The packed addresses of an IP version of the nodes that a peer selects."""
    found = {pack(ip) for node in nodes if peer.nodes.matches(node.labels) for ip in node.ips}
    return {address for address in found if version_of(address) == version}


def _endings(spec: SetSpec, group: Group) -> list[bytes]:
    """Protocol and port of the ports that pods of a group call by one of the set's names."""
    names = spec.source.names
    return [
        bytes((NUMBERS[port.protocol],)) + port.number.to_bytes(2, "big")
        for port in group.ports
        if (port.name, port.protocol) in names or (port.name, "") in names
    ]


def _all_elements(spec: SetSpec, groups: Iterable[Group]) -> set[bytes]:
    if isinstance(spec.source, PodPeer):
        return set().union(*(group.addresses[spec.version] for group in groups))
    return {
        address + end for group in groups for end in _endings(spec, group) for address in group.addresses[spec.version]
    }


def _frozen(one: _Tracked) -> AddressSet:
    if one.frozen is None:
        one.frozen = AddressSet(one.spec.kind, frozenset(one.elements), one.spec.comment)
    return one.frozen

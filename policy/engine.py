"""From objects and the attached pods of this node to what is in force here, change by change.

`put` and `remove` only keep the index and the elements of sets, and note which groups of pods of this node may have
other policies. `take` makes the plans of those anew, and counts who refers to which chain and set.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from policy.compile import Compiler, Plan
from policy.compiled import Compiled, Delta, Enforced
from policy.in_force import Holding, InForce
from policy.index import Group, Index, Space, selects, version_of
from policy.objects import ClusterNode, LocalPod, Namespace, Pod, PodPeer, Policy
from policy.peers import Sets
from policy.sources.sink import ClusterObject
from spec.addresses import pack, unpack

NETWORK_POLICY, CLUSTER_POLICY = "NetworkPolicy", "ClusterNetworkPolicy"


@dataclass(eq=False, slots=True)
class _Here:
    """What is in force for a group that has attached pods. `policies`: by key, None: not known yet."""

    addresses: set[bytes] = field(default_factory=set)
    policies: dict[tuple[str, str, str], Policy] | None = None
    plans: dict[int, Plan] = field(default_factory=dict)
    is_exempt: bool = False


class Engine:
    """What policies come to on a node. For one thread; what `compiled` returns may be read by others.

    `needs_pods`: an attached pod is decided only when its Pod is known, with the UID that its ADD was told, and its
    Namespace; without, a pod whose Pod is not known has no labels. `metadata_exceptions`: pods that may reach the
    metadata service. `node`: the name of this node.
    """

    def __init__(self, *, needs_pods: bool, metadata_exceptions: Sequence[PodPeer] = (), node: str = "") -> None:
        self._exceptions = tuple(metadata_exceptions)
        self._index = Index(self, needs_pods=needs_pods, node=node)
        self._sets = Sets()
        self._compiler = Compiler()
        self._nodes: dict[str, ClusterNode] = {}
        self._policies: dict[str, dict[str, Policy]] = {}  # by namespace, "": cluster-wide, and name
        self._here: dict[Group, _Here] = {}
        self._in_force = InForce()
        self._dirty: set[Group] = set()
        self._moved: set[bytes] = set()
        self._nodes_changed = False
        self._compiled: Compiled | None = Compiled()

    def put(self, value: ClusterObject) -> None:
        """Add an object, or replace the one of its kind with its namespace and name."""
        if isinstance(value, Pod):
            self._index.put_pod(value)
        elif isinstance(value, Policy):
            self._put_policy(value)
        elif isinstance(value, Namespace):
            self._relabelled(self._index.put_space(value))
        elif self._nodes.get(value.name) != value:
            self._nodes[value.name] = value
            self._nodes_changed = True

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Remove an object; one that is not there is success. `namespace`: "" for objects without.

        `kind`: "Pod", "Namespace", "Node" (or "ClusterNode"), "NetworkPolicy", "ClusterNetworkPolicy". Raises
        ValueError: another kind. An attached pod stays known as it was, if `needs_pods`.
        """
        if kind == "Pod":
            self._index.remove_pod(namespace, name)
        elif kind == "Namespace":
            self._relabelled(self._index.remove_space(name))
        elif kind in ("Node", "ClusterNode"):
            self._nodes_changed |= self._nodes.pop(name, None) is not None
        elif kind in (NETWORK_POLICY, CLUSTER_POLICY):
            self._remove_policy("" if kind == CLUSTER_POLICY else namespace, name)
        else:
            raise ValueError(f"kind is {kind!r}, allowed: Pod, Namespace, Node, {NETWORK_POLICY}, {CLUSTER_POLICY}")

    def replace(self, values: Iterable[ClusterObject]) -> None:
        """Make these all the objects that there are."""
        pods, spaces, nodes, policies, values = set(), set(), set(), set(), list(values)
        for value in values:
            if isinstance(value, Pod):
                pods.add((value.namespace, value.name))
            elif isinstance(value, Policy):
                policies.add((value.namespace, value.name))
            else:
                (spaces if isinstance(value, Namespace) else nodes).add(value.name)
        gone = [("Pod", *key) for key in self._index.pod_keys() if key not in pods]
        gone += [("Namespace", "", name) for name in self._index.space_names() if name not in spaces]
        gone += [("Node", "", name) for name in self._nodes if name not in nodes]
        for kind, namespace, name in gone:
            self.remove(kind, namespace, name)
        known = [(namespace, name) for namespace, named in self._policies.items() for name in named]
        for namespace, name in known:
            if (namespace, name) not in policies:
                self._remove_policy(namespace, name)
        for value in values:
            self.put(value)

    def put_local(self, local: LocalPod) -> None:
        """Add an attached pod of this node, or replace what was said of the same owner."""
        self._index.put_local(local)

    def remove_local(self, owner: str) -> None:
        """Remove an attached pod by the tag of its owner; one that is not there is success."""
        self._index.remove_local(owner)

    def take(self) -> Delta:
        """What has changed since the last take."""
        self._plan()
        for address in self._moved:
            self._in_force.put(address, self._holding(address))
        self._moved.clear()
        changed = self._in_force.take(self._sets)
        nodes = self._nodes.values()
        if self._nodes_changed:
            self._sets.nodes_changed(nodes)
            self._nodes_changed = False
        for name in changed.unused_sets:
            self._sets.discard(name)
        sets = self._sets.take_changes()
        new = {name: self._sets.add(name, spec, self._index, nodes) for name, spec in changed.new_sets.items()}
        delta = Delta(
            new,
            changed.new_chains,
            sets,
            changed.pods,
            changed.exempt_gone,
            changed.exempt_new,
            changed.unused_chains,
            changed.unused_sets,
            frozenset(changed.narrowed | self._in_force.narrowed_by(sets)),
        )
        if delta:
            self._compiled = None
        return delta

    @property
    def compiled(self) -> Compiled:
        """Everything, as of the last take. Not touched by later changes."""
        if self._compiled is None:
            held = {unpack(address): one for address, one in self._in_force.holdings.items()}
            self._compiled = Compiled(
                {address: one.enforced for address, one in held.items()},
                dict(self._in_force.chains),
                self._sets.snapshot(),
                frozenset(address for address, one in held.items() if one.is_exempt),
            )
        return self._compiled

    def name_of(self, address: str) -> str:
        """The "namespace/name" of the pod with a canonical address, for people; "" if there is none."""
        return self._index.name_of(pack(address))

    def undecided(self) -> tuple[LocalPod, ...]:
        """The attached pods that are not known yet, and so are held."""
        return tuple(local.pod for local in self._index.locals.values() if not local.is_decided)

    def on_node(self) -> tuple[Pod, ...]:
        """The Pods whose `node` is this node, but those on its own network."""
        return tuple(self._index.on_node())

    def counts(self) -> Mapping[str, int]:
        """How many of each kind there are: "Pod", "Namespace", "Node", "NetworkPolicy", "ClusterNetworkPolicy".

        Also "LocalPod", attached pods of this node.
        """
        cluster = len(self._policies.get("", ()))
        policies = {NETWORK_POLICY: sum(map(len, self._policies.values())) - cluster, CLUSTER_POLICY: cluster}
        return {**self._index.counts(), "Node": len(self._nodes), **policies}

    # What the index tells.

    def group_added(self, group: Group) -> None:
        """See policy.index.Listener."""
        self._sets.group_added(group)

    def group_removed(self, group: Group) -> None:
        """See policy.index.Listener."""
        self._sets.group_removed(group)

    def moved(self, address: bytes, old: Group | None, new: Group | None) -> None:
        """See policy.index.Listener."""
        if old is None or new is None or old.selections or new.selections:
            self._sets.moved(address, old, new)

    def attached(self, address: bytes, old: Group | None, new: Group | None) -> None:
        """See policy.index.Listener."""
        self._moved.add(address)
        self._sets.attached(address, old, new)
        if old is not new:
            if old:
                self._here[old].addresses.discard(address)
                if not self._here[old].addresses:
                    del self._here[old]
            if new:
                self._here.setdefault(new, _Here()).addresses.add(address)
                self._dirty.add(new)

    # Policies.

    def _put_policy(self, policy: Policy) -> None:
        named = self._policies.setdefault(policy.namespace, {})
        old = named.get(policy.name)
        if old == policy:
            return
        named[policy.name] = policy
        self._policy_changed(policy, old, policy)

    def _remove_policy(self, namespace: str, name: str) -> None:
        named = self._policies.get(namespace, {})
        old = named.pop(name, None)
        if old:
            if not named:
                del self._policies[namespace]
            self._policy_changed(old, old, None)

    def _policy_changed(self, any_: Policy, old: Policy | None, new: Policy | None) -> None:
        self._compiler.forget(any_)
        key = any_.key
        for group, here in self._here.items():
            if here.policies is None:
                continue
            had = old is not None and key in here.policies
            has = new is not None and _is_subject(new, group)
            if had and not has:
                del here.policies[key]
            if has:
                here.policies[key] = new
            if had or has:
                self._dirty.add(group)

    def _relabelled(self, space: Space | None) -> None:
        """A namespace has other labels."""
        if space:
            self._sets.space_changed(space)
            for group in space.groups.values():
                if group in self._here:
                    self._here[group].policies = None
                    self._dirty.add(group)

    def _holding(self, address: bytes) -> Holding | None:
        """What is in force for an address now, None: it has no attached pod, or one that is not known."""
        local = self._index.here.get(address)
        if local is None or not local.is_decided:
            return None
        here = self._here.get(local.group) if local.group else None
        plan = here.plans.get(version_of(address)) if here else None
        pod = f"{local.pod.namespace}/{local.pod.name}" if local.pod.namespace else local.pod.name
        who = (local.pod.owner, local.pod.link, pod)
        return Holding(plan.enforced(*who) if plan else Enforced(*who), plan, bool(here and here.is_exempt))

    def _plan(self) -> None:
        """Make plans of the groups whose policies have changed."""
        made: dict[tuple, Plan] = {}
        for group in self._dirty:
            here = self._here.get(group)
            if here is None:
                continue
            if here.policies is None:
                mine = (self._policies.get("", {}), self._policies.get(group.space.name, {}))
                here.policies = {one.key: one for named in mine for one in named.values() if _is_subject(one, group)}
                here.is_exempt = any(selects(peer, group) for peer in self._exceptions)
            here.plans = {}
            keys = tuple(sorted(here.policies))
            for version in {version_of(address) for address in here.addresses}:
                if keys and (keys, version) not in made:
                    made[keys, version] = self._compiler.plan(here.policies.values(), version)
                if keys:
                    here.plans[version] = made[keys, version]
            self._moved |= here.addresses
        self._dirty.clear()


def _is_subject(policy: Policy, group: Group) -> bool:
    return selects(policy.subject, group)

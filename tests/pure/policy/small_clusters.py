"""Random objects with so few names, labels and addresses that they often collide, and what happens to them.

Unlike tests/policy/random_clusters.py, which keeps to what a healthy cluster has: here pods claim each other's
addresses, are named again with other UIDs, and attached pods come before and go after their Pods.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hypothesis import strategies as st

from policy.anew import compile_all
from policy.compiled import Compiled
from policy.engine import Engine
from policy.objects import (
    ACCEPT,
    ADMIN,
    BASELINE,
    DENY,
    DOES_NOT_EXIST,
    EXISTS,
    IN,
    NETWORK,
    NOT_IN,
    PASS,
    SCTP,
    TCP,
    UDP,
    ClusterNode,
    ContainerPort,
    LocalPod,
    Namespace,
    NetworkPeer,
    NodePeer,
    Pod,
    PodPeer,
    Policy,
    Ports,
    Requirement,
    Rule,
    Selector,
)
from policy.sources.sink import ClusterObject

ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "fd00::1", "fd00::2")
NODE_ADDRESSES = ("192.0.2.1", "192.0.2.2", "2001:db8::1")
OUTSIDE = ("203.0.113.9", "2001:db8:9::9")
NODE = "n1"
PORTS = (80, 81, 82)
_SPACES, _PODS, _UIDS, _VALUES = ("x", "y"), ("p", "q", "r"), ("u1", "u2"), ("a", "b")

labels = st.dictionaries(st.sampled_from(("app", "tier")), st.sampled_from(_VALUES), max_size=2)
_with_values = st.builds(
    lambda key, operator, values: Requirement(key, operator, tuple(sorted(values))),
    st.sampled_from(("app", "tier")),
    st.sampled_from((IN, NOT_IN)),
    st.sets(st.sampled_from(_VALUES), min_size=1),
)
_without = st.builds(Requirement, st.just("app"), st.sampled_from((EXISTS, DOES_NOT_EXIST)))
selectors = st.builds(
    lambda found: Selector(tuple(sorted(found, key=repr))), st.sets(_with_values | _without, max_size=1)
)
wide_peers = st.builds(PodPeer, selectors, selectors)
narrow_peers = st.builds(lambda pods, name: PodPeer(pods, namespace=name), selectors, st.sampled_from(_SPACES))
_networks = st.builds(
    NetworkPeer,
    st.sampled_from(("0.0.0.0/0", "10.0.0.0/24", "10.0.0.0/30", "192.0.2.1/32", "203.0.113.0/24", "::/0", "fd00::/64")),
    st.sampled_from(((), (), ("10.0.0.2/31",), ("fd00::1/128", "10.0.0.1/32"))),
)
_peers = st.one_of(wide_peers, narrow_peers, _networks, st.builds(NodePeer, selectors))
_protocols = st.sampled_from((TCP, UDP, SCTP))
_ports = st.one_of(
    st.builds(Ports, _protocols),
    st.builds(lambda protocol, port: Ports(protocol, port, port), _protocols, st.sampled_from(PORTS)),
    st.builds(Ports, _protocols, st.just(80), st.just(81)),
    st.builds(lambda protocol, name: Ports(protocol, name=name), _protocols | st.just(""), st.sampled_from("st")),
)


def _some_rules(actions: Iterable[str]) -> st.SearchStrategy:
    peers, ports = (st.lists(one, min_size=1, max_size=2).map(tuple) for one in (_peers, _ports))
    nothing = st.sampled_from((None, None, None, ()))
    one = st.builds(Rule, nothing | peers, nothing | ports, st.sampled_from(tuple(actions)))
    return st.lists(one, min_size=1, max_size=2).map(
        lambda found: tuple(Rule(rule.peers, rule.ports, rule.action, f"rule[{n}]") for n, rule in enumerate(found))
    )


def _rules(actions: Iterable[str]) -> st.SearchStrategy:
    return st.sampled_from((None, None, ())) | _some_rules(actions)


network_policies = st.builds(
    lambda name, peer, ingress, egress: Policy(NETWORK, peer.namespace, name, peer, ingress, egress),
    st.sampled_from("ab"),
    narrow_peers,
    _rules([ACCEPT]),
    _rules([ACCEPT]),
)
cluster_policies = st.builds(
    lambda tier, name, peer, ingress, egress, at: Policy(tier, "", name, peer, ingress, egress, at),
    st.sampled_from((ADMIN, BASELINE)),
    st.sampled_from("ab"),
    wide_peers,
    _rules([ACCEPT, DENY, PASS]),
    _rules([ACCEPT, DENY, PASS]),
    st.sampled_from((1, 1, 2)),
)
_some_ips = st.just(()) | st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=2, unique=True).map(tuple)
_container_ports = st.lists(
    st.builds(ContainerPort, st.sampled_from("st"), _protocols, st.sampled_from(PORTS)), max_size=2
).map(tuple)
pods = st.builds(
    Pod,
    st.sampled_from(_SPACES),
    st.sampled_from(_PODS),
    labels,
    _some_ips,
    _container_ports,
    st.sampled_from(("", NODE, "n2")),
    st.sampled_from((False, False, False, True)),
    st.sampled_from(((), *((uid,) for uid in _UIDS), _UIDS)),
)
_spaces = st.builds(Namespace, st.sampled_from(_SPACES), labels)
_node_ips = st.lists(st.sampled_from(NODE_ADDRESSES), max_size=2, unique=True).map(tuple)
_nodes = st.builds(ClusterNode, st.sampled_from((NODE, "n2")), labels, _node_ips)
objects = st.one_of(pods, pods, network_policies, cluster_policies, _spaces, _nodes)
attached = st.builds(
    LocalPod,
    st.sampled_from(("o1", "o2", "o3")),
    _some_ips,
    st.sampled_from(("v1", "v2")),
    st.sampled_from(("", *_SPACES, *_SPACES, *_SPACES)),
    st.sampled_from(_PODS),
    st.sampled_from(("", *_UIDS)),
)
_keys = st.one_of(
    st.tuples(st.just("Pod"), st.sampled_from(_SPACES), st.sampled_from(_PODS)),
    st.tuples(st.just("NetworkPolicy"), st.sampled_from(_SPACES), st.sampled_from("ab")),
    st.tuples(st.just("ClusterNetworkPolicy"), st.just(""), st.sampled_from("ab")),
    st.tuples(st.just("Namespace"), st.just(""), st.sampled_from(_SPACES)),
    st.tuples(st.just("Node"), st.just(""), st.sampled_from((NODE, "n2"))),
)
events = st.one_of(
    st.tuples(st.just("put"), objects),
    st.tuples(st.just("put"), objects),
    st.tuples(st.just("put_local"), attached),
    st.tuples(st.just("put"), pods),
    st.tuples(st.just("remove"), _keys),
    st.tuples(st.just("remove_local"), st.sampled_from(("o1", "o2", "o3"))),
    st.tuples(st.just("replace"), st.lists(objects, max_size=8)),
    st.tuples(st.just("take"), st.none()),
)
_settled = [
    *(("put", Namespace(name, {"app": "a"})) for name in _SPACES),
    ("put", Pod("x", "p", {"app": "a"}, ADDRESSES[:1], (ContainerPort("s", TCP, 80),))),
    ("put", Pod("x", "q", {"app": "b"}, (ADDRESSES[1], ADDRESSES[5]), (ContainerPort("s", TCP, 81),))),
    ("put", Pod("y", "p", {"tier": "a"}, ADDRESSES[2:3], (ContainerPort("t", UDP, 81),))),
    ("put_local", LocalPod("o1", (ADDRESSES[0], ADDRESSES[4]), "v1", "x", "p")),
]
_settled_policies = st.builds(
    lambda name, ingress, egress: Policy(NETWORK, "x", name, PodPeer(namespace="x"), ingress, egress),
    st.sampled_from("ab"),
    _some_rules([ACCEPT]),
    _some_rules([ACCEPT]),
)
_settled_cluster_policies = st.builds(
    lambda tier, name, ingress, egress: Policy(tier, "", name, PodPeer(namespaces=Selector()), ingress, egress),
    st.sampled_from((ADMIN, BASELINE)),
    st.sampled_from("ab"),
    _some_rules([ACCEPT, DENY, PASS]),
    _some_rules([ACCEPT, DENY, PASS]),
)
histories = st.builds(
    lambda policies, after: [*_settled, *(("put", one) for one in policies), ("take", None), *after],
    st.lists(_settled_policies | _settled_cluster_policies, min_size=1, max_size=3),
    st.lists(events, min_size=6, max_size=18),
)
"""A pod of this node, some policies, and then whatever happens."""


def key_of(one: ClusterObject) -> tuple[str, str, str]:
    """Kind, namespace and name of an object."""
    if isinstance(one, Policy):
        return one.key
    kind = {Pod: "Pod", Namespace: "Namespace", ClusterNode: "Node"}[type(one)]
    return kind, getattr(one, "namespace", ""), one.name


@dataclass
class Ledger:
    """What an Engine has been told, as lists, so that all can be computed from nothing.

    Pods are in the order in which they have claimed their addresses. `last`: as which Pod each owner is known.
    """

    needs_pods: bool
    exceptions: tuple[PodPeer, ...] = ()
    objects: dict[tuple[str, str, str], ClusterObject] = field(default_factory=dict)
    locals: dict[str, LocalPod] = field(default_factory=dict)
    last: dict[str, Pod] = field(default_factory=dict)

    def do(self, engine: Engine, event: tuple[str, object]) -> None:
        """Do the same to the Engine and to the lists."""
        what, value = event
        if what == "remove":
            engine.remove(*value)
        elif what != "take":
            getattr(engine, what)(value)
        steps: dict[str, Callable[[object], None]] = {
            "put": self._put,
            "put_local": self._put_local,
            "remove": lambda key: self.objects.pop(key, None),
            "remove_local": self._remove_local,
            "replace": self._replace,
        }
        if what in steps:
            steps[what](value)
            self._recognise()

    def compiled(self) -> Compiled:
        """All of it, from nothing."""
        every, attached_ = self.objects.values(), self.locals.values()
        return compile_all(
            every, attached_, needs_pods=self.needs_pods, metadata_exceptions=self.exceptions, last=self.last
        )

    def _put(self, one: ClusterObject) -> None:
        key = key_of(one)
        if isinstance(one, Pod) and key in self.objects and _claims(self.objects[key]) != _claims(one):
            del self.objects[key]
        self.objects[key] = one

    def _put_local(self, local: LocalPod) -> None:
        old = self.locals.pop(local.owner, None)
        if old and (old.namespace, old.name, old.uid) != (local.namespace, local.name, local.uid):
            self.last.pop(local.owner, None)
        self.locals[local.owner] = local

    def _remove_local(self, owner: str) -> None:
        self.locals.pop(owner, None)
        self.last.pop(owner, None)

    def _replace(self, every: list[ClusterObject]) -> None:
        for key in self.objects.keys() - set(map(key_of, every)):
            del self.objects[key]
        for one in every:
            self._put(one)
            self._recognise()

    def _recognise(self) -> None:
        for local in self.locals.values() if self.needs_pods else ():
            pod = self.objects.get(("Pod", local.namespace, local.name))
            is_it = pod and (not local.uid or not pod.uids or local.uid in pod.uids)
            if is_it and (local.owner in self.last or ("Namespace", "", local.namespace) in self.objects):
                self.last[local.owner] = pod


def _claims(pod: Pod) -> tuple[str, ...]:
    return () if pod.is_host_network else pod.ips

"""A small cluster to make claims about: namespaces "shop" and "lab", this node's pods web and db, others elsewhere."""

from collections.abc import Sequence
from dataclasses import replace

from policy.compiled import Compiled
from policy.engine import Engine
from policy.objects import (
    ACCEPT,
    ADMIN,
    EVERYTHING,
    IN,
    NETWORK,
    TCP,
    ClusterNode,
    ContainerPort,
    LocalPod,
    Namespace,
    Peer,
    Pod,
    PodPeer,
    Policy,
    Ports,
    Requirement,
    Rule,
    Selector,
)
from policy.sources.sink import ClusterObject
from policy.verdicts import Judge, Packet
from spec.addresses import pack

HERE, THERE = "192.0.2.1", "192.0.2.2"
OUTSIDE = "203.0.113.9"
SQL = ContainerPort("sql", TCP, 5432)
WEB = Pod("shop", "web", {"app": "web"}, ("10.0.0.1", "fd00::1"), (), "n1", uids=("uid-web",))
DB = Pod("shop", "db", {"app": "db"}, ("10.0.0.2", "fd00::2"), (SQL,), "n1", uids=("uid-db",))
FAR = Pod("shop", "far", {"app": "web"}, ("10.0.1.1",), (), "n2", uids=("uid-far",))
LAB = Pod("lab", "lab", {"app": "db"}, ("10.0.1.2",), (replace(SQL, number=5433),), "n2", uids=("uid-lab",))
HOST = Pod("shop", "host", {"app": "web"}, (THERE,), (), "n2", is_host_network=True)
CLUSTER: tuple[ClusterObject, ...] = (
    *(Namespace("shop", {"team": "red"}), Namespace("lab", {"team": "blue"})),
    *(ClusterNode("n1", {}, (HERE,)), ClusterNode("n2", {"role": "edge"}, (THERE,))),
    *(WEB, DB, FAR, LAB, HOST),
)
NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1}


def having(**labels: str) -> Selector:
    """Selects what has all these labels."""
    return Selector(tuple(sorted((Requirement(key, IN, (value,)) for key, value in labels.items()), key=repr)))


def of_shop(**labels: str) -> PodPeer:
    """Pods of the namespace "shop" with these labels."""
    return PodPeer(having(**labels), namespace="shop")


def of_teams(**labels: str) -> PodPeer:
    """All pods of namespaces with these labels."""
    return PodPeer(EVERYTHING, namespaces=having(**labels))


def says(action: str = ACCEPT, *peers: Peer, ports: Sequence[Ports] | None = None, where: str = "rule[0]") -> Rule:
    """A rule about peers, or about everybody."""
    return Rule(peers or None, None if ports is None else tuple(ports), action, where)


def policy(name: str, subject: PodPeer, **rules: Sequence[Rule]) -> Policy:
    """A NetworkPolicy of the namespace "shop"; `rules`: `ingress`, `egress`."""
    return Policy(NETWORK, "shop", name, subject, **{direction: tuple(some) for direction, some in rules.items()})


def cluster_policy(name: str, *, tier: str = ADMIN, priority: int = 0, **rules: Sequence[Rule]) -> Policy:
    """A ClusterNetworkPolicy about all pods."""
    found = {direction: tuple(some) for direction, some in rules.items()}
    return Policy(tier, "", name, of_teams(), **found, priority=priority)


def local(pod: Pod, **changes: object) -> LocalPod:
    """The attachment of a pod to this node."""
    uid = pod.uids[0] if pod.uids else ""
    return replace(LocalPod(f"v1:net:{pod.name}:eth0", pod.ips, "veth", pod.namespace, pod.name, uid), **changes)


def engine_of(*more: ClusterObject, needs_pods: bool = True, exceptions: Sequence[PodPeer] = ()) -> Engine:
    """The Engine of n1 with the cluster and more objects; web and db are attached, and all is taken."""
    engine = Engine(needs_pods=needs_pods, metadata_exceptions=exceptions, node="n1")
    engine.replace([*CLUSTER, *more])
    engine.put_local(local(WEB))
    engine.put_local(local(DB))
    engine.take()
    return engine


def compiled_of(*more: ClusterObject) -> Compiled:
    """What is in force with the cluster and these."""
    return engine_of(*more).compiled


def passes(compiled: Compiled, source: str, destination: str, port: int = 80, protocol: str = "TCP") -> bool:
    """Whether this node lets a connection pass."""
    judge = Judge(compiled, is_own_node=frozenset({pack(HERE)}).__contains__)
    return judge.decide(Packet(pack(source), pack(destination), NUMBERS[protocol], port)).is_allowed


def reaching(compiled: Compiled, destination: str, port: int = 80) -> set[str]:
    """Which of the cluster's addresses of IPv4 reach an address."""
    every = ("10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.1.2", HERE, THERE, OUTSIDE)
    return {one for one in every if one != destination and passes(compiled, one, destination, port)}

"""What is in force from nothing, in the simplest way: what the Engine's ways are compared with.

Only the making of chains (policy/compile.py) is the same.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from policy.compile import Compiler
from policy.compiled import AddressSet, Compiled
from policy.expansion import NUMBERS, Named, SetSpec
from policy.objects import ClusterNode, Labels, LocalPod, Namespace, NodePeer, Pod, PodPeer, Policy
from policy.sources.sink import ClusterObject
from spec.addresses import pack, unpack


@dataclass(frozen=True)
class _Cluster:
    """All objects, by what identifies them."""

    pods: Mapping[tuple[str, str], Pod] = field(default_factory=dict)
    spaces: Mapping[str, Namespace] = field(default_factory=dict)
    nodes: Mapping[str, ClusterNode] = field(default_factory=dict)
    policies: Sequence[Policy] = ()

    def labels_of(self, namespace: str) -> Labels:
        """The labels of a namespace, which need not be known."""
        labels = self.spaces[namespace].labels if namespace in self.spaces else {}
        return {**labels, "kubernetes.io/metadata.name": namespace}

    def selects(self, peer: PodPeer, pod: Pod) -> bool:
        """Whether a peer has a pod."""
        if peer.namespaces is None:
            return pod.namespace == peer.namespace and peer.pods.matches(pod.labels)
        return peer.namespaces.matches(self.labels_of(pod.namespace)) and peer.pods.matches(pod.labels)


def compile_all(
    objects: Iterable[ClusterObject],
    attached: Iterable[LocalPod],
    *,
    needs_pods: bool,
    metadata_exceptions: Sequence[PodPeer] = (),
    last: Mapping[str, Pod] | None = None,
) -> Compiled:
    """What is in force for these objects and attached pods. See policy.engine.Engine.

    Of several pods that claim an address the last has it. `last`: by owner, the Pod as which it was known before.
    """
    cluster = _cluster(objects)
    here: dict[bytes, tuple[LocalPod, Pod | None]] = {}
    for local in attached:
        pod = _known_as(local, cluster, needs_pods, (last or {}).get(local.owner))
        for ip in local.ips:
            here.pop(pack(ip), None)
            here[pack(ip)] = (local, pod)
    placed = {pack(ip): pod for pod in cluster.pods.values() if not pod.is_host_network for ip in pod.ips}
    placed |= {address: pod for address, (_, pod) in here.items()}
    at_home = {address: pod for address, (_, pod) in here.items() if pod}
    pods, chains, specs, exempt = {}, {}, {}, set()
    compiler = Compiler()
    for address, (local, pod) in here.items():
        if pod is None and local.namespace:
            continue  # held
        policies = [policy for policy in cluster.policies if pod and cluster.selects(policy.subject, pod)]
        plan = compiler.plan(policies, 4 if len(address) == 4 else 6)
        name = f"{local.namespace}/{local.name}" if local.namespace else local.name
        pods[unpack(address)] = plan.enforced(local.owner, local.link, name)
        chains |= plan.chains
        specs |= plan.sets
        if pod and any(cluster.selects(peer, pod) for peer in metadata_exceptions):
            exempt.add(unpack(address))
    sets = {name: _made(spec, cluster, placed, at_home) for name, spec in specs.items()}
    return Compiled(pods, chains, sets, frozenset(exempt))


def _cluster(objects: Iterable[ClusterObject]) -> _Cluster:
    pods, spaces, nodes, policies = {}, {}, {}, {}
    for one in objects:
        if isinstance(one, Pod):
            pods.pop((one.namespace, one.name), None)
            pods[one.namespace, one.name] = one
        elif isinstance(one, Policy):
            policies[one.key] = one
        else:
            (spaces if isinstance(one, Namespace) else nodes)[one.name] = one
    return _Cluster(pods, spaces, nodes, tuple(policies.values()))


def _known_as(local: LocalPod, cluster: _Cluster, needs_pods: bool, last: Pod | None) -> Pod | None:  # noqa: FBT001
    """The pod that an attached pod is, None: not known, or in no namespace."""
    if not local.namespace:
        return None
    pod = cluster.pods.get((local.namespace, local.name))
    if pod and local.uid and pod.uids and local.uid not in pod.uids:
        pod = None
    if not needs_pods:
        return pod or Pod(local.namespace, local.name)
    return pod if pod and (last or local.namespace in cluster.spaces) else last


def _made(
    spec: SetSpec, cluster: _Cluster, placed: Mapping[bytes, Pod | None], here: Mapping[bytes, Pod]
) -> AddressSet:
    return AddressSet(spec.kind, frozenset(_elements(spec, cluster, placed, here)), spec.comment)


def _elements(
    spec: SetSpec, cluster: _Cluster, placed: Mapping[bytes, Pod | None], here: Mapping[bytes, Pod]
) -> Iterator[bytes]:
    source, size = spec.source, 4 if spec.version == 4 else 16
    if isinstance(source, frozenset):
        yield from source
        return
    if isinstance(source, NodePeer):
        addresses = (
            pack(ip) for node in cluster.nodes.values() if source.nodes.matches(node.labels) for ip in node.ips
        )
        yield from (address for address in addresses if len(address) == size)
        return
    peer = source.peer if isinstance(source, Named) else source
    for address, pod in (here if peer is None else placed).items():
        if pod is None or len(address) != size or (peer and not cluster.selects(peer, pod)):
            continue
        if not isinstance(source, Named):
            yield address
            continue
        for port in pod.ports:
            if {(port.name, port.protocol), (port.name, "")} & set(source.names):
                yield address + bytes((NUMBERS[port.protocol],)) + port.number.to_bytes(2, "big")

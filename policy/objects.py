"""Pods, namespaces, nodes and policies, as values; whatever they were read from.

A NetworkPolicy (networking.k8s.io/v1) and a ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2) are one kind of
value: a `Policy` in a tier. The tiers are asked in order; the first rule that matches a connection decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

ADMIN, NETWORK, BASELINE = "Admin", "Network", "Baseline"
"""The tiers of policies, in the order in which they are asked. NetworkPolicies are in the one in the middle."""

ACCEPT, DENY, PASS = "Accept", "Deny", "Pass"
"""Actions of rules. PASS: go on with the next tier."""

IN, NOT_IN, EXISTS, DOES_NOT_EXIST = "In", "NotIn", "Exists", "DoesNotExist"
"""Operators of requirements."""

TCP, UDP, SCTP = "TCP", "UDP", "SCTP"

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition of a selector. `values`: sorted; () for EXISTS and DOES_NOT_EXIST."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Labels) -> bool:
        """Whether labels fulfil it. A label that is missing fulfils NOT_IN, as the API says."""
        if self.operator == IN:
            return labels.get(self.key) in self.values
        if self.operator == NOT_IN:
            return labels.get(self.key) not in self.values
        return (self.key in labels) == (self.operator == EXISTS)


@dataclass(frozen=True, slots=True)
class Selector:
    """Requirements that labels must all fulfil, sorted and without duplicates; none: everything is selected.

    Entries of `matchLabels` are requirements IN with one value, so equal selectors are equal values.
    """

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Labels) -> bool:
        """Whether it selects an object with these labels."""
        return all(one.matches(labels) for one in self.requirements)


EVERYTHING = Selector()


@dataclass(frozen=True, slots=True)
class PodPeer:
    """Pods, but not those on their node's own network: `pods` in `namespaces`, or in the namespace named `namespace`.

    Either `namespaces` is a selector, or it is None and `namespace` a name.
    """

    pods: Selector = EVERYTHING
    namespaces: Selector | None = None
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class NetworkPeer:
    """Addresses in `cidr`, except those in `excepts` (CIDRs), whoever has them. Canonical text, no host bits."""

    cidr: str
    excepts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodePeer:
    """Nodes of the cluster: all their addresses, and so the pods on their nodes' own network."""

    nodes: Selector = EVERYTHING


Peer = PodPeer | NetworkPeer | NodePeer


@dataclass(frozen=True, slots=True)
class Ports:
    """Destination ports `first` to `last` of a protocol, (0, 0): all; or those that pods call `name`.

    `protocol`: TCP, UDP, SCTP; with a `name` it may be "", any of them.
    """

    protocol: str
    first: int = 0
    last: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a policy says of connections from (ingress) or to (egress) `peers`, None: anybody, to `ports`, None: all.

    With `ports` None even those of protocols without ports. An empty tuple matches nothing. `where`: its place in the
    document, such as "ingress[0]", or its name.
    """

    peers: tuple[Peer, ...] | None = None
    ports: tuple[Ports, ...] | None = None
    action: str = ACCEPT
    where: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """What is said of the pods that `subject` selects: its rules, in order, a tuple for each direction.

    None: the policy says nothing about a direction. A policy of the tier NETWORK that has a tuple, even an empty one,
    isolates its pods in that direction: what none of these policies accepts is denied. Those of the other tiers
    isolate nothing. `priority`: in ADMIN and BASELINE, lower ones are asked first, and of equal ones the first by name.
    `namespace`: "" for cluster-wide ones.
    """

    tier: str
    namespace: str
    name: str
    subject: PodPeer
    ingress: tuple[Rule, ...] | None = None
    egress: tuple[Rule, ...] | None = None
    priority: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies it: "NetworkPolicy" or "ClusterNetworkPolicy", namespace, name."""
        return "NetworkPolicy" if self.tier == NETWORK else "ClusterNetworkPolicy", self.namespace, self.name


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A port that a pod has given a name."""

    name: str
    protocol: str
    number: int


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that has not ended. `ips`: canonical. `uids`: by which CNI_ARGS may name it; () if not known.

    `is_host_network`: it has its node's addresses, and no policy is about it. `node`: where it runs, "" if not known.
    """

    namespace: str
    name: str
    labels: Labels = field(default_factory=dict)
    ips: tuple[str, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    node: str = ""
    is_host_network: bool = False
    uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace. Its labels have "kubernetes.io/metadata.name", whether or not its document has."""

    name: str
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node of the cluster, as policies select it."""

    name: str
    labels: Labels = field(default_factory=dict)
    ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LocalPod:
    """A pod that this node has attached: its addresses, and who it is, as far as its ADD was told ("" if not).

    `owner`: tag of the attachment (linux/ownership.py). `link`: the name of its host veth.
    """

    owner: str
    ips: tuple[str, ...]
    link: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""

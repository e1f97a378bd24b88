"""What the policies come to on this node, as a value that can be compared and printed: pods, chains, sets.

It says the same as the nftables tables that rules/policy.py begins and policy/programming.py completes, and names
everything as they do. Chains and sets that do not belong to a pod are named after their content, so that equal ones are
one: a chain is never changed, and a set only gains and loses elements.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

ADDRESSES4, ADDRESSES6 = "addresses4", "addresses6"
"""Kinds of sets: packed addresses (`ipv4_addr`, `ipv6_addr`)."""
NETWORKS4, NETWORKS6 = "networks4", "networks6"
"""Intervals: the elements are (first, last) as packed addresses, joined. Such a set never changes."""
SERVICES = "services"
"""`inet_proto . inet_service`: protocol (1 byte) and port (2 bytes, big-endian), joined. Such a set never changes."""
NAMED4, NAMED6 = "named4", "named6"
"""`ipv4_addr . inet_proto . inet_service`: address of the pod, protocol and port that it calls by a name, joined."""

ALLOW, DROP, RETURN, JUMP = "allow", "drop", "return", "jump"
"""Verdicts of rules. ALLOW: in a chain for egress go on with ingress (`goto to_ingress`), else accept.

DROP: count, log and drop (`goto denied_egress`, `goto denied_ingress`).
"""

INGRESS, EGRESS, TO_NODE = "ingress", "egress", "to_node"
"""Directions of chains; TO_NODE is for what a pod sends to its own node."""


@dataclass(frozen=True, slots=True)
class AddressSet:
    """A set of nftables: its kind, its elements without padding, and what is in it, for people."""

    kind: str
    elements: frozenset[bytes]
    comment: str = ""


@dataclass(frozen=True, slots=True)
class ChainRule:
    """A rule: if the peer is in `peers`, and protocol and port match, then `verdict`.

    `version`: 4 or 6, of `peers` or of `ports`; 0 for a rule without sets of addresses. `peers`: the name of a set with
    addresses or networks, "" for anybody. `ports`: the name of a set of SERVICES, or of NAMED for the packet's
    destination. Or `protocol` (IPPROTO_*, 0: any) with ports `first` to `last`, (0, 0): all. `target`: the chain of
    JUMP. `comment`: which policy's rule it is, for people; at most 120 characters, without quotes.
    """

    verdict: str
    version: int = 0
    peers: str = ""
    ports: str = ""
    protocol: int = 0
    first: int = 0
    last: int = 0
    target: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of a direction: which addresses `peers` are compared with, and what ALLOW and DROP mean in it.

    INGRESS: the source; EGRESS and TO_NODE: the destination. TO_NODE allows as EGRESS does. A packet for which no rule
    has decided returns to where it came from; the chains of pods always decide.
    """

    direction: str
    rules: tuple[ChainRule, ...]


@dataclass(frozen=True, slots=True)
class Enforced:
    """What is in force for an address of a pod of this node: the names of its chains, "" where it is not restricted.

    `policies`: (direction, "namespace/name" or "name") of the policies that isolate it or may deny something to it.
    """

    owner: str
    link: str
    pod: str
    ingress: str = ""
    egress: str = ""
    to_node: str = ""
    policies: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Compiled:
    """Everything: by address (canonical) of a pod of this node, and by name of chain and set.

    An attached pod that is not in `pods` is held until it is known. `metadata_exempt`: addresses of pods that may reach
    the metadata service in spite of `metadataAccess`.
    """

    pods: Mapping[str, Enforced] = field(default_factory=dict)
    chains: Mapping[str, Chain] = field(default_factory=dict)
    sets: Mapping[str, AddressSet] = field(default_factory=dict)
    metadata_exempt: frozenset[str] = frozenset()


@dataclass(frozen=True)
class SetChange:
    """What an existing set loses and gets."""

    kind: str
    gone: frozenset[bytes]
    new: frozenset[bytes]


@dataclass(frozen=True)
class Delta:
    """What makes one `Compiled` the next.

    `new_sets`, `new_chains`: complete; `chains` in an order in which each precedes those that jump to it. `sets`:
    changes of others. `pods`: those that are new or have changed, None: gone. `exempt_gone`, `exempt_new`: of
    `metadata_exempt`. `unused_chains`, `unused_sets`: that nothing refers to any more. `narrowed`: addresses of pods of
    this node that may be allowed less than before; None: any may.
    """

    new_sets: Mapping[str, AddressSet] = field(default_factory=dict)
    new_chains: Mapping[str, Chain] = field(default_factory=dict)
    sets: Mapping[str, SetChange] = field(default_factory=dict)
    pods: Mapping[str, Enforced | None] = field(default_factory=dict)
    exempt_gone: frozenset[str] = frozenset()
    exempt_new: frozenset[str] = frozenset()
    unused_chains: frozenset[str] = frozenset()
    unused_sets: frozenset[str] = frozenset()
    narrowed: frozenset[str] | None = frozenset()

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return any(
            (
                *(self.new_sets, self.new_chains, self.sets, self.pods, self.exempt_gone, self.exempt_new),
                *(self.unused_chains, self.unused_sets),
            )
        )

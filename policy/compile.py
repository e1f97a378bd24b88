"""From the policies that select a pod to its chains.

A pod has one chain for each direction, which jumps to: a chain with all rules of the Admin policies; a chain for each
different list of rules of the NetworkPolicies, if any isolates the pod, and then drops; else a chain with all rules of
the Baseline policies. Chains are made for one IP version, since a packet has only one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from socket import IPPROTO_TCP, IPPROTO_UDP

from policy import networks
from policy.compiled import (
    ADDRESSES4,
    ADDRESSES6,
    ALLOW,
    DROP,
    EGRESS,
    INGRESS,
    JUMP,
    NAMED4,
    NAMED6,
    NETWORKS4,
    NETWORKS6,
    RETURN,
    SERVICES,
    TO_NODE,
    Chain,
    ChainRule,
    Enforced,
)
from policy.naming import comment_of, describe, name_of, policy_name
from policy.objects import (
    ACCEPT,
    ADMIN,
    BASELINE,
    DENY,
    EVERYTHING,
    NETWORK,
    PASS,
    SCTP,
    TCP,
    UDP,
    NetworkPeer,
    NodePeer,
    Peer,
    PodPeer,
    Policy,
    Ports,
    Rule,
    Selector,
)

NUMBERS = {TCP: IPPROTO_TCP, UDP: IPPROTO_UDP, SCTP: 132}
ALL_PODS = PodPeer(EVERYTHING, namespaces=EVERYTHING)
_VERDICTS = {ACCEPT: ALLOW, DENY: DROP, PASS: RETURN}
_SHORT = {INGRESS: "in", EGRESS: "eg", TO_NODE: "tn"}
_ADDRESSES = {4: ADDRESSES4, 6: ADDRESSES6}
_NETWORKS = {4: NETWORKS4, 6: NETWORKS6}
_NAMED = {4: NAMED4, 6: NAMED6}


@dataclass(frozen=True, slots=True)
class Named:
    """Ports that pods call by one of these names: (name, protocol, "": any). `peer`: None: pods of this node."""

    peer: PodPeer | None
    names: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class SetSpec:
    """What is in a set: the addresses of a peer, the ports that pods give a name, or these elements for ever."""

    kind: str
    source: PodPeer | NodePeer | Named | frozenset[bytes]
    version: int = 0

    @property
    def name(self) -> str:
        """The name of the set."""
        if isinstance(self.source, frozenset):
            return name_of(self.kind, tuple(sorted(self.source)))
        return name_of(self.kind, _content(self.source))

    @property
    def comment(self) -> str:
        """What is in it, for people."""
        if isinstance(self.source, Named):
            names = ", ".join(f"{name}/{protocol}" if protocol else name for name, protocol in self.source.names)
            pods = describe(self.source.peer) if self.source.peer else "pods of this node"
            return comment_of(f"port {names} of {pods}")
        return "" if isinstance(self.source, frozenset) else comment_of(describe(self.source))


@dataclass(frozen=True, slots=True)
class Part:
    """A chain that chains of pods jump to, and the sets that it refers to, by name."""

    name: str
    chain: Chain
    sets: Mapping[str, SetSpec]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a pod's chain jumps to: names of chains. `baseline`: None: what is left is denied."""

    admin: str = ""
    accepting: frozenset[str] = frozenset()
    baseline: str | None = ""


@dataclass(frozen=True, eq=False)
class Plan:
    """What is in force for pods that the same policies select, by direction: names of chains, and what they consist of.

    `chains`: these and those that they jump to, which precede them. `sets`: all that they refer to.
    """

    names: Mapping[str, str]
    shapes: Mapping[str, Shape]
    policies: tuple[tuple[str, str], ...]
    chains: Mapping[str, Chain]
    sets: Mapping[str, SetSpec]

    def enforced(self, owner: str, link: str, pod: str) -> Enforced:
        """What this is for an attached pod."""
        names = (self.names[INGRESS], self.names[EGRESS], self.names[TO_NODE])
        return Enforced(owner, link, pod, *names, self.policies)

    @cached_property
    def less(self) -> frozenset[str]:
        """Sets that allow less if they lose elements."""
        return self._used(ALLOW, RETURN)

    @cached_property
    def more(self) -> frozenset[str]:
        """Sets that allow less if they get elements."""
        return self._used(DROP, RETURN)

    def _used(self, *verdicts: str) -> frozenset[str]:
        rules = [rule for chain in self.chains.values() for rule in chain.rules if rule.verdict in verdicts]
        return frozenset(name for rule in rules for name in (rule.peers, rule.ports) if name)


def may_narrow(old: Plan, new: Plan) -> bool:
    """Whether the new plan may allow less than the old one did, while the sets stay as they are."""
    return any(_narrows(old, new, direction) for direction in (INGRESS, EGRESS, TO_NODE))


def _narrows(old: Plan, new: Plan, direction: str) -> bool:
    if not new.names[direction] or old.names[direction] == new.names[direction]:
        return False
    before, after = old.shapes[direction], new.shapes[direction]
    if before.admin != after.admin or (after.baseline != before.baseline and before.baseline is not None):
        return True
    if after.baseline is not None:
        return after.baseline != ""  # the pod was isolated, and is not any more
    return not before.accepting <= after.accepting and not _accepted(old, before) <= _accepted(new, after)


def _accepted(plan: Plan, shape: Shape) -> set[ChainRule]:
    return {replace(rule, comment="") for name in shape.accepting for rule in plan.chains[name].rules}


@dataclass
class Compiler:
    """Makes plans, and remembers the parts that policies have in common."""

    _parts: dict[tuple[object, ...], Part | None] = field(default_factory=dict)

    def forget(self, policy: Policy) -> None:
        """Forget what was made of a policy that has changed or is gone."""
        if policy.tier != NETWORK:
            self._parts = {key: part for key, part in self._parts.items() if key[0] == NETWORK}
            return
        for direction in (INGRESS, EGRESS):
            for version in (4, 6):
                self._parts.pop((NETWORK, direction, version, (policy.key,)), None)

    def plan(self, policies: Iterable[Policy], version: int) -> Plan:
        """The chains of pods that these policies select, in any order, for their addresses of an IP version."""
        tiers: dict[str, list[Policy]] = {ADMIN: [], NETWORK: [], BASELINE: []}
        for policy in sorted(policies, key=lambda one: (one.priority, one.namespace, one.name)):
            tiers[policy.tier].append(policy)
        names, shapes, chains, sets = {}, {}, {}, {}
        for direction in (INGRESS, EGRESS, TO_NODE):
            admin = self._part(ADMIN, tiers[ADMIN], direction, version)
            isolating = [one for one in tiers[NETWORK] if _rules(one, direction) is not None]
            accepting = self._accepting(isolating if direction != TO_NODE else (), direction, version)
            baseline = None if isolating else self._part(BASELINE, tiers[BASELINE], direction, version)
            parts = [*([admin] if admin else []), *(part for part, _ in accepting), *([baseline] if baseline else [])]
            denies = bool(isolating) and direction != TO_NODE
            shapes[direction] = Shape(
                admin.name if admin else "",
                frozenset(part.name for part, _ in accepting),
                None if denies else baseline.name if baseline else "",
            )
            names[direction] = ""
            if parts or denies:
                rules = _pod_rules(admin, accepting, isolating if denies else (), baseline)
                names[direction], chain = _named("", Chain(direction, rules))
                chains |= {**{part.name: part.chain for part in parts}, names[direction]: chain}
                for part in parts:
                    sets |= part.sets
        return Plan(names, shapes, _restricting(tiers), chains, sets)

    def _accepting(self, policies: Iterable[Policy], direction: str, version: int) -> list[tuple[Part, str]]:
        """The chains of what NetworkPolicies accept, without those that accept nothing, and of which policies."""
        found: dict[str, tuple[Part, list[str]]] = {}
        for policy in policies:
            part = self._part(NETWORK, [policy], direction, version)
            if part:
                found.setdefault(part.name, (part, []))[1].append(policy_name(policy))
        return [(part, comment_of(", ".join(names))) for part, names in found.values()]

    def _part(self, tier: str, policies: Sequence[Policy], direction: str, version: int) -> Part | None:
        """One chain with all rules of policies of a tier, None: none matches anything."""
        key = (tier, direction, version, tuple(policy.key for policy in policies))
        if key not in self._parts:
            self._parts[key] = _new_part(tier, policies, direction, version)
        return self._parts[key]


def _new_part(tier: str, policies: Sequence[Policy], direction: str, version: int) -> Part | None:
    sets: dict[str, SetSpec] = {}
    rules = [
        found
        for policy in policies
        for rule in _rules(policy, direction) or ()
        for found in _expanded(rule, direction, version, _rule_name(policy, rule), sets)
    ]
    if not rules:
        return None
    prefix = {ADMIN: "admin-", NETWORK: "r-", BASELINE: "baseline-"}[tier]
    name, chain = _named(prefix, Chain(direction, tuple(rules)))
    return Part(name, chain, sets)


def _rules(policy: Policy, direction: str) -> tuple[Rule, ...] | None:
    return policy.ingress if direction == INGRESS else policy.egress


def _rule_name(policy: Policy, rule: Rule) -> str:
    """NetworkPolicies are named where their chain is jumped to, so that equal rules are one chain."""
    return comment_of(rule.where if policy.tier == NETWORK else f"{policy_name(policy)} {rule.where}".rstrip())


def _restricting(tiers: Mapping[str, Sequence[Policy]]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (direction, policy_name(policy))
        for direction in (INGRESS, EGRESS)
        for policy in (*tiers[ADMIN], *tiers[NETWORK], *tiers[BASELINE])
        if (rules := _rules(policy, direction)) is not None
        and (policy.tier == NETWORK or any(rule.action == DENY for rule in rules))
    )


def _pod_rules(
    admin: Part | None, accepting: Sequence[tuple[Part, str]], isolating: Iterable[Policy], baseline: Part | None
) -> tuple[ChainRule, ...]:
    rules = [ChainRule(JUMP, target=admin.name, comment="Admin policies")] if admin else []
    rules += [ChainRule(JUMP, target=part.name, comment=comment) for part, comment in accepting]
    names = ", ".join(map(policy_name, isolating))
    if names:
        return (*rules, ChainRule(DROP, comment=comment_of(f"isolated by {names}")))
    rules += [ChainRule(JUMP, target=baseline.name, comment="Baseline policies")] if baseline else []
    return (*rules, ChainRule(ALLOW, comment="not isolated"))


def _named(prefix: str, chain: Chain) -> tuple[str, Chain]:
    content = tuple(
        (one.verdict, one.version, one.peers, one.ports, one.protocol, one.first, one.last, one.target, one.comment)
        for one in chain.rules
    )
    return name_of(f"{prefix}{_SHORT[chain.direction]}", (chain.direction, content)), chain


def _expanded(rule: Rule, direction: str, version: int, comment: str, sets: dict[str, SetSpec]) -> Iterator[ChainRule]:
    """A policy's rule as rules of a chain: each way to match the peer with each way to match the port."""

    def using(spec: SetSpec) -> str:
        name = spec.name
        sets[name] = spec
        return name

    verdict = _VERDICTS[rule.action]
    numbers = [{}] if rule.ports is None else list(_numbers(rule.ports, using))
    names = tuple(sorted({(one.name, one.protocol) for one in rule.ports or () if one.name}))
    for peer in _peers(rule.peers, direction, version):
        peers = "" if peer is None or not numbers else using(peer)
        for match in numbers:
            yield ChainRule(verdict, version=version if peers else 0, peers=peers, comment=comment, **match)
        named = _named_ports(peer, names, direction)
        if named:
            ports, whole = using(SetSpec(_NAMED[version], named, version)), named.peer is None or named.peer is ALL_PODS
            peers = using(peer) if peer and whole else ""
            yield ChainRule(verdict, version=version, peers=peers, ports=ports, comment=comment)


def _named_ports(peer: SetSpec | None, names: tuple[tuple[str, str], ...], direction: str) -> Named | None:
    """The named ports that match with a peer. Where the peer is the pod with the port, they match the peer as well."""
    if not names or direction == TO_NODE:
        return None
    if direction == INGRESS:
        return Named(None, names)
    if peer and isinstance(peer.source, PodPeer):
        return Named(peer.source, names)
    return None if peer and isinstance(peer.source, NodePeer) else Named(ALL_PODS, names)


def _peers(peers: tuple[Peer, ...] | None, direction: str, version: int) -> list[SetSpec | None]:
    """The sets that have a rule's peers; None: everybody. All networks are one set."""
    if peers is None:
        return [None]
    found = networks.intervals((peer for peer in peers if isinstance(peer, NetworkPeer)), version)
    if networks.is_everything(found, version):
        return [None]
    nets = [SetSpec(_NETWORKS[version], networks.packed(found, version), version)] if found else []
    kinds = (PodPeer, NodePeer) if direction != TO_NODE else (NodePeer,)  # no pod is its own node
    others = dict.fromkeys(peer for peer in peers if isinstance(peer, kinds))
    return [*nets, *(SetSpec(_ADDRESSES[version], peer, version) for peer in others)]


def _numbers(ports: Iterable[Ports], using: Callable[[SetSpec], str]) -> Iterator[dict]:
    """The ways to match a rule's ports by number: all single ones as one set, then ranges."""
    found = dict.fromkeys((NUMBERS[one.protocol], one.first, one.last) for one in ports if not one.name)
    whole = {protocol for protocol, first, _ in found if not first}
    rest = [one for one in found if one[0] not in whole]
    single = [one for one in rest if one[1] == one[2]]
    if len(single) > 1:
        elements = frozenset(bytes((protocol,)) + port.to_bytes(2, "big") for protocol, port, _ in single)
        yield {"ports": using(SetSpec(SERVICES, elements))}
        rest = [one for one in rest if one not in single]
    for protocol in sorted(whole):
        yield {"protocol": protocol}
    yield from ({"protocol": protocol, "first": first, "last": last} for protocol, first, last in rest)


def _content(source: PodPeer | NodePeer | Named) -> tuple[object, ...]:
    """The same as tuples, whose text is quick to make."""
    if isinstance(source, Named):
        return (source.peer and _content(source.peer), source.names)
    if isinstance(source, NodePeer):
        return ("nodes", _requirements(source.nodes))
    spaces = ("named", source.namespace) if source.namespaces is None else _requirements(source.namespaces)
    return ("pods", _requirements(source.pods), spaces)


def _requirements(selector: Selector) -> tuple[object, ...]:
    return tuple((one.key, one.operator, one.values) for one in selector.requirements)

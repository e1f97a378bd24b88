"""From the policies that select a pod to its chains.

A pod has one chain for each direction, which jumps to: a chain with all rules of the Admin policies; a chain for each
different list of rules of the NetworkPolicies, if any isolates the pod, and then drops; else a chain with all rules of
the Baseline policies. Chains are made for one IP version, since a packet has only one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from policy.compiled import ALLOW, DROP, EGRESS, INGRESS, JUMP, RETURN, TO_NODE, Chain, ChainRule, Enforced
from policy.expansion import SetSpec, expanded
from policy.naming import comment_of, name_of, policy_name
from policy.objects import ADMIN, BASELINE, DENY, NETWORK, Policy, Rule

_SHORT = {INGRESS: "in", EGRESS: "eg", TO_NODE: "tn"}
_PREFIXES = {ADMIN: "admin-", NETWORK: "r-", BASELINE: "baseline-"}
_REMEMBERED = 5_000  # parts of plans; of 250 pods and 500 policies on a node all are in use
_WAY = "way"


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


@dataclass(frozen=True, slots=True)
class _Way:
    """What is in force in one direction. `name`: "" if nothing is. `policies`: those that restrict it."""

    name: str = ""
    shape: Shape = Shape()
    chains: Mapping[str, Chain] = field(default_factory=dict)
    sets: Mapping[str, SetSpec] = field(default_factory=dict)
    policies: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, eq=False)
class Plan:
    """What is in force for pods that the same policies select, by direction: names of chains, and what they jump to.

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
    """Makes plans, and remembers parts of them, by what they are made of: direction, IP version, keys of policies."""

    _made: dict[tuple, object] = field(default_factory=dict)
    _made_of: dict[tuple, set[tuple]] = field(default_factory=dict)

    def forget(self, policy: Policy) -> None:
        """Forget what was made of a policy that has changed or is gone."""
        for key in self._made_of.pop(policy.key, ()):
            del self._made[key]
            for other in key[3:]:
                self._made_of.get(other, set()).discard(key)

    def plan(self, policies: Iterable[Policy], version: int) -> Plan:
        """The chains of pods that these policies select, in any order, for their addresses of an IP version."""
        ordered = sorted(policies, key=lambda one: (one.priority, one.namespace, one.name))
        ways = {}
        for direction in (INGRESS, EGRESS, TO_NODE):
            mine = tuple(one for one in ordered if _rules(one, direction) is not None)
            ways[direction] = self._once(_WAY, mine, direction, version)
        chains, sets = {}, {}
        for way in ways.values():
            chains |= way.chains
            sets |= way.sets
        return Plan(
            {direction: way.name for direction, way in ways.items()},
            {direction: way.shape for direction, way in ways.items()},
            ways[INGRESS].policies + ways[EGRESS].policies,
            chains,
            sets,
        )

    def _way(self, policies: Sequence[Policy], direction: str, version: int) -> _Way:
        tiers = {tier: [one for one in policies if one.tier == tier] for tier in _PREFIXES}
        isolating = tiers[NETWORK]
        is_isolated = bool(isolating) and direction != TO_NODE
        admin = self._part(ADMIN, tiers[ADMIN], direction, version)
        accepting = self._accepting(isolating, direction, version) if is_isolated else []
        baseline = None if isolating else self._part(BASELINE, tiers[BASELINE], direction, version)
        parts = [part for part in (admin, *(part for part, _ in accepting), baseline) if part]
        if not parts and not is_isolated:
            return _Way()
        rules = _pod_rules(admin, accepting, isolating if is_isolated else (), baseline)
        name, chain = _named("", Chain(direction, rules))
        last = None if is_isolated else baseline.name if baseline else ""
        return _Way(
            name,
            Shape(admin.name if admin else "", frozenset(part.name for part, _ in accepting), last),
            {**{part.name: part.chain for part in parts}, name: chain},
            {name: spec for part in parts for name, spec in part.sets.items()},
            _restricting(tiers, direction),
        )

    def _accepting(self, policies: Iterable[Policy], direction: str, version: int) -> list[tuple[Part, str]]:
        """The chains of what NetworkPolicies accept, without those that accept nothing, and of which policies."""
        found: dict[str, tuple[Part, list[str]]] = {}
        for policy in policies:
            part = self._part(NETWORK, (policy,), direction, version)
            if part:
                found.setdefault(part.name, (part, []))[1].append(policy_name(policy))
        return [(part, comment_of(", ".join(names))) for part, names in found.values()]

    def _part(self, tier: str, policies: Sequence[Policy], direction: str, version: int) -> Part | None:
        """One chain with all rules of policies of a tier, None: none matches anything."""
        return self._once(tier, policies, direction, version)

    def _once(self, kind: str, policies: Sequence[Policy], direction: str, version: int) -> object:
        """What has been made of these policies before, or is made now: a way, or a part for a tier."""
        key = (kind, direction, version, *(policy.key for policy in policies))
        if key not in self._made:
            if len(self._made) >= _REMEMBERED:
                self._made.clear()
                self._made_of.clear()
            way = kind == _WAY
            made = self._way(policies, direction, version) if way else _new_part(kind, policies, direction, version)
            self._made[key] = made
            for policy in policies:
                self._made_of.setdefault(policy.key, set()).add(key)
        return self._made[key]


def _new_part(tier: str, policies: Sequence[Policy], direction: str, version: int) -> Part | None:
    sets: dict[str, SetSpec] = {}
    rules = [
        found
        for policy in policies
        for rule in _rules(policy, direction) or ()
        for found in expanded(rule, direction, version, _rule_name(policy, rule), sets)
    ]
    if not rules:
        return None
    name, chain = _named(_PREFIXES[tier], Chain(direction, tuple(rules)))
    return Part(name, chain, sets)


def _rules(policy: Policy, direction: str) -> tuple[Rule, ...] | None:
    return policy.ingress if direction == INGRESS else policy.egress


def _rule_name(policy: Policy, rule: Rule) -> str:
    """NetworkPolicies are named where their chain is jumped to, so that equal rules are one chain."""
    return comment_of(rule.where if policy.tier == NETWORK else f"{policy_name(policy)} {rule.where}".rstrip())


def _restricting(tiers: Mapping[str, Sequence[Policy]], direction: str) -> tuple[tuple[str, str], ...]:
    """The policies that isolate pods, or have rules that deny something and are asked."""
    return tuple(
        (direction, policy_name(policy))
        for policy in (*tiers[ADMIN], *(tiers[NETWORK] or tiers[BASELINE]))
        if policy.tier == NETWORK or any(rule.action == DENY for rule in _rules(policy, direction) or ())
    )


def _pod_rules(
    admin: Part | None, accepting: Sequence[tuple[Part, str]], isolating: Iterable[Policy], baseline: Part | None
) -> tuple[ChainRule, ...]:
    rules = [ChainRule(JUMP, target=admin.name)] if admin else []
    rules += [ChainRule(JUMP, target=part.name, comment=comment) for part, comment in accepting]
    names = ", ".join(map(policy_name, isolating))
    if names:
        return (*rules, ChainRule(DROP, comment=comment_of(f"isolated by {names}")))
    rules += [ChainRule(JUMP, target=baseline.name)] if baseline else []
    return (*rules, ChainRule(ALLOW, comment="not isolated"))


def _named(prefix: str, chain: Chain) -> tuple[str, Chain]:
    content = tuple(
        (one.verdict, one.version, one.peers, one.ports, one.protocol, one.first, one.last, one.target, one.comment)
        for one in chain.rules
    )
    return name_of(f"{prefix}{_SHORT[chain.direction]}", (chain.direction, content)), chain

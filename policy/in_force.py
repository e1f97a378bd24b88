"""What is in force for the addresses of this node's pods, and the chains and sets that this needs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from policy.compile import Plan, may_narrow
from policy.compiled import JUMP, Chain, Enforced, SetChange
from policy.expansion import SetSpec
from spec.addresses import unpack


@dataclass(eq=False, slots=True)
class Holding:
    """What is in force for an address. `plan`: None if no policy selects its pod."""

    enforced: Enforced
    plan: Plan | None
    is_exempt: bool


@dataclass
class Changed:
    """What has changed since the last time. `chains`: each precedes those that jump to it."""

    new_chains: dict[str, Chain]
    new_sets: dict[str, SetSpec]
    unused_chains: frozenset[str]
    unused_sets: frozenset[str]
    pods: dict[str, Enforced | None]
    exempt_gone: frozenset[str]
    exempt_new: frozenset[str]
    narrowed: set[str]


class InForce:
    """What is in force, by packed address; and its chains and sets, with how many plans refer to each."""

    def __init__(self) -> None:
        self.holdings: dict[bytes, Holding] = {}
        self.chains: dict[str, Chain] = {}
        self._before: dict[bytes, Holding | None] = {}
        self._plans: dict[Plan, int] = {}
        self._users: dict[str, int] = {}
        self._touched_chains: dict[str, Chain] = {}
        self._touched_sets: dict[str, SetSpec] = {}

    def put(self, address: bytes, new: Holding | None) -> None:
        """Put something in force for an address, None: nothing."""
        old = self.holdings.get(address)
        self._before.setdefault(address, old)
        before, after = old.plan if old else None, new.plan if new else None
        if before is not after:
            self._use(after, 1)
            self._use(before, -1)
        if new:
            self.holdings[address] = new
        elif old:
            del self.holdings[address]

    def take(self, sets: Iterable[str]) -> Changed:
        """What has changed since the last time; `sets`: the names of those that there are."""
        chains = {name: chain for name, chain in self._touched_chains.items() if name not in self.chains}
        new_chains = {name: chain for name, chain in chains.items() if name in self._users}
        unused_chains = frozenset(
            name for name in self._touched_chains if name in self.chains and name not in self._users
        )
        self.chains.update(new_chains)
        for name in unused_chains:
            del self.chains[name]
        touched = self._touched_sets
        before, self._before = self._before, {}
        self._touched_chains, self._touched_sets = {}, {}
        pairs = [(unpack(address), old, self.holdings.get(address)) for address, old in before.items()]
        return Changed(
            dict(sorted(new_chains.items(), key=_jumps)),
            {name: spec for name, spec in touched.items() if name in self._users and name not in sets},
            unused_chains,
            frozenset(name for name in touched if name not in self._users and name in sets),
            {
                text: new.enforced if new else None
                for text, old, new in pairs
                if (old.enforced if old else None) != (new.enforced if new else None)
            },
            frozenset(text for text, old, new in pairs if old and old.is_exempt and not (new and new.is_exempt)),
            frozenset(text for text, old, new in pairs if new and new.is_exempt and not (old and old.is_exempt)),
            {text for text, old, new in pairs if old and new and _narrows(old, new)},
        )

    def narrowed_by(self, changes: Mapping[str, SetChange]) -> set[str]:
        """The addresses that may be allowed less because of what these sets have lost and gained."""
        gone = {name for name, change in changes.items() if change.gone}
        new = {name for name, change in changes.items() if change.new}
        plans = {plan for plan in self._plans if not plan.less.isdisjoint(gone) or not plan.more.isdisjoint(new)}
        return {unpack(address) for address, one in self.holdings.items() if one.plan in plans} if plans else set()

    def _use(self, plan: Plan | None, sign: int) -> None:
        if plan is None:
            return
        users = self._plans.get(plan, 0) + sign
        if users:
            self._plans[plan] = users
        else:
            del self._plans[plan]
        if users == (1 if sign > 0 else 0):  # the first has come, or the last has gone
            self._touched_chains.update(plan.chains)
            self._touched_sets.update(plan.sets)
            for name in (*plan.chains, *plan.sets):
                count = self._users.get(name, 0) + sign
                if count:
                    self._users[name] = count
                else:
                    del self._users[name]


def _narrows(old: Holding, new: Holding) -> bool:
    if old.is_exempt and not new.is_exempt:
        return True
    if new.plan is None or old.plan is new.plan:
        return False
    return old.plan is None or may_narrow(old.plan, new.plan)


def _jumps(named: tuple[str, Chain]) -> bool:
    return any(rule.verdict == JUMP for rule in named[1].rules)

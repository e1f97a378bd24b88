"""What the table holds besides its base, compared with what it should hold, and the steps that make it so."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from linux.netlink.socket import Netlink
from linux.nftables import listing, messages
from linux.nftables.cache import Chain as FixedChain
from linux.nftables.messages import Step
from policy.compiled import Compiled
from policy.nftables import rules, sets
from rules.policy import BASE_CHAINS, BASE_SETS, TABLE

_BASE_SETS = {one.name for one in BASE_SETS[TABLE]}


@dataclass
class Found:
    """What was read, besides the base. `sets`: with their attributes. `foreign_hooks`: chains that packets enter."""

    sets: dict[str, dict[int, bytes]]
    chains: set[str]
    foreign_hooks: set[str]
    comments: dict[str, list[str]] = field(default_factory=dict)
    expressions: dict[str, list[bytes]] = field(default_factory=dict)
    digests: dict[str, int] = field(default_factory=dict)
    """Of the expressions of each chain's rules."""


def read(netlink: Netlink) -> Found:
    """All sets and chains of the table besides those of its base, and the rules of all chains."""
    found = Found(
        {name: one for name, one in listing.list_sets(netlink, TABLE).items() if name not in _BASE_SETS},
        {name for name in listing.list_chains(netlink, TABLE) if name not in BASE_CHAINS[TABLE]},
        {name for name, *_ in listing.list_base_chains(netlink, TABLE) if name not in BASE_CHAINS[TABLE]},
    )
    for rule in listing.list_rules(netlink, TABLE):
        found.comments.setdefault(rule.chain, []).append(rule.comment)
        found.expressions.setdefault(rule.chain, []).append(rule.expressions)
    found.digests = {name: hash(tuple(each)) for name, each in found.expressions.items()}
    return found


class Repair:
    """The steps that make sets and chains what `compiled` says, given what was found.

    `known`: the digests that chains had when they were right; the kernel lists a rule always alike.
    """

    def __init__(self, netlink: Netlink, found: Found, compiled: Compiled, known: Mapping[str, int]) -> None:
        self._found = found
        self._compiled = compiled
        wrong_sets = {
            name
            for name, one in compiled.sets.items()
            if name in found.sets and not listing.is_like(found.sets[name], sets.definition(name, one))
        }
        wrong_chains = found.foreign_hooks & compiled.chains.keys()
        self._clearing = self._clear(wrong_sets, wrong_chains) if wrong_sets or wrong_chains else []
        self._sets: list[Step] = []
        for name, one in compiled.sets.items():
            if name not in found.sets or name in wrong_sets:
                self._sets += sets.creation(name, one)
            elif not sets.holds(one, listing.list_elements(netlink, TABLE, name)):
                self._sets += sets.replacement(name, one)
        kinds = {name: one.kind for name, one in compiled.sets.items()}
        damaged = {
            name: chain
            for name, chain in compiled.chains.items()
            if self._clearing or name not in found.chains or self._is_damaged(name, known, kinds)
        }
        self._chains = rules.creation(damaged, kinds)
        self.intact = {
            name: found.digests[name] for name in compiled.chains if name in found.digests and name not in damaged
        }
        """The digests of the chains that are as they should be."""

    def transactions(self) -> list[list[Step]]:
        """The steps, in transactions. Sets are complete before a chain uses them."""
        if self._clearing:
            # What has a name of ours is of another kind, so its users are written anew in the same transaction.
            return [[*self._clearing, *self._sets, *self._chains]]
        return [steps for steps in (self._sets, self._chains) if steps]

    def unused(self) -> tuple[set[str], set[str]]:
        """The chains, and the sets, that should not be there."""
        return self._found.chains - self._compiled.chains.keys(), self._found.sets.keys() - self._compiled.sets.keys()

    def _is_damaged(self, name: str, known: Mapping[str, int], kinds: Mapping[str, str]) -> bool:
        found, chain = self._found, self._compiled.chains[name]
        if found.comments.get(name, []) != [rules.comment(rule.comment) for rule in chain.rules]:
            return True
        if name in known:
            return known[name] != found.digests.get(name)
        return not rules.are_like(found.expressions.get(name, []), rules.rules_of(chain, kinds))

    def _clear(self, wrong_sets: Iterable[str], wrong_chains: Iterable[str]) -> list[Step]:
        return [
            *(messages.flush_chain(TABLE, name) for name in self._found.chains),
            *(messages.delete_chain(TABLE, name) for name in wrong_chains),
            *(messages.delete_set(TABLE, name) for name in wrong_sets),
        ]


def fixed_steps(found: Mapping[str, list[str]], chains: Iterable[FixedChain]) -> list[Step]:
    """Steps that give chains of the base the rules that follow from the configuration, if they have others.

    `found`: the comments of the rules of all chains.
    """
    steps = []
    for chain in chains:
        if found.get(chain.name, []) != [rule.comment for rule in chain.rules]:
            steps.append(messages.flush_chain(TABLE, chain.name))
            steps += [messages.add_rule(TABLE, chain.name, rule.expressions, rule.comment) for rule in chain.rules]
    return steps

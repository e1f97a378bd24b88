"""What was in force when, on which node, and who had which address: whether a packet could have been allowed.

A change is made by writing a file. From then on the new verdict is possible, and the old one until the node has said
that the new documents are in force.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from tests.policy import model
from tests.policy.cluster import key_of

Documents = tuple[Mapping, ...]
INGRESS, EGRESS = "Ingress", "Egress"


@dataclass
class Life:
    """A pod: when its ADD began and had returned, and its DEL began (monotonic, in s); who it is.

    `held_until`: before that nobody can have decided on its policies, since its node's daemon was not running.
    """

    number: str
    namespace: str
    name: str
    node: str
    begun: float
    addresses: dict[int, str] = field(default_factory=dict)
    added: float = math.inf
    held_until: float = 0.0
    decided: float = math.inf
    ended: float = math.inf

    def end(self, version: int) -> model.Pod:
        """The pod as the model names it."""
        return model.Pod(self.namespace, self.name, (self.addresses[version],), self.node)


def only(documents: Documents, direction: str) -> Documents:
    """The documents as if policies were only about one direction."""
    return tuple(filter(None, (_only(one, direction) for one in documents)))


def _only(document: Mapping, direction: str) -> Mapping | None:
    if document["kind"] == "NetworkPolicy":
        if direction not in document["spec"]["policyTypes"]:
            return None
        return {**document, "spec": {**document["spec"], "policyTypes": [direction]}}
    if document["kind"] == "ClusterNetworkPolicy":
        other = EGRESS if direction == INGRESS else INGRESS
        return {**document, "spec": {key: each for key, each in document["spec"].items() if key != other.lower()}}
    return document


class History:
    """The states of the documents, in order, and when each node has said that one is in force."""

    def __init__(self, documents: Documents) -> None:
        self._states = [(-math.inf, documents)]
        self._confirmed: dict[str, list[tuple[float, int]]] = {}
        self._cut: dict[str, list[tuple[float, int]]] = {}
        self._damages: dict[str, list[list[float]]] = {}
        self.lives: dict[str, Life] = {}
        self._egress, self._ingress = cache(self._egress_of), cache(self._ingress_of)

    @property
    def now(self) -> Documents:
        """The documents as they are written now."""
        return self._states[-1][1]

    @property
    def latest(self) -> int:
        """The number of that state."""
        return len(self._states) - 1

    def write(self, documents: Documents, moment: float) -> None:
        """From this moment on these documents may be in force."""
        self._states.append((moment, documents))

    def confirm(self, node: str, moment: float, *, is_cut: bool) -> None:
        """The node has said that the latest documents are in force; and that connections are cut that they forbid."""
        self._confirmed.setdefault(node, []).append((moment, self.latest))
        if is_cut:
            self._cut.setdefault(node, []).append((moment, self.latest))

    def is_cut(self, node: str) -> bool:
        """Whether the node has said that connections are cut that the latest documents forbid."""
        return bool(self._cut.get(node)) and self._cut[node][-1][1] == self.latest

    def damage(self, node: str, begin: float) -> list[float]:
        """The tables of a node are damaged from then on, until the second number of this list is set.

        And until the third what was opened meanwhile may be open.
        """
        damage = [begin, math.inf, math.inf]
        self._damages.setdefault(node, []).append(damage)
        return damage

    def was_damaged(self, nodes: Sequence[str], begin: float, end: float, *, is_open: bool = False) -> bool:
        """Whether the tables of one of the nodes were damaged in that time, or connections were open because of it."""
        each = (damage for node in nodes for damage in self._damages.get(node, ()))
        return any(damage[0] <= end and begin <= damage[2 if is_open else 1] for damage in each)

    def _possible(self, node: str, begin: float, end: float, *, is_open: bool = False) -> range:
        """The states that may have been in force on a node at some moment of that time; or for open connections."""
        said = (self._cut if is_open else self._confirmed).get(node, ())
        first = max((number for moment, number in said if moment <= begin), default=0)
        last = max(number for number, (moment, _) in enumerate(self._states) if moment <= end)
        return range(first, last + 1)

    def verdicts(
        self,
        one: Life,
        other: Life,
        protocol: str,
        port: int,
        version: int,
        begin: float,
        end: float,
        *,
        is_open: bool = False,
    ) -> set[bool]:
        """What the policies may have said of a connection from one pod to the other in that time.

        `is_open`: or before, if connections may not have been cut since.
        """
        what = one.number, other.number, protocol, port, version
        mine, theirs = (self._possible(node, begin, end, is_open=is_open) for node in (one.node, other.node))
        egress = {each for state in mine for each in self._egress(state, *what)}
        ingress = {each for state in theirs for each in self._ingress(state, *what)}
        return {out and into for out in egress for into in ingress}

    def story(self, one: Life, other: Life, protocol: str, port: int, version: int, begin: float, end: float) -> str:
        """The states that may have been in force in that time and shortly before: since when, and what they said."""
        found, what = [], (one.number, other.number, protocol, port, version)
        begins = (self._possible(node, begin - 10, end).start for node in (one.node, other.node))
        for state in range(min(begins), self.latest + 1):
            moment, documents = self._states[state]
            if moment > end:
                break
            before = set(map(_text, self._states[state - 1][1])) if state else set()
            changed = [text for text in map(_text, documents) if text not in before]
            gone = before - set(map(_text, documents))
            said = set(self._egress(state, *what)), set(self._ingress(state, *what))
            known = {
                node: [round(time, 3) for time, number in self._confirmed.get(node, ()) if number == state][:1]
                for node in (one.node, other.node)
            }
            found.append(f"  state {state} at {moment:.3f}, {known}: {said}; new {changed}; old {sorted(gone)}")
        return "\n".join(found)

    def verdicts_on(self, node: str, one: Life, other: Life, protocol: str, port: int, version: int) -> set[bool]:
        """What the latest documents say of a connection on one node, which asks its own pods' policies only."""
        what = self.latest, one.number, other.number, protocol, port, version
        egress = self._egress(*what) if one.node == node else {True}
        ingress = self._ingress(*what) if other.node == node else {True}
        return {out and into for out in egress for into in ingress}

    def _egress_of(self, state: int, one: str, other: str, protocol: str, port: int, version: int) -> frozenset[bool]:
        source, target = self.lives[one], self.lives[other]
        documents = self._directed(state, EGRESS)
        return frozenset(
            model.allows(documents, source.end(version), end, protocol, port, family=version)
            for end in self._ends(state, target, version, seen_by=source.node)
        )

    def _ingress_of(self, state: int, one: str, other: str, protocol: str, port: int, version: int) -> frozenset[bool]:
        source, target = self.lives[one], self.lives[other]
        documents = self._directed(state, INGRESS)
        return frozenset(
            model.allows(documents, end, target.end(version), protocol, port, family=version)
            for end in self._ends(state, source, version, seen_by=target.node)
        )

    def _directed(self, state: int, direction: str) -> Documents:
        key = state, direction
        known = self.__dict__.setdefault("_known", {})
        if key not in known:
            known[key] = only(self._states[state][1], direction)
        return known[key]

    def _ends(self, state: int, life: Life, version: int, *, seen_by: str) -> Iterator[model.End]:
        """Who a node may take a pod for: the pods that documents give its address to, and on its own node itself."""
        address, found = life.addresses[version], False
        for document in self._states[state][1]:
            if document["kind"] == "Pod" and address in _ips(document):
                found = True
                _, namespace, name = key_of(document)
                yield model.Pod(namespace, name, (address,), document["spec"].get("nodeName", ""))
        if life.node == seen_by:
            yield life.end(version)
        elif not found:
            yield model.Outside(address)


def _text(document: Mapping) -> str:
    return json.dumps({key: document[key] for key in ("kind", "metadata", "spec", "status") if key in document})


def _ips(document: Mapping) -> list[str]:
    return [one["ip"] for one in document.get("status", {}).get("podIPs", ())]

"""Policies and labels for the chaos of policies, chosen at random: most let some of the pods through."""

import random
from collections.abc import Mapping, Sequence

from tests.chaos.policy_talker import PORTS
from tests.policy.writing import (
    BOTH,
    EGRESS,
    EVERYTHING,
    INGRESS,
    all_in,
    block,
    cluster_policy,
    labels,
    members,
    named,
    pods,
    policy,
    port,
    rule,
    says,
    tenants,
    to_name,
    to_port,
    where,
)

NAMESPACES = ("x", "y")
APPS, TEAMS = ("a", "b", "c"), ("red", "blue")
POLICIES = 5
"""The most of NetworkPolicies of a namespace; and of cluster-wide ones."""


class Choices:
    """Draws documents. `networks`: CIDRs of pods, by IP version."""

    def __init__(self, choose: random.Random, networks: Mapping[int, Sequence[str]]) -> None:
        self.choose, self._networks = choose, networks

    def labels(self) -> dict[str, str]:
        """Of a pod."""
        return {"app": self.choose.choice(APPS)}

    def namespace_labels(self) -> dict[str, str]:
        """Of a namespace."""
        return {"team": self.choose.choice(TEAMS)}

    def network_policy(self, namespace: str, number: int) -> dict:
        """A NetworkPolicy, named after its number."""
        types = self.choose.choice(([INGRESS], [EGRESS], BOTH))
        rules = {one.lower(): [self._rule(one) for _ in range(self.choose.randint(0, 2))] for one in types}
        return policy(namespace, f"np{number}", subject=self._selector(), types=types, **rules)

    def cluster_policy(self, number: int) -> dict:
        """A ClusterNetworkPolicy, named after its number."""
        rules = {}
        for one in self.choose.choice(([INGRESS], [EGRESS], BOTH)):
            rules[one.lower()] = [self._says(one) for _ in range(self.choose.randint(1, 2))]
        tier, priority = self.choose.choice(("Admin", "Baseline")), self.choose.randint(1, 3)
        return cluster_policy(f"cnp{number}", tier, priority, subject=self._members(), **rules)

    def _selector(self) -> Mapping:
        one = self.choose.choice(APPS)
        return self.choose.choice((EVERYTHING, labels(app=one), labels(app=one), where(("app", "NotIn", one))))

    def _namespaces(self) -> Mapping:
        team, name = self.choose.choice(TEAMS), self.choose.choice(NAMESPACES)
        return self.choose.choice((EVERYTHING, labels(team=team), named(name)))

    def _members(self) -> Mapping:
        return self.choose.choice((members(self._namespaces(), self._selector()), tenants(self._namespaces())))

    def _peer(self) -> Mapping:
        networks = self._networks[self.choose.choice((4, 6))]
        kinds = (
            pods(self._selector()),
            pods(self._selector(), self._namespaces()),
            all_in(self._namespaces()),
            block(self.choose.choice(networks)),
            block("0.0.0.0/0", self._networks[4][0]),
        )
        return self.choose.choice(kinds)

    def _port(self) -> Mapping:
        number, protocol = self.choose.choice(PORTS), self.choose.choice(("TCP", "UDP"))
        kinds = (port(number, protocol), port(None, protocol), port("web", protocol), port(1, protocol, number))
        return self.choose.choice(kinds)

    def _rule(self, direction: str) -> dict:
        peers = [self._peer() for _ in range(self.choose.randint(1, 2))] if self.choose.random() < 0.8 else None
        ports = [self._port() for _ in range(self.choose.randint(1, 2))] if self.choose.random() < 0.4 else None
        return rule(direction, peers, ports)

    def _says(self, direction: str) -> dict:
        matches = None
        if self.choose.random() < 0.5:
            kinds = (to_port("TCP", self.choose.choice(PORTS)), to_port("UDP", 1, PORTS[0]), to_name("web"))
            matches = [self.choose.choice(kinds)]
        action = self.choose.choice(("Accept", "Accept", "Deny", "Pass"))
        return says(action, direction, self._members(), protocols=matches)

"""Cases in which something changes: each a name and its steps, which are the documents at that time."""

from collections.abc import Iterator

from tests.policy.cluster import namespace, pod
from tests.policy.writing import (
    BOTH,
    EGRESS,
    INGRESS,
    Document,
    all_in,
    block,
    cluster_policy,
    labels,
    members,
    named,
    one_way,
    pods,
    policy,
    port,
    rule,
    says,
    tenants,
    to_port,
)

Steps = tuple[str, list[list[Document]]]


def cases() -> Iterator[Steps]:
    """All of this module."""
    for direction in BOTH:
        for title, steps in (*_labels(direction), *_policies(direction), *_ports(direction)):
            yield f"changes, {direction.lower()}: {title}", steps
        yield f"changes, {direction.lower()}: ClusterNetworkPolicies", _cluster_policies(direction)
    yield "changes: one policy after the other", _growing()


def _labels(direction: str) -> Iterator[Steps]:
    peers = one_way(direction, "x", [rule(direction, [pods(labels(role="friend"), {})])])
    yield (
        "a peer gets a label and loses it",
        [
            [peers],
            [peers, pod("y", "b", labels={"app": "api", "role": "friend"})],
            [peers, pod("y", "b", labels={"role": "friend"}), pod("x", "c", labels={"role": "friend"})],
            [peers, pod("y", "b", labels={"role": "foe"})],
            [peers],
        ],
    )
    subject = one_way(direction, "y", [], subject=labels(role="locked"))
    yield (
        "a pod is selected, and no longer",
        [
            [subject],
            [subject, pod("y", "a", labels={"role": "locked"})],
            [
                subject,
                pod("y", "a", labels={"role": "locked"}),
                pod("y", "c", labels={"role": "locked", "tier": "back"}),
            ],
            [subject, pod("y", "a", labels={})],
        ],
    )
    names = one_way(direction, "x", [rule(direction, [all_in(labels(trust="yes"))])])
    yield (
        "a namespace gets a label and loses it",
        [
            [names],
            [names, namespace("y", team="red", trust="yes")],
            [names, namespace("y", trust="yes"), namespace("x", trust="yes")],
            [names, namespace("y", trust="no"), namespace("z", trust="yes")],
            [names],
        ],
    )
    both = one_way(direction, "z", [rule(direction, [pods(labels(role="friend"), labels(trust="yes"))])])
    yield (
        "both a pod and its namespace need labels",
        [
            [both, namespace("x", trust="yes")],
            [both, namespace("x", trust="yes"), pod("x", "a", labels={"role": "friend"})],
            [both, pod("x", "a", labels={"role": "friend"})],
        ],
    )


def _policies(direction: str) -> Iterator[Steps]:
    one, two, three = (
        one_way(direction, "x", [rule(direction, [peer])], name=name)
        for name, peer in (("one", all_in(named("y"))), ("two", pods(labels(app="web"), {})), ("three", pods()))
    )
    yield "policies come and go", [[one], [one, two], [one, two, three], [three, two], [two], []]
    yield (
        "a policy is replaced",
        [
            [one_way(direction, "x", rules)]
            for rules in (
                [rule(direction)],
                [],
                [rule(direction, [pods()], [port(80)])],
                [rule(direction, [all_in({})], [port(81), port(80, "UDP")])],
                [rule(direction, [block("{y_a_4}/32"), block("{z_b_6}/128")])],
            )
        ],
    )
    yield (
        "a policy selects others",
        [[one_way(direction, "y", [], subject=labels(app=app))] for app in ("web", "api", "store", "none")],
    )
    yield (
        "a policy changes its direction",
        [[policy("x", "some", types=types)] for types in ([direction], list(BOTH), [INGRESS], [EGRESS])],
    )
    yield (
        "a block shrinks",
        [
            [one_way(direction, "x", [rule(direction, [block(*cidrs), block("::/0")])])]
            for cidrs in (
                ["0.0.0.0/0"],
                ["10.244.0.0/16"],
                ["10.244.0.0/16", "{y_a_4}/32", "{z_a_4}/32"],
                ["{y_a_4}/32"],
            )
        ],
    )


def _ports(direction: str) -> Iterator[Steps]:
    web = one_way(direction, "x", [rule(direction, [all_in({})], [port("web"), port("dns", "UDP")])])
    where = "x" if direction == INGRESS else "y"
    yield (
        "a name gets another number",
        [
            [web],
            [web, pod(where, "a", labels={"app": "web"}, ports=[("web", "TCP", 81)])],
            [web, pod(where, "a", labels={"app": "web"}, ports=[("web", "TCP", 81), ("dns", "UDP", 80)])],
            [web, pod(where, "a", labels={"app": "web"}, ports=[])],
            [web],
        ],
    )


def _cluster_policies(direction: str) -> list[list[Document]]:
    key = direction.lower()
    deny, accept = says("Deny", direction, tenants()), says("Accept", direction, members(named("y"), labels(app="web")))
    few = says("Deny", direction, tenants(), protocols=[to_port("TCP", 80)])
    baseline = cluster_policy("base", "Baseline", 1, **{key: [deny]})
    return [
        [cluster_policy("one", "Admin", 5, **{key: [few]})],
        [cluster_policy("one", "Admin", 5, **{key: [deny]})],
        [cluster_policy("one", "Admin", 5, **{key: [deny]}), cluster_policy("two", "Admin", 4, **{key: [accept]})],
        [cluster_policy("one", "Admin", 3, **{key: [deny]}), cluster_policy("two", "Admin", 4, **{key: [accept]})],
        [cluster_policy("one", "Baseline", 3, **{key: [deny]}), cluster_policy("two", "Admin", 4, **{key: [accept]})],
        [cluster_policy("two", "Admin", 4, subject=tenants(named("x")), **{key: [deny]})],
        [baseline],
        [baseline, one_way(direction, "x", [rule(direction, [pods()])])],
        [baseline, one_way(direction, "x", [rule(direction, [pods()])]), namespace("x", team="blue")],
        [],
    ]


def _growing() -> list[list[Document]]:
    """Twelve policies, of which each step has one more."""
    found: list[Document] = [policy(where, "deny", types=BOTH) for where in "xyz"]
    for where, other in ("xy", "yz", "zx"):
        found += [
            one_way(EGRESS, where, [rule(EGRESS, [all_in(named(other))])], name=f"to-{other}"),
            one_way(INGRESS, other, [rule(INGRESS, [pods(labels(tier="back"), named(where))])], name=f"from-{where}"),
            one_way(INGRESS, other, [rule(INGRESS, [all_in({})], [port("web")])], name="web"),
        ]
    return [found[:count] for count in range(1, len(found) + 1)]

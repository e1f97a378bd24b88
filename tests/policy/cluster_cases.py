"""Cases of ClusterNetworkPolicies, alone and with NetworkPolicies: each a name and its documents."""

from collections.abc import Iterator

from tests.policy.network_cases import NAMESPACES, SELECTORS, Case
from tests.policy.writing import (
    BOTH,
    EGRESS,
    EVERYTHING,
    INGRESS,
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
    to_name,
    to_port,
    where,
)

ADMIN, BASELINE = "Admin", "Baseline"
ALL = tenants()

PROTOCOLS = {
    "a port of TCP": [to_port("TCP", 80)],
    "a port of UDP": [to_port("UDP", 81)],
    "a port of SCTP": [to_port("SCTP", 80)],
    "a range": [to_port("TCP", 80, 81)],
    "a range of UDP with some": [to_port("UDP", 81, 65535)],
    "several": [to_port("TCP", 80), to_port("UDP", 80), to_port("SCTP", 81)],
    "a name": [to_name("web")],
    "a name of another protocol": [to_name("dns")],
    "a name that some lack": [to_name("signal")],
    "a name that no pod has": [to_name("none")],
    "a name and a number": [to_name("signal"), to_port("TCP", 81)],
}

ELSEWHERE = {
    "all nodes": [{"nodes": {}}],
    "nodes by label": [{"nodes": labels(zone="two")}],
    "nodes by expression": [{"nodes": where(("edge", "DoesNotExist"))}],
    "no nodes": [{"nodes": labels(zone="none")}],
    "all networks": [{"networks": ["0.0.0.0/0", "::/0"]}],
    "a network of pods": [{"networks": ["{net1_4}", "{net1_6}"]}],
    "two pods by address": [{"networks": ["{y_a_4}/32", "{y_b_6}/128"]}],
    "a host outside": [{"networks": ["{outside_4}/32"]}, {"networks": ["{outside_6}/128"]}],
    "networks, nodes and pods": [{"networks": ["{y_c_4}/32"]}, {"nodes": {}}, members(named("z"), labels(app="web"))],
}


def _one(tier: str, direction: str, *rules: dict, subject: dict | None = None, name: str = "one", at: int = 10) -> dict:
    return cluster_policy(name, tier, at, subject=subject, **{direction.lower(): rules})


def cases() -> Iterator[Case]:
    """All of this module."""
    for direction in BOTH:
        for tier in (ADMIN, BASELINE):
            for title, documents in _tier(tier, direction):
                yield f"{tier.lower()} {direction.lower()}: {title}", documents
        for title, documents in (*_matching(direction), *_order(direction), *_tiers(direction)):
            yield f"cluster-wide {direction.lower()}: {title}", documents
    for title, peers in ELSEWHERE.items():
        deny = _one(ADMIN, EGRESS, says("Deny", EGRESS, *peers), subject=tenants(named("x")))
        yield f"cluster-wide egress: none to {title}", [deny]
    yield from _elsewhere()
    yield from _both_directions()


def _tier(tier: str, direction: str) -> Iterator[Case]:
    deny, accept, skip = (says(action, direction, ALL) for action in ("Deny", "Accept", "Pass"))
    isolated = one_way(direction, "x", [])
    opened = one_way(direction, "x", [rule(direction)])
    some = one_way(direction, "x", [rule(direction, [pods()], [port(80)])])
    for title, one in (("denies", deny), ("accepts", accept), ("passes", skip)):
        yield f"{title} all", [_one(tier, direction, one)]
        yield f"{title} all, a NetworkPolicy nothing", [_one(tier, direction, one), isolated]
        yield f"{title} all, a NetworkPolicy all", [_one(tier, direction, one), opened]
        yield f"{title} all, a NetworkPolicy some", [_one(tier, direction, one), some]
    yield "says nothing", [cluster_policy("one", tier, 10), isolated]
    yield (
        "passes some, denies the rest",
        [
            _one(tier, direction, says("Pass", direction, tenants(named("y"))), deny),
            one_way(direction, "z", [rule(direction, None, [port(80)])]),
        ],
    )


def _matching(direction: str) -> Iterator[Case]:
    deny = says("Deny", direction, ALL)
    for title in ("one label", "In", "NotIn of a label that some lack", "Exists", "DoesNotExist", "nothing"):
        selector = SELECTORS[title]
        yield f"subject by {title}", [_one(ADMIN, direction, deny, subject=members(named("x", "y"), selector))]
        peer = members(labels(team="red"), selector)
        yield f"peers by {title}", [_one(ADMIN, direction, says("Deny", direction, peer), subject=tenants(named("z")))]
    for title in ("one label", "another by name", "NotIn of a label that some lack", "DoesNotExist"):
        yield f"subjects in namespaces by {title}", [_one(ADMIN, direction, deny, subject=tenants(NAMESPACES[title]))]
        yield (
            f"peers in namespaces by {title}",
            [_one(ADMIN, direction, says("Deny", direction, tenants(NAMESPACES[title])), subject=tenants(named("x")))],
        )
    yield (
        "one of several peers",
        [_one(ADMIN, direction, says("Deny", direction, tenants(named("z")), members(named("y"), labels(app="web"))))],
    )
    for title, listed in PROTOCOLS.items():
        yield f"ports by {title}", [_one(ADMIN, direction, says("Deny", direction, ALL, protocols=listed))]
    yield (
        "only a named port",
        [
            _one(
                ADMIN,
                direction,
                says("Accept", direction, ALL, protocols=[to_name("web")]),
                deny,
                subject=tenants(named("y")),
            )
        ],
    )


def _order(direction: str) -> Iterator[Case]:
    deny, accept = says("Deny", direction, ALL), says("Accept", direction, tenants(named("y")))
    yield "the first rule decides", [_one(ADMIN, direction, accept, deny), one_way(direction, "x", [])]
    yield "a later rule does not", [_one(ADMIN, direction, deny, accept)]
    yield (
        "the lower priority decides",
        [
            _one(ADMIN, direction, deny, name="all", at=1000),
            _one(ADMIN, direction, accept, name="some", at=0),
        ],
    )
    yield (
        "the higher priority does not",
        [
            _one(ADMIN, direction, deny, name="all", at=4),
            _one(ADMIN, direction, accept, name="some", at=5),
        ],
    )
    yield (
        "of equal priorities the first name",
        [
            _one(ADMIN, direction, accept, name="a"),
            _one(ADMIN, direction, deny, name="b"),
        ],
    )
    yield (
        "priorities of rules for other ports",
        [
            _one(ADMIN, direction, says("Deny", direction, ALL, protocols=[to_port("TCP", 80)]), name="a", at=1),
            _one(ADMIN, direction, says("Accept", direction, ALL, protocols=[to_port("TCP", 80, 81)]), name="b", at=2),
            _one(ADMIN, direction, says("Deny", direction, ALL, protocols=[to_port("UDP", 1, 65535)]), name="c", at=3),
        ],
    )
    yield (
        "a pass hides what follows",
        [
            _one(ADMIN, direction, says("Pass", direction, members(EVERYTHING, labels(tier="back"))), name="a", at=1),
            _one(ADMIN, direction, deny, name="b", at=2),
            _one(ADMIN, direction, says("Accept", direction, ALL), name="c", at=3),
        ],
    )


def _tiers(direction: str) -> Iterator[Case]:
    everything = says("Deny", direction, ALL)
    yield (
        "each tier decides something",
        [
            _one(
                ADMIN,
                direction,
                says("Accept", direction, members(named("y"), labels(app="web"))),
                name="admin-1",
                at=1,
            ),
            _one(ADMIN, direction, says("Deny", direction, tenants(named("y"))), name="admin-2", at=2),
            one_way(direction, "x", [rule(direction, [pods({}, {})], [port(80)])], subject=labels(app="web")),
            _one(BASELINE, direction, says("Accept", direction, tenants(named("x"))), name="base-1", at=1),
            _one(BASELINE, direction, everything, name="base-2", at=2),
        ],
    )
    yield (
        "a pass to the baseline",
        [
            _one(ADMIN, direction, says("Pass", direction, tenants(named("x"))), everything, name="admin"),
            _one(BASELINE, direction, says("Deny", direction, ALL, protocols=[to_port("TCP", 80)]), name="base"),
        ],
    )
    yield (
        "a baseline, and a NetworkPolicy for some",
        [
            _one(BASELINE, direction, everything),
            one_way(direction, "x", [rule(direction, [pods()])]),
            one_way(direction, "y", [], subject=labels(app="web")),
        ],
    )
    yield (
        "tenants kept apart",
        [
            *(
                _one(
                    ADMIN,
                    direction,
                    says("Pass", direction, tenants(named(where))),
                    says("Deny", direction, ALL),
                    subject=tenants(named(where)),
                    name=where,
                )
                for where in "xyz"
            )
        ],
    )


def _elsewhere() -> Iterator[Case]:
    yield (
        "cluster-wide egress: a pass for pods, then no networks",
        [_one(ADMIN, EGRESS, says("Pass", EGRESS, ALL), says("Deny", EGRESS, {"networks": ["0.0.0.0/0", "::/0"]}))],
    )
    yield (
        "cluster-wide egress: nodes although a NetworkPolicy allows nothing",
        [
            _one(ADMIN, EGRESS, says("Accept", EGRESS, {"nodes": {}}, protocols=[to_port("TCP", 80)])),
            one_way(EGRESS, "x", []),
        ],
    )
    yield (
        "cluster-wide egress: a baseline against nodes",
        [
            _one(BASELINE, EGRESS, says("Deny", EGRESS, {"nodes": {}})),
            one_way(EGRESS, "x", [], subject=labels(app="web")),
        ],
    )
    yield (
        "cluster-wide egress: a port of nodes and networks",
        [
            _one(
                ADMIN,
                EGRESS,
                says("Accept", EGRESS, {"nodes": {}}, protocols=[to_port("TCP", 81)]),
                says(
                    "Deny", EGRESS, {"nodes": {}}, {"networks": ["{outside_4}/32"]}, protocols=[to_port("TCP", 80, 81)]
                ),
            )
        ],
    )
    yield (
        "cluster-wide egress: domain names are not known",
        [
            _one(
                ADMIN,
                EGRESS,
                says("Accept", EGRESS, {"domainNames": ["example.org"]}),
                says("Deny", EGRESS, {"networks": ["{outside_4}/32"]}),
            )
        ],
    )


def _both_directions() -> Iterator[Case]:
    yield (
        "cluster-wide: accepted by the source, not by the destination",
        [
            _one(ADMIN, EGRESS, says("Accept", EGRESS, ALL)),
            *(policy(where, "deny", types=BOTH) for where in "xyz"),
        ],
    )
    yield (
        "cluster-wide: accepted by both",
        [
            cluster_policy(
                "one", ADMIN, 1, ingress=[says("Accept", INGRESS, ALL)], egress=[says("Accept", EGRESS, ALL)]
            ),
            *(policy(where, "deny", types=BOTH) for where in "xyz"),
        ],
    )
    yield (
        "cluster-wide: nothing at all",
        [
            cluster_policy("one", ADMIN, 0, ingress=[says("Deny", INGRESS, ALL)], egress=[says("Deny", EGRESS, ALL)]),
            *(policy(where, "allow", ingress=[{}], egress=[{}]) for where in "xyz"),
        ],
    )
    yield (
        "cluster-wide: a default that NetworkPolicies lift",
        [
            cluster_policy(
                "one", BASELINE, 0, ingress=[says("Deny", INGRESS, ALL)], egress=[says("Deny", EGRESS, ALL)]
            ),
            one_way(EGRESS, "x", [rule(EGRESS, [pods({}, named("y"))])]),
            one_way(INGRESS, "y", [rule(INGRESS, [pods({}, {})], [port("web"), port(80, "UDP")])]),
        ],
    )

"""Cases of NetworkPolicies alone: each a name and the documents of one or several steps."""

from collections.abc import Iterator

from tests.policy.cluster import namespace
from tests.policy.writing import (
    BOTH,
    EGRESS,
    EVERYTHING,
    INGRESS,
    Document,
    all_in,
    block,
    labels,
    named,
    one_way,
    pods,
    policy,
    port,
    rule,
    where,
)

Case = tuple[str, list[Document]]

ANYBODY4, ANYBODY6 = block("0.0.0.0/0"), block("::/0")

SELECTORS = {
    "one label": labels(app="web"),
    "two labels": labels(app="store", tier="back"),
    "two labels that no pod has both": labels(app="web", tier="back"),
    "In": where(("app", "In", "web", "api")),
    "NotIn": where(("app", "NotIn", "web")),
    "NotIn of a label that some lack": where(("secret", "NotIn", "yes")),
    "Exists": where(("secret", "Exists")),
    "DoesNotExist": where(("secret", "DoesNotExist")),
    "label and expression": {**labels(tier="back"), **where(("secret", "DoesNotExist"))},
    "two expressions": where(("tier", "In", "back"), ("app", "NotIn", "api")),
    "nothing": labels(app="none"),
}

NAMESPACES = {
    "all": EVERYTHING,
    "its own by name": named("x"),
    "another by name": named("y"),
    "two by name": named("y", "z"),
    "one label": labels(team="red"),
    "two labels": labels(team="red", stage="trial"),
    "In": where(("stage", "In", "trial", "live")),
    "NotIn": where(("team", "NotIn", "red")),
    "NotIn of a label that some lack": where(("stage", "NotIn", "live")),
    "Exists": where(("stage", "Exists")),
    "DoesNotExist": where(("stage", "DoesNotExist")),
    "none": labels(team="green"),
}

PORTS = {
    "a number": [port(80)],
    "a number of TCP": [port(81, "TCP")],
    "a number of UDP": [port(80, "UDP")],
    "a number of SCTP": [port(80, "SCTP")],
    "all of TCP": [port(None, "TCP")],
    "all of UDP": [port(None, "UDP")],
    "all of SCTP": [port(None, "SCTP")],
    "all of the default": [port()],
    "two": [port(80, "TCP"), port(81, "UDP")],
    "a name": [port("web")],
    "a name of UDP": [port("dns", "UDP")],
    "a name of SCTP that some lack": [port("signal", "SCTP")],
    "a name of another protocol": [port("web", "UDP")],
    "a name that no pod has": [port("none")],
    "a name and a number": [port("web"), port(81, "TCP")],
    "a range": [port(80, "TCP", 81)],
    "a range with some": [port(81, "UDP", 9000)],
    "a range of one": [port(80, "SCTP", 80)],
    "a range without any": [port(82, "TCP", 65535)],
    "ranges that overlap": [port(1, "TCP", 80), port(80, "TCP", 81), port(80, "TCP")],
    "none of those served": [port(443)],
}

BLOCKS = {
    "all of IPv4": [ANYBODY4],
    "all of IPv6": [ANYBODY6],
    "all": [ANYBODY4, ANYBODY6],
    "one pod": [block("{y_a_4}/32"), block("{y_b_6}/128")],
    "a node's pods": [block("{net1_4}"), block("{net1_6}")],
    "all pods": [block("10.244.0.0/16"), block("fd00:244::/48")],
    "all pods but one": [block("10.244.0.0/16", "{z_b_4}/32"), block("fd00:244::/48", "{z_b_6}/128")],
    "all but some": [block("0.0.0.0/0", "{y_a_4}/32", "{z_c_4}/32", "{outside_4}/32"), block("::/0", "{net1_6}")],
    "all but all": [block("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1")],
    "exceptions that another block has": [block("10.244.0.0/16", "{z_a_4}/32"), block("{z_a_4}/32")],
    "exceptions that overlap": [block("0.0.0.0/0", "10.0.0.0/8", "10.244.0.0/16", "{y_a_4}/32"), block("{y_a_4}/32")],
    "nodes": [block("{n1_4}/32"), block("{n2_6}/128")],
    "a host outside": [block("{outside_4}/32"), block("{outside_6}/128")],
    "all outside": [block("0.0.0.0/0", "10.244.0.0/16"), block("::/0", "fd00:244::/48")],
    "a block and pods": [block("{outside_4}/32"), pods(labels(app="web"), EVERYTHING)],
    "a pod twice": [block("{y_a_4}/32"), pods(labels(app="web"), named("y")), pods(labels(app="web"), EVERYTHING)],
}


def cases() -> Iterator[Case]:
    """All of this module."""
    yield "no policy", []
    for direction in BOTH:
        for title, documents in (*_simple(direction), *_peers(direction), *_ports(direction), *_blocks(direction)):
            yield f"{direction.lower()}: {title}", documents
    yield from _types()
    yield from _combined()
    yield from _several()


def _simple(direction: str) -> Iterator[Case]:
    def deny(where: str) -> dict:
        return one_way(direction, where, [], name="deny")

    everything = rule(direction)
    yield "none in a namespace", [deny("x")]
    yield "none anywhere", [deny(where) for where in "xyz"]
    yield "all in a namespace", [one_way(direction, "x", [everything])]
    yield "none and all", [deny("x"), one_way(direction, "x", [everything])]
    yield "none in a namespace without pods", [namespace("empty", team="red"), deny("empty")]
    yield "none in a namespace that has no document", [deny("nowhere")]
    yield "an empty list of peers", [one_way(direction, "x", [rule(direction, [])])]
    yield "empty lists of peers and ports", [one_way(direction, "x", [rule(direction, [], [])])]
    yield "none, without a list of rules", [policy("x", "deny", types=[direction])]
    for title, selector in SELECTORS.items():
        yield f"none to pods by {title}", [one_way(direction, "y", [], subject=selector)]


def _peers(direction: str) -> Iterator[Case]:
    yield "its own namespace", [one_way(direction, "x", [rule(direction, [pods()])])]
    for title, selector in SELECTORS.items():
        yield f"pods by {title}", [one_way(direction, "x", [rule(direction, [pods(selector)])])]
        yield f"pods anywhere by {title}", [one_way(direction, "x", [rule(direction, [pods(selector, EVERYTHING)])])]
    for title, selector in NAMESPACES.items():
        yield f"namespaces by {title}", [one_way(direction, "x", [rule(direction, [all_in(selector)])])]
    both = pods(labels(app="web"), labels(team="red"))
    either = [pods(labels(app="web")), all_in(labels(team="red"))]
    yield "both selectors in one peer", [one_way(direction, "z", [rule(direction, [both])])]
    yield "each selector in a peer", [one_way(direction, "z", [rule(direction, either)])]
    yield "each selector in a rule", [one_way(direction, "z", [rule(direction, [one]) for one in either])]
    yield "an empty pod selector in namespaces", [one_way(direction, "x", [rule(direction, [pods({}, named("z"))])])]
    yield (
        "expressions of both",
        [
            one_way(
                direction,
                "x",
                [rule(direction, [pods(where(("app", "NotIn", "web")), where(("stage", "DoesNotExist")))])],
                subject=where(("app", "In", "web", "store")),
            )
        ],
    )
    yield (
        "a pod to which nothing is allowed but itself",
        [one_way(direction, "x", [rule(direction, [pods(labels(app="none"))])], subject=labels(app="web"))],
    )


def _ports(direction: str) -> Iterator[Case]:
    for title, listed in PORTS.items():
        yield f"ports: {title}", [one_way(direction, "x", [rule(direction, None, listed)])]
    yield "an empty list of ports", [one_way(direction, "x", [rule(direction, [pods({}, {})], [])])]
    yield (
        "ports of peers",
        [one_way(direction, "y", [rule(direction, [all_in(named("z"))], [port(80), port("dns", "UDP")])])],
    )
    yield (
        "other ports of other peers",
        [
            one_way(
                direction,
                "y",
                [
                    rule(direction, [all_in(named("x"))], [port(80)]),
                    rule(direction, [pods(labels(tier="back"), labels(team="blue"))], [port(81), port(81, "UDP")]),
                    rule(direction, None, [port("signal", "SCTP")]),
                ],
            )
        ],
    )
    yield (
        "a named port of some pods",
        [one_way(direction, "y", [rule(direction, [pods(labels(tier="back"), {})], [port("web")])])],
    )
    yield (
        "all ports of some, one of all",
        [one_way(direction, "y", [rule(direction, [all_in(named("y"))]), rule(direction, None, [port(80)])])],
    )


def _blocks(direction: str) -> Iterator[Case]:
    for title, listed in BLOCKS.items():
        yield f"blocks: {title}", [one_way(direction, "x", [rule(direction, listed)])]
    yield "a block and ports", [one_way(direction, "x", [rule(direction, BLOCKS["a node's pods"], [port(80, "UDP")])])]
    yield "a block and a named port", [one_way(direction, "x", [rule(direction, BLOCKS["all"], [port("web")])])]
    yield (
        "blocks with other ports",
        [
            one_way(
                direction,
                "x",
                [
                    rule(direction, [block("0.0.0.0/0", "{net1_4}")], [port(80)]),
                    rule(direction, [ANYBODY6], [port(81)]),
                ],
            )
        ],
    )


def _types() -> Iterator[Case]:
    ingress, egress = [rule(INGRESS, [pods()])], [rule(EGRESS, [pods()])]
    yield "types: not given, no rules", [policy("x", "some")]
    yield "types: not given, no selector", [policy("x", "some", subject=None)]
    yield "types: not given, ingress", [policy("x", "some", ingress=ingress)]
    yield "types: not given, egress", [policy("x", "some", egress=egress)]
    yield "types: not given, an empty list of egress", [policy("x", "some", egress=[])]
    yield "types: not given, both", [policy("x", "some", ingress=ingress, egress=egress)]
    yield "types: empty", [policy("x", "some", egress=egress, types=[])]
    yield "types: ingress, with rules for egress", [policy("x", "some", egress=egress, types=[INGRESS])]
    yield "types: egress, with rules for ingress", [policy("x", "some", ingress=ingress, types=[EGRESS])]
    yield "types: both, without rules", [policy("x", "some", types=BOTH)]
    yield "types: both, rules for ingress", [policy("x", "some", ingress=ingress, types=BOTH)]
    yield "types: both, rules for egress", [policy("x", "some", egress=egress, types=BOTH)]


def _combined() -> Iterator[Case]:
    deny = [policy(where, "deny", types=BOTH) for where in "xyz"]
    yield "nobody anywhere", deny
    yield (
        "only inside of namespaces",
        [policy(where, "own", ingress=[rule(INGRESS, [pods()])], egress=[rule(EGRESS, [pods()])]) for where in "xyz"],
    )
    yield "allowed by the source alone", [*deny, one_way(EGRESS, "x", [rule(EGRESS)])]
    yield "allowed by the destination alone", [*deny, one_way(INGRESS, "x", [rule(INGRESS)])]
    yield "allowed by both ends", [*deny, one_way(EGRESS, "x", [rule(EGRESS)]), one_way(INGRESS, "y", [rule(INGRESS)])]
    yield (
        "different ports at both ends",
        [
            one_way(EGRESS, "x", [rule(EGRESS, None, [port(80), port(81, "UDP")])]),
            one_way(INGRESS, "y", [rule(INGRESS, None, [port(80, "TCP", 81), port(80, "UDP")])]),
        ],
    )


def _several() -> Iterator[Case]:
    yield (
        "several policies add up",
        [
            one_way(INGRESS, "x", [rule(INGRESS, [pods(labels(app="web"), named("y"))])], name="one"),
            one_way(INGRESS, "x", [rule(INGRESS, [all_in(named("z"))], [port(80)])], name="two"),
            one_way(INGRESS, "x", [rule(INGRESS, [all_in(named("z"))], [port(81, "UDP")])], name="three"),
            one_way(INGRESS, "x", [rule(INGRESS, [pods()])], subject=labels(tier="back"), name="four"),
        ],
    )
    yield (
        "the same policy in all namespaces",
        [one_way(INGRESS, where, [rule(INGRESS, [pods(labels(tier="front"))], [port("web")])]) for where in "xyz"],
    )
    yield (
        "three tiers",
        [
            policy("y", "web", subject=labels(app="web"), ingress=[rule(INGRESS, None, [port("web")])]),
            policy("y", "api", subject=labels(app="api"), ingress=[rule(INGRESS, [pods(labels(app="web"))])]),
            policy(
                "y",
                "store",
                subject=labels(app="store"),
                ingress=[rule(INGRESS, [pods(labels(app="api"))], [port(81), port("signal", "SCTP")])],
                egress=[rule(EGRESS, [pods(labels(app="api"))])],
            ),
        ],
    )
    yield (
        "names for all, else its own namespace",
        [one_way(EGRESS, "z", [rule(EGRESS, [pods()]), rule(EGRESS, None, [port("dns", "UDP")])])],
    )
    yield (
        "out to blocks, in from pods",
        [policy("x", "some", ingress=[rule(INGRESS, [all_in({})])], egress=[rule(EGRESS, BLOCKS["all outside"])])],
    )
    yield (
        "a set for each of many rules",
        [
            one_way(
                INGRESS,
                "x",
                [
                    rule(INGRESS, [pods(labels(app=app), named(where))])
                    for where in "yz"
                    for app in ("web", "api", "none")
                ],
            )
        ],
    )

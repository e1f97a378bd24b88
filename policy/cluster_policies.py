"""ClusterNetworkPolicy, policy.networking.k8s.io/v1alpha2, as a value.

What is wrong never allows anything, as the API demands: a rule that cannot be read matches nothing if its action is
Accept, and denies everything if it is Deny, Pass, or unknown.
"""

from collections.abc import Iterator, Mapping

from policy.fields import PORT_NAME, Fields, is_port_name, network
from policy.network_policies import TOP
from policy.objects import (
    ACCEPT,
    ADMIN,
    BASELINE,
    DENY,
    EVERYTHING,
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
)
from policy.selectors import read_selector

_PODS = ("namespaces", "pods")
_PEERS = {"from": _PODS, "to": (*_PODS, "nodes", "networks", "domainNames")}
_PROTOCOLS = {"tcp": TCP, "udp": UDP, "sctp": SCTP}
_NAMED = "destinationNamedPort"


def read_cluster_policy(name: str, document: Mapping[str, object]) -> tuple[Policy, list[str]]:
    """The policy, and what is wrong with it.

    Raises ValueError if it is not known which pods it selects, or when it is asked.
    """
    problems: list[str] = []
    spec = Fields(document.get("spec"), "spec")
    tier = spec.text("tier", choices=(ADMIN, BASELINE))
    priority = spec.integer("priority", 0, 1000)
    subject = _pods(spec.section("subject"), _PODS)
    ingress = _rules(spec, "ingress", "from", problems)
    egress = _rules(spec, "egress", "to", problems)
    try:
        Fields(document, "the document").only(*TOP)
        spec.only("tier", "priority", "subject", "ingress", "egress")
    except ValueError as error:
        problems.append(f'{error}; only its rules with "{DENY}" are in force')
        ingress, egress = (tuple(rule for rule in rules if rule.action == DENY) for rules in (ingress, egress))
    return Policy(tier, "", name, subject, ingress or None, egress or None, priority), problems


def _rules(spec: Fields, field: str, peers: str, problems: list[str]) -> tuple[Rule, ...]:
    """The rules of a direction, in order."""
    try:
        entries = spec.list(field)
    except ValueError as error:
        problems.append(f"{error}; everything is denied")
        return (Rule(action=DENY, where=field),)
    found = [_rule(each, where, f"{field}[{index}]", peers, problems) for index, (where, each) in enumerate(entries)]
    return tuple(rule for rule in found if rule)


def _rule(value: object, path: str, place: str, peers: str, problems: list[str]) -> Rule | None:
    """A rule; None if it cannot be read, and so accepts nothing."""
    action = ""
    try:
        fields = Fields(value, path)
        action = fields.text("action", choices=(ACCEPT, DENY, PASS))
        fields.only("name", "action", peers, "protocols")
        found = _peers(fields, peers)
        ports = _ports(fields, has_names=all(isinstance(peer, PodPeer) for peer in found))
        return Rule(found, ports, action, _shown(fields.text("name")) or place)
    except ValueError as error:
        consequence = "accepts nothing" if action == ACCEPT else "denies everything"
        problems.append(f"{error}; {place} {consequence}")
    return None if action == ACCEPT else Rule(action=DENY, where=place)


def _peers(rule: Fields, key: str) -> tuple[Peer, ...]:
    found = [peer for where, each in rule.list(key) for peer in _peer(Fields(each, where), _PEERS[key])]
    if not found:
        raise rule.error(key, "at least one peer")
    return tuple(found)


def _peer(peer: Fields, kinds: tuple[str, ...]) -> Iterator[Peer]:
    kind = peer.one_of(*kinds)
    if kind == "domainNames":
        raise ValueError(f'"{peer.path_of(kind)}": slash24 does not support names of domains; use "networks"')
    if kind == "nodes":
        yield NodePeer(read_selector(peer.get(kind), peer.path_of(kind)))
    elif kind == "networks":
        entries = peer.list(kind)
        if not entries:
            raise peer.error(kind, "at least one CIDR")
        yield from (NetworkPeer(network(each, where)) for where, each in entries)
    else:
        yield _pods(peer, kinds)


def _pods(fields: Fields, kinds: tuple[str, ...]) -> PodPeer:
    """Pods by `namespaces`, or by `pods`."""
    kind = fields.one_of(*kinds)
    if kind == "namespaces":
        return PodPeer(EVERYTHING, read_selector(fields.get(kind), fields.path_of(kind)))
    pods = fields.section(kind).only("namespaceSelector", "podSelector")
    selector = read_selector(pods.get("podSelector"), pods.path_of("podSelector"))
    namespaces = pods.get("namespaceSelector")
    return PodPeer(
        selector, EVERYTHING if namespaces is None else read_selector(namespaces, pods.path_of("namespaceSelector"))
    )


def _ports(rule: Fields, *, has_names: bool) -> tuple[Ports, ...] | None:
    """The protocols and ports of a rule, None: all. `has_names`: its peers are pods, which give names to ports."""
    if rule.get("protocols") is None:
        return None
    found = [_port(Fields(each, where), has_names=has_names) for where, each in rule.list("protocols")]
    if not found:
        raise rule.error("protocols", "at least one protocol, or no such field")
    return tuple(found)


def _port(fields: Fields, *, has_names: bool) -> Ports:
    kind = fields.one_of(*_PROTOCOLS, _NAMED)
    if kind == _NAMED:
        if not has_names:
            raise fields.error(_NAMED, "none in a rule about nodes or networks, which have no names of ports")
        if not is_port_name(fields.get(_NAMED)):
            raise fields.error(_NAMED, PORT_NAME)
        return Ports("", name=fields.text(_NAMED))
    port = fields.section(kind).only("destinationPort").section("destinationPort")
    if port.one_of("number", "range") == "number":
        number = port.integer("number", 1, 65535)
        return Ports(_PROTOCOLS[kind], number, number)
    ends = port.section("range").only("start", "end")
    start = ends.integer("start", 1, 65534)
    return Ports(_PROTOCOLS[kind], start, ends.integer("end", start + 1, 65535))


def _shown(name: str) -> str:
    """A rule's name as comments and logs have it."""
    return "".join(char if char.isprintable() and char not in '"\\' else "_" for char in name[:100])

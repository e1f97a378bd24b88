"""NetworkPolicy, networking.k8s.io/v1, as a value.

What is wrong never allows anything: a rule that cannot be read is left out, while its policy still isolates its pods.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

from policy.fields import PORT_NAME, Fields, choice, is_port_name, network
from policy.objects import EVERYTHING, NETWORK, SCTP, TCP, UDP, NetworkPeer, Peer, PodPeer, Policy, Ports, Rule
from policy.selectors import read_selector
from spec.addresses import parse_cidr

TOP = ("apiVersion", "kind", "metadata", "spec", "status")
"""Fields of a policy's document."""

PROTOCOLS = (TCP, UDP, SCTP)
_INGRESS, _EGRESS = "Ingress", "Egress"
_DIRECTIONS = ((_INGRESS, "ingress", "from"), (_EGRESS, "egress", "to"))

_MOST_SETS, _MOST_LINES = 1000, 5000
"""To what the rules of a direction may come. Who writes policies for a namespace must not keep whole nodes busy."""

Entry = TypeVar("Entry")


def read_network_policy(namespace: str, name: str, document: Mapping[str, object]) -> tuple[Policy, list[str]]:
    """The policy, and what is wrong with it. Raises ValueError if it is not known which pods it selects."""
    problems: list[str] = []
    spec = Fields({} if document.get("spec") is None else document["spec"], "spec")
    selector = spec.get("podSelector")
    pods = EVERYTHING if selector is None else read_selector(selector, "spec.podSelector")
    types = _types(spec, document, problems)
    rules = {
        kind: tuple(_rules(spec, field, peers, namespace, problems)) for kind, field, peers in _DIRECTIONS
    }  # those of a direction that is not in `types` too, for what is wrong with them
    ingress, egress = (rules[kind] if kind in types else None for kind in (_INGRESS, _EGRESS))
    return Policy(NETWORK, namespace, name, PodPeer(pods, None, namespace), ingress, egress), problems


def _types(spec: Fields, document: Mapping[str, object], problems: list[str]) -> set[str]:
    """The directions in which the pods are isolated; both, if that cannot be told."""
    try:
        Fields(document, "the document").only(*TOP)
        spec.only("podSelector", "policyTypes", "ingress", "egress")
        listed = {choice(each, where, (_INGRESS, _EGRESS)) for where, each in spec.list("policyTypes")}
        return listed or ({_INGRESS, _EGRESS} if spec.list("egress") else {_INGRESS})
    except ValueError as error:
        problems.append(f"{error}; pods are isolated in both directions")
        return {_INGRESS, _EGRESS}


def _rules(spec: Fields, field: str, peers: str, namespace: str, problems: list[str]) -> list[Rule]:
    """The rules of a direction that can be read."""
    found, sets, lines = [], 0, 0
    try:
        entries = spec.list(field)
    except ValueError as error:
        problems.append(f"{error}; it has no rules")
        return []
    for index, (where, each) in enumerate(entries):
        try:
            fields = Fields(each, where).only(peers, "ports")
            rule = Rule(
                _all(fields, peers, lambda peer: _peer(peer, namespace)),
                _all(fields, "ports", _ports),
                where=f"{field}[{index}]",
            )
        except ValueError as error:
            problems.append(f"{error}; {field}[{index}] is not in force")
            continue
        sources, ways = _sizes(rule)
        sets, lines = sets + sources, lines + sources * ways
        if sets > _MOST_SETS or lines > _MOST_LINES:
            limits = f"{_MOST_SETS} selectors, or {_MOST_LINES} pairs of a selector and a range of ports"
            problems.append(f'"{where}": more than {limits}; {field}[{index}] and those after it are not in force')
            break
        found.append(rule)
    return found


def _sizes(rule: Rule) -> tuple[int, int]:
    """By how many sets of addresses, and in how many ways by ports, its packets are told."""
    peers, ports = rule.peers or (), rule.ports or ()
    selectors = {peer for peer in peers if isinstance(peer, PodPeer)}
    ranges = {one for one in ports if one.name or one.first != one.last or not one.first}
    has_networks, has_single = len(selectors) < len(peers), len(ranges) < len(ports)
    return max(len(selectors) + has_networks, 1), max(len(ranges) + has_single, 1)


def _all(rule: Fields, key: str, read: Callable[[Fields], Entry]) -> tuple[Entry, ...] | None:
    """The entries of a list; None, that is all, if it is absent or empty."""
    return tuple(read(Fields(each, where)) for where, each in rule.list(key)) or None


def _peer(peer: Fields, namespace: str) -> Peer:
    pods, namespaces, block = (peer.get(key) for key in ("podSelector", "namespaceSelector", "ipBlock"))
    if block is not None:
        peer.one_of("podSelector", "namespaceSelector", "ipBlock")
        return _block(peer.section("ipBlock"))
    peer.only("podSelector", "namespaceSelector", "ipBlock")
    if pods is None and namespaces is None:
        peer.one_of("podSelector", "namespaceSelector", "ipBlock")
    selector = EVERYTHING if pods is None else read_selector(pods, peer.path_of("podSelector"))
    if namespaces is None:
        return PodPeer(selector, None, namespace)
    return PodPeer(selector, read_selector(namespaces, peer.path_of("namespaceSelector")))


def _block(block: Fields) -> NetworkPeer:
    block.only("cidr", "except")
    cidr = network(block.get("cidr"), block.path_of("cidr"))
    whole, excepts = parse_cidr(cidr), set()
    for where, each in block.list("except"):
        inner = network(each, where)
        if inner == cidr or not whole.contains(parse_cidr(inner)):
            raise ValueError(f'"{where}": expected a part of {cidr}, got "{each}"')
        excepts.add(inner)
    return NetworkPeer(cidr, tuple(sorted(excepts)))


def _ports(fields: Fields) -> Ports:
    fields.only("protocol", "port", "endPort")
    protocol, port = fields.text("protocol", TCP, choices=PROTOCOLS), fields.get("port")
    if isinstance(port, str) or port is None:
        if fields.get("endPort") is not None:
            raise fields.error("endPort", 'none, unless "port" is a number')
        if port is not None and not is_port_name(port):
            raise fields.error("port", f"an integer of 1 to 65535, or {PORT_NAME}")
        return Ports(protocol, name=port or "")
    if type(port) is not int or not 1 <= port <= 65535:
        raise fields.error("port", f"an integer of 1 to 65535, or {PORT_NAME}")
    last = port if fields.get("endPort") is None else fields.integer("endPort", port, 65535)
    return Ports(protocol, port, last)
